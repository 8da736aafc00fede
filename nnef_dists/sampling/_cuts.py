"""Cuts, jumps and kinks of the log-density on a line, located inside the compiled program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nnef_dists.sampling._line import Line, transform

# Largest number of breaks of one density.
MOST_CUTS = 5
# Number of bisections of all cells of a scan, and number of cells that are bisected to the end.
_BISECTIONS, _CELLS = 6, 16
# Smallest part of a cell's roughness that is left after these bisections if there is a break.
_LEAST_FALL = 0.125
# Number of bisections beyond the digits of the dtype, because a break may be close to 0.
_MORE_BISECTIONS = 10
# Smallest break: a jump in nats, or a jump of the slope relative to its size in a scan cell.
_LEAST_JUMP = 1e-3
# Roughness of a jump to points without density.
_WALL = 1e30
# Smallest size of slopes: this many nats over the region within this many nats of the maximum.
_NATS_OF_SLOPE, _BULK_NATS = 10.0, 2.0
# Offsets, in steps of several roundings, at which the noise of values is measured.
_BESIDE = (1, 3, 10, 30)
# Distance below the maximum, in nats, beyond which breaks are ignored.
_NEGLIGIBLE_NATS = 60.0


class Cuts(NamedTuple):
    """Breaks of a density on a line, in order.

    Attributes:
        before: Last point before each break, `(MOST_CUTS,)`. -inf for unused entries.
        after: First point after each break, `(MOST_CUTS,)`. -inf for unused entries.
    """

    before: Float[Array, " cuts"]
    after: Float[Array, " cuts"]


class _At(NamedTuple):
    """Points, the log-density and its slope."""

    u: Array
    logs: Array
    slopes: Array


class _Scale(NamedTuple):
    """The size of slopes in a scan cell, and the curvature in the neighboring cells."""

    size: Array
    curvature: Array


def find_cuts(line: Line, scan: Float[Array, " n"]) -> Cuts:
    """Finds the jumps, ends and kinks of the log-density.

    Each cell of a scan is bisected toward the rougher half, until its ends are neighboring numbers.
    If the values there still differ, there is a break between them. Two breaks in one cell are
    found if the next scan has a point between them.

    Args:
        line: The density.
        scan: Points in increasing order, `(n,)`.

    Returns:
        The breaks at which the density is highest.
    """

    def at(u):
        found = line(u)
        return _At(u, found.logs, found.slopes)

    whole = at(scan)
    low, high = jax.tree.map(lambda a: a[:-1], whole), jax.tree.map(lambda a: a[1:], whole)
    dtype = scan.dtype
    scale = _scale(low, high, _least_slope(whole))

    def bisect(_, state):
        low, high, scale = state
        middle = at(low.u + (high.u - low.u) / 2)
        in_low = _roughness(low, middle, scale) > _roughness(middle, high, scale)
        low = jax.tree.map(lambda a, b: jnp.where(in_low, a, b), low, middle)
        high = jax.tree.map(lambda a, b: jnp.where(in_low, b, a), high, middle)
        return low, high, scale

    before_bisection = _roughness(low, high, scale)
    low, high, scale = lax.fori_loop(0, _BISECTIONS, bisect, (low, high, scale))
    # Bisection does not reduce the roughness of a break, but halves any other roughness.
    left = _roughness(low, high, scale)
    is_candidate = left > jnp.maximum(_LEAST_FALL * before_bisection, _LEAST_JUMP)
    heights = jnp.where(is_candidate, jnp.maximum(low.logs, high.logs), -jnp.inf)
    _, cells = lax.top_k(heights, _CELLS)
    state = jax.tree.map(lambda a: a[cells], (low, high, scale))
    steps = jnp.finfo(dtype).nmant + _MORE_BISECTIONS
    low, high, scale = lax.fori_loop(0, steps, bisect, state)
    # Noisy values also change on either side of a break. At a kink itself, the slope may lie
    # between the slopes of both sides.
    eps = float(jnp.finfo(dtype).eps)
    away = 8 * (high.u - low.u) + 16 * eps * jnp.abs(low.u)
    away = jnp.asarray(_BESIDE, dtype)[:, None] * away
    beside = at(jnp.stack([low.u - away, high.u + away]))

    def pick(index):
        return jax.tree.map(lambda a: a[index], beside)

    def rough(one, other):
        return _roughness(pick(one), pick(other), scale)

    left, right, nearer, farther = 0, 1, slice(0, -1), slice(1, None)
    noise = jnp.maximum(
        rough((left, farther), (left, nearer)), rough((right, nearer), (right, farther))
    )
    jump = rough((left, 0), (right, 0))
    # The break may belong to the next cell.
    is_own = 4 * _roughness(low, high, scale) > jump
    is_break = is_own & (jump > _LEAST_JUMP) & (jump / 4 > jnp.max(noise, 0))
    heights = jnp.where(is_break, jnp.maximum(low.logs, high.logs), -jnp.inf)
    top = jnp.maximum(jnp.max(whole.logs), jnp.max(heights))
    heights, chosen = lax.top_k(heights, MOST_CUTS)
    low, high = low.u[chosen], high.u[chosen]
    gaps = [jax.vmap(lambda u: cut_gap(line, u))(u) for u in (low, high)]
    is_kept = heights > top - _NEGLIGIBLE_NATS
    before = jnp.where(is_kept, low - gaps[0], -jnp.inf)
    after = jnp.where(is_kept, high + gaps[1], -jnp.inf)
    return Cuts(jnp.sort(before), jnp.sort(after))


def _least_slope(at: _At) -> Array:
    """Returns the slope of `_NATS_OF_SLOPE` nats over the bulk of the density in a scan."""
    is_high = at.logs > jnp.max(at.logs) - _BULK_NATS
    # Include the neighboring cells.
    is_high = is_high | jnp.append(is_high[1:], False) | jnp.append(False, is_high[:-1])
    width = jnp.max(jnp.where(is_high, at.u, -jnp.inf)) - jnp.min(jnp.where(is_high, at.u, jnp.inf))
    return _NATS_OF_SLOPE / jnp.maximum(width, jnp.finfo(width.dtype).tiny)


def _scale(low: _At, high: _At, least: Array) -> _Scale:
    """Returns the scale of each cell of a scan."""
    step = high.u - low.u
    curvature = (high.slopes - low.slopes) / jnp.maximum(step, jnp.finfo(step.dtype).tiny)
    curvature = jnp.where(jnp.isfinite(curvature), curvature, 0)
    # A kink of the cell itself is not in the curvature of its neighbors.
    padded = jnp.pad(curvature, 1, mode="edge")
    curvature = (padded[2:] + padded[:-2]) / 2
    size = jnp.maximum(jnp.abs(low.slopes), jnp.abs(high.slopes))
    size = jnp.maximum(size, jnp.abs(curvature) * step)
    return _Scale(jnp.maximum(jnp.where(jnp.isfinite(size), size, 0), least), curvature)


def _roughness(a: _At, b: _At, scale: _Scale) -> Array:
    """Returns the larger residual: of values, given slopes, or of slopes, given the curvature."""
    step = b.u - a.u
    change = jnp.abs(b.logs - a.logs - step * (a.slopes + b.slopes) / 2)
    of_slopes = jnp.abs(b.slopes - a.slopes - step * scale.curvature) / scale.size
    change = jnp.maximum(change, of_slopes)
    change = jnp.where(jnp.isfinite(change), change, 0)
    a_is_nowhere, b_is_nowhere = a.logs <= -_WALL, b.logs <= -_WALL
    change = jnp.where(a_is_nowhere & b_is_nowhere, 0, change)
    return jnp.where(a_is_nowhere != b_is_nowhere, _WALL, change)


def cut_gap(line: Line, u: Float[Array, ""]) -> Float[Array, ""]:
    """Returns the error of a cut at u that results from the rounding of u and x.

    Args:
        line: The density.
        u: Coordinate of the cut.
    """
    x, log_det = transform(line.family, u)
    moved = jnp.max(jnp.abs(x)) * jnp.exp(-log_det)
    moved = jnp.maximum(jnp.where(jnp.isfinite(moved), moved, 0), jnp.abs(u))
    return (float(jnp.finfo(u.dtype).eps) * moved).astype(u.dtype)
