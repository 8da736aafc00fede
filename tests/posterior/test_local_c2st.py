"""The local classifier test finds where a posterior is wrong, and is calibrated where it is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.posterior.exact import Bimodal, LinearGaussian, Prior

KEY = jax.random.key(0)
OBSERVATIONS = jnp.asarray([[0.0, 0.0], [1.5, 1.0], [2.0, -1.0], [-2.0, 0.5]])
M, N = 2000, 300


def result_of(posterior, seed=1, key=KEY):
    pairs = LinearGaussian().simulate(jax.random.key(seed), M)
    return nd.diagnostics.local_c2st(posterior, *pairs, OBSERVATIONS, key, N, n_features=256)


def test_an_exact_posterior_passes():
    result = result_of(LinearGaussian())
    assert result.draws.shape == (4, N, 2)
    assert result.probability.shape == (4, N)
    assert result.null.shape == (4, 200)
    assert np.all(result.p_value > 0.01)


@pytest.mark.slow
def test_p_values_of_an_exact_posterior_are_uniform():
    found = [
        result_of(LinearGaussian(), seed, jax.random.key(seed)).p_value for seed in range(20, 60)
    ]
    # Observations share a classifier, so that only those of different runs are independent.
    for p in np.asarray(found).T:
        assert float(nd.diagnostics.uniformity_p_value(jnp.asarray(p) - 0.5 / 201)) > 0.01


@pytest.mark.parametrize(
    "posterior",
    [LinearGaussian(width=0.7), LinearGaussian(width=1.4), LinearGaussian(shift=0.5), Prior()],
    ids=["too narrow", "too wide", "biased", "prior"],
)
def test_planted_faults_are_caught(posterior):
    result = result_of(posterior)
    assert np.all(result.p_value < 0.02)
    assert np.all(result.p_value >= 1 / 201)


def test_a_local_fault_is_found_where_it_is():
    result = result_of(LinearGaussian(width=0.5, beyond=1.0))
    assert np.all(result.p_value[1:3] < 0.01)
    assert result.p_value[3] > 0.05
    assert min(result.statistic[1:3]) > 2 * max(result.statistic[0], result.statistic[3])


@pytest.mark.parametrize("right", [1.0, 0.7])
def test_a_wrong_mode_is_caught_and_pointed_at(right):
    pairs = Bimodal().simulate(jax.random.key(2), M)
    observations = jnp.asarray([[0.7], [1.5]])
    result = nd.diagnostics.local_c2st(Bimodal(right), *pairs, observations, KEY, N, n_features=256)
    assert np.all(result.p_value < 0.01)
    positive = result.draws[..., 0] > 0
    # Where draws pile up, a theta is less likely to be true: of 1 : 2 right, of 0.3 : 0.7 0.42.
    assert float(jnp.mean(result.probability[positive])) < 0.47
    if right < 1:
        assert float(jnp.mean(result.probability[~positive])) > 0.53


def test_probability_is_that_of_the_exact_ratio():
    # Of joint draws against those of a posterior moved by one standard deviation.
    pairs = LinearGaussian().simulate(jax.random.key(3), 20_000)
    faulty = LinearGaussian(shift=1.0)
    result = nd.diagnostics.local_c2st(faulty, *pairs, OBSERVATIONS[:1], KEY, N, n_null=1)

    def log_ratio(theta):
        x = OBSERVATIONS[0]
        return LinearGaussian().log_prob(theta, x) - faulty.log_prob(theta, x)

    exact = jax.nn.sigmoid(jax.vmap(log_ratio)(result.draws[0]))
    assert float(jnp.sqrt(jnp.mean((result.probability[0] - exact) ** 2))) < 0.05


@pytest.mark.usefixtures("without_type_checks")
def test_faults_of_arguments_are_named():
    theta, x = LinearGaussian().simulate(KEY, 20)
    with pytest.raises(ValueError, match="as many observations as parameters"):
        nd.diagnostics.local_c2st(LinearGaussian(), theta, x[:5], OBSERVATIONS, KEY)
    with pytest.raises(ValueError, match="Expected n >= 1"):
        nd.diagnostics.local_c2st(LinearGaussian(), theta, x, OBSERVATIONS, KEY, 0)
    with pytest.raises(ValueError, match="n_null >= 1"):
        nd.diagnostics.local_c2st(LinearGaussian(), theta, x, OBSERVATIONS, KEY, n_null=0)
    with pytest.raises(Exception, match="got NaN"):
        nd.diagnostics.local_c2st(LinearGaussian(width=jnp.nan), theta, x, OBSERVATIONS, KEY)
