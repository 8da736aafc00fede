"""Amortized families of exact networks: every identity has a closed form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.networks.exact import (
    CASES,
    STDV,
    data_of,
    etas_of,
    family_of,
    moments_of,
)
from tests.numerics import assert_close
from tests.registry import FAMILIES

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAUSSIAN = CASES["GaussianNatural1D"][0]
REFERENCES = {case.name: case.reference for case in FAMILIES if case.name in CASES}
each_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def evaluated(name):
    """All methods at 32 pairs of etas, in one program; x are draws of the first of each."""
    q, etas = family_of(name), etas_of(name)
    points = np.stack([frozen.rvs(random_state=i) for i, frozen in enumerate(references(name))])
    points = jnp.asarray(points, etas.dtype).reshape(32, *q.family.x_shape)

    def run(q, eta, other, x):
        return {
            "mean": q.mean(eta),
            "covariance": q.covariance(eta),
            "definite": q.is_positive_definite(eta),
            "inside": q.network.is_inside(eta),
            "log_partition": q.log_partition(eta),
            "entropy": q.entropy(eta),
            "kl": q.kl(eta, other),
            "log_prob": q.log_prob(x, eta),
        }

    compiled = jax.jit(jax.vmap(run, (None, 0, 0, 0)))
    return points, jax.tree.map(np.asarray, compiled(q, etas[:32], etas[32:64], points))


@functools.cache
def references(name):
    """SciPy's distributions at the first etas, in float64."""
    unflatten = CASES[name][0].unflatten_stats_or_eta
    flat = etas_of(name)[:32]
    return [
        REFERENCES[name]({k: np.asarray(v, np.float64) for k, v in unflatten(eta).items()})
        for eta in flat
    ]


@each_case
class TestIdentities:
    """Entropies and KLs are differences of A and eta . mu, and round like these."""

    def test_moments(self, name):
        found, data = evaluated(name)[1], data_of(name)
        assert_close(found["mean"], data.mean[:32])
        scale = np.max(np.abs(data.covariance[:32]))
        assert_close(found["covariance"], data.covariance[:32], scale=scale, ulps=256)
        assert np.array_equal(found["covariance"], np.swapaxes(found["covariance"], 1, 2))

    def test_the_log_partition_is_absolute(self, name):
        family = CASES[name][0]
        exact = jax.jit(jax.vmap(family.log_partition))(etas_of(name)[:32])
        assert_close(evaluated(name)[1]["log_partition"], exact, scale=20.0)

    def test_entropy(self, name):
        exact = np.array([frozen.entropy() for frozen in references(name)])
        assert_close(evaluated(name)[1]["entropy"], exact.reshape(32), scale=50.0)

    def test_log_prob(self, name):
        points, found = evaluated(name)
        points = np.asarray(points, np.float64)
        exact = [frozen.logpdf(x) for frozen, x in zip(references(name), points, strict=True)]
        scale = 10 * np.max(np.abs(exact))
        assert_close(found["log_prob"], np.array(exact).reshape(32), scale=scale)

    def test_kl(self, name):
        """Against the average of the log-ratio, E_p[log p - log q], in closed form of A and mu."""
        family, etas = CASES[name][0], np.asarray(etas_of(name), np.float64)
        with jax.enable_x64(True):
            a = np.asarray(jax.vmap(family.log_partition)(jnp.asarray(etas)))
            mu = np.asarray(jax.vmap(family.mean)(jnp.asarray(etas)))
        p, q = slice(0, 32), slice(32, 64)
        exact = np.sum((etas[p] - etas[q]) * mu[p], 1) - a[p] + a[q]
        found = evaluated(name)[1]
        assert_close(found["kl"], exact, scale=10 * max(20.0, np.max(exact)))
        assert found["kl"].min() > 0

    def test_all_is_well_inside(self, name):
        found = evaluated(name)[1]
        assert found["definite"].all()
        assert found["inside"].all()


def test_the_dtype_is_carried():
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        q = family_of("GaussianNatural1D", "float32")
        eta = jax.ShapeDtypeStruct((q.family.eta_dim,), "float32")
        x = jax.ShapeDtypeStruct(q.family.x_shape, "float32")
        for method in (q.mean, q.covariance, q.log_partition, q.entropy, q.natural_parameters):
            assert jax.eval_shape(method, eta).dtype == "float32"
        assert jax.eval_shape(q.kl, eta, eta).dtype == "float32"
        assert jax.eval_shape(q.log_prob, x, eta).dtype == "float32"
        key = jax.random.key(0)
        draws = jax.eval_shape(lambda eta: q.sample(key, eta, 3), eta)
        assert (draws.dtype, draws.shape) == ("float32", (3, *q.family.x_shape))
        for leaf in jax.eval_shape(lambda eta: q.predictive(eta, key, 4), eta):
            assert leaf.dtype == "float32"


class TestGradients:
    def test_of_the_entropy(self):
        """dH / d eta = -Cov[T] eta."""
        q, etas = family_of("GaussianNatural1D"), etas_of("GaussianNatural1D")[:16]
        found = jax.jit(jax.vmap(jax.grad(q.entropy)))(etas)
        exact = -np.einsum("nij,nj->ni", data_of("GaussianNatural1D").covariance[:16], etas)
        assert_close(found, exact, ulps=256)

    def test_of_the_kl(self):
        """d KL / d eta_q = mu_q - mu_p."""
        q, etas = family_of("GaussianNatural1D"), etas_of("GaussianNatural1D")
        found = jax.jit(jax.vmap(jax.grad(q.kl, argnums=1)))(etas[:16], etas[16:32])
        mean = data_of("GaussianNatural1D").mean
        assert_close(found, mean[16:32] - mean[:16], ulps=256)

    def test_in_the_weights_by_plain_jax(self):
        """A moves with the shift by shift . (eta - eta_0); the anchor is not trained."""
        q, eta = family_of("GaussianNatural1D"), etas_of("GaussianNatural1D")[0]
        gradient = jax.jit(jax.grad(lambda q: q.log_partition(eta)))(q)
        assert_close(gradient.network.shift.mean, np.asarray(eta - q.center))
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient.anchor))
        assert all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(q))
        for split in (nd.freeze_stdvs, nd.freeze_means, nd.partition_trainable):
            dynamic, static = split(q)
            assert dynamic.anchor.tree.value is None
            whole = nd.unfreeze_all(dynamic, static)
            assert jax.tree.structure(whole) == jax.tree.structure(q)


class TestUncertainty:
    def test_predictive_moments(self):
        """The shift has standard deviation STDV."""
        q, eta = family_of("GaussianNatural1D"), etas_of("GaussianNatural1D")[0]
        n = 4000
        mean, sd = jax.jit(lambda q, eta: q.predictive(eta, jax.random.key(0), n))(q, eta)
        assert np.max(np.abs(sd / STDV - 1)) < 5 / np.sqrt(2 * n)
        assert np.max(np.abs(mean - q.mean(eta))) < 5 * STDV / np.sqrt(n)
        with pytest.raises(ValueError, match="2"):
            q.predictive(eta, jax.random.key(0), 1)

    def test_drawn_weights_share_the_anchor(self):
        q = family_of("GaussianNatural1D")
        drawn, eta = nd.sample_all_parameters(q, jax.random.key(1)), etas_of("GaussianNatural1D")[0]
        # A constant is added to the network's function: two roundings of numbers of this size.
        anchor = q.anchor.tree
        assert_close(drawn.log_partition(anchor.eta), np.asarray(anchor.value), ulps=4)
        assert drawn.log_partition(eta) != q.log_partition(eta)
        assert_close(jax.grad(drawn.log_partition)(eta), np.asarray(drawn.mean(eta)), ulps=256)


class TestDirectNetworks:
    def test_covariance_is_the_symmetric_part(self):
        twist = [[0.0, 0.3], [-0.1, 0.0]]
        q = nd.AmortizedFamily(GAUSSIAN, moments_of("GaussianNatural1D", twist))
        eta, data = etas_of("GaussianNatural1D")[0], data_of("GaussianNatural1D")
        exact = data.covariance[0] + np.array([[0.0, 0.1], [0.1, 0.0]])
        assert_close(q.covariance(eta), exact)

    @pytest.mark.parametrize(("change", "definite"), [(0.9, True), (1.1, False)])
    def test_an_indefinite_covariance_is_told(self, change, definite):
        """One eigenvalue of the correlation is lowered by almost, or more than, itself."""
        eta, exact = etas_of("GaussianNatural1D")[0], data_of("GaussianNatural1D").covariance[0]
        sd = np.sqrt(np.diag(exact))
        values, vectors = np.linalg.eigh(exact / np.outer(sd, sd))
        lowered = -change * values[0] * np.outer(vectors[:, 0], vectors[:, 0]) * np.outer(sd, sd)
        q = nd.AmortizedFamily(GAUSSIAN, moments_of("GaussianNatural1D", lowered))
        assert bool(q.is_positive_definite(eta)) is definite
        assert bool(jax.jit(lambda q, eta: q.is_positive_definite(eta))(q, eta)) is definite

    def test_what_needs_the_log_partition_says_so(self):
        q, eta = nd.AmortizedFamily(GAUSSIAN, moments_of("GaussianNatural1D")), jnp.array([0.5, -1])
        message = "Expected an AbstractLogPartitionNetwork.*got ExactMoments"
        for call in (q.log_partition, q.entropy, lambda eta: q.kl(eta, eta)):
            with pytest.raises(ValueError, match=message):
                call(eta)
        with pytest.raises(ValueError, match=message):
            q.log_prob(eta[0], eta)
        assert q.anchor is None
