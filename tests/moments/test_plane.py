"""Quadrature in two dimensions and on the sphere, from one observation to a million."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.moments._quadrature import double_quadrature
from tests.numerics import assert_close
from tests.planes import (
    PLANES,
    Egg,
    Normal,
    exact_fisher_bingham,
    exact_von_mises_fisher,
    normal_eta,
)

FISHER_BINGHAM = nd.FisherBingham()


def errors(found, i, exact):
    """Errors of the mean and of the covariance, in units of sd(T)."""
    mean = np.max(np.abs(found.mean[i] - exact.mean) / exact.sd)
    scale = np.outer(exact.sd, exact.sd)
    return mean, np.max(np.abs(found.covariance[i] - exact.covariance) / scale)


@pytest.mark.parametrize("name", PLANES)
def test_posteriors_of_strangers_families(name):
    plane = PLANES[name]
    etas = plane.etas((1, 30, 1e3, 1e6))
    found = double_quadrature(plane.family, etas)
    for i, eta in enumerate(etas):
        exact = plane.exact(eta)
        size = max(1.0, np.sum(np.abs(eta * exact.mean)))
        # eta . T is known to so many digits; JAX's log Gamma loses more than one.
        rounding = 5e-15 * size
        mean, covariance = errors(found, i, exact)
        assert mean < 1e-8 + 10 * rounding
        assert covariance < 1e-7 + 10 * rounding
        assert abs(found.log_partition[i] - exact.log_partition) < 1e-8 + 1e-12 * size
        assert mean < found.error[i] + 10 * rounding
        assert found.error[i] < 1e-3


@pytest.mark.parametrize("name", ["banana", "shape and rate"])
def test_single_precision(name):
    """In compiled programs, which have no doubles."""
    plane = PLANES[name]
    etas = plane.etas((1, 100, 1e4))[:6].astype(np.float32)
    exact = double_quadrature(plane.family, etas.astype(np.float64))
    found = jax.jit(jax.vmap(lambda eta: nd.quadrature_moments(plane.family, eta)))(etas)
    assert found.mean.dtype == np.float32
    sd = np.sqrt(np.diagonal(exact.covariance, axis1=1, axis2=2))
    assert np.max(np.abs(found.mean - exact.mean) / sd) < 5e-4
    assert (found.error < 1e-3).all()


@pytest.mark.parametrize("direction", [(0, 0, 1), (0, 0, -1), (1, 0, 0), (0.6, -0.5, 0.3)])
def test_von_mises_fisher_wherever_it_points(direction):
    """At the poles of the coordinates, too."""
    b = np.outer([0.5, 30.0, 1e3, 1e6], direction)
    found = double_quadrature(FISHER_BINGHAM, np.pad(b, ((0, 0), (0, 5))))
    for i in range(len(b)):
        log_partition, mean = exact_von_mises_fisher(b[i])
        sd = np.sqrt(np.diag(found.covariance[i])[:3])
        assert np.max(np.abs(found.mean[i, :3] - mean) / sd) < 1e-9
        assert abs(found.log_partition[i] - log_partition) < 1e-12 * (1 + abs(log_partition))
        assert found.error[i] < 1e-5


def test_fisher_bingham():
    """One mode, two modes, a belt around the pole, a cap, four modes."""
    etas = np.array(
        [
            [0.4, -1.0, 2.0, 1.0, -0.5, 0.3, 2.0, -1.0],
            [0.0, 0.0, 0.0, 20.0, -5.0, 8.0, 3.0, -6.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -300.0],
            [1.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0, 40.0],
            [0.1, 0.0, 0.0, 0.0, 0.0, 0.0, 15.0, -9.0],
        ]
    )
    found = double_quadrature(FISHER_BINGHAM, etas)
    for i, eta in enumerate(etas):
        exact = exact_fisher_bingham(eta)
        mean, covariance = errors(found, i, exact)
        assert mean < 1e-7
        assert covariance < 1e-6
        assert abs(found.log_partition[i] - exact.log_partition) < 1e-8
        assert mean < found.error[i] < 1e-3


def test_more_modes_than_are_integrated_are_nan():
    found = double_quadrature(Egg(), np.array([[8.0, -0.5]]))
    assert np.isnan(found.mean).all()
    assert np.isinf(found.error).all()


def test_derivatives_are_moments():
    """The gradient of A is E[T], its derivative Cov[T], and so on."""
    family = Normal()

    @jax.jit
    def derivatives(eta):
        def log_partition(eta):
            return nd.quadrature_moments(family, eta).log_partition

        def mean(eta):
            return nd.quadrature_moments(family, eta).mean

        def covariance(eta):
            return nd.quadrature_moments(family, eta).covariance

        found = nd.quadrature_moments(family, eta)
        third = jax.jacfwd(jax.jacfwd(mean))(eta), jax.jacrev(covariance)(eta)
        return found, jax.grad(log_partition)(eta), jax.jacrev(mean)(eta), third

    eta = jnp.asarray(normal_eta([0.3, -0.2], [[1.0, 0.5], [0.5, 0.8]]), jnp.result_type(float))
    found, gradient, hessian, third = derivatives(eta)
    assert_close(gradient, np.asarray(found.mean), ulps=64, scale=10.0)
    assert_close(hessian, np.asarray(found.covariance), ulps=64, scale=100.0)
    assert_close(third[0], np.asarray(third[1]), ulps=64, scale=1000.0)


class TestQuadratureOfTheSphere:
    q = nd.Quadrature(FISHER_BINGHAM)

    def test_moments_and_their_inverse(self):
        eta = jnp.asarray([1.0, -0.5, 2.0, 0.3, 0.2, -0.4, 0.5, -0.6], jnp.result_type(float))
        mean = self.q.mean(eta)
        exact = exact_fisher_bingham(np.asarray(eta, float))
        assert np.max(np.abs(mean - exact.mean) / exact.sd) < 1e-5
        assert np.max(np.abs(self.q.covariance(eta) - exact.covariance)) < 1e-5
        assert abs(float(self.q.log_partition(eta)) - exact.log_partition) < 1e-5
        assert np.max(np.abs(self.q.natural_parameters(mean) - eta)) < 1e-2

    def test_samples(self):
        eta = jnp.asarray([1.0, -0.5, 2.0, 0.3, 0.2, -0.4, 0.5, -0.6], jnp.result_type(float))
        x = self.q.sample(jax.random.key(0), eta, 4_000)
        assert x.shape == (4_000, 3)
        stats = jax.vmap(FISHER_BINGHAM.sufficient_statistics)(x)
        exact = exact_fisher_bingham(np.asarray(eta, float))
        # Draws of a chain: half of them count at least.
        assert np.max(np.abs(np.mean(stats, 0) - exact.mean) / exact.sd) < 5 / np.sqrt(2_000)
