"""Functions of the natural domain: convex in eta, and unbounded at its edge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.registry import FAMILIES

pytestmark = pytest.mark.usefixtures("strict_promotion")


def drawn(family, seed, n, ranges):
    return jax.jit(lambda key: family.sample_eta(key, n, ranges))(jax.random.key(seed))


@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_they_are_convex(case):
    """Along segments between random etas, curvatures are not negative: in float64, to rounding."""
    with jax.enable_x64(True):
        family = case.make()
        etas = drawn(family, 0, 80, case.ranges)

        @jax.jit
        @jax.vmap
        def along(start, end):
            line = lambda t: family.convex_features(start + t * (end - start))  # noqa: E731
            ts = jnp.linspace(0.05, 0.95, 7)
            return jax.vmap(line)(ts), jax.vmap(jax.jacfwd(jax.jacfwd(line)))(ts)

        values, curvatures = (np.asarray(leaf) for leaf in along(etas[:40], etas[40:]))
    assert values.dtype == np.float64
    assert np.isfinite(values).all()
    assert np.all(curvatures >= -1e-9 * (np.abs(curvatures) + np.abs(values)))


def test_all_that_one_product_domain_has():
    """Distances to bounds, squares over them, a log-determinant and a matrix fraction."""
    parts = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(-0.5), "c": -jnp.diag(jnp.array([2.0, 4]))}
    domain = nd.domain(b=nd.interval(-1.0, 0.5), c=nd.negative_definite)
    found = jax.jit(lambda parts: domain.convex_features(parts))(parts)
    below, above = 0.5, 1.0
    expected = [
        *-np.log([below, above]),
        *[1 / below, 1 / above, 4 / below, 4 / above],
        -np.log(8.0),
        1 / 2 + 4 / 4,
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_packed_triangle_has_those_of_its_matrix():
    full, minimal = nd.MultivariateNormal(3), nd.families.MinimalMultivariateNormal(3)
    eta = drawn(minimal, 1, 1, {"x": (-1, 1), "xxT_lower": (-2, -0.5)})[0]
    lower = np.zeros((3, 3))
    lower[np.tril_indices(3)] = eta[3:]
    matrix = jnp.asarray((lower + lower.T) / 2, eta.dtype)
    same = full.flatten_stats_or_eta({"x": eta[:3], "xxT": matrix})
    found, expected = jax.jit(minimal.convex_features)(eta), jax.jit(full.convex_features)(same)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_a_gaussians_log_partition_is_among_them():
    """A = x . P^-1 x / 2 - log det(P) / 2 + a constant, with P = -2 H."""
    family = nd.MultivariateNormal(3)
    etas = drawn(family, 2, 20, {"x": (-2, 2), "xxT": (-3, -0.1)})
    log_det, fraction = np.asarray(jax.jit(jax.vmap(family.convex_features))(etas)).T
    left = jax.jit(jax.vmap(family.log_partition))(etas) - fraction / 4 - log_det / 2
    np.testing.assert_allclose(left, left[0], rtol=1e-3)


def test_an_unbounded_domain_has_none():
    assert nd.VonMisesHarmonic(2).convex_features(jnp.zeros(4)).shape == (0,)


def test_a_coupled_domain_declares_its_own():
    eta = jnp.array([-3.0, -4.0, -2.0])
    gap = 2 * np.log(np.exp(-1.5) + np.exp(-2.0))
    np.testing.assert_allclose(
        nd.DirichletPrior(2).convex_features(eta),
        [gap, -np.log(-gap), 2 * np.log(-2 / gap), -np.log(2), 9 / 2, 16 / 2],
        rtol=1e-5,
    )


@pytest.mark.parametrize(
    ("eta", "expected"), [((3.0, -2.0), 2 * np.exp(1.5)), ((26.0, -2.0), 2 * 2.5 * np.exp(12.0))]
)
def test_a_product_domain_may_declare_more(eta, expected):
    """n exp(eta1 / n), continued beyond 12 by its quadratic."""
    found = nd.GammaShapePrior().convex_features(jnp.array(eta))
    n = -eta[1]
    np.testing.assert_allclose(found, [-np.log(n), eta[0] ** 2 / n, expected], rtol=1e-5)
