"""The conjugate prior of a gamma's shape."""

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats

import nnef_dists as nd
from tests import truth
from tests.families.checks import array, assert_hmc_agrees, assert_quadrature_agrees, assert_refused

ETAS = [(3.0, -2.0), (-5.0, -0.5), (60.0, -40.0), (2.0, -0.5)]
FAMILY = nd.GammaShapePrior()


@pytest.mark.parametrize("eta", ETAS)
def test_truth_is_scipys_quadrature(eta):
    found = truth.gamma_shape_prior(eta)

    def density(a):
        return np.exp(eta[0] * a + eta[1] * scipy.special.gammaln(a) - found.log_partition)

    ends = 0, found.mean[0] + 60 * found.sd[0]
    near = [found.mean[0]]
    assert abs(scipy.integrate.quad(density, *ends, points=near)[0] - 1) < 1e-8
    mean = scipy.integrate.quad(lambda a: a * density(a), *ends, points=near)[0]
    np.testing.assert_allclose(mean, found.mean[0], rtol=1e-7)


@pytest.mark.parametrize("eta", ETAS)
def test_quadrature(eta):
    assert_quadrature_agrees(FAMILY, eta, truth.gamma_shape_prior)


def test_hmc():
    assert_hmc_agrees(FAMILY, ETAS, truth.gamma_shape_prior)


def test_it_is_conjugate():
    """The log-density changes with data as the gamma's log-likelihood does."""
    rate, data = 2.0, np.array([0.4, 1.7, 0.9])
    eta = np.array([1.0, -1.5])
    posterior = eta + np.array([np.log(rate * data).sum(), -3.0])
    change = [
        float(FAMILY.logdensity_fn(array(posterior))(array(a)))
        - float(FAMILY.logdensity_fn(array(eta))(array(a)))
        - scipy.stats.gamma(a, scale=1 / rate).logpdf(data).sum()
        for a in (0.7, 1.3, 4.0)
    ]
    np.testing.assert_allclose(change, change[0], atol=2e-5)


def test_natural_domain():
    for eta in ([-3.0, -1e-3], [0.5, -0.05]):
        assert FAMILY.is_valid_eta(array(eta))
        assert_quadrature_agrees(FAMILY, eta, truth.gamma_shape_prior)
    for top in (0.0, 1e-3):
        assert_refused(FAMILY, [0.5, top], "'log_gamma'")
