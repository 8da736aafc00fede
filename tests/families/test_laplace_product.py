"""The product of Laplace factors."""

import numpy as np
import pytest
import scipy.integrate

import nnef_dists as nd
from tests import truth
from tests.families.checks import (
    array,
    assert_coordinates_are_a_bijection,
    assert_hmc_agrees,
    assert_refused,
)
from tests.numerics import assert_close

# One dimension; one of the two parameters may be negative.
ETAS_1D = [(1.0, 0.5), (3.0, 3.0), (-0.5, 1.2), (2.0, -1.7)]


def by_scipy(minus, plus):
    """Log-partition and mean, by adaptive quadrature between the kinks."""

    def density(x):
        return np.exp(-minus * abs(x - 1) - plus * abs(x + 1))

    def integral(f):
        # Tails from 1 on either side; the left one is folded over.
        return (
            scipy.integrate.quad(f, -1, 1)[0]
            + scipy.integrate.quad(f, 1, np.inf)[0]
            + scipy.integrate.quad(lambda x: f(-x), 1, np.inf)[0]
        )

    z = integral(density)
    return np.log(z), [-integral(lambda x, c=c: density(x) * abs(x - c)) / z for c in (1, -1)]


@pytest.mark.parametrize("eta", ETAS_1D)
def test_truth_is_scipys_quadrature(eta):
    found, (log_partition, mean) = truth.laplace_product(eta), by_scipy(*eta)
    np.testing.assert_allclose(found.log_partition, log_partition, atol=1e-9)
    np.testing.assert_allclose(found.mean, mean, atol=1e-7)


def test_the_truth_of_a_product_is_the_sum():
    found = truth.laplace_product(np.transpose(ETAS_1D[:2]).ravel())
    one, two = (truth.laplace_product(eta) for eta in ETAS_1D[:2])
    np.testing.assert_allclose(found.log_partition, one.log_partition + two.log_partition)
    np.testing.assert_allclose(found.mean, np.stack([one.mean, two.mean], 1).ravel())


def test_statistics_and_their_order():
    family = nd.LaplaceProduct(2)
    assert family.stat_names == ("minus[0]", "minus[1]", "plus[0]", "plus[1]")
    stats = family.sufficient_statistics(array([0.5, -3.0]))
    assert_close(stats, -np.array([0.5, 4.0, 1.5, 2.0]))
    assert not family.is_smooth
    assert nd.GaussianNatural1D().is_smooth


@pytest.mark.parametrize("eta", ETAS_1D)
def test_density_in_one_dimension(eta):
    """A kink costs the trapezoidal rule its speed, not its limit."""
    found = nd.quadrature_moments(nd.LaplaceProduct(1), array(eta))
    exact = truth.laplace_product(eta)
    assert abs(float(found.log_partition) - exact.log_partition) < 1e-3
    assert np.max(np.abs(np.asarray(found.mean) - exact.mean) / exact.sd) < 1e-3


@pytest.mark.slow
def test_hmc_in_three_dimensions():
    etas = [(1.0, -0.5, 2.0, 0.5, 1.2, 1.0), (3.0, 2.0, 0.3, 3.0, -1.7, 0.3)]
    assert_hmc_agrees(nd.LaplaceProduct(3), etas, truth.laplace_product, leapfrog_steps=10)


def test_natural_domain():
    family = nd.LaplaceProduct(2)
    for inside in ([1.0, 1.0, 1.0, -0.999], [-5.0, 0.0, 5.001, 1e-3]):
        assert family.is_valid_eta(array(inside))
        # Of independent coordinates.
        found = truth.laplace_product(inside)
        parts = [by_scipy(*inside[i::2]) for i in range(2)]
        assert found.log_partition == pytest.approx(sum(part[0] for part in parts), rel=1e-5)
    for outside in ([1.0, 1.0, 1.0, -1.0], [1.0, 1.0, 1.0, -1.001], [-1.0, 1.0, 0.5, 1.0]):
        assert_refused(family, outside, "positive sum")
    # At the edge the tails are flat.
    logs = [
        nd.LaplaceProduct(1).unnormalized_logdensity(array([-1.0, 1.0]), array([x]))
        for x in (50.0, 100.0)
    ]
    assert logs[0] == logs[1]


def test_coordinates():
    family = nd.LaplaceProduct(3)
    assert_coordinates_are_a_bijection(family.natural_domain.bijection)
    assert_coordinates_are_a_bijection(family.support, scale=5.0)


def test_no_dimension_is_refused():
    with pytest.raises(ValueError, match="d >= 1; got 0"):
        nd.LaplaceProduct(0)
