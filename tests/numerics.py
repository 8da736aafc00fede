"""Comparisons whose tolerance follows the dtype."""

import jax.numpy as jnp
import numpy as np


def epsilon(array) -> float:
    """The spacing of floats at 1 in the array's dtype."""
    return float(jnp.finfo(array.dtype).eps)


def assert_close(actual, expected, *, ulps: float = 64, scale: float | None = None):
    """Elementwise agreement up to `ulps` roundings of numbers as large as `scale`.

    `scale` defaults to the largest entry of `expected`.
    """
    actual, expected = jnp.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert np.isfinite(actual).all()
    scale = np.max(np.abs(expected), initial=0.0) if scale is None else scale
    difference = np.max(np.abs(np.asarray(actual, np.float64) - expected), initial=0.0)
    assert difference <= ulps * epsilon(actual) * scale, (
        f"off by {difference:.3g}, {difference / (epsilon(actual) * scale):.3g} ulps"
    )
