"""Scan points on a line for locating a density."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Number of points of a scan, and the largest |u| at which the first scan is dense.
SCAN, _FIRST_REACH = 160, 1e4
# Smallest |u| at which neighboring points of a search for breaks have a constant ratio.
_NEAR = 1e-4


def first_scan(low: float, high: float, dtype) -> np.ndarray:
    """Returns points of a segment. Finite ends are included."""
    far = math.log(float(jnp.finfo(dtype).max)) / 6
    if math.isfinite(low) and math.isfinite(high):
        return np.linspace(low, high, SCAN)
    points = SCAN - 1 if math.isfinite(low) or math.isfinite(high) else SCAN // 2
    scan = sinh_scan(points, np.arcsinh(_FIRST_REACH), far)
    if math.isfinite(low):
        return low + np.append(0, scan[points:])
    return high - np.append(0, scan[points:])[::-1] if math.isfinite(high) else scan


def search_scan(size: int, dtype) -> np.ndarray:
    """Returns points of the whole line, at all scales, for the first search for breaks."""
    far = math.log(float(jnp.finfo(dtype).max)) / 6 - math.log(_NEAR)
    return _NEAR * sinh_scan(size // 2, np.arcsinh(_FIRST_REACH / _NEAR), far)


def sinh_scan(points: int, near: float, far: float) -> np.ndarray:
    """Returns points on both sides of 0: sinh of a grid, even to `near` and thinner to `far`."""
    t = np.arange(0.5, points) / (points - 0.5)
    # Two thirds of the points are as dense as an even grid to `near` would be.
    t = 1.5 * near * t + (far - 1.5 * near) * t**7
    return np.sinh(np.concatenate([-t[::-1], t]))


def scan_between(low: Float[Array, ""], high: Float[Array, ""]) -> Float[Array, " n"]:
    """Returns the points of `first_scan` for traced ends."""
    dtype = low.dtype
    inf = math.inf
    both, left, right = (
        jnp.asarray(first_scan(*pair, dtype), dtype)
        for pair in ((-inf, inf), (-inf, 0.0), (0.0, inf))
    )
    has_low, has_high = jnp.isfinite(low), jnp.isfinite(high)
    low, high = jnp.where(has_low, low, 0), jnp.where(has_high, high, 0)
    inside = low + (high - low) * jnp.linspace(0, 1, SCAN, dtype=dtype)
    inside = jnp.minimum(inside, high)
    one_end = jnp.where(has_low, low + right, high + left)
    return jnp.where(has_low & has_high, inside, jnp.where(has_low | has_high, one_end, both))


def scan_around(
    start: Float[Array, "*pieces"],
    length: Float[Array, "*pieces"],
    ends: tuple[Float[Array, ""], Float[Array, ""]],
    points: int,
) -> Float[Array, " n"]:
    """Returns even points over the located parts of a density, and one span beyond each side.

    Args:
        start: Starts of the parts.
        length: Signed lengths of the parts. 0 for unused parts.
        ends: Ends of the line.
        points: Number of points.
    """
    is_used = length != 0
    low = jnp.min(jnp.where(is_used, jnp.minimum(start, start + length), jnp.inf))
    high = jnp.max(jnp.where(is_used, jnp.maximum(start, start + length), -jnp.inf))
    span = jnp.where(high > low, high - low, 0)
    low, high = jnp.maximum(low - span, ends[0]), jnp.minimum(high + span, ends[1])
    even = low + (high - low) * jnp.linspace(0, 1, points, dtype=start.dtype)
    return jnp.where(jnp.isfinite(even), even, 0)
