"""Small simulators with known posteriors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flowjax.distributions import StandardNormal, Uniform

import nnef_dists as nd

NOISE = 0.5


def linear(key, theta):
    """A noisy look at theta: x = theta + 0.5 noise."""
    return theta + NOISE * jax.random.normal(key, theta.shape, theta.dtype)


def normal_prior(theta_dim=2):
    return StandardNormal((theta_dim,))


def uniform_prior(theta_dim=2):
    return Uniform(-jnp.ones(theta_dim), 2 * jnp.ones(theta_dim))


def box(theta_dim=2, dtype=None):
    """The support of the uniform prior."""
    ones = jnp.ones(theta_dim, dtype)
    return nd.BoxSupport(-ones, 2 * ones)


@functools.cache
def simulations(n=64, theta_dim=2, seed=0, dtype=None, uniform=False, discrete=0):
    """Simulations of the linear simulator, by NumPy; first entries of theta may be 0, 1 or 2."""
    rng = np.random.default_rng(seed)
    shape = (n, theta_dim)
    theta = rng.uniform(-1, 2, shape) if uniform else rng.normal(size=shape)
    if discrete:
        theta[:, :discrete] = rng.integers(0, 3, (n, discrete))
    x = theta + NOISE * rng.normal(size=shape)
    dtype = jnp.zeros(()).dtype if dtype is None else dtype
    return nd.Simulations(theta.astype(dtype), x.astype(dtype))
