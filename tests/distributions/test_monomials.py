"""Sums over words by fast transforms, beside sums of all words one by one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.sampling import Monomials, states_table, sum_states

SITES = 7


class Spins(nd.ExponentialFamily):
    """Spins with statistics by name."""

    kind: str = "products"
    x_shape = (SITES,)
    natural_domain = nd.domain()

    @property
    def support(self):
        return nd.Spins((SITES,))

    def compute_stats(self, x):
        pairs = jnp.outer(x, x)[np.triu_indices(SITES, 1)]
        others = {
            "products": x[0] * x[1] * x[2] * x[3] + 2 + x[4],
            "comparison": (jnp.sum(x) > 0) * 1.0,
            "five": jnp.prod(x[:5]),
            # Only one of 128 points differs from a polynomial of few bits.
            "spike": jnp.all(x == 1) * 1.0,
            # Terms of very different size.
            "penalty": 1e16 * (1 + x[0]) * (1 + x[1]) + 0.3 * x[2],
        }
        return {"x": x, "xx": pairs, "other": others[self.kind]}


class WeightedSpins(Spins):
    """The same with a base measure."""

    def log_base_measure(self, x):
        return 0.1 * jnp.sum(x)


@pytest.fixture
def find(monkeypatch):
    """Finds polynomials of small families, without a table."""
    monkeypatch.setattr("nnef_dists.sampling._states._MOST_CELLS", 0)
    return states_table.__wrapped__


def etas_of(family):
    """A typical eta, and two where nearly all of the probability is at one word."""
    rng = np.random.default_rng(0)
    typical = rng.normal(size=family.eta_dim)
    ordered = np.zeros(family.eta_dim)
    ordered[:SITES] = 20.0
    return np.stack([typical, ordered, -ordered])


@pytest.mark.parametrize("family", [Spins(), nd.families.PairwiseBinary(SITES)], ids=repr)
def test_moments_and_derivatives_are_sums_over_all_words(family, find):
    table = find(family)
    assert isinstance(table, Monomials)

    def moments(table, eta):
        def both(eta):
            found = sum_states(family, eta, table)
            return found.log_partition, found.mean

        curvature = jax.hessian(lambda eta: both(eta)[0])(eta)
        third = jax.jvp(lambda eta: sum_states(family, eta, table).covariance, (eta,), (eta,))
        return *both(eta), *jax.jacfwd(both)(eta), curvature, *third

    with jax.enable_x64(True):
        etas = jnp.asarray(etas_of(family))
        fast, slow = (
            jax.jit(jax.vmap(functools.partial(moments, part)))(etas) for part in (table, None)
        )
        sd = np.sqrt(np.diagonal(slow[-2], axis1=1, axis2=2))
        for found, truth in zip(fast, slow, strict=True):
            np.testing.assert_allclose(found, truth, atol=1e-12, rtol=1e-9)
        # Small variances, too, have all their digits.
        assert sd.min() < 1e-4
        unit = sd[:, :, None] * sd[:, None]
        np.testing.assert_allclose(fast[-2] / unit, slow[-2] / unit, atol=1e-11)
    with jax.enable_x64(False):
        mean = jax.jit(lambda eta: sum_states(family, eta, table).mean)(
            jnp.asarray(etas[0], jnp.float32)
        )
        assert mean.dtype == jnp.float32
        np.testing.assert_allclose(mean, slow[1][0], atol=1e-5)


@pytest.mark.parametrize(
    "family",
    [*map(Spins, ("comparison", "five", "spike", "penalty")), WeightedSpins()],
    ids=repr,
)
def test_other_families_pass_all_words(family, find):
    assert find(family) is None


def test_three_values_are_not_bits(find):
    class Three(nd.ExponentialFamily):
        x_shape, support, natural_domain = (3,), nd.families.Categories(3, (3,)), nd.domain()

        def compute_stats(self, x):
            return {"x": x * 1.0}

    assert find(Three()) is None


def test_the_mean_is_inverted(find, monkeypatch):
    with jax.enable_x64(True):
        q = nd.Enumeration(Spins())
        eta = jnp.asarray(etas_of(q.family)[0])
        monkeypatch.setattr("nnef_dists.distributions._enumeration.states_table", find)
        fast = nd.Enumeration(Spins())
        assert isinstance(fast.table.tree, Monomials)
        np.testing.assert_allclose(fast.entropy(eta), q.entropy(eta), rtol=1e-12)
        np.testing.assert_allclose(fast.natural_parameters(q.mean(eta)), eta, atol=1e-10)
        slope = jax.jacfwd(fast.natural_parameters)(q.mean(eta))
        np.testing.assert_allclose(slope @ q.covariance(eta), np.eye(len(eta)), atol=1e-9)
