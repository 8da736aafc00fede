"""The phi^4 chain, and its transfer-matrix truth."""

import functools

import numpy as np
import pytest

import nnef_dists as nd
from tests import truth
from tests.families.checks import array, assert_hmc_agrees, assert_quadrature_agrees, assert_refused
from tests.numerics import assert_close

ETAS = [(0.3, 0.4, -0.7, 0.3), (-0.2, -1.0, -0.3, -0.5), (0.0, 0.5, -1.0, 0.2)]


def direct(n, eta, points=101):
    """The n-dimensional trapezoidal rule, without any structure."""
    axis = np.linspace(-3.5, 3.5, points)
    x = np.stack(np.meshgrid(*[axis] * n, indexing="ij"), -1).reshape(-1, n)
    bonds = (x[:, 1:] * x[:, :-1]).sum(1)
    stats = np.stack([x.sum(1), (x**2).sum(1), (x**4).sum(1), bonds], -1)
    return truth.weighted_moments(stats @ np.array(eta) + n * np.log(axis[1] - axis[0]), stats)


class TestTransferMatrix:
    @pytest.mark.parametrize("n", [2, 3])
    @pytest.mark.parametrize("eta", ETAS)
    def test_it_is_the_integral_over_all_sites(self, n, eta):
        found, exact = truth.lattice_phi4(n, eta), direct(n, eta)
        np.testing.assert_allclose(found.log_partition, exact.log_partition, rtol=1e-10)
        np.testing.assert_allclose(found.mean, exact.mean, atol=1e-9)
        np.testing.assert_allclose(found.covariance, exact.covariance, atol=1e-8)

    def test_one_site_is_the_quartic(self):
        """Without coupling the sites are independent."""
        single = truth.lattice_phi4(1, (0.3, 1.0, -0.7, 0.0))
        chain = truth.lattice_phi4(50, (0.3, 1.0, -0.7, 0.0))
        np.testing.assert_allclose(chain.log_partition, 50 * single.log_partition)
        np.testing.assert_allclose(chain.mean[:3], 50 * single.mean[:3])
        np.testing.assert_allclose(chain.covariance[:3, :3], 50 * single.covariance[:3, :3])
        np.testing.assert_allclose(chain.mean[3], 49 * single.mean[0] ** 2)

    def test_fifty_sites_converge_and_their_mean_is_the_gradient(self):
        eta, h = np.array((0.3, 1.0, -0.7, 0.5)), 1e-4
        fine, found = truth.lattice_phi4(50, eta, 301), truth.lattice_phi4(50, eta, 151)
        np.testing.assert_allclose(found.mean, fine.mean, rtol=1e-11)
        np.testing.assert_allclose(found.covariance, fine.covariance, rtol=1e-10)
        steps = h * np.eye(4)
        pairs = [
            (truth.lattice_phi4(50, eta + step, 151), truth.lattice_phi4(50, eta - step, 151))
            for step in steps
        ]
        gradient = [(up.log_partition - down.log_partition) / (2 * h) for up, down in pairs]
        np.testing.assert_allclose(gradient, found.mean, rtol=1e-7)
        hessian = [(up.mean - down.mean) / (2 * h) for up, down in pairs]
        np.testing.assert_allclose(hessian, found.covariance, rtol=1e-5)


def test_statistics():
    x = array([1.0, -2.0, 0.5, 3.0])
    stats = nd.LatticePhi4(4).sufficient_statistics(x)
    assert_close(stats, np.array([2.5, 14.25, 98.0625, -2.0 - 1.0 + 1.5]))


def test_natural_domain():
    family = nd.LatticePhi4(3)
    assert family.is_valid_eta(array([9.0, 9.0, -1e-3, -9.0]))
    for top in (0.0, 1e-3):
        assert_refused(family, [0.0, -9.0, top, 0.0], "'x4'")
    # Just inside, the integral is finite: two grids agree. It grows without bound toward the edge.
    inside = [truth.lattice_phi4(3, (0.0, 1.0, -1e-3, 0.5), points) for points in (401, 801)]
    np.testing.assert_allclose(inside[0].mean, inside[1].mean, atol=1e-6)
    closer = [truth.lattice_phi4(3, (0.0, 0.1, -e4, 0.0), 801).log_partition for e4 in (0.1, 0.01)]
    assert closer[1] > closer[0] + 0.5


def test_two_sites_by_quadrature():
    assert_quadrature_agrees(nd.LatticePhi4(2), ETAS[0], functools.partial(truth.lattice_phi4, 2))


@pytest.mark.slow
def test_hmc_on_ten_sites():
    assert_hmc_agrees(nd.LatticePhi4(10), ETAS, functools.partial(truth.lattice_phi4, 10))


@pytest.mark.parametrize("n", [1, 0])
def test_a_chain_without_bonds_is_refused(n):
    with pytest.raises(ValueError, match=f"n >= 2; got {n}"):
        nd.LatticePhi4(n)
