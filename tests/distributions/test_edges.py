"""Quadrature, its inverse and HMC labels on both sides of declared edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import nnef_dists as nd
from tests.families.edges import HalfNormal, InverseGaussian, Quartic, WrongGamma

QUARTIC = nd.Quadrature(Quartic())
INVERSE = nd.Quadrature(InverseGaussian())
HALF = nd.Quadrature(HalfNormal())


def normal_limit(eta):
    """A, mu, Cov of 1, x, x^2, x^4 for a normal density."""
    eta1, eta2 = map(float, eta[:2])
    mean, variance = -eta1 / (2 * eta2), -1 / (2 * eta2)
    raw = [1.0, mean]
    for k in range(2, 9):
        raw.append(mean * raw[-1] + (k - 1) * variance * raw[-2])
    powers = (1, 2, 4)
    mu = np.array([raw[i] for i in powers])
    cov = np.array([[raw[i + j] - raw[i] * raw[j] for j in powers] for i in powers])
    return mean**2 / (2 * variance) + np.log(2 * np.pi * variance) / 2, mu, cov


def gamma_limit(eta):
    """A, mu, Cov of log x, x, 1/x for a gamma density of shape k > 2."""
    k, rate = float(eta[0]) + 1, -float(eta[1])
    psi, trigamma = scipy.special.digamma(k), scipy.special.polygamma(1, k)
    mu = np.array([psi - np.log(rate), k / rate, rate / (k - 1)])
    cov = np.zeros((3, 3))
    cov[0] = trigamma, 1 / rate, -rate / (k - 1) ** 2
    cov[1, 1:] = k / rate**2, 1 - k / (k - 1)
    cov[2, 2] = rate**2 / ((k - 1) ** 2 * (k - 2))
    return (
        scipy.special.gammaln(k) - k * np.log(rate),
        mu,
        np.triu(cov) + np.triu(cov, 1).T,
    )


def exponential_limit(eta):
    """A, mu, Cov of x, x^2 for an exponential density."""
    rate = -float(eta[0])
    mu = np.array([1 / rate, 2 / rate**2])
    cov = np.array([[1 / rate**2, 4 / rate**3], [4 / rate**3, 20 / rate**4]])
    return -np.log(rate), mu, cov


CASES = {
    "normal": (QUARTIC, normal_limit, [[1.0, -1.0, 0.0], [-4.0, -0.1, 0.0], [5e2, -50.0, 0.0]]),
    "gamma": (INVERSE, gamma_limit, [[2.5, -1.0, 0.0], [9.0, -1e3, 0.0], [30.0, -0.01, 0.0]]),
    "exponential": (HALF, exponential_limit, [[-1.0, 0.0], [-1e3, 0.0], [-0.01, 0.0]]),
}
POINTS = [(q, limit, eta) for q, limit, etas in CASES.values() for eta in etas]


@pytest.mark.parametrize(
    ("q", "limit", "eta"), POINTS, ids=[f"{limit.__name__}{eta}" for _, limit, eta in POINTS]
)
@pytest.mark.parametrize("beside", [0.0, -1e-30, -1e-12])
def test_both_sides_agree_with_the_closed_form(q, limit, eta, beside, strict_promotion):
    A, mu, cov = limit(eta)
    sd = np.sqrt(np.diag(cov))
    # By which the limit itself differs, in z units: the entry of eta that is on the edge.
    beside = beside / max(1.0, sd[-1])
    eta = jnp.array(eta).at[-1].set(beside)
    assert np.max(np.abs(np.asarray(q.mean(eta), np.float64) - mu) / sd) < 1e-4
    covariance = np.asarray(q.covariance(eta), np.float64)
    assert np.max(np.abs(covariance - cov) / np.outer(sd, sd)) < 1e-3
    assert abs(float(q.log_partition(eta)) - A) < 1e-6 * max(1.0, abs(eta @ jnp.asarray(mu)))
    assert q.is_positive_definite(eta)


def test_the_second_edge_of_the_inverse_gaussian_is_the_inverse_gamma():
    one = INVERSE.mean(jnp.array([-5.0, 0.0, -2.0]))
    log, x, inverse = INVERSE.mean(jnp.array([3.0, -2.0, 0.0]))
    assert np.allclose(one, [-log, inverse, x], rtol=1e-4)


def test_a_mean_that_does_not_exist_on_the_edge_is_refused():
    """E[1/x] of a gamma density of shape below 1, though the density can be normalized."""
    with pytest.raises(ValueError, match="to converge"):
        INVERSE.mean(jnp.array([-0.5, -1.0, 0.0]))


def test_an_edge_that_is_not_integrable_is_refused():
    with pytest.raises(ValueError, match="to converge"):
        nd.Quadrature(WrongGamma()).log_partition(jnp.array([0.5, 0.0]))


@pytest.mark.parametrize("beside", [0.0, -1e-9, -1e-6, -1e-3, -0.1])
@pytest.mark.parametrize("eta", [[0.0, -0.5], [3.0, -1.0]], ids=str)
def test_natural_parameters_are_found_on_the_edge_and_beside_it(eta, beside):
    eta = jnp.array([*eta, beside])
    mu = QUARTIC.mean(eta)
    found = QUARTIC.natural_parameters(mu)
    sd = jnp.sqrt(jnp.diagonal(QUARTIC.covariance(eta)))
    assert np.all(np.abs(QUARTIC.mean(found) - mu) < 1e-4 * sd)
    assert np.allclose(found, eta, rtol=2e-3, atol=1e-5)


def test_the_moments_of_a_limit_give_an_eta_that_is_exactly_on_the_edge():
    mu = jnp.array([1.0, 2.0, 10.0])  # of a standard normal density around 1
    eta = QUARTIC.natural_parameters(mu)
    assert eta[2] == 0
    assert np.allclose(eta, [1.0, -0.5, 0.0], atol=1e-5)
    for jacobian in (jax.jacfwd, jax.jacrev):
        slope = np.asarray(jacobian(QUARTIC.natural_parameters)(mu), np.float64)
        inverse = np.linalg.inv(normal_limit(eta)[2][:2, :2])
        assert np.allclose(slope[:2, :2], inverse, atol=1e-4)
        assert np.array_equal(slope[2], np.zeros(3))


def test_moments_beyond_the_edge_are_refused():
    """Tails heavier than those of a normal density."""
    mu = jnp.array([0.0, 1.0, 3.1])
    with pytest.raises(RuntimeError, match="Check that mu is attainable"):
        QUARTIC.natural_parameters(mu)
    assert jnp.isnan(QUARTIC.natural_parameters(mu, throw=False)).all()


def test_labels_on_an_edge_agree_with_the_closed_form():
    etas = jnp.array([[1.0, -1.0, 0.0], [-0.5, -0.3, 0.0], [1.0, -1.0, -1e-8]])
    data = nd.estimate_moments(QUARTIC.family, etas, jax.random.key(0))
    assert (data.status == nd.Status.OK).all()
    for eta, mean, error in zip(etas, data.mean, data.standard_error, strict=True):
        _, mu, cov = normal_limit(eta)
        assert np.all(np.abs(mean - mu) < 5 * error + 1e-6 * np.abs(mu))
        assert np.all(error < 0.02 * np.sqrt(np.diag(cov)))
