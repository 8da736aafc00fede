"""The limit of errors that a tractable family states, against errors that are known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.distributions._accuracy import ErrorTerms, calibrate_limit
from tests.networks.data import exact_data
from tests.networks.exact import CASES, STDV, etas_of, family_of, moments_of, potential_of

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAUSSIAN = CASES["GaussianNatural1D"][0]
FAR = (0.5, -40.0)


def labels(n=100, seed=8):
    """Exact labels at etas of the training ranges."""
    return exact_data(GAUSSIAN, etas_of("GaussianNatural1D", n, seed=seed))


def largest_error(q, etas):
    """The largest error of the mean over statistics, in z units, in double precision."""
    mean = np.asarray(jax.vmap(q.mean)(etas), np.float64)
    exact = np.asarray(jax.vmap(GAUSSIAN.mean)(etas), np.float64)
    covariance = np.asarray(jax.vmap(GAUSSIAN.covariance)(etas), np.float64)
    return np.max(np.abs(mean - exact) / np.sqrt(np.diagonal(covariance, axis1=1, axis2=2)), 1)


def test_it_covers_errors_that_vary_with_eta():
    """Of a network that is off by a fixed shift, and of one whose weights are certain."""
    net = potential_of("GaussianNatural1D")
    shift = net.shift.mean + jnp.asarray([0.003, -0.002], net.shift.mean.dtype)
    sure = nd.DeterministicParameter(shift)
    unsure = nd.GaussianParameter.from_stdv(shift, STDV)
    etas = etas_of("GaussianNatural1D", 2000, seed=5)
    medians = []
    for law in (unsure, sure):
        q = nd.AmortizedFamily(GAUSSIAN, dataclasses.replace(net, shift=law))
        q = nd.validate(q, labels())
        limit = np.asarray(jax.vmap(q.accuracy)(etas))
        known = np.isfinite(limit)
        assert known.mean() > 0.97
        error = largest_error(q, etas)[known]
        # By chance the coverage of 100 held-out labels has a standard deviation of 2 %.
        assert 0.88 < np.mean(error <= limit[known]) <= 1.0
        medians.append(np.median(limit[known] / error))
    # The spread knows how errors vary, a constant does not.
    assert medians[0] < 1.6
    assert medians[0] < medians[1] < 5


@pytest.mark.parametrize("exact", [potential_of, moments_of])
def test_of_an_exact_network_it_is_small_and_not_zero(exact):
    network = exact("GaussianNatural1D")
    certain = dataclasses.replace(network, shift=nd.DeterministicParameter(network.shift.mean))
    q = nd.validate(nd.AmortizedFamily(GAUSSIAN, certain), labels())
    etas = etas_of("GaussianNatural1D", 50, seed=5)
    limit = np.asarray(jax.vmap(q.accuracy)(etas))
    assert np.all(limit > 0)
    assert np.all(limit < 200 * np.finfo(limit.dtype).eps * 10)
    assert np.all(largest_error(q, etas) <= limit)


def test_outside_nothing_is_known():
    q = nd.validate(family_of("GaussianNatural1D"), labels())
    far = jnp.asarray(FAR)
    assert q.accuracy(far) == jnp.inf
    assert jax.jit(q.accuracy)(far) == jnp.inf
    inside = q.accuracy(etas_of("GaussianNatural1D")[0])
    assert inside < 1
    assert q.at(etas_of("GaussianNatural1D")[0]).accuracy() == inside


def test_without_a_report_nothing_is_known():
    assert family_of("GaussianNatural1D").accuracy(etas_of("GaussianNatural1D")[0]) == jnp.inf


@pytest.mark.parametrize("source", [nd.ClosedForm, nd.Quadrature, family_of])
def test_of_an_invalid_eta_it_is_infinite(source):
    q = source(GAUSSIAN) if source is not family_of else family_of("GaussianNatural1D")
    invalid = jnp.asarray([[0.5, 1.0], [jnp.nan, -1.0], [0.5, 0.0]])
    assert np.all(np.asarray(jax.jit(jax.vmap(q.accuracy))(invalid)) == np.inf)


@pytest.mark.parametrize("source", [nd.ClosedForm, nd.Quadrature])
def test_of_formulas_it_is_the_rounding(source):
    """Concentrated or far from 0, where digits are lost."""
    q = source(GAUSSIAN)
    etas = jnp.asarray([[0.3, -0.5], [1e4, -0.5e4], [-300.0, -0.5]])
    limit = np.asarray(jax.jit(jax.vmap(q.accuracy))(etas))
    assert np.all(largest_error(q, etas) <= limit)
    assert np.all(limit < 1e-2)


def test_of_ill_conditioned_normals_it_has_the_rounding_of_eta():
    rng, d = np.random.default_rng(0), 3
    q = nd.ClosedForm(nd.MultivariateNormal(d))
    etas = []
    for k in np.repeat([1.0, 1e3, 1e5], 20):
        U = np.linalg.qr(rng.normal(size=(d, d)))[0]
        precision = (U * k ** np.linspace(0, 1, d)) @ U.T
        etas.append([*(precision @ rng.normal(size=d) * 3), *-precision.ravel() / 2])
    etas = np.asarray(etas, np.float32)
    limit = np.asarray(jax.jit(jax.vmap(q.accuracy))(etas))
    mean = np.asarray(jax.jit(jax.vmap(q.mean))(etas), float)
    with jax.enable_x64(True):
        wide = jnp.asarray(etas, float)
        exact, covariance = (np.asarray(jax.vmap(f)(wide)) for f in (q.mean, q.covariance))
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    error = np.max(np.abs(mean - exact) / sd, 1)
    assert np.all(error <= limit)
    assert np.median(limit / error) < 300
    assert np.all(limit[:20] < 3e-5)


def near(spread, size):
    """Terms of etas that are close to the training etas."""
    zero = np.zeros(len(spread))
    return ErrorTerms(np.asarray(spread, float), size, 1 + zero, zero, zero)


class TestCalibration:
    RNG = np.random.default_rng(0)

    def test_95_percent_are_covered_on_average(self):
        """Whether or not the spread knows anything of the errors."""
        covered = []
        for _ in range(300):
            sizes, noise = np.exp(self.RNG.normal(size=(2, 80)))
            errors = np.abs(sizes * self.RNG.normal(size=80))
            factor, floor = calibrate_limit(errors[:40], near((sizes * noise)[:40], np.ones(40)))
            limit = factor * np.hypot((sizes * noise)[40:], floor)
            covered.append(np.mean(errors[40:] <= limit))
        # The best of five floors costs a part of the coverage.
        assert 0.92 < np.mean(covered) < 0.98

    def test_a_spread_that_knows_is_used(self):
        sizes = np.exp(2 * self.RNG.normal(size=400))
        errors = np.abs(sizes * self.RNG.normal(size=400))
        factor, floor = calibrate_limit(errors, near(sizes, np.ones(400)))
        assert abs(factor / 1.96 - 1) < 0.2
        assert floor < np.median(sizes) / 2

    def test_one_that_does_not_is_not(self):
        errors = np.abs(self.RNG.normal(size=400))
        spread = np.exp(2 * self.RNG.normal(size=400))
        factor, floor = calibrate_limit(errors, near(spread, np.ones(400)))
        assert abs(factor * floor / 1.96 - 1) < 0.2

    def test_no_spread_at_all(self):
        factor, floor = calibrate_limit(np.arange(100.0), near(np.zeros(100), np.ones(100)))
        assert factor * floor == pytest.approx(95)

    @pytest.mark.parametrize("errors", [np.full(100, np.inf), np.arange(18.0)])
    def test_errors_that_say_nothing(self, errors):
        one = np.ones(len(errors))
        assert calibrate_limit(errors, near(one, one))[0] == np.inf

    def test_sizes_that_know_are_used(self):
        sizes = np.exp(2 * self.RNG.normal(size=400))
        errors = np.abs(sizes * self.RNG.normal(size=400))
        factor, floor = calibrate_limit(errors, near(np.zeros(400), sizes))
        assert abs(factor * floor / 1.96 - 1) < 0.2

    def test_the_limit_between_training_etas_and_the_learned_function(self):
        """Errors e^(1 - w) M^w with one e are covered by that e, whatever w and M are."""
        share, learned = self.RNG.uniform(0, 0.9, 400), np.exp(self.RNG.normal(size=400))
        size = np.exp(self.RNG.normal(size=400) - 3)
        typical = size * np.abs(self.RNG.normal(size=400))
        errors = typical ** (1 - share) * np.maximum(learned, typical) ** share
        terms = ErrorTerms(np.zeros(400), size, np.ones(400), share, learned)
        factor, floor = calibrate_limit(errors, terms)
        assert abs(factor * floor / 1.96 - 1) < 0.2
        assert 0.94 < np.mean(errors <= terms.limit(factor, floor)) < 0.97

    def test_no_limit_is_below_that_of_training_etas(self):
        """Also if nothing was learned."""
        terms = ErrorTerms(*(jnp.asarray(v) for v in (0.1, 1.0, 1.0, 0.7, 0.0)))
        assert terms.limit(2.0, 0.0) == pytest.approx(0.2)
        assert terms._replace(learned=jnp.asarray(1e3)).limit(2.0, 0.0) > 1

    @pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
    def test_held_out_etas_that_are_all_far(self, share):
        """Small errors far away do not make the limit zero."""
        errors = 1e-4 * np.abs(self.RNG.normal(size=100))
        one = np.ones(100)
        terms = ErrorTerms(np.zeros(100), one, one, share * one, one)
        factor, floor = calibrate_limit(errors, terms)
        assert np.float32(factor) * np.float32(floor) > 1e-6
        assert np.mean(errors <= terms.limit(factor, floor)) > 0.94

    def test_one_eta_without_terms_does_not_choose_the_floor(self):
        sizes = np.exp(2 * self.RNG.normal(size=400))
        errors = np.abs(self.RNG.normal(size=400))
        terms = near(sizes, np.ones(400))
        for name in ("spread", "learned"):
            leaf = np.array(getattr(terms, name))
            leaf[0] = np.nan
            found = calibrate_limit(errors, terms._replace(**{name: leaf}))
            assert np.allclose(found, calibrate_limit(errors, terms), rtol=0.2)
