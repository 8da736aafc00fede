"""Gamma, beta and Dirichlet (the registry's tests sample them)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import gammaln

import nnef_dists as nd
from tests import truth
from tests.families.checks import array, assert_refused
from tests.numerics import assert_close

# Natural parameters.
GAMMA = [(2.0, -1.5), (-0.5, -0.1), (20.0, -30.0)]
BETA = [(1.0, 2.0), (0.0, 0.0), (20.0, 3.0)]
DIRICHLET = [(0.0, 1.0, 2.0), (-0.5, -0.6, 0.3), (30.0, 4.0, 10.0)]

pytestmark = pytest.mark.usefixtures("strict_promotion")


def closed_form(family):
    """The family's own moments in float64, as a truth."""

    def of(eta):
        with jax.enable_x64(True):
            eta = jnp.asarray(eta, jnp.float64)
            return truth.Truth(
                float(family.log_partition(eta)),
                np.asarray(family.mean(eta)),
                np.asarray(family.covariance(eta)),
            )

    return of


@pytest.mark.parametrize(
    ("family", "eta", "exact", "points"),
    [
        (nd.Gamma(), (2.0, -1.5), scipy.stats.gamma(3.0, scale=1 / 1.5), [0.1, 1.0, 7.0]),
        (nd.Gamma(), (-0.5, -0.1), scipy.stats.gamma(0.5, scale=10.0), [0.01, 1.0, 30.0]),
        (nd.Beta(), (1.0, 2.5), scipy.stats.beta(2.0, 3.5), [0.01, 0.5, 0.9]),
        (nd.Beta(), (-0.5, -0.7), scipy.stats.beta(0.5, 0.3), [0.01, 0.5, 0.9]),
    ],
)
def test_log_density_is_that_of_scipy(family, eta, exact, points):
    eta = array(eta)
    logs = jnp.stack([family.logdensity_fn(eta)(array(x)) for x in points])
    assert_close(logs - family.log_partition(eta), exact.logpdf(points), scale=10.0)


def test_dirichlet_is_scipys():
    family, eta = nd.Dirichlet(3), array([-0.5, 1.0, 2.0])
    exact = scipy.stats.dirichlet([0.5, 2.0, 3.0])
    for x in ([0.2, 0.3, 0.5], [0.01, 0.9, 0.09]):
        log_prob = family.logdensity_fn(eta)(array(x)) - family.log_partition(eta)
        assert_close(log_prob, exact.logpdf(x), scale=10.0)
    draws = np.log(exact.rvs(50_000, random_state=1))
    z = (draws.mean(0) - np.asarray(family.mean(eta))) / (draws.std(0) / np.sqrt(50_000))
    assert np.max(np.abs(z)) < 5


def test_two_entries_are_a_beta():
    eta = array([0.3, 1.7])
    assert_close(nd.Dirichlet(2).log_partition(eta), float(nd.Beta().log_partition(eta)))
    assert_close(nd.Dirichlet(2).mean(eta), np.asarray(nd.Beta().mean(eta)))


@pytest.mark.parametrize(
    ("family", "eta"),
    [
        *[(nd.Gamma(), eta) for eta in GAMMA],
        *[(nd.Beta(), eta) for eta in BETA],
        *[(nd.Dirichlet(3), eta) for eta in DIRICHLET],
    ],
    ids=repr,
)
def test_densities_integrate_to_one(family, eta):
    """And quadrature finds the same moments: of smooth powers in unconstrained coordinates."""
    eta = array(eta)
    tolerance = float(jnp.finfo(eta.dtype).eps) ** 0.5
    with jax.numpy_dtype_promotion("standard"):
        found = nd.quadrature_moments(family, eta)
    exact = closed_form(family)(np.asarray(eta, np.float64))
    scale = 1 + abs(exact.log_partition)
    assert abs(float(found.log_partition) - exact.log_partition) < tolerance * scale
    assert np.max(np.abs(np.asarray(found.mean) - exact.mean) / exact.sd) < tolerance


def test_a_beta_that_floats_cannot_hold_is_not_labeled():
    """Much of the mass lies closer to 1 than rounding: the sampler says so."""
    with jax.numpy_dtype_promotion("standard"):
        data = nd.estimate_moments(
            nd.Beta(),
            array([(-0.95, -0.95)]),
            jax.random.key(1),
            nd.HMCConfig(tile=4, control_variates=False),
        )
    assert not data.ok.any()


def test_points_on_the_boundary_have_no_density_but_finite_statistics():
    cases = [
        (nd.Gamma(), 0.0),
        (nd.Beta(), 0.0),
        (nd.Beta(), 1.0),
        (nd.Dirichlet(3), [0.0, 0.5, 0.5]),
        # Counts that were not divided by their sum.
        (nd.Dirichlet(3), [2.0, 3.0, 4.0]),
    ]
    for family, x in cases:
        eta = jnp.full(family.eta_dim, -0.5)
        assert np.isfinite(family.sufficient_statistics(array(x))).all()
        assert float(family.logdensity_fn(eta)(array(x))) == -np.inf


def log_dirichlet(alpha):
    """The log-normalizer, of a beta distribution too."""
    return np.sum(gammaln(alpha)) - gammaln(np.sum(alpha))


@pytest.mark.parametrize(
    ("family", "inside", "outside", "name", "log_partition"),
    [
        (
            nd.Gamma(),
            [-0.999, -1e-3],
            [-1.0, -1.0],
            "'log_x'",
            gammaln(1e-3) - 1e-3 * np.log(1e-3),
        ),
        (nd.Gamma(), [5.0, -1e-3], [5.0, 0.0], "'x'", gammaln(6.0) - 6 * np.log(1e-3)),
        (nd.Beta(), [-0.999, 3.0], [-1.001, 3.0], "'log_x'", log_dirichlet([1e-3, 4.0])),
        (nd.Beta(), [3.0, -0.999], [3.0, -1.0], "'log_1mx'", log_dirichlet([4.0, 1e-3])),
        (
            nd.Dirichlet(3),
            [-0.999, 0.0, 5.0],
            [-1.0, 0.0, 5.0],
            "'log_x'",
            log_dirichlet([1e-3, 1.0, 6.0]),
        ),
    ],
)
def test_natural_domains(family, inside, outside, name, log_partition):
    """Near the edge a single-precision eta + 1 = 0.001 has a relative rounding error of 6e-5."""
    assert family.is_valid_eta(array(inside))
    assert float(family.log_partition(array(inside))) == pytest.approx(log_partition, rel=1e-4)
    assert_refused(family, outside, name)


def test_round_trips():
    gamma, beta, dirichlet = nd.Gamma(), nd.Beta(), nd.Dirichlet(3)
    one, two = array(1.7), array(0.4)
    for family, back in ((gamma, gamma.to_shape_rate), (beta, beta.to_concentrations)):
        found = back(family.to_natural(one, two))
        assert_close(jnp.stack(found), np.array([1.7, 0.4]))
    alpha = array([0.5, 2.0, 7.0])
    assert_close(dirichlet.to_concentration(dirichlet.to_natural(alpha)), np.array([0.5, 2.0, 7.0]))


def test_one_entry_is_refused():
    with pytest.raises(ValueError, match="k >= 2; got 1"):
        nd.Dirichlet(1)
