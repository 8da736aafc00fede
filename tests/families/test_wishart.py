"""Positive definite matrices: the support, and Wishart and inverse Wishart distributions."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import nnef_dists as nd
from nnef_dists.families import InverseWishart, PositiveDefinite, Wishart
from tests.families.checks import array, assert_refused

pytestmark = pytest.mark.usefixtures("strict_promotion")

each_family = pytest.mark.parametrize(
    ("family", "exponent"), [(Wishart(2), 1.0), (InverseWishart(2), -5.0)], ids=repr
)


def natural(exponent, matrix):
    return jnp.concatenate([array([exponent]), -array(matrix).ravel()])


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("d", [1, 2, 4])
def test_support(d, inverse):
    """Matrices are definite, and the log-det is that of the lower triangle, by autodiff."""
    support = PositiveDefinite(d, inverse=inverse)
    rows, columns = np.tril_indices(d)

    with jax.enable_x64(True):
        u = jax.random.normal(jax.random.key(d), (5, *support.shape))

        def run(u):
            jacobian = jax.jacfwd(lambda u: support.transform(u)[rows, columns])(u)
            return *support.transform_and_log_det(u), jacobian

        x, log_det, jacobian = jax.jit(jax.vmap(run))(u)
        np.testing.assert_allclose(x, np.swapaxes(x, 1, 2), rtol=1e-12)
        assert np.linalg.eigvalsh(x).min() > 0
        np.testing.assert_allclose(log_det, np.linalg.slogdet(jacobian)[1], rtol=1e-9, atol=1e-9)


def test_sizes_are_checked():
    for cls in (PositiveDefinite, Wishart, InverseWishart):
        with pytest.raises(ValueError, match="d >= 1; got 0"):
            cls(0)


class LogDetAndTrace(nd.ExponentialFamily):
    """A family of a stranger on the support: Wishart matrices with a scalar scale."""

    x_shape: ClassVar[tuple[int, ...]] = (2, 2)
    natural_domain: ClassVar[nd.families.ProductDomain] = nd.domain(
        log_det=nd.interval(-1.0, math.inf), trace=nd.negative
    )

    @property
    def support(self) -> PositiveDefinite:
        return PositiveDefinite(2)

    @property
    def has_unit_base_measure(self) -> bool:
        return True

    def compute_stats(self, x):
        return {"log_det": self.support.log_det(x), "trace": jnp.trace(x)}

    def log_base_measure(self, x):
        return jnp.where(self.support.contains(x), 0.0, -jnp.inf).astype(x.dtype)


@pytest.mark.slow
def test_a_family_of_a_stranger():
    family = LogDetAndTrace()
    with jax.numpy_dtype_promotion("standard"):
        ranges = {"log_det": (0.0, 3.0), "trace": (-2.0, -0.5)}
        assert nd.check_family(family, ranges, jax.random.key(0)).ok
        eta = array([[1.0, -0.7], [2.5, -1.5]])
        data = nd.estimate_moments(family, eta, jax.random.key(1), nd.HMCConfig(tile=4))
    assert data.ok.all()
    # Rounding of nearly singular matrices would spoil the control variates.
    assert (data.rung == nd.moments.Rung.DOUBLE).all()
    sds = np.sqrt(np.diagonal(data.covariance, axis1=1, axis2=2))
    for (exponent, rate), mean, error, sd in zip(
        np.asarray(eta, float), data.mean, data.standard_error, sds, strict=True
    ):
        exact = Wishart(2).mean(natural(exponent, -float(rate) * np.eye(2)))
        exact = np.array([exact[0], exact[1] + exact[4]])
        assert np.max(np.abs(mean - exact) / error) < 5
        assert np.max(np.abs(mean - exact) / sd) < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_large_degrees_of_freedom_keep_their_digits(dtype, size):
    """a = 1e6: E[log det X] has a standard deviation of 0.0014, and a rounding error of eps."""
    a, form = 1e6, size * np.array([[2.0, 0.5], [0.5, 1.0]])
    with jax.enable_x64(dtype == "float64"):
        eta = jnp.concatenate([jnp.asarray([a - 1.5], dtype), -jnp.asarray(form, dtype).ravel()])
        found = [
            np.asarray(v, float) for v in (Wishart(2).log_partition(eta), *Wishart(2).mean(eta))
        ]
        form = -np.asarray(eta[1:], float).reshape(2, 2)
        a = float(np.asarray(eta[0], float)) + 1.5
    eps = np.finfo(dtype).eps
    log_det = np.linalg.slogdet(form)[1]
    # digamma(a) = log a - 1 / (2 a) + O(1 / a^2)
    exact = 2 * np.log(a) - 1 / (2 * a) - 1 / (2 * (a - 0.5)) - 0.5 / a - log_det
    assert abs(found[1] - exact) < 8 * eps * (1 + abs(exact)) + 1e-12
    np.testing.assert_allclose(
        np.reshape(found[2:], (2, 2)), a * np.linalg.inv(form), rtol=16 * eps
    )
    exact = scipy.special.gammaln([a, a - 0.5]).sum() + np.log(np.pi) / 2 - a * log_det
    assert abs(found[0] - exact) < 8 * eps * (a + abs(exact))


@each_family
def test_points_outside_have_no_density_but_finite_statistics(family, exponent):
    eta = natural(exponent, [[1.0, 0.2], [0.2, 2.0]])
    log_prob = jax.jit(lambda x: family.logdensity_fn(eta)(x))
    outside = {
        "indefinite": [[1.0, 2.0], [2.0, 1.0]],
        "negative": [[-1.0, 0.0], [0.0, -1.0]],
        "singular": [[1.0, 1.0], [1.0, 1.0]],
        "zero": [[0.0, 0.0], [0.0, 0.0]],
        "not symmetric": [[1.0, 0.5], [0.0, 1.0]],
    }
    for name, x in outside.items():
        assert log_prob(array(x)) == -np.inf, name
        assert np.isfinite(family.sufficient_statistics(array(x))).all(), name
    assert not np.isfinite(log_prob(array([[np.nan, 0.0], [0.0, 1.0]])))
    assert not np.isfinite(log_prob(array([[np.inf, 0.0], [0.0, 1.0]])))
    for size in (1e-8, 1.0, 1e8):
        assert np.isfinite(log_prob(size * array([[1.0, 0.5], [0.5, 1.0]])))
    with pytest.raises(ValueError, match="shape"):
        family.logdensity_fn(eta)(array([1.0, 2.0]))


def test_natural_domains():
    assert Wishart(3).is_valid_eta(natural(-0.99, np.eye(3)))
    assert_refused(Wishart(3), natural(-1.0, np.eye(3)), "'log_det'")
    assert_refused(Wishart(2), natural(0.0, np.diag([1.0, -1.0])), "'x'")
    assert InverseWishart(3).is_valid_eta(natural(-3.01, np.eye(3)))
    assert_refused(InverseWishart(3), natural(-3.0, np.eye(3)), "'log_det'")
    assert_refused(InverseWishart(2), natural(-5.0, np.zeros((2, 2))), "'inverse'")


def test_one_dimension_is_a_gamma_distribution():
    eta = array([1.3, -0.7])
    np.testing.assert_allclose(Wishart(1).mean(eta), nd.Gamma().mean(eta), rtol=1e-6)
    np.testing.assert_allclose(
        Wishart(1).log_partition(eta), nd.Gamma().log_partition(eta), rtol=1e-6
    )


@pytest.mark.slow
@each_family
def test_draws_and_the_inverse_map(family, exponent):
    q, n = nd.ClosedForm(family), 4_000
    eta = natural(exponent, [[1.0, 0.2], [0.2, 2.0]])
    x = q.sample(jax.random.key(1), eta, n)
    stats = np.asarray(jax.vmap(family.sufficient_statistics)(x), np.float64)
    z = (stats.mean(0) - np.asarray(q.mean(eta))) / (stats.std(0) / np.sqrt(n))
    assert np.abs(z).max() < 5
    logs = np.asarray(jax.vmap(q.log_prob, (0, None))(x, eta), np.float64)
    assert abs(-logs.mean() - q.entropy(eta)) < 5 * logs.std() / np.sqrt(n)
    np.testing.assert_allclose(q.natural_parameters(q.mean(eta)), eta, rtol=1e-3, atol=1e-3)


def test_only_families_with_draws_are_drawn_directly():
    with pytest.raises(ValueError, match=r"AbstractDrawFamily.*got Gamma.*QuadratureSampler"):
        nd.distributions.DirectSampler().sample(
            jax.random.key(0), nd.Gamma(), array([1.0, -1.0]), 2
        )


@pytest.mark.slow
def test_draws_that_are_singular_to_rounding_are_nan():
    """Degrees of freedom near 1: float32 holds many matrices as singular ones."""
    eta = natural(-0.95, np.eye(2))
    keys = jax.random.split(jax.random.key(0), 64)
    x = jax.jit(jax.vmap(Wishart(2).draw, (0, None)))(keys, eta)
    finite = np.isfinite(x).all((1, 2))
    assert 0 < finite.sum() < 64
    logs = jax.vmap(Wishart(2).logdensity_fn(eta))(x[finite])
    assert np.isfinite(logs).all()
