"""Posterior predictive checks: the law of what is predicted, and how extreme an observation is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.posterior.exact import LinearGaussian

KEY = jax.random.key(0)
X = jnp.asarray([1.0, -0.5])


def simulator(key, theta):
    return theta + jax.random.normal(key, theta.shape, theta.dtype)


def test_replicates_follow_the_predictive_law():
    n = 4000
    replicates = nd.diagnostics.posterior_predictive(
        LinearGaussian(), simulator, X, KEY, n, batch_size=300
    )
    assert replicates.shape == (n, 2)
    z = (np.mean(replicates, 0) - X / 2) / np.sqrt(1.5 / n)
    assert np.max(np.abs(z)) < 4
    assert np.max(np.abs(np.var(replicates, 0) / 1.5 - 1)) < 4 * np.sqrt(2 / n)


def test_a_posterior_elsewhere_is_caught():
    def p_value(posterior):
        replicates = nd.diagnostics.posterior_predictive(posterior, simulator, X, KEY, 1000)
        return nd.diagnostics.predictive_p_value(replicates, X)

    assert np.all(p_value(LinearGaussian()) > 0.1)
    assert np.all(p_value(LinearGaussian(shift=8.0)) < 0.01)


def test_p_value_is_two_sided_and_halves_ties():
    replicates = jnp.arange(9.0)[:, None] * jnp.ones(4)
    found = nd.diagnostics.predictive_p_value(replicates, jnp.asarray([4.0, 0.5, 20.0, -20.0]))
    np.testing.assert_allclose(found, [1.0, 0.3, 0.1, 0.1], rtol=1e-6)


def test_p_values_of_replicates_are_uniform():
    draws = jax.random.normal(KEY, (100, 500))
    observed = jax.random.normal(jax.random.key(1), (500,))
    assert (
        nd.diagnostics.uniformity_p_value(nd.diagnostics.predictive_p_value(draws, observed)) > 0.01
    )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "bool", "float16", "bfloat16"])
def test_p_value_of_any_dtype(dtype):
    # 400 of 1000 replicates are below the observation, and 600 are equal to it.
    replicates = (jnp.arange(1000) >= 400).astype(dtype)
    found = nd.diagnostics.predictive_p_value(replicates, jnp.asarray(1, dtype))
    np.testing.assert_allclose(found, 2 * (1 - 700.5 / 1001), rtol=1e-5)


@pytest.mark.usefixtures("without_type_checks")
def test_faults_of_arguments_are_named():
    with pytest.raises(ValueError, match="Expected n >= 1"):
        nd.diagnostics.posterior_predictive(LinearGaussian(), simulator, X, KEY, 0)
    with pytest.raises(ValueError, match="at least one replicate"):
        nd.diagnostics.predictive_p_value(jnp.zeros((0, 2)), X)
    with pytest.raises(ValueError, match=r"of shape \(2,\), as each replicate; got \(5, 1\)"):
        nd.diagnostics.predictive_p_value(jnp.zeros((5, 2)), jnp.zeros((5, 1)))
    with pytest.raises(Exception, match="without NaN"):
        nd.diagnostics.predictive_p_value(jnp.full((3, 2), jnp.nan), X)
