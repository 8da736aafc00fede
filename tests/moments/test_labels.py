"""How draws become a label: mean, covariance, standard error, diagnostics, status."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.moments._diagnostics import label_draws
from nnef_dists.sampling import SamplerInfo
from tests.numerics import assert_close

CONFIG = nd.HMCConfig()
SHAPE = (8, 250, 2)


@functools.partial(jax.jit, static_argnums=2)
def label(stats, info, config=CONFIG):
    return label_draws(stats, info, config)


def info(*, divergences=0.0, finite=True):
    number = jnp.asarray(divergences, float)
    return SamplerInfo(
        acceptance=jnp.asarray(0.9, float),
        divergences=number,
        step_size=jnp.asarray(0.1, float),
        jumps=jnp.asarray(0.0, float),
        effective_fraction=jnp.asarray(1.0, float),
        weight_k=jnp.asarray(-jnp.inf, float),
        finite=jnp.asarray(finite),
    )


def independent_draws(seed=0):
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    return noise @ np.array([[2.0, 1.0], [0.0, 0.5]]) + np.array([3.0, -1.0])


def autoregressive_draws(coefficient, seed=1):
    """Stationary chains of standard normals with the given lag-one correlation."""
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    x = noise.copy()
    for t in range(1, SHAPE[1]):
        step = np.sqrt(1 - coefficient**2) * noise[:, t]
        x[:, t] = coefficient * x[:, t - 1] + step
    return x


def array(draws):
    return jnp.asarray(draws, jnp.result_type(float))


def test_moments_are_those_of_the_draws():
    draws = independent_draws()
    found = label(array(draws), info())
    flat = draws.reshape(-1, 2)
    assert found.status == nd.Status.OK
    assert_close(found.mean, flat.mean(0))
    assert_close(found.covariance, np.cov(flat.T))


def many_labels(draws, sets):
    """The labels of many sets of draws, one for each seed."""
    tolerant = nd.HMCConfig(max_rhat=1.2, min_ess=50.0)
    of_all = jax.jit(jax.vmap(lambda stats: label_draws(stats, info(), tolerant)))
    return of_all(array([draws(seed) for seed in range(sets)]))


def test_independent_draws_count_in_full():
    found = label(array(independent_draws()), info())
    total = SHAPE[0] * SHAPE[1]
    # An estimate scatters by 5 %; the tolerance is four standard errors of the mean of 64.
    assert np.allclose(many_labels(independent_draws, 64).ess.mean(0), total, rtol=4 * 0.05 / 8)
    assert np.all(found.rhat < 1.01)
    least = np.sqrt(np.diag(found.covariance) / total)
    assert np.all(found.standard_error > 0.9 * least)
    assert np.all(found.standard_error < 2 * least)


def test_correlated_draws_count_less():
    """An autoregression of coefficient r has ESS n (1 - r) / (1 + r)."""
    expected = SHAPE[0] * SHAPE[1] * 0.5 / 1.5
    found = many_labels(lambda seed: autoregressive_draws(0.5, seed), 64).ess.mean(0)
    # An estimate scatters by 10 %, and truncated sums of autocorrelations make it 3 % too large.
    assert np.allclose(found, 1.03 * expected, rtol=4 * 0.1 / 8)


def test_the_standard_error_is_the_scatter_of_the_means():
    """Over many sets of correlated draws, the mean is off by its standard error."""
    found = many_labels(lambda seed: autoregressive_draws(0.6, seed), 800)
    t = np.asarray(found.mean / found.standard_error)
    assert abs(t.mean()) < 4 / np.sqrt(t.size)
    # The larger of two estimates of the error is chosen, and that from the means of 8 chains has a
    # relative square of chi2(7) / 7: sqrt(E[1 / max(1, chi2(7) / 7)]) is 0.938.
    assert abs(t.std() / 0.938 - 1) < 4 / np.sqrt(2 * t.size)


def test_the_scatter_of_chain_means_can_exceed_what_is_seen_within():
    draws = independent_draws()
    draws[:, :, 0] += 0.15 * np.arange(8)[:, None]
    found = label(array(draws), info(), nd.HMCConfig(max_rhat=1.2))
    assert found.status == nd.Status.OK
    between = draws.mean(1).std(0, ddof=1) / np.sqrt(8)
    assert_close(found.standard_error[0], between[0], ulps=256)


def test_an_offset_costs_no_digits():
    """Variance 1 around 1,000 in float32: a one-pass formula would have lost it."""
    draws = np.random.default_rng(3).normal(size=SHAPE) + 1_000
    single = {name: jnp.float32(v) for name, v in info()._asdict().items() if name != "finite"}
    found = label(jnp.asarray(draws, jnp.float32), info()._replace(**single))
    exact = np.cov(np.asarray(jnp.asarray(draws, jnp.float32), np.float64).reshape(-1, 2).T)
    assert np.max(np.abs(found.covariance - exact)) < 1e-4


def one_chain_apart():
    draws = independent_draws()
    draws[3, :, 1] += 2
    return draws


def one_nan():
    draws = independent_draws()
    draws[2, 17, 0] = np.nan
    return draws


def drifting():
    """Chains that agree with one another, but not with themselves a while ago."""
    return independent_draws() + np.linspace(0, 5, SHAPE[1])[:, None]


def constant():
    """No diagnostic is defined for what does not vary."""
    return np.ones(SHAPE)


@pytest.mark.parametrize(
    ("draws", "facts", "settings", "status"),
    [
        (one_chain_apart, {}, {}, nd.Status.NOT_CONVERGED),
        (drifting, {}, {}, nd.Status.NOT_CONVERGED),
        (one_nan, {}, {}, nd.Status.NOT_FINITE),
        (independent_draws, {"finite": False}, {}, nd.Status.NOT_FINITE),
        (independent_draws, {"divergences": 0.01}, {}, nd.Status.DIVERGENT),
        (independent_draws, {"divergences": np.nan}, {}, nd.Status.DIVERGENT),
        (independent_draws, {}, {"min_ess": 4_000.0}, nd.Status.LOW_ESS),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_draws_have_a_status_and_no_moments(draws, facts, settings, status):
    found = label(array(draws()), info(**facts), nd.HMCConfig(**settings))
    assert found.status == status
    for moments in (found.mean, found.covariance, found.standard_error):
        assert np.isnan(moments).all()
    assert status.reason
    assert status.reason != nd.Status.OK.reason


def test_undefined_diagnostics_never_pass():
    assert label(array(constant()), info()).status != nd.Status.OK


def test_the_same_draws_pass_without_the_fault():
    """So that the statuses above are due to what was done to the draws."""
    assert label(array(independent_draws()), info()).status == nd.Status.OK
    tolerant = nd.HMCConfig(max_rhat=10.0, min_ess=1.0)
    assert label(array(one_chain_apart()), info(), tolerant).status == nd.Status.OK


class TestConfig:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("chains", 3),
            ("chains", 8.0),
            ("warmup", 23),
            ("draws", 7),
            ("leapfrog_steps", 0),
            ("tile", 0),
            ("initial_step_size", 0.0),
            ("initial_step_size", float("nan")),
            ("target_acceptance", 1.0),
            ("target_acceptance", 0.0),
            ("dispersion", -1.0),
            ("max_rhat", 1.0),
            ("step_size_jitter", -0.1),
            ("step_size_jitter", 1.1),
            ("min_ess", -1.0),
            ("max_divergences", 2.0),
            ("max_divergences", float("nan")),
        ],
    )
    def test_values_out_of_range_are_refused_by_name(self, name, value, without_type_checks):
        with pytest.raises(ValueError, match=f"Expected .*{name}.*got {value}"):
            nd.HMCConfig(**{name: value})

    def test_it_is_a_value(self):
        assert nd.HMCConfig(chains=8) == nd.HMCConfig(chains=8) != nd.HMCConfig()
        assert hash(nd.HMCConfig(chains=8)) == hash(nd.HMCConfig(chains=8))
