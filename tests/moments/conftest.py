"""Labels that several tests look at, sampled once."""

import jax
import jax.numpy as jnp
import pytest

import nnef_dists as nd

QUARTIC = nd.Polynomial1D((1, 2, 4))
QUARTIC_RANGES = {"x": (-2.0, 2.0), "x2": (-2.0, 2.0), "x4": (-2.0, -0.1, "log")}
QUARTIC_KEY = 20


@pytest.fixture(scope="session")
def quartic_etas():
    """256 random quartics, in float32 whatever the default."""
    draw = jax.jit(lambda key: QUARTIC.sample_eta(key, 256, QUARTIC_RANGES, dtype=jnp.float32))
    return draw(jax.random.key(10))


@pytest.fixture(scope="session")
def quartic_labels(quartic_etas):
    """Their labels with the default configuration."""
    return nd.estimate_moments(QUARTIC, quartic_etas, jax.random.key(QUARTIC_KEY))
