"""Panels of Gauss-Legendre nodes, distributed over the used pieces of a line."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from nnef_dists.sampling._legendre import legendre, spread_nodes
from nnef_dists.sampling._pieces import Pieces, move

# Number of last Legendre coefficients that bound the error, and safety factor of the bound.
_LAST, _SAFETY = 2, 4.0
# Error of T in roundings. For example, log Gamma is accurate to several roundings.
_ROUNDINGS = 3.0


class Panels(NamedTuple):
    """Panels of nodes on the pieces of a line.

    Attributes:
        piece: Index of the piece of each panel, `(panels,)`.
        is_used: Whether a panel represents a part of a piece, `(panels,)`.
        ends_piece: Whether a panel is the last one of an open piece, `(panels,)`.
        u: The nodes, `(panels, nodes)`.
        distance: Distances of the nodes from the start of the piece, `(panels, nodes)`.
        stretch: Lengths that the nodes represent, in units of the weights of a rule on (0, 1).
        fits: Whether each used piece has panels.
    """

    piece: Int[Array, " panels"]
    is_used: Bool[Array, " panels"]
    ends_piece: Bool[Array, " panels"]
    u: Float[Array, "panels nodes"]
    distance: Float[Array, "panels nodes"]
    stretch: Float[Array, "panels nodes"]
    fits: Bool[Array, ""]


def lay_panels(pieces: Pieces, panels: int, points: int) -> Panels:
    """Distributes panels over the used pieces, and puts a third of each share into the tail.

    `spread_nodes` places the nodes.

    Args:
        pieces: The pieces.
        panels: Number of panels.
        points: Number of nodes per panel.

    Returns:
        The panels.
    """
    dtype = pieces.start.dtype
    node = jnp.asarray(legendre(points).node, dtype)
    is_used = pieces.is_used
    used = jnp.sum(is_used)
    share = jnp.maximum(panels // jnp.maximum(used, 1), 2)
    in_tail = (share + 1) // 3
    in_body = share - in_tail
    index = jnp.arange(panels, dtype=share.dtype)
    rank, within = index // share, index % share
    is_tail = within >= in_body
    count = jnp.where(is_tail, in_tail, in_body)[:, None].astype(dtype)
    piece = jnp.argmax(is_used & (jnp.cumsum(is_used) == rank[:, None] + 1), 1)
    holds = used > rank

    place = jnp.where(is_tail, within - in_body, within).astype(dtype)
    t = (place[:, None] + node) / count
    spread = spread_nodes(t, pieces.width[piece][:, None], pieces.bulk[piece][:, None])
    is_tail = is_tail[:, None]
    distance = jnp.where(is_tail, spread.tail, spread.body)
    stretch = jnp.where(is_tail, spread.steps[1], spread.steps[0]) / count
    start, direction, end = (
        part[piece][:, None] for part in (pieces.start, pieces.direction, pieces.end)
    )
    return Panels(
        piece,
        holds,
        holds & pieces.is_open[piece] & (within == share - 1),
        move(start, direction, end, distance),
        distance,
        jnp.where(holds[:, None], stretch, 0),
        used <= panels // 2,
    )


def panel_logs(pieces: Pieces, panels: Panels, at) -> Float[Array, "panels nodes"]:
    """Returns the log-density at the nodes, relative to the highest start, in nats.

    The result is the integral of the slope, because the slope keeps its digits if the log-density
    is large. It is clipped to the rounding interval of the log-density itself.

    Args:
        pieces: The pieces.
        panels: Panels on the pieces.
        at: The density at the nodes, `OnLine`.
    """
    dtype = at.logs.dtype
    piece = panels.piece
    rule = legendre(at.logs.shape[-1])
    slopes = pieces.direction[piece][:, None] * at.slopes * panels.stretch
    whole = slopes @ jnp.asarray(rule.weight, dtype)
    index = np.arange(len(piece))
    is_before = (piece[:, None] == piece) & (index < index[:, None])
    change = slopes @ jnp.asarray(rule.cumulative.T, dtype)
    change = change + jnp.sum(jnp.where(is_before, whole, 0), 1)[:, None]
    start = pieces.at_start
    direct = at.logs - start.logs[piece][:, None]
    rounding = _ROUNDINGS * (at.rounding + start.rounding[piece][:, None])
    change = jnp.clip(change, direct - rounding, direct + rounding)
    logs = change + (start.logs - pieces.highest)[piece][:, None]
    exists = panels.is_used[:, None] & ~at.is_nowhere & (panels.stretch > 0)
    return jnp.where(exists, logs, -jnp.inf)


def falls(panels: Panels, bulk: Array, logs: Float[Array, "panels nodes"]) -> Array:
    """Returns the fall of the density per log distance at open ends, in nats, else infinity."""
    ends = -logs[:, -1] - jnp.log1p(panels.distance[:, -1] / bulk[panels.piece])
    return jnp.where(panels.ends_piece, ends, jnp.inf)


def remainder(values: Float[Array, "*n nodes"], scale: float | Array = 0.0) -> Float[Array, "*n"]:
    """Bounds the error of a Gauss-Legendre rule for integrals over (0, 1).

    n nodes integrate polynomials of degree 2 n - 1. The Legendre coefficients of the integrand are
    known below degree n, and are extrapolated to 2 n.

    Args:
        values: Integrands at the nodes.
        scale: Rounding errors of the integrands, relative to their largest values. Defaults to 0.

    Returns:
        The bounds.
    """
    dtype, points = values.dtype, values.shape[-1]
    rule = legendre(points)

    def largest(start):
        rows = jnp.asarray(rule.coefficients[start:].T, dtype)
        return jnp.maximum(jnp.max(jnp.abs(values @ rows), -1), jnp.finfo(dtype).tiny)

    last = largest(points - _LAST)
    # Coefficients of rounding errors do not decay.
    floor = scale * jnp.max(jnp.abs(values), -1)
    decay = jnp.minimum((last / largest(points // 2)) ** 2, last / largest(0))
    return _SAFETY * jnp.maximum(last - floor, 0) * decay
