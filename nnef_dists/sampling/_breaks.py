"""Kinks and jumps of a family's statistics, between which its log-density is smooth."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_context

from nnef_dists.families import AbstractAngularSupport, ExponentialFamily
from nnef_dists.sampling._line import transform

# Cells of the scan, either way, and how far it goes.
_CELLS, _REACH = 1500, 1e4
_BISECTIONS = 60
# Where noise is looked for, in steps of some roundings.
_BESIDE = (1, 3, 10, 30)
# Of the size in a cell: a larger change between neighboring numbers is a break.
_LEAST_JUMP = 1e-3
# Of x: where it changes by less in a cell its coordinate is at the end of its digits.
_LEAST_CHANGE = 1e-9
# Beyond these sizes of x powers of it overflow.
_SMALLEST, _LARGEST = 1e-140, 1e140
_MOST_BREAKS = 6


@functools.cache
def find_breaks(family: ExponentialFamily) -> tuple[tuple[float, float], ...]:
    """Finds where T, log h or log|dx/du| have a jump or a kink in the coordinate u.

    They do not depend on eta, so that one search serves all etas. It is made while programs are
    traced.

    Args:
        family: A family of one dimension.

    Returns:
        The last point before and the first point after each break, in order; at most six.
    """
    angular = isinstance(family.support, AbstractAngularSupport)
    t = np.linspace(-1, 1, 2 * _CELLS) * (1 + 1e-3 / math.pi)
    u = 0.999 * math.pi * t if angular else np.sinh(np.arcsinh(_REACH) * t)
    with eval_context(), jax.enable_x64(True):
        x, values = _values_at(family, u)
        low, high, at_low, at_high = u[:-1], u[1:], values[:-1], values[1:]
        size = np.maximum(np.maximum(np.abs(at_low), np.abs(at_high)), 1e-300)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            _, at_middle = _values_at(family, middle)
            in_low = _change(at_low, at_middle, size) > _change(at_middle, at_high, size)
            low, high = np.where(in_low, low, middle), np.where(in_low, middle, high)
            in_low = in_low[:, None]
            at_low = np.where(in_low, at_low, at_middle)
            at_high = np.where(in_low, at_middle, at_high)
        # Where values are noise they change on either side of a jump, too.
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
    """Returns the largest change of each row of values in units of their size."""
    with np.errstate(all="ignore"):
        change = np.abs(b - a) / size
    return np.max(np.where(np.isfinite(change), change, 0), 1)


@functools.partial(jax.jit, static_argnums=0)
def _values(family, u):
    """Returns x, and all that the log-density is made of with its slopes, at points u."""

    def parts(u):
        x, log_det = transform(family, u)
        base = jnp.reshape(family.log_base_measure(x), ()).astype(u.dtype)
        stats = family.sufficient_statistics(x).astype(u.dtype)
        return jnp.concatenate([stats, jnp.stack([base, log_det.astype(u.dtype)])]), x

    def one(u):
        (values, x), (slopes, _) = jax.jvp(parts, (u,), (jnp.ones_like(u),))
        return x.ravel()[0], jnp.concatenate([values, slopes])

    x, values = jax.vmap(one)(u)
    # A wall counts as a jump; numbers that overflow do not.
    return x, jnp.where(jnp.isneginf(values), -1e30, values)
