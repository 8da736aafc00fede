"""Checks that the tests of single families share."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd

# One tile for all etas of a test.
_TILE = 4


def array(values):
    """A JAX array of the default floating dtype."""
    return jnp.asarray(np.asarray(values), float)


def assert_hmc_agrees(family, etas, truth, **config) -> nd.MomentDataset:
    """Labels of at most four etas are good, and means within 5 standard errors of `truth(eta)`."""
    etas = array(etas)
    config = nd.HMCConfig(tile=_TILE, **config)
    data = nd.estimate_moments(family, etas, jax.random.key(5), config)
    assert data.ok.all(), data
    for eta, mean, error in zip(etas, data.mean, data.standard_error, strict=True):
        exact = truth(np.asarray(eta, np.float64))
        assert np.max(np.abs(mean - exact.mean) / error) < 5, eta
        assert np.all(error < 0.06 * exact.sd), eta
    return data


def assert_quadrature_agrees(family, eta, truth):
    """The package's quadrature finds log-partition, mean and covariance of `truth(eta)`."""
    eta = array(eta)
    tolerance = float(jnp.finfo(eta.dtype).eps) ** 0.5
    found, exact = nd.quadrature_moments(family, eta), truth(np.asarray(eta, np.float64))
    scale = 1 + abs(exact.log_partition)
    assert abs(float(found.log_partition) - exact.log_partition) < tolerance * scale
    assert np.max(np.abs(np.asarray(found.mean) - exact.mean) / exact.sd) < tolerance
    error = np.asarray(found.covariance) - exact.covariance
    assert np.max(np.abs(error) / np.outer(exact.sd, exact.sd)) < 4 * tolerance


def assert_refused(family, eta, match):
    """An eta outside the natural domain is refused, by name."""
    assert not family.is_valid_eta(array(eta))
    with pytest.raises(ValueError, match=re.escape(match)):
        family.check_eta(array(eta))


def assert_coordinates_are_a_bijection(bijection, seed=0, scale=1.0):
    """Round trip and log-det (against autodiff) of a flowjax bijection at random points."""

    @jax.jit
    @jax.vmap
    def both_ways(u):
        x, log_det = bijection.transform_and_log_det(u)
        back, inverse_log_det = bijection.inverse_and_log_det(x)
        return back, log_det, -inverse_log_det, jax.jacfwd(bijection.transform)(u)

    u = scale * jax.random.normal(jax.random.key(seed), (5, *bijection.shape))
    back, log_det, other, jacobians = both_ways(u)
    tolerance = float(jnp.finfo(u.dtype).eps) ** 0.5
    np.testing.assert_allclose(back, u, atol=tolerance, rtol=tolerance)
    exact = np.linalg.slogdet(np.asarray(jacobians, np.float64))[1]
    np.testing.assert_allclose(log_det, exact, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(other, exact, atol=tolerance, rtol=tolerance)
