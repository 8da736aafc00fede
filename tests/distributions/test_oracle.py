"""Sampling where the network is not sure, and the choice of what to label next."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.networks.data import exact_data
from tests.networks.exact import (
    CASES,
    STDV,
    etas_of,
    family_of,
    moments_of,
    potential_of,
    uncertain,
)
from tests.numerics import assert_close

GAUSSIAN = CASES["GaussianNatural1D"][0]
# Of few draws, since what is tested is which etas are sampled.
QUICK = nd.HMCConfig(tile=8, ladder=False, global_moves=False)
HOPELESS = nd.HMCConfig(
    tile=8, ladder=False, global_moves=False, control_variates=False, chains=4, warmup=24, draws=8
)


def calibrated(q):
    """The family with a report, of exact labels at other training etas."""
    return nd.validate(q, exact_data(GAUSSIAN, etas_of("GaussianNatural1D", 64, seed=8)))


@functools.cache
def asked_for():
    """A network that is off by 0.02, and knows that it is uncertain; the last eta is outside."""
    net = potential_of("GaussianNatural1D")
    shift = uncertain(jnp.full(2, STDV, net.shift.dtype), STDV)
    q = nd.AmortizedFamily(GAUSSIAN, dataclasses.replace(net, shift=shift))
    with pytest.warns(nd.distributions.ValidationWarning):
        q = calibrated(q)
    etas = jnp.concatenate([etas_of("GaussianNatural1D", 16, seed=2), jnp.array([[0.0, -9.0]])])
    accuracy = np.asarray(jax.vmap(q.accuracy)(etas))
    return q, etas, accuracy, float(np.median(accuracy[:-1]))


class TestOracle:
    @pytest.mark.parametrize("source", [nd.ClosedForm, nd.Quadrature])
    def test_an_exact_source_is_never_sampled(self, source):
        etas = etas_of("GaussianNatural1D", 4)
        mean, report = nd.mean_or_oracle(source(GAUSSIAN), etas, jax.random.key(0), 1e-4)
        assert_close(mean, np.asarray(jax.vmap(GAUSSIAN.mean)(etas)))
        assert not report.asked.any()
        assert np.all(report.accuracy < 1e-5)

    def test_the_inaccurate_are_sampled(self):
        q, etas, accuracy, tolerance = asked_for()
        mean, report = nd.mean_or_oracle(q, etas, jax.random.key(0), tolerance, config=QUICK)
        np.testing.assert_allclose(report.accuracy, accuracy, rtol=1e-5)
        assert np.array_equal(np.isinf(report.accuracy), np.arange(17) == 16)
        assert not report.indefinite.any()
        assert np.array_equal(report.asked, accuracy > tolerance)
        assert 1 < report.asked.sum() < 16
        assert not report.failed.any()
        exact = np.asarray(jax.vmap(GAUSSIAN.mean)(etas))
        kept = mean[~report.asked]
        # What the network says, which is off by 0.02.
        np.testing.assert_allclose(kept, exact[~report.asked] + STDV, atol=1e-5)
        error = np.abs(mean - exact)[report.asked]
        assert np.all(error < 6 * report.data.standard_error)
        assert np.all(report.data.standard_error < 0.01)
        assert np.array_equal(report.data.eta, np.asarray(etas)[report.asked])

    def test_the_accurate_are_not(self):
        q, etas = calibrated(family_of("GaussianNatural1D")), etas_of("GaussianNatural1D", 17)
        mean, report = nd.mean_or_oracle(q, etas, jax.random.key(0), 1e-3)
        assert report.data is None
        assert not report.asked.any()
        np.testing.assert_allclose(mean, jax.vmap(GAUSSIAN.mean)(etas), rtol=1e-5)

    def test_of_a_network_without_a_report_nothing_is_known(self):
        q, etas = family_of("GaussianNatural1D"), etas_of("GaussianNatural1D", 17)
        _, report = nd.mean_or_oracle(q, etas, jax.random.key(0), 1e9, config=HOPELESS)
        assert report.asked.all()

    def test_labels_that_fail_are_nan_and_named(self):
        """A covariance that is not positive definite is a reason to ask, too."""
        net = moments_of("GaussianNatural1D", -1e3 * np.eye(2))
        q, etas = nd.AmortizedFamily(GAUSSIAN, net), etas_of("GaussianNatural1D", 17)
        mean, report = nd.mean_or_oracle(q, etas, jax.random.key(0), 1.0, config=HOPELESS)
        assert report.indefinite.all()
        assert report.asked.all()
        assert report.failed.all()
        assert np.isnan(mean).all()
        assert (report.data.status != nd.Status.OK).all()

    def test_what_makes_no_sense_is_refused(self):
        q, etas = family_of("GaussianNatural1D"), etas_of("GaussianNatural1D", 4)
        for tolerance in (0.0, float("nan")):
            with pytest.raises(ValueError, match="Expected 0 < tolerance < inf"):
                nd.mean_or_oracle(q, etas, jax.random.key(0), tolerance)
        with pytest.raises(ValueError, match=r"etas\[2\].*'x2'"):
            nd.mean_or_oracle(q, etas.at[2, 1].set(1.0), jax.random.key(0), 0.1)


@functools.cache
def twisted():
    """Moments that are uncertain by a shift and by a linear function of eta."""
    net = moments_of("GaussianNatural1D")
    net = dataclasses.replace(net, twist=uncertain(jnp.zeros((2, 2), net.shift.dtype)))
    return nd.AmortizedFamily(GAUSSIAN, net)


@functools.cache
def kernel(samples, seed, n):
    """The covariance between candidates, summed over scaled statistics, in float64."""
    q, etas = twisted(), etas_of("GaussianNatural1D", n, seed=5)
    key = jax.random.key(seed)
    draws = nd.bayes.predictive_draws(q.network, lambda net: jax.vmap(net)(etas), key, samples)
    coordinates = q.network.standardization
    scale = np.asarray(jax.vmap(lambda eta: coordinates.rough_sd(coordinates.inputs(eta)))(etas))
    z = (np.asarray(draws, np.float64) - np.mean(draws, 0)) / scale
    return np.einsum("sai,sbi->ab", z, z) / (samples - 1)


class TestAcquire:
    NOISE = 0.01

    def test_it_maximizes_the_determinant_greedily(self):
        """Against determinants of all extensions by one candidate, step by step."""
        n = 24
        etas, k = etas_of("GaussianNatural1D", n, seed=5), kernel(32, 3, n)
        chosen = nd.distributions.acquire(
            twisted(), etas, jax.random.key(3), 6, samples=32, noise=self.NOISE
        )
        assert len(set(chosen.tolist())) == 6
        noisy = k + self.NOISE**2 * np.eye(n)
        for step, index in enumerate(chosen):
            before = chosen[:step].tolist()
            gains = [
                np.linalg.slogdet(noisy[np.ix_([*before, other], [*before, other])])[1]
                if other not in before
                else -np.inf
                for other in range(n)
            ]
            # Rounding may exchange candidates that are worth the same.
            assert gains[index] > max(gains) - 1e-3

    def test_a_second_copy_is_not_taken(self):
        """The best candidate, five times, is followed by what differs from it."""
        etas = etas_of("GaussianNatural1D", 24, seed=5)
        best = int(np.argmax(np.diag(kernel(32, 3, 24))))
        copies = jnp.concatenate([etas, jnp.tile(etas[best], (4, 1))])
        chosen = nd.distributions.acquire(twisted(), copies, jax.random.key(3), 4, samples=32)
        assert chosen[0] == best
        assert np.sum((chosen == best) | (chosen >= 24)) == 1

    def test_what_makes_no_sense_is_refused(self):
        q, etas, key = twisted(), etas_of("GaussianNatural1D", 4), jax.random.key(0)
        for n in (0, 5):
            with pytest.raises(ValueError, match=f"1 <= n <= 4; got {n}"):
                nd.distributions.acquire(q, etas, key, n)
        with pytest.raises(ValueError, match="samples >= 2"):
            nd.distributions.acquire(q, etas, key, 2, samples=1)
        with pytest.raises(ValueError, match="Expected 0 < noise < inf"):
            nd.distributions.acquire(q, etas, key, 2, noise=0.0)
        with pytest.raises(ValueError, match=r"etas\[1\]"):
            nd.distributions.acquire(q, etas.at[1, 1].set(1.0), key, 2)

    def test_a_network_without_a_covariance_may_ask(self):
        """One that has seen little is who needs more labels."""
        etas = etas_of("GaussianNatural1D", 24, seed=5)
        net = moments_of("GaussianNatural1D", -1e3 * np.eye(2))
        q = nd.AmortizedFamily(GAUSSIAN, net)
        assert not jax.vmap(q.is_positive_definite)(etas).any()
        assert len(set(nd.distributions.acquire(q, etas, jax.random.key(3), 6).tolist())) == 6

    def test_a_network_that_is_no_help_is_refused(self):
        etas, key = etas_of("GaussianNatural1D", 24, seed=5), jax.random.key(0)
        net = moments_of("GaussianNatural1D", np.full((2, 2), np.inf))
        with pytest.raises(ValueError, match="candidate 0 without"):
            nd.distributions.acquire(nd.AmortizedFamily(GAUSSIAN, net), etas, key, 2)
        sure = nd.DeterministicParameter(net.shift.mean)
        still = nd.DeterministicParameter(jnp.zeros_like(net.twist.mean))
        sure = dataclasses.replace(net, shift=sure, twist=still)
        with pytest.raises(ValueError, match="one that is certain"):
            nd.distributions.acquire(nd.AmortizedFamily(GAUSSIAN, sure), etas, key, 2)
