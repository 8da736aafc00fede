"""Harmonics on the circle."""

import numpy as np
import pytest
import scipy.stats

import nnef_dists as nd
from tests import truth
from tests.families.checks import array, assert_hmc_agrees, assert_quadrature_agrees, assert_refused
from tests.numerics import assert_close

# Uniform; one mode at the seam; two modes; concentrated.
ETAS = [(0.0, 0.0, 0.0, 0.0), (-3.0, 0.5, 0.2, 0.0), (0.3, 1.2, -0.2, 0.4), (20.0, 0.0, 5.0, 1.0)]


def test_truth_of_the_first_order_is_von_mises():
    cos, sin = 1.2, -0.7
    found = truth.von_mises_harmonic((cos, sin))
    kappa, angle = np.hypot(cos, sin), np.arctan2(sin, cos)
    exact = scipy.stats.vonmises(kappa, angle)
    np.testing.assert_allclose(found.log_partition, kappa - exact.logpdf(angle))
    moments = [exact.expect(f, lb=angle - np.pi, ub=angle + np.pi) for f in (np.cos, np.sin)]
    np.testing.assert_allclose(found.mean, moments, atol=1e-9)


@pytest.mark.parametrize("eta", ETAS)
def test_quadrature(eta):
    """In the plane, auxiliary radius included: the projection is exact and normalized."""
    assert_quadrature_agrees(nd.VonMisesHarmonic(2), eta, truth.von_mises_harmonic)


@pytest.mark.slow
def test_hmc():
    assert_hmc_agrees(nd.VonMisesHarmonic(2), ETAS, truth.von_mises_harmonic)


def test_statistics():
    family = nd.VonMisesHarmonic(3)
    assert family.stat_shapes == {"cos": (3,), "sin": (3,)}
    multiples = 0.4 * np.arange(1, 4)
    expected = np.concatenate([np.cos(multiples), np.sin(multiples)])
    assert_close(family.sufficient_statistics(array(0.4)), expected)


def test_every_finite_eta_is_valid():
    family = nd.VonMisesHarmonic(1)
    assert family.is_valid_eta(array([1e6, -1e6]))
    assert_refused(family, [0.0, np.inf], "'sin'")
    assert_refused(family, [np.nan, 0.0], "'cos'")


def test_no_harmonic_is_refused():
    with pytest.raises(ValueError, match="order >= 1; got 0"):
        nd.VonMisesHarmonic(0)
