"""Kinks and jumps of a family's statistics, between which its log-density is smooth."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_context

from nnef_dists.families import AbstractAngularSupport, ExponentialFamily
from nnef_dists.sampling._line import transform

# Number of scan cells on each side of 0, and the largest |u| of the scan.
_CELLS, _REACH = 1500, 1e4
_BISECTIONS = 60
# Offsets, in steps of several roundings, at which the noise of values is measured.
_BESIDE = (1, 3, 10, 30)
# Smallest break: a change between neighboring numbers, relative to the values in the cell.
_LEAST_JUMP = 1e-3
# Smallest slope of a cell, relative to its values over its width. Smaller slopes are rounded.
_LEAST_SLOPE = 1e-10
# Smallest relative change of x in a cell. Cells with a smaller change are at the limit of the
# precision of x, and are ignored.
_LEAST_CHANGE = 1e-9
# Range of |x| that is searched. Outside it, powers of x overflow or underflow.
_SMALLEST, _LARGEST = 1e-140, 1e140
_MOST_BREAKS = 6


@functools.cache
def find_breaks(family: ExponentialFamily) -> tuple[tuple[float, float], ...]:
    """Finds the jumps and kinks of T, log h and log|dx/du| in the coordinate u.

    These functions do not depend on eta, so one search serves all etas. The search runs while a
    program is traced.

    Args:
        family: A family of one dimension.

    Returns:
        The last point before and the first point after each break, in order. At most six breaks.
    """
    angular = isinstance(family.support, AbstractAngularSupport)
    t = np.linspace(-1, 1, 2 * _CELLS) * (1 + 1e-3 / math.pi)
    u = 0.999 * math.pi * t if angular else np.sinh(np.arcsinh(_REACH) * t)
    with eval_context(), jax.enable_x64(True):
        x, values = _values_at(family, u)
        low, high, at_low, at_high = u[:-1], u[1:], values[:-1], values[1:]
        size = np.maximum(np.maximum(np.abs(at_low), np.abs(at_high)), 1e-300)
        of_values, of_slopes = np.split(size, 2, 1)
        with np.errstate(over="ignore"):
            least = _LEAST_SLOPE * of_values / (high - low)[:, None]
        of_slopes = np.maximum(of_slopes, np.where(np.isfinite(least), least, 0))
        size = np.hstack([of_values, of_slopes])
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            _, at_middle = _values_at(family, middle)
            in_low = _change(at_low, at_middle, size) > _change(at_middle, at_high, size)
            low, high = np.where(in_low, low, middle), np.where(in_low, middle, high)
            in_low = in_low[:, None]
            at_low = np.where(in_low, at_low, at_middle)
            at_high = np.where(in_low, at_middle, at_high)
        # Noisy values also change on either side of a jump.
        noise = np.zeros_like(low)
        for step in _BESIDE:
            away = step * (8 * (high - low) + 16 * np.finfo(np.float64).eps * np.abs(low))
            for u, at, sign in ((low, at_low, -1), (high, at_high, 1)):
                noise = np.maximum(noise, _change(_values_at(family, u + sign * away)[1], at, size))
    jump = _change(at_low, at_high, size)
    x = np.where(np.isfinite(x), x, np.inf)
    largest = np.maximum(np.abs(x[1:]), np.abs(x[:-1]))
    with np.errstate(invalid="ignore"):
        moves = np.abs(x[1:] - x[:-1]) > _LEAST_CHANGE * largest
    moves &= (largest > _SMALLEST) & (largest < _LARGEST)
    (found,) = np.nonzero(moves & (jump > _LEAST_JUMP) & (jump / 4 > noise))
    return tuple((float(low[i]), float(high[i])) for i in found[:_MOST_BREAKS])


def _values_at(family, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    padded = np.concatenate([u, np.zeros(2 * _CELLS - len(u))])
    x, values = _values(family, jnp.asarray(padded))
    return np.asarray(x)[: len(u)], np.asarray(values)[: len(u)]


def _change(a: np.ndarray, b: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Returns the largest change in each row of values, relative to `size`."""
    with np.errstate(all="ignore"):
        change = np.abs(b - a) / size
    return np.max(np.where(np.isfinite(change), change, 0), 1)


@functools.partial(jax.jit, static_argnums=0)
def _values(family, u):
    """Returns x, and T, log h and log|dx/du| with their slopes, at points u."""

    def parts(u):
        x, log_det = transform(family, u)
        base = jnp.reshape(family.log_base_measure(x), ()).astype(u.dtype)
        stats = family.sufficient_statistics(x).astype(u.dtype)
        return jnp.concatenate([stats, jnp.stack([base, log_det.astype(u.dtype)])]), x

    def one(u):
        (values, x), (slopes, _) = jax.jvp(parts, (u,), (jnp.ones_like(u),))
        return x.ravel()[0], jnp.concatenate([values, slopes])

    x, values = jax.vmap(one)(u)
    # A wall (-inf) counts as a jump. Numbers that overflow do not.
    return x, jnp.where(jnp.isneginf(values), -1e30, values)
