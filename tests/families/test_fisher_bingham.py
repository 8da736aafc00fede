"""The Fisher-Bingham distribution."""

import jax
import numpy as np
import scipy.integrate
import scipy.stats

import nnef_dists as nd
from tests import truth
from tests.families.checks import array, assert_hmc_agrees, assert_refused
from tests.numerics import assert_close

FAMILY = nd.FisherBingham()
# Uniform; unimodal; two antipodal modes; a tilted girdle.
ETAS = [
    (0.0,) * 8,
    (1.0, -2.0, 0.5, 0.3, 0.0, -0.5, 1.0, 0.2),
    (0.1, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0, 3.0),
    (0.5, 0.3, 0.0, 2.0, -1.0, 0.0, 1.0, -4.0),
]


class TestTruth:
    def test_the_uniform_distribution(self):
        found = truth.fisher_bingham(ETAS[0])
        np.testing.assert_allclose(found.log_partition, np.log(4 * np.pi))
        np.testing.assert_allclose(found.mean, 0, atol=1e-12)
        expected = np.diag([1 / 3] * 3 + [1 / 15] * 5)
        np.testing.assert_allclose(found.covariance, expected, atol=1e-12)

    def test_without_second_order_it_is_von_mises_fisher(self):
        b = np.array([1.0, -2.0, 0.5])
        kappa = np.linalg.norm(b)
        found = truth.fisher_bingham([*b, 0, 0, 0, 0, 0])
        exact = scipy.stats.vonmises_fisher(b / kappa, kappa)
        np.testing.assert_allclose(found.log_partition, kappa - exact.logpdf(b / kappa))
        np.testing.assert_allclose(found.mean[:3], b / kappa * (1 / np.tanh(kappa) - 1 / kappa))

    def test_it_is_scipys_double_integral(self):
        eta = np.array(ETAS[1])

        def density(z, phi):
            r = np.sqrt(1 - z * z)
            x, y = r * np.cos(phi), r * np.sin(phi)
            second = [x * y, y * z, x * z, (x * x - y * y) / 2, (3 * z * z - 1) / np.sqrt(12)]
            return np.exp(eta[:3] @ [x, y, z] + eta[3:] @ second)

        integral = scipy.integrate.dblquad(density, 0, 2 * np.pi, -1, 1, epsrel=1e-6)[0]
        assert abs(np.log(integral) - truth.fisher_bingham(eta).log_partition) < 1e-5


def test_statistics_are_a_quadratic_polynomial():
    """to_natural gives b . x + x . A x up to a constant, whatever A's trace and skew part."""
    rng = np.random.default_rng(1)
    b, matrix = rng.normal(size=3), rng.normal(size=(3, 3))
    eta = FAMILY.to_natural(array(b), array(matrix))
    points = rng.normal(size=(6, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    logs = [float(FAMILY.logdensity_fn(eta)(array(x))) - b @ x - x @ matrix @ x for x in points]
    np.testing.assert_allclose(logs, logs[0], atol=1e-5)
    shifted = FAMILY.to_natural(array(b), array(matrix + 5 * np.eye(3)))
    assert_close(shifted, np.asarray(eta, np.float64), scale=10.0)


def test_the_form_is_minimal():
    """No combination of the statistics is constant on the sphere."""
    u = jax.random.normal(jax.random.key(1), (100, 3))
    stats = jax.vmap(lambda u: FAMILY.sufficient_statistics(FAMILY.support.transform(u)))(u)
    assert np.linalg.eigvalsh(np.cov(np.asarray(stats, np.float64).T))[0] > 0.01


def test_hmc():
    assert_hmc_agrees(FAMILY, ETAS, lambda eta: truth.fisher_bingham(eta, points=60))


def test_every_finite_eta_is_valid():
    assert FAMILY.is_valid_eta(array([1e5] * 8))
    assert_refused(FAMILY, [0.0] * 7 + [np.inf], "'harmonics'")
