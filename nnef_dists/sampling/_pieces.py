"""Pieces of a line that cover a density up to a negligible part, on each of which it falls."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from nnef_dists.families import AbstractAngularSupport
from nnef_dists.sampling._breaks import find_breaks
from nnef_dists.sampling._cuts import MOST_CUTS, find_cuts
from nnef_dists.sampling._grids import (
    SCAN,
    first_scan,
    scan_around,
    scan_between,
    search_scan,
    sinh_scan,
)
from nnef_dists.sampling._line import Line, OnLine
from nnef_dists.sampling._roots import find_root

# Distance below the maximum, in nats, at which exp() is below float64's relative rounding.
NEGLIGIBLE_NATS = 45.0
# Distance below the maximum, in nats, at which points of a scan may lie outside all pieces.
_UNCOVERED_NATS = 40.0
# Number of modes between two breaks whose pieces are kept.
_MODES = 4
# Largest distance at which the second scan is dense, in widths of a mode.
_SECOND_REACH = 50.0
# Number of searches for breaks of a density.
_SEARCHES = 3
# Numbers of steps of root finding. Each step but one halves the bracket.
_MODE_STEPS, _WIDTH_STEPS = 16, 12
# Lower end of the bracket in which a width is searched for, relative to the upper end.
_NARROW = 1e-7
# Smallest detectable fall of a log-density, in roundings.
_ROUNDINGS = 8.0
# Largest shift of a break in another precision, in units of epsilon.
_BREAK_ROUNDINGS = 1


class Pieces(NamedTuple):
    """Pieces of a line, on each of which the density falls from its start in one direction.

    Attributes:
        start: The higher end, `(pieces,)`.
        at_start: The log-density at the start.
        direction: 1 or -1, `(pieces,)`.
        end: The valley, the break or the end of the scan in this direction, `(pieces,)`.
        width: The length, `(pieces,)`. 0 for an unused piece.
        bulk: The distance at which the density has fallen by about one nat, `(pieces,)`.
        is_open: Whether neither a valley nor a break ends the piece, `(pieces,)`.
        uncovered: The highest log-density found outside of all pieces, in nats, `(1,)`.
    """

    start: Float[Array, " pieces"]
    at_start: OnLine
    direction: Float[Array, " pieces"]
    end: Float[Array, " pieces"]
    width: Float[Array, " pieces"]
    bulk: Float[Array, " pieces"]
    is_open: Bool[Array, " pieces"]
    uncovered: Float[Array, " 1"]

    @property
    def is_used(self) -> Bool[Array, " pieces"]:
        """Whether a piece holds a part of the density."""
        return self.width > 0

    @property
    def highest(self) -> Float[Array, ""]:
        """The highest log-density at any start, in nats."""
        return jnp.max(jnp.where(self.is_used, self.at_start.logs, -jnp.inf))

    @property
    def is_whole(self) -> Bool[Array, ""]:
        """Whether all points of the scans with a relevant density lie inside pieces."""
        is_covered = jnp.max(self.uncovered) < self.highest - _UNCOVERED_NATS
        return is_covered & jnp.any(self.is_used)


def find_pieces(line: Line, is_smooth: bool = True) -> Pieces:
    """Finds the pieces between modes, valleys, breaks and ends of a density.

    Two scans evaluate the slope of the log-density: the first everywhere, the second around each
    mode, in units of its width. A sign change of the slope from + to - brackets a mode of any
    width.

    Args:
        line: The density.
        is_smooth: Whether the density has only the breaks of its family. If not, other breaks are
            searched for at points closer and closer to the modes. Defaults to True.

    Returns:
        Two pieces for each of the highest modes between two breaks.
    """
    dtype = line.eta.dtype
    is_circle = isinstance(line.family.support, AbstractAngularSupport)
    befores, afters = ([], []) if is_circle else _family_breaks(line)
    first, ends = None, (jnp.asarray(-math.inf, dtype), jnp.asarray(math.inf, dtype))
    if is_circle:
        first = jnp.asarray(np.linspace(0, 2 * math.pi, SCAN), dtype)
        first = first + first[jnp.argmin(line(first).logs)]
        ends = first[0], first[-1]
    if not is_smooth:
        return _between_cuts(line, ends, (befores, afters))
    if first is not None:
        return _on_segment(line, first, *ends, (False, False))[0]
    parts = []
    for low, high in zip((-math.inf, *afters), (*befores, math.inf), strict=True):
        first = jnp.asarray(first_scan(low, high, dtype), dtype)
        ends = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
        parts.append(_on_segment(line, first, *ends, (math.isinf(low), math.isinf(high)))[0])
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, -1), *parts)


def _family_breaks(line: Line) -> tuple[list[float], list[float]]:
    """Returns the points before and after each break of the family."""
    gap = _BREAK_ROUNDINGS * float(jnp.finfo(line.eta.dtype).eps)
    breaks = find_breaks(line.family)
    befores = [before - gap * abs(before) for before, _ in breaks]
    return befores, [after + gap * abs(after) for _, after in breaks]


def _between_cuts(
    line: Line, ends: tuple[Array, Array], breaks: tuple[list[float], list[float]]
) -> Pieces:
    """Returns the pieces between breaks whose positions depend on the density."""
    dtype = line.eta.dtype
    points = 2 * SCAN * (MOST_CUTS + len(breaks[0]) + 1)
    if isinstance(line.family.support, AbstractAngularSupport):
        first = jnp.linspace(*ends, points, dtype=dtype)
    else:
        first = jnp.asarray(search_scan(points, dtype), dtype)

    def on_segment(low, high):
        is_empty = ~(high > low)
        low, high = jnp.where(is_empty, 0, low), jnp.where(is_empty, 0, high)
        is_infinite = jnp.isinf(low), jnp.isinf(high)
        found, closer = _on_segment(line, scan_between(low, high), low, high, is_infinite)
        width = jnp.where(is_empty, 0, found.width)
        uncovered = jnp.where(is_empty, -jnp.inf, found.uncovered)
        return found._replace(width=width, uncovered=uncovered), closer

    # One loop body for all searches. Later searches use the points around each mode.
    def look(scan, _):
        # Unused entries of breaks are placed at the lower end.
        before, after = (
            jnp.maximum(jnp.sort(jnp.append(found, jnp.asarray(own, dtype))), ends[0])
            for found, own in zip(find_cuts(line, scan), breaks, strict=True)
        )
        lows, highs = jnp.append(ends[0], after), jnp.append(before, ends[1])
        found, closer = jax.vmap(on_segment)(lows, highs)
        even = scan_around(found.start, found.direction * found.width, ends, points // 2)
        return jnp.sort(jnp.append(closer, even)), found

    _, found = lax.scan(look, first, length=_SEARCHES)

    def flatten(leaf):
        leaf = jnp.moveaxis(leaf[-1], 0, -2)
        return leaf.reshape(*leaf.shape[:-2], -1)

    return jax.tree.map(flatten, found)


def _on_segment(
    line: Line,
    first: Float[Array, " n"],
    low: Float[Array, ""],
    high: Float[Array, ""],
    is_infinite: tuple[bool | Bool[Array, ""], bool | Bool[Array, ""]],
) -> tuple[Pieces, Float[Array, " m"]]:
    """Returns the pieces of a segment, and the points of a scan around its modes."""
    far = math.log(float(jnp.finfo(low.dtype).max)) / 2
    per_mode = sinh_scan(SCAN // (2 * _MODES), np.arcsinh(_SECOND_REACH), far)

    # One loop body for both scans, so that the program contains each evaluation once.
    def look(scan, _):
        found = _pieces_of(line, scan, is_infinite)
        mode, bulk = found.start[:_MODES], found.bulk.reshape(2, -1)
        # A mode at an end has one side.
        scale = jnp.prod(jnp.sqrt(jnp.maximum(bulk, 1e-3 * jnp.max(bulk, 0))), 0)
        # Each mode has its part of the second scan, which ends halfway to the next mode.
        middle = (mode[1:] + mode[:-1]) / 2
        lows, highs = jnp.append(low, middle), jnp.append(middle, high)
        t = jnp.asarray(per_mode, low.dtype)
        closer = jnp.clip(mode[:, None] + scale[:, None] * t, lows[:, None], highs[:, None])
        return closer.ravel(), found

    closer, found = lax.scan(look, first, length=2)
    return jax.tree.map(lambda leaf: leaf[-1], found), closer


def _pieces_of(
    line: Line,
    scan: Float[Array, " n"],
    is_infinite: tuple[bool | Bool[Array, ""], bool | Bool[Array, ""]],
) -> Pieces:
    at = line(scan)
    mode, cell, exists = _find_modes(line, scan, at)
    rises = _rises(at)
    is_valley = jnp.append(~rises[:-1] & rises[1:], False)[:, None]
    index = np.arange(len(scan))[:, None]
    high = jnp.min(jnp.where(is_valley & (index > cell), scan[:, None], jnp.inf), 0)
    low = jnp.max(jnp.where(is_valley & (index < cell), scan[:, None], -jnp.inf), 0)
    is_open = jnp.append(jnp.isinf(high) & is_infinite[1], jnp.isinf(low) & is_infinite[0])
    high, low = jnp.minimum(high, scan[-1]), jnp.maximum(low, scan[0])
    start, direction = _both_ways(mode)
    at_start = line(start)
    logs = at_start.logs
    end = jnp.append(high, low)
    length = direction * (end - start)
    exists = jnp.tile(exists, 2) & ~at_start.is_nowhere & (length > 0)
    highest = jnp.max(jnp.where(exists, logs, -jnp.inf))
    nats = NEGLIGIBLE_NATS - (highest - logs)
    is_used = exists & (nats > 0)
    away = direction * (scan[:, None] - start)
    fall = logs - at.logs[:, None]

    # One loop body for two distances: first at a fall of one nat, or of more if rounding hides one
    # nat, then at a fall to negligible density.
    def widen(bulk, goal):
        nats, is_tail = goal

        def thinned(fall, distance):
            return fall - jnp.where(is_tail, jnp.log1p(distance / bulk), 0)

        far = thinned(fall, jnp.maximum(away, 0)) > nats
        limit = jnp.minimum(_nearest(away, far), length)
        limit = jnp.maximum(limit, jnp.finfo(limit.dtype).tiny / _NARROW)
        least = jnp.where(is_tail, jnp.minimum(bulk, limit), _NARROW * limit)

        def excess(log_distance):
            distance = jnp.exp(log_distance)
            u = move(start, direction, end, distance)
            return jnp.log(jnp.maximum(thinned(logs - line(u).logs, distance), 1e-3) / nats)

        ends = jnp.log(least), jnp.log(limit)
        values = excess(jnp.stack(ends))
        found = jnp.exp(find_root(excess, ends, (values[0], values[1]), _WIDTH_STEPS))
        found = jnp.where(values[1] <= 0, limit, jnp.where(values[0] < 0, found, least))
        # Around a smooth mode, the fall grows with the square of the distance.
        found = jnp.where(is_tail, found, found / jnp.sqrt(nats))
        return found, found

    clear = jnp.clip(_ROUNDINGS * at_start.rounding, 1, NEGLIGIBLE_NATS)
    goals = jnp.stack([clear, jnp.clip(nats, 1, NEGLIGIBLE_NATS)])
    is_tail = jnp.array([False, True])
    _, (bulk, width) = lax.scan(widen, jnp.ones_like(start), (goals, is_tail))
    width = jnp.where(is_used, width, 0)
    is_inside = jnp.any((away >= 0) & (away <= width * (1 + _NARROW)), 1)
    uncovered = jnp.max(jnp.where(is_inside, -jnp.inf, at.logs), keepdims=True)
    return Pieces(start, at_start, direction, end, width, bulk, is_open, uncovered)


def _rises(at: OnLine) -> Bool[Array, " n"]:
    """Returns whether the log-density rises. Without density, it rises toward the highest point."""
    toward = np.arange(len(at.logs)) < jnp.argmax(at.logs)
    rises = jnp.where(at.is_nowhere, toward, at.slopes > 0)
    # The fixed ends make a mode of an end at which the density is highest.
    return jnp.concatenate([jnp.array([True]), rises[1:-1], jnp.array([False])])


def _find_modes(
    line: Line, scan: Float[Array, " n"], at: OnLine
) -> tuple[Float[Array, " modes"], Int[Array, " modes"], Bool[Array, " modes"]]:
    """Returns the highest modes in order, the cells that contain them, and whether each exists."""
    rises = _rises(at)
    step = scan[1:] - scan[:-1]
    slopes, logs = at.slopes, at.logs
    # Tangents from both ends meet above the mode.
    bend = slopes[:-1] - slopes[1:]
    meet = (logs[1:] - logs[:-1] - slopes[1:] * step) / jnp.where(bend > 0, bend, 1)
    height = jnp.maximum(logs[:-1] + slopes[:-1] * jnp.clip(meet, 0, step), logs[1:])
    height = jnp.where(rises[:-1] & ~rises[1:], height, -jnp.inf)
    cells, exists = [], []
    for _ in range(_MODES):
        cell = jnp.argmax(height)
        exists.append(height[cell] > -jnp.inf)
        cells.append(jnp.where(exists[-1], cell, cells[0] if cells else cell))
        height = jnp.where(np.arange(len(height)) == cell, -jnp.inf, height)
    cell, exists = lax.sort((jnp.stack(cells), jnp.stack(exists)), num_keys=1)
    low, high = scan[cell], scan[cell + 1]
    # Without density, the slope points toward the other end.
    nowhere = at.is_nowhere[cell], at.is_nowhere[cell + 1]
    steepest = jnp.maximum(jnp.abs(slopes[cell]), jnp.abs(slopes[cell + 1]))
    beyond = jnp.where(nowhere[0], steepest, -steepest)
    at_low = jnp.where(nowhere[0], beyond, slopes[cell])
    at_high = jnp.where(nowhere[1], beyond, slopes[cell + 1])

    def slope(u):
        found = line(u)
        return jnp.where(found.is_nowhere, beyond, found.slopes)

    mode = find_root(slope, (low, high), (at_low, at_high), _MODE_STEPS)
    mode = jnp.where(at_low <= 0, low, jnp.where(at_high > 0, high, mode))
    return mode, cell, exists


def _both_ways(mode: Float[Array, " modes"]) -> tuple[Array, Array]:
    """Returns starts and directions of the pieces of modes."""
    one = jnp.ones_like(mode)
    return jnp.tile(mode, 2), jnp.append(one, -one)


def _nearest(away: Float[Array, "n pieces"], holds: Bool[Array, "n pieces"]) -> Array:
    """Returns the distance of the nearest point of a scan at which a condition holds."""
    return jnp.min(jnp.where((away > 0) & holds, away, jnp.inf), 0)


def move(
    start: Array, direction: Array, end: Array, distance: Float[Array, "*n pieces"]
) -> Float[Array, "*n pieces"]:
    """Returns the points at these distances from the starts, clipped to the ends."""
    u = start + direction * distance
    return jnp.where(direction > 0, jnp.minimum(u, end), jnp.maximum(u, end))
