"""log Gamma, log B and their derivatives, beside SciPy's in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, gammaln, polygamma

from nnef_dists.families._gamma_functions import log_beta, log_gamma

# Roundings of max(1, |value|).
MOST = {np.float32: 6.0, np.float64: 45.0}


def derivatives(a, order):
    fn = log_gamma
    for _ in range(order):
        fn = jax.grad(fn)
    return np.asarray(jax.jit(jax.vmap(fn))(jnp.asarray(a)), np.float64)


@pytest.mark.parametrize("order", range(5))
@pytest.mark.parametrize("dtype", MOST)
def test_all_scales(order, dtype):
    """From 1e-6 to 1e6, with points next to the ends of the series."""
    with jax.enable_x64(dtype == np.float64):
        seams = np.array([1.0, 2.0, 3.0, 10.0])[:, None] * np.array([1 - 1e-6, 1, 1 + 1e-6])
        a = np.append(np.geomspace(1e-6, 1e6, 4001), seams).astype(dtype)
        found = derivatives(a, order)
    exact = polygamma(order - 1, a.astype(float)) if order else gammaln(a.astype(float))
    error = np.abs(found - exact) / np.maximum(1, np.abs(exact))
    assert error.max() < MOST[dtype] * np.finfo(dtype).eps / 2


@pytest.mark.parametrize("order", range(4))
def test_infinity_and_nan(order):
    limit = [np.inf, np.inf, 0, 0][order]
    assert np.array_equal(derivatives(np.array([np.inf, np.nan]), order), [limit, np.nan], True)


def test_log_beta_and_its_derivatives():
    """The Hessian too."""
    alpha = np.exp(np.random.default_rng(0).normal(size=(64, 3), scale=1.5)).astype(np.float32)
    total, exact = alpha.sum(1, keepdims=True, dtype=float), alpha.astype(float)
    found = jax.jit(
        jax.vmap(lambda a: (log_beta(a), jax.grad(log_beta)(a), jax.hessian(log_beta)(a)))
    )
    value, slope, bend = (np.asarray(leaf, float) for leaf in found(jnp.asarray(alpha)))
    expected = gammaln(exact).sum(1) - gammaln(total[:, 0])
    assert np.all(np.abs(value - expected) < 2e-6 * np.maximum(1, np.abs(expected)))
    assert np.allclose(slope, digamma(exact) - digamma(total), rtol=2e-6, atol=2e-6)
    expected = polygamma(1, exact)[:, :, None] * np.eye(3) - polygamma(1, total)[:, :, None]
    assert np.allclose(bend, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("x64", [False, True])
def test_no_positive_number(x64):
    """A density is zero there, and NaN is not repaired."""
    with jax.enable_x64(x64):
        found = log_gamma(jnp.array([-3.0, -0.5, 0.0, jnp.nan]))
    assert np.array_equal(found, [np.inf, np.inf, np.inf, np.nan], equal_nan=True)


@pytest.mark.parametrize("x64", [False, True])
def test_integers(x64):
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        found = np.asarray(log_gamma(jnp.arange(1, 30)))
    exact = gammaln(np.arange(1, 30))
    assert found.dtype == (np.float64 if x64 else np.float32)
    assert np.all(np.abs(found - exact) <= (1e-14 if x64 else 1e-6) * np.maximum(1, exact))
