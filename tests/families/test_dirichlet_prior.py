"""The conjugate prior of a Dirichlet's concentration."""

import numpy as np
import pytest
import scipy.stats
from scipy.special import gammaln

import nnef_dists as nd
from tests import truth
from tests.families.checks import (
    array,
    assert_coordinates_are_a_bijection,
    assert_hmc_agrees,
    assert_quadrature_agrees,
    assert_refused,
)

PAIRS = [(-4.0, -3.0, -3.0), (-0.5, -0.7, -0.4), (-30.0, -20.0, -20.0)]
TRIPLES = [(-4.0, -5.0, -6.0, -3.0), (-0.9, -1.4, -2.0, -0.6), (-30.0, -30.0, -50.0, -20.0)]


def edge(direction, n):
    """The eta on the domain's boundary, sum_i exp(eta_i / n) = 1, in a given direction."""
    direction = np.asarray(direction)
    return np.append(n * (direction - np.log(np.exp(direction).sum())), -n)


@pytest.mark.parametrize("eta", PAIRS)
def test_truth_is_a_plain_sum_over_a_grid(eta):
    """In other coordinates, without search for a box: the logarithms of alpha."""
    found = truth.dirichlet_prior(eta)
    axis = np.linspace(-25.0, 6.0, 2001)
    a, b = (np.exp(grid.ravel()) for grid in np.meshgrid(axis, axis, indexing="ij"))
    stats = np.stack([a, b, gammaln(a) + gammaln(b) - gammaln(a + b)], -1)
    logs = stats @ np.array(eta) + np.log(a * b) + 2 * np.log(axis[1] - axis[0])
    exact = truth.weighted_moments(logs, stats)
    np.testing.assert_allclose(found.log_partition, exact.log_partition, atol=1e-6)
    np.testing.assert_allclose(found.mean, exact.mean, rtol=1e-5)
    np.testing.assert_allclose(found.covariance, exact.covariance, rtol=1e-4)


@pytest.mark.parametrize("eta", PAIRS)
def test_quadrature(eta):
    assert_quadrature_agrees(nd.DirichletPrior(2), eta, truth.dirichlet_prior)


@pytest.mark.parametrize("n", [1.0, 1e3, 1e6])
def test_posteriors_of_many_observations_are_valid(n):
    """In float32 too, and what is as far beyond the edge is not."""
    family, direction = nd.DirichletPrior(3), (-1.0, -2.0, -1.5)
    on_edge = edge(direction, n)
    inside, beyond = (
        on_edge + sign * 0.01 * n * np.array([1.0, 1.0, 1.0, 0.0]) for sign in (-1, 1)
    )
    assert family.is_valid_eta(array(inside))
    assert not family.is_valid_eta(array(beyond))
    back = np.asarray(family.constrain_eta(family.unconstrain_eta(array(inside))))
    np.testing.assert_allclose(back, inside, rtol=1e-5)


@pytest.mark.slow
def test_hmc_with_three_entries():
    assert_hmc_agrees(
        nd.DirichletPrior(3), TRIPLES, lambda eta: truth.dirichlet_prior(eta, points=61)
    )


def test_it_is_conjugate():
    family = nd.DirichletPrior(3)
    data = scipy.stats.dirichlet([2.0, 1.0, 3.0]).rvs(4, random_state=1)
    eta = np.array(TRIPLES[0])
    posterior = eta + np.append(np.log(data).sum(0), -4)
    change = [
        float(family.logdensity_fn(array(posterior))(array(alpha)))
        - float(family.logdensity_fn(array(eta))(array(alpha)))
        - sum(scipy.stats.dirichlet(alpha).logpdf(x) for x in data)
        for alpha in ([1.0, 1.0, 1.0], [0.3, 2.0, 5.0], [7.0, 1.0, 0.2])
    ]
    np.testing.assert_allclose(change, change[0], atol=1e-4)


class TestNaturalDomain:
    @pytest.mark.parametrize("n", [0.1, 2.0, 50.0])
    @pytest.mark.parametrize("direction", [(0.0, 0.0, 0.0), (1.0, -2.0, 0.5)])
    def test_the_boundary(self, n, direction):
        family, eta = nd.DirichletPrior(3), edge(direction, n)
        step = 1e-3 * n * np.array([1.0, 1.0, 1.0, 0.0])
        assert family.is_valid_eta(array(eta - step))
        assert_refused(family, eta + step, "sum_i exp(alpha_i / n) < 1")

    def test_inside_means_grow_toward_the_boundary_and_stay_finite(self):
        """Along the critical ray the density is s^((n+1)(k-1)/2) exp(-gap s): see the proof."""
        n = 2.0
        for gap in (0.1, 0.01):
            eta = edge((0.0, 0.5), n) - gap * np.array([1.0, 1.0, 0.0])
            found = truth.dirichlet_prior(eta)
            finer = truth.dirichlet_prior(eta, points=601)
            np.testing.assert_allclose(found.mean, finer.mean, rtol=1e-5)
            expected = ((n + 1) / 2 + 1) / gap
            assert abs(found.mean[:2].sum() / expected - 1) < 0.1

    @pytest.mark.parametrize("above", [0.0, 1e-3])
    def test_outside_the_density_does_not_fall_along_the_critical_ray(self, above):
        family, direction = nd.DirichletPrior(3), np.array([0.3, -0.4, 0.0])
        ray = np.exp(direction) / np.exp(direction).sum()
        eta = edge(direction, 2.0) + above * np.array([1.0, 1.0, 1.0, 0.0])
        logs = [
            eta[:-1] @ (s * ray) + eta[-1] * (gammaln(s * ray).sum() - gammaln(s))
            for s in (1e2, 1e3, 1e4)
        ]
        assert logs[0] < logs[1] < logs[2]
        assert np.isfinite(float(family.unnormalized_logdensity(array(eta), array(ray))))

    @pytest.mark.parametrize("count", [0.0, 0.5])
    def test_counts_have_to_be_positive(self, count):
        assert_refused(nd.DirichletPrior(2), [-1.0, -1.0, count], "log_beta = -n < 0")

    def test_data_satisfy_it(self):
        data = scipy.stats.dirichlet([0.5, 1.0, 3.0]).rvs(20, random_state=2)
        eta = np.append(np.log(data).sum(0), -20.0)
        assert nd.DirichletPrior(3).is_valid_eta(array(eta))

    def test_coordinates(self):
        assert_coordinates_are_a_bijection(nd.DirichletPrior(4).natural_domain.bijection)


def test_one_entry_is_refused():
    with pytest.raises(ValueError, match="k >= 2; got 1"):
        nd.DirichletPrior(1)
