"""Scans of a log-density along a line, in order, and the pieces between its modes and valleys."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nnef_dists.sampling._line import OnLine
from nnef_dists.sampling._pieces import NEGLIGIBLE_NATS, Pieces

# Relative tolerance of the width of a piece, within which a point counts as inside.
_NARROW = 1e-6


class Scan(NamedTuple):
    """A log-density at points of a line, in order.

    Attributes:
        u: The points, `(n,)`. Infinite for unused entries.
        at: The log-density at the points.
    """

    u: Float[Array, " n"]
    at: OnLine

    @property
    def rises(self) -> Bool[Array, " n"]:
        """Whether the log-density rises. Without density, it rises toward the highest point."""
        logs = self.at.logs
        toward = np.arange(len(logs)) < jnp.argmax(logs)
        rises = jnp.where(self.at.is_nowhere, toward, self.at.slopes > 0)
        # The fixed ends make a mode of an end only if the density is highest there.
        return (rises | (self.u == self.u[0])) & (self.u != self.u[-1])


class Brackets(NamedTuple):
    """Cells of a scan that contain the highest modes, in order.

    Attributes:
        cell: Indices of the cells, `(modes,)`.
        exists: Whether there is a mode. If not, the cell belongs to another mode.
        gain: Largest possible height of the mode above the ends of the cell, in nats.
    """

    cell: Int[Array, " modes"]
    exists: Bool[Array, " modes"]
    gain: Float[Array, " modes"]


def find_brackets(scan: Scan, modes: int) -> Brackets:
    """Finds the cells of the highest modes, in which the slope changes its sign from + to -.

    Args:
        scan: The scan.
        modes: Number of modes that are kept.

    Returns:
        The cells.
    """
    u, logs, slopes, rises = scan.u, scan.at.logs, scan.at.slopes, scan.rises
    step = jnp.where(jnp.isfinite(u[1:]), u[1:] - u[:-1], 0)
    # Tangents from both ends meet above the mode.
    bend = slopes[:-1] - slopes[1:]
    meet = (logs[1:] - logs[:-1] - slopes[1:] * step) / jnp.where(bend > 0, bend, 1)
    height = jnp.maximum(logs[:-1] + slopes[:-1] * jnp.clip(meet, 0, step), logs[1:])
    height = jnp.where(rises[:-1] & ~rises[1:], height, -jnp.inf)
    cells, exists = [], []
    left = height
    for _ in range(modes):
        cell = jnp.argmax(left)
        exists.append(left[cell] > -jnp.inf)
        cells.append(jnp.where(exists[-1], cell, cells[0] if cells else cell))
        left = jnp.where(np.arange(len(height)) == cell, -jnp.inf, left)
    cell, exists = jnp.stack(cells), jnp.stack(exists)
    order = jnp.argsort(jnp.where(exists, cell, len(u)))
    cell, exists = cell[order], exists[order]
    gain = height[cell] - jnp.maximum(logs[cell], logs[cell + 1])
    return Brackets(cell, exists, gain)


def pieces_of(scan: Scan, brackets: Brackets, is_infinite: bool) -> Pieces:
    """Cuts a line at the modes and valleys of a scan.

    Modes are at points of the scan. Widths of pieces are interpolated between points.

    Args:
        scan: The scan.
        brackets: Modes of the scan.
        is_infinite: Whether the line extends beyond the scan.

    Returns:
        The pieces.
    """
    u, at, rises = scan.u, scan.at, scan.rises
    cell = brackets.cell
    slope = jnp.where(at.is_nowhere, jnp.inf, jnp.abs(at.slopes))
    top = jnp.where(slope[cell] <= slope[cell + 1], cell, cell + 1)
    is_valley = jnp.append(~rises[:-1] & rises[1:], False)[:, None]
    index = np.arange(len(u))[:, None]
    high = jnp.min(jnp.where(is_valley & (index > cell), u[:, None], jnp.inf), 0)
    low = jnp.max(jnp.where(is_valley & (index < cell), u[:, None], -jnp.inf), 0)
    is_open = jnp.append(jnp.isinf(high), jnp.isinf(low)) & is_infinite
    last = jnp.max(jnp.where(jnp.isfinite(u), u, -jnp.inf))
    end = jnp.append(jnp.minimum(high, last), jnp.maximum(low, u[0]))
    start = jnp.tile(u[top], 2)
    one = jnp.ones_like(u[top])
    direction = jnp.append(one, -one)
    at_start = OnLine(*(jnp.tile(leaf[..., top], 2) for leaf in at))
    logs = at_start.logs
    length = direction * (end - start)
    exists = jnp.tile(brackets.exists, 2) & ~at_start.is_nowhere & (length > 0)
    highest = jnp.max(jnp.where(exists, logs, -jnp.inf))
    nats = NEGLIGIBLE_NATS - (highest - logs)
    is_used = exists & (nats > 0)
    nats = jnp.clip(nats, 1, NEGLIGIBLE_NATS)
    away = direction * (u[:, None] - start)
    fall = logs - at.logs[:, None]
    bulk = _where_falls(away, fall, jnp.ones_like(nats), length)
    fall = fall - jnp.log1p(jnp.maximum(away, 0) / bulk)
    width = jnp.where(is_used, _where_falls(away, fall, nats, length), 0)
    is_inside = jnp.any((away >= 0) & (away <= width * (1 + _NARROW)), 1)
    uncovered = jnp.max(jnp.where(is_inside, -jnp.inf, at.logs), keepdims=True)
    return Pieces(start, at_start, direction, end, width, bulk, is_open, uncovered)


def _where_falls(
    away: Float[Array, "n pieces"],
    fall: Float[Array, "n pieces"],
    nats: Float[Array, " pieces"],
    length: Float[Array, " pieces"],
) -> Float[Array, " pieces"]:
    """Returns the distances at which a log-density has fallen by `nats`, at most the length.

    Between the points of the scan, the fall is interpolated as a power of the distance.
    """
    is_ahead = (away > 0) & (away <= length)
    beyond = jnp.min(jnp.where(is_ahead & (fall > nats), away, jnp.inf), 0)
    within = jnp.max(jnp.where(is_ahead & (away < beyond), away, 0), 0)
    fall_beyond = jnp.max(jnp.where(away == beyond, fall, -jnp.inf), 0)
    fall_within = jnp.max(jnp.where(away == within, fall, -jnp.inf), 0)
    known = (within > 0) & (fall_within > 0) & (fall_beyond > fall_within)
    ratio = jnp.log(jnp.where(known, fall_beyond / fall_within, 2.0))
    part = jnp.log(jnp.where(known, nats / fall_within, 2.0)) / ratio
    span = jnp.where(known & jnp.isfinite(beyond), beyond / within, 1)
    found = beyond * span ** (jnp.clip(part, 0, 1) - 1)
    return jnp.where(jnp.isfinite(beyond), found, length)
