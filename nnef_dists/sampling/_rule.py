"""Gauss-Legendre rules on the pieces of a line, accurate at any scale, also in float32."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from nnef_dists.families import ExponentialFamily
from nnef_dists.sampling._cuts import cut_gap
from nnef_dists.sampling._legendre import LAST, end_values, least_fall, legendre, spread_nodes
from nnef_dists.sampling._line import Line, transform
from nnef_dists.sampling._pieces import Pieces, find_pieces, move
from nnef_dists.sampling._smooth import is_smooth

# Safety factor of the bound of the error from the last Legendre coefficients.
_SAFETY = 4.0
# Error of T in roundings. For example, log Gamma is accurate to several roundings.
_ROUNDINGS = 3.0
# Distance beyond the ends of a piece at which NaN is searched for, in lengths of the piece.
_BEYOND = 1e-3
# Number of gaps between both sides of a break.
_GAPS = 3.0


class LineRule(NamedTuple):
    """A rule for the integral of a density of one dimension, and its nodes.

    Derivatives in eta are taken at fixed nodes. The gradient of `log_partition` is E[T], and so on
    to any order.

    Attributes:
        stats: T at the nodes, relative to `origin`, `(eta_dim, n)`.
        logs: Logarithms of weight times density, relative to the highest density, `(n,)`.
        origin: T at the highest mode, `(eta_dim,)`.
        highest: Log-density at the highest mode, in nats.
        error: Upper bound of the errors of A, in nats, of means, in z units, and of covariances,
            in units of both sd(T). It excludes the rounding of the log-density itself, which also
            affects A. Infinite if the density does not fall before numbers overflow, or has too
            many modes.
    """

    stats: Float[Array, "eta_dim n"]
    logs: Float[Array, " n"]
    origin: Float[Array, " eta_dim"]
    highest: Float[Array, ""]
    error: Float[Array, ""]

    @property
    def log_partition(self) -> Float[Array, ""]:
        """A(eta), in nats."""
        return self.highest + jax.nn.logsumexp(self.logs)

    @property
    def mean(self) -> Float[Array, " eta_dim"]:
        """E[T], `(eta_dim,)`."""
        return self.origin + jnp.sum(self.stats * jax.nn.softmax(self.logs), 1)

    @property
    def covariance(self) -> Float[Array, "eta_dim eta_dim"]:
        """Cov[T], `(eta_dim, eta_dim)`."""
        weights = jax.nn.softmax(self.logs)
        centered = self.stats - jnp.sum(self.stats * weights, 1, keepdims=True)
        return (centered * weights) @ centered.T


class Nodes(NamedTuple):
    """Nodes on pieces of a line, each of which has a body and a tail: `(2, pieces, nodes)`.

    Attributes:
        edges: Start of the body, end of the body, and end of the tail.
        u: The nodes.
        stats: T at the nodes, `(eta_dim, 2, pieces, nodes)`.
        logs: Logarithms of the density, relative to the highest start, in nats.
        stretch: Lengths that the nodes represent, in units of the weights of a rule on (0, 1).
        end: Fall of the density per unit of log distance at the last node, in nats, `(pieces,)`.
    """

    edges: Float[Array, "3 pieces"]
    u: Float[Array, "2 pieces nodes"]
    stats: Float[Array, "eta_dim 2 pieces nodes"]
    logs: Float[Array, "2 pieces nodes"]
    stretch: Float[Array, "2 pieces nodes"]
    end: Float[Array, " pieces"]


def line_rule(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    points: int,
    log_base: Callable[[Array], Any] | None = None,
) -> LineRule:
    """Returns the rule for one eta.

    Args:
        family: A family of one dimension.
        eta: Natural parameters, not checked.
        points: Number of nodes in each half of a piece.
        log_base: Log base measure that replaces the one of the family, in nats. Derivatives in
            arrays that it closes over are taken at fixed nodes. Defaults to the family's.

    Returns:
        The rule, in the dtype of eta.
    """
    if log_base is None:
        varying, constants, smooth = family.log_base_measure, [], True
    else:
        shape = jax.eval_shape(lambda u: transform(family, u)[0], eta[0])
        smooth = is_smooth(log_base, shape)
        varying, constants = jax.closure_convert(log_base, jnp.zeros(shape.shape, shape.dtype))
    fixed, fixed_constants = lax.stop_gradient((eta, constants))
    line = Line(family, fixed, lambda x: varying(x, *fixed_constants))
    pieces = find_pieces(line, smooth)
    nodes = _place_nodes(line, pieces, points)
    weight = jnp.asarray(legendre(points).weight, eta.dtype)
    best = jnp.argmax(jnp.where(pieces.is_used, pieces.at_start.logs, -jnp.inf))
    origin = pieces.at_start.stats[:, best]
    stats = nodes.stats - origin[:, None, None, None]
    stats = jnp.where(jnp.isneginf(nodes.logs), 0, stats)
    logs = nodes.logs + jnp.log(weight * nodes.stretch)
    error = _error(pieces, nodes, stats, logs, origin)
    if not smooth:
        error = error + _error_of_cuts(line, pieces)
    if log_base is not None:
        error = jnp.where(_ends_unknown(line, pieces), jnp.inf, error)
    # `change` is 0. Its derivatives give the derivatives of eta . T at fixed nodes.
    change = eta - fixed
    stats, logs = stats.reshape(len(eta), -1), logs.ravel()
    if constants:
        x = jax.vmap(lambda u: transform(family, u)[0])(nodes.u.ravel())
        base = jax.vmap(lambda x: varying(x, *constants))(x)
        logs += jnp.where(jnp.isneginf(logs), 0, base - lax.stop_gradient(base))
    return LineRule(
        stats,
        logs + change @ stats,
        origin,
        pieces.highest + change @ origin,
        error,
    )


class Quantiles(NamedTuple):
    """A table of a CDF.

    Attributes:
        cumulative: Probabilities, rising from 0 to 1, `(n,)`.
        u: The coordinates, `(n,)`. They need not rise from one piece to the next.
        is_held: Whether the density is negligible outside the table.
    """

    cumulative: Float[Array, " n"]
    u: Float[Array, " n"]
    is_held: Bool[Array, ""]


def line_quantiles(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], points: int
) -> Quantiles:
    """Returns the CDF at one eta, at the ends and nodes of all pieces.

    Args:
        family: A family of one dimension.
        eta: Natural parameters, not checked.
        points: Number of nodes in each half of a piece.

    Returns:
        The table, in the dtype of eta.
    """
    line = Line(family, lax.stop_gradient(eta), family.log_base_measure)
    pieces = find_pieces(line)
    nodes, rule = _place_nodes(line, pieces, points), legendre(points)
    density = jnp.exp(nodes.logs) * jnp.where(jnp.isneginf(nodes.logs), 0, nodes.stretch)
    within = density @ jnp.asarray(rule.cumulative.T, eta.dtype)
    mass = density @ jnp.asarray(rule.weight, eta.dtype)
    within = jnp.clip(within, 0, mass[..., None])
    table = jnp.concatenate([jnp.zeros_like(mass)[..., None], within, mass[..., None]], -1)
    before = jnp.cumsum(mass.ravel()).reshape(mass.shape) - mass
    u = jnp.concatenate([nodes.edges[:2, :, None], nodes.u, nodes.edges[1:, :, None]], -1)
    cumulative = lax.cummax((before[..., None] + table).ravel())
    return Quantiles(cumulative / cumulative[-1], u.ravel(), _is_held(pieces, nodes))


def _place_nodes(line: Line, pieces: Pieces, points: int) -> Nodes:
    """Places nodes on all pieces.

    The log-density at the nodes is the integral of its slope, because the slope keeps its digits
    if the log-density is large. It is clipped to the rounding interval of the log-density itself.

    Args:
        line: The density.
        pieces: Pieces of the density.
        points: Number of nodes in each half of a piece.

    Returns:
        The nodes.
    """
    rule = legendre(points)
    dtype = line.eta.dtype
    t = jnp.asarray(rule.node, dtype)
    spread = spread_nodes(t, pieces.width[:, None], pieces.bulk[:, None])
    inner = spread.inner[:, 0]
    distance, stretch = jnp.stack([spread.body, spread.tail]), jnp.stack(spread.steps)
    where = pieces.start[:, None], pieces.direction[:, None], pieces.end[:, None]
    u = move(*where, distance)
    at, start = line(u), pieces.at_start
    slopes = pieces.direction[:, None] * at.slopes * stretch
    change = slopes @ jnp.asarray(rule.cumulative.T, dtype)
    whole = slopes[0] @ jnp.asarray(rule.weight, dtype)
    change = change + jnp.stack([jnp.zeros_like(whole), whole])[..., None]
    direct = at.logs - start.logs[:, None]
    rounding = _ROUNDINGS * (at.rounding + start.rounding[:, None])
    change = jnp.clip(change, direct - rounding, direct + rounding)
    logs = change + (start.logs - pieces.highest)[:, None]
    exists = pieces.is_used[:, None] & ~at.is_nowhere & (stretch > 0)
    end = -change[1, :, -1] - jnp.log1p(distance[1, :, -1] / pieces.bulk)
    edges = jnp.stack([jnp.zeros_like(inner), inner, pieces.width])
    edges = move(pieces.start, pieces.direction, pieces.end, edges)
    return Nodes(edges, u, at.stats, jnp.where(exists, logs, -jnp.inf), stretch, end)


def _error(
    pieces: Pieces, nodes: Nodes, stats: Array, logs: Array, origin: Float[Array, " eta_dim"]
) -> Float[Array, ""]:
    """Returns the error bound of a rule: its interpolation error, tails, and rounding."""
    dtype = logs.dtype
    points = logs.shape[-1]
    rule = legendre(points)
    shape = (len(stats), 2, -1, points)
    weights = jax.nn.softmax(logs.ravel()).reshape(logs.shape)
    mean = jnp.sum(stats * weights, (1, 2, 3), keepdims=True)
    sd = jnp.sqrt(jnp.sum((stats - mean) ** 2 * weights, (1, 2, 3), keepdims=True))
    z = ((stats - mean) / sd).reshape(shape)
    values = jnp.concatenate([weights[None], weights * z, weights * z**2])
    values = values / jnp.asarray(rule.weight, dtype)

    heights = pieces.at_start.logs - pieces.highest
    eps = float(jnp.finfo(dtype).eps) / 2
    at = pieces.at_start
    # Rounding of the log-density within one nat, of the nodes, and of T itself.
    rounding = jnp.minimum(at.rounding, at.slope_rounding * pieces.bulk) / 2
    rounding = jnp.maximum(rounding, eps * jnp.abs(pieces.start) / pieces.bulk)
    # Between modes, whole log-densities are compared, with their full rounding.
    best = pieces.start[jnp.argmax(jnp.where(pieces.is_used, heights, -jnp.inf))]
    rounding = jnp.where(pieces.start == best, rounding, jnp.maximum(rounding, at.rounding / 2))
    rounding = jnp.max(jnp.where(pieces.is_used, rounding * jnp.exp(heights), 0))
    rounding = jnp.maximum(rounding, eps * jnp.max(jnp.abs(origin) / sd.ravel()))

    def largest(stop):
        rows = jnp.asarray(rule.coefficients[stop - LAST : stop].T, dtype)
        return jnp.maximum(jnp.max(jnp.abs(values @ rows), -1), jnp.finfo(dtype).tiny)

    # n nodes integrate polynomials of degree 2 n - 1. The decay of coefficients is extrapolated.
    last = largest(points)
    # Coefficients of rounding errors do not decay.
    floor = _SAFETY * rounding * jnp.max(jnp.abs(values), -1)
    decay = jnp.minimum(
        (last / largest(points // 2)) ** 2, (last / largest(points - LAST)) ** (points / LAST)
    )
    left = _SAFETY * jnp.max(jnp.sum(jnp.maximum(last - floor, 0) * jnp.minimum(decay, 1), (1, 2)))
    is_open = pieces.is_used & pieces.is_open
    decays = jnp.maximum(jnp.log1p(pieces.width / pieces.bulk), 1)
    farthest = 1 + jnp.max(jnp.abs(z[:, 1, :, -1]), 0) ** 2
    tails = jnp.exp(heights - nodes.end) * decays * farthest
    tails = jnp.sum(jnp.where(is_open, tails, 0))
    # Each weight is an exponential, whose argument is rounded.
    depth = 2 * _ROUNDINGS * jnp.where(weights > 0, jnp.abs(nodes.logs), 0)
    rounding = rounding + eps * jnp.max(jnp.sum(weights * z**2 * depth, (1, 2, 3)))
    error = left + tails + rounding + _error_of_gaps(pieces, nodes, logs, z)
    return jnp.where(_is_held(pieces, nodes) & jnp.isfinite(error), error, jnp.inf)


def _error_of_gaps(
    pieces: Pieces, nodes: Nodes, logs: Array, z: Float[Array, "eta_dim 2 pieces nodes"]
) -> Float[Array, ""]:
    """Returns a bound for steps of the density in front of the first node of bodies and tails.

    Nodes on one side of a step fit a smooth density. It differs from the density at the start of a
    piece, or from the other fit at the end of the body. This times the distance bounds the mass.
    """
    total = jax.nn.logsumexp(logs)
    first, last, bound = end_values(jnp.exp(nodes.logs - total))
    before = jnp.stack([jnp.exp(pieces.at_start.logs - pieces.highest - total), last[0]])
    step = jnp.maximum(jnp.abs(first - before) - bound - bound[0], 0)
    previous = jnp.stack([nodes.edges[0], nodes.u[0, :, -1]])
    mass = step * jnp.abs(nodes.u[..., 0] - previous) * jnp.maximum(1, jnp.max(z[..., 0] ** 2, 0))
    # A piece within one nat has no tail.
    exists = pieces.is_used & (nodes.stretch[..., 0] > 0)
    return jnp.sum(jnp.where(exists, mass, 0))


def _error_of_cuts(line: Line, pieces: Pieces) -> Float[Array, ""]:
    """Returns the part of the integral that lies between both sides of breaks."""
    gaps = jax.vmap(lambda u: cut_gap(line, u))(pieces.start)
    density = jnp.where(pieces.is_used, jnp.exp(pieces.at_start.logs - pieces.highest), 0)
    return _GAPS * jnp.sum(density * gaps) / jnp.max(density * pieces.bulk)


def _ends_unknown(line: Line, pieces: Pieces) -> Bool[Array, ""]:
    """Returns whether the density is NaN next to a point at which it is not negligible.

    Beyond NaN, the density is unknown, not zero.
    """
    start, direction = pieces.start, pieces.direction
    end = move(start, direction, pieces.end, pieces.width)
    beyond = [start - _BEYOND * direction * pieces.bulk, end + _BEYOND * direction * pieces.width]
    density = jnp.exp(jnp.stack([pieces.at_start.logs, line(end).logs]) - pieces.highest)
    matters = pieces.is_used & (density > jnp.finfo(density.dtype).eps)
    return jnp.any(line.is_unknown(jnp.stack(beyond)) & matters)


def _is_held(pieces: Pieces, nodes: Nodes) -> Bool[Array, ""]:
    """Returns whether the density is negligible beyond the pieces."""
    depth = nodes.end + pieces.highest - pieces.at_start.logs
    has_fallen = depth > least_fall(nodes.logs.dtype)
    return jnp.all(~(pieces.is_used & pieces.is_open) | has_fallen) & pieces.is_whole
