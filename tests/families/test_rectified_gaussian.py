"""The rectified Gaussian."""

import jax
import numpy as np
import pytest
import scipy.stats

import nnef_dists as nd
from tests import truth
from tests.families.checks import array, assert_hmc_agrees, assert_quadrature_agrees, assert_refused

# Modes inside, at and far beyond the edge; small and large scales.
ETAS = [(1.3, -0.7), (-6.0, -2.0), (20.0, -40.0), (0.5, -0.01)]
FAMILY = nd.RectifiedGaussian()


@pytest.mark.parametrize("eta", ETAS)
def test_truth_is_scipys_truncated_normal(eta):
    variance = -0.5 / eta[1]
    mean, sd = eta[0] * variance, np.sqrt(variance)
    exact = scipy.stats.truncnorm(-mean / sd, np.inf, mean, sd)
    found = truth.rectified_gaussian(eta)
    np.testing.assert_allclose(found.mean, [exact.mean(), exact.moment(2)], rtol=1e-9)
    log_normalizer = -exact.logpdf(0.0)  # where the exponent is zero
    np.testing.assert_allclose(found.log_partition, log_normalizer, atol=1e-9)


@pytest.mark.parametrize("eta", ETAS)
def test_quadrature(eta):
    assert_quadrature_agrees(FAMILY, eta, truth.rectified_gaussian)


def test_the_closed_form_is_that_truth():
    """The extremes are among the facts of `test_bessel.py`."""
    found = jax.jit(jax.vmap(lambda eta: (FAMILY.log_partition(eta), FAMILY.mean(eta))))(
        array(ETAS)
    )
    for eta, a, mean in zip(ETAS, *found, strict=True):
        exact = truth.rectified_gaussian(eta)
        np.testing.assert_allclose(a, exact.log_partition, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mean, exact.mean, rtol=1e-5)


@pytest.mark.slow
def test_hmc():
    assert_hmc_agrees(FAMILY, ETAS, truth.rectified_gaussian)


def test_natural_domain():
    for eta in ([5.0, -1e-4], [-5.0, -1e-4]):
        assert FAMILY.is_valid_eta(array(eta))
        assert_quadrature_agrees(FAMILY, eta, truth.rectified_gaussian)
    for top in (0.0, 1e-4):
        assert_refused(FAMILY, [5.0, top], "'x2'")
