import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from nnef_dists.bayes import (
    GaussianParameter,
    central_interval,
    crps,
    gaussian_crps,
    interval_coverage,
    predictive_draws,
    predictive_moments,
    predictive_quantiles,
)

KEY = jax.random.key(0)
LAW = GaussianParameter.from_stdv(jnp.array([100.0, -2.0]), jnp.array([0.5, 2.0]))


def predict(law):
    return law.mean


@pytest.mark.parametrize("batch_size", [7, 1000])
def test_moments_and_quantiles_are_those_of_the_draws(batch_size):
    draws = predictive_draws(LAW, predict, KEY, 100, batch_size=batch_size)
    assert draws.shape == (100, 2)
    mean, stdv = predictive_moments(LAW, predict, KEY, 100, batch_size=batch_size)
    exact = np.asarray(draws, np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stdv, exact.std(axis=0, ddof=1), rtol=1e-3)
    levels = [0.1, 0.5, 0.9]
    quantiles = predictive_quantiles(LAW, predict, KEY, 100, levels, batch_size=batch_size)
    np.testing.assert_allclose(quantiles, np.quantile(exact, levels, axis=0), rtol=1e-5)


def test_moments_are_the_laws():
    n = 4000
    mean, stdv = predictive_moments(LAW, predict, KEY, n)
    z = (mean - LAW.mean) / LAW.stdv * np.sqrt(n)
    assert np.abs(z).max() < 4
    assert np.abs(stdv / LAW.stdv - 1).max() < 4 / np.sqrt(2 * n)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.complex64])
def test_moments_of_predictions_of_other_dtypes(dtype):
    # Squares of deviations overflow in float16, and 1000 draws are too many for a bfloat16 count.
    def scaled(law):
        y = jnp.asarray([10, 300], law.mean.dtype) * law.mean
        return (y * (1 + 2j)).astype(dtype) if dtype == jnp.complex64 else y.astype(dtype)

    draws = np.asarray(predictive_draws(LAW, scaled, KEY, 1000)).astype(np.complex128)
    mean, stdv = predictive_moments(LAW, scaled, KEY, 1000)
    np.testing.assert_allclose(mean, draws.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stdv, draws.std(0, ddof=1), rtol=1e-3)


def test_memory_is_bounded_by_the_batch():
    # The widest array of the program has a batch of predictions, not all of them.
    def wide(law):
        return jnp.broadcast_to(law.mean.sum(), (1000,))

    def moments(key):
        return predictive_moments(LAW, wide, key, 512, batch_size=4)

    compiled = jax.jit(moments).lower(KEY).compile()
    itemsize = LAW.mean.dtype.itemsize
    assert compiled.memory_analysis().temp_size_in_bytes < 100 * 1000 * itemsize


@pytest.mark.parametrize("count", [(0, 4), (4, 0)])
def test_counts_are_checked(count):
    with pytest.raises(ValueError, match=r"Expected (samples|batch_size) >= "):
        predictive_moments(LAW, predict, KEY, count[0], batch_size=count[1])


def test_intervals_cover_what_they_should():
    draws = jax.random.normal(KEY, (500, 500))
    truth = jax.random.normal(jax.random.key(1), (500,))
    lower, upper = central_interval(draws, 0.8)
    coverage = float(interval_coverage(lower, upper, truth))
    assert abs(coverage - 0.8) < 4 * np.sqrt(0.8 * 0.2 / 500)
    assert interval_coverage(jnp.zeros(3), jnp.ones(3), jnp.array([0.0, 1.0, 1.5])) == jnp.asarray(
        2 / 3
    )
    with pytest.raises(ValueError, match="Expected 0 < level < 1"):
        central_interval(draws, 1.0)


def test_gaussian_crps_is_the_integral():
    mean, stdv, truth = 0.3, 1.7, 1.1
    grid = np.linspace(-20, 20, 40_001)
    cdf = scipy.stats.norm(mean, stdv).cdf(grid)
    integral = np.sum((cdf - (grid >= truth)) ** 2) * (grid[1] - grid[0])
    score = gaussian_crps(*(jnp.asarray(value) for value in (mean, stdv, truth)))
    np.testing.assert_allclose(score, integral, rtol=1e-3)


def test_crps_of_draws_is_unbiased():
    # The average over many small ensembles is the closed form: the fair estimate has no bias.
    draws = jax.random.normal(KEY, (3, 20_000)) * 1.7 + 0.3
    truth = jnp.full(20_000, 1.1)
    scores = np.asarray(crps(draws, truth), np.float64)
    exact = float(gaussian_crps(jnp.asarray(0.3), jnp.asarray(1.7), jnp.asarray(1.1)))
    assert abs(scores.mean() - exact) < 4 * scores.std() / np.sqrt(scores.size)
    pairs = np.abs(np.asarray(draws)[:, None] - np.asarray(draws)[None]).sum((0, 1)) / 6
    expected = np.abs(np.asarray(draws) - 1.1).mean(axis=0) - pairs / 2
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    with pytest.raises(ValueError, match="at least 2 draws"):
        crps(draws[:1], truth)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "float16", "bfloat16"])
def test_scores_of_draws_of_any_dtype(dtype):
    # Of 3000 draws, the sum does not fit in 8 bits, nor a rank or a sum in 16 bits.
    draws = (jnp.arange(3000) % 100).astype(dtype)
    wide = np.asarray(draws, np.float64)
    found = crps(draws, jnp.asarray(20, dtype))
    spread = np.abs(wide[:100, None] - wide[:100]).sum() / 100**2 * 3000 / 2999
    np.testing.assert_allclose(found, np.abs(wide - 20).mean() - spread / 2, rtol=1e-4)
    expected = np.quantile(wide, [0.05, 0.95])
    np.testing.assert_allclose(central_interval(draws, 0.9), expected, rtol=1e-5)
    kept = interval_coverage(jnp.zeros(3000, dtype), jnp.full(3000, 50, dtype), draws)
    np.testing.assert_allclose(kept, 0.51, rtol=1e-5)


def test_quantiles_of_integer_predictions():
    def is_positive(law):
        return (law.mean > 0).astype(int)

    found = predictive_quantiles(LAW, is_positive, KEY, 50, [0.1, 0.9])
    assert found[:, 0].tolist() == [1, 1]


def test_coverage_of_a_missing_value_is_nan():
    value = jnp.asarray([0.0, jnp.nan])
    assert jnp.isnan(interval_coverage(value - 1, value + 1, jnp.zeros(2)))
    assert jnp.isnan(interval_coverage(jnp.full(2, -1.0), jnp.ones(2), value))


@pytest.mark.usefixtures("without_type_checks")
def test_scores_of_other_shapes_are_refused():
    y, column = jnp.arange(5.0), jnp.arange(5.0)[:, None]
    with pytest.raises(ValueError, match="lower, upper, truth of one shape"):
        interval_coverage(column - 1, column + 1, y)
    with pytest.raises(ValueError, match="mean, stdv, truth of one shape"):
        gaussian_crps(column, jnp.ones((5, 1)), y)
    for draws in (jnp.zeros((7, 5, 1)), jnp.zeros(7)):
        with pytest.raises(ValueError, match=r"Expected draws of shape \(5,\), as truth"):
            crps(draws, y)
    np.testing.assert_allclose(gaussian_crps(y, 1.0, y), 0.233695, rtol=1e-5)
