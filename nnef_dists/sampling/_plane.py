"""Quadrature in the plane: an integral of integrals along lines, each with separate nodes."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nnef_dists.families import ExponentialFamily
from nnef_dists.sampling._legendre import least_fall, legendre
from nnef_dists.sampling._line import NOWHERE, OnLine
from nnef_dists.sampling._panels import Panels, falls, lay_panels, panel_logs, remainder
from nnef_dists.sampling._pieces import Pieces
from nnef_dists.sampling._rule import LineRule
from nnef_dists.sampling._scan import Scan, find_brackets, pieces_of
from nnef_dists.sampling._section import Section, Sections, first_scan, integrate, marginal

# Number of lines of the first scan and of each later pass, and number of later passes.
_FIRST, _LINES, _PASSES = 48, 24, 5
# Number of modes of the marginal density that are kept.
_MODES = 4
# Number of panels of the outer coordinate.
_PANELS = 16
# Largest height of a located mode above the ends of its cell, in nats.
_LOCATED = 0.02
# Error of T in roundings. For example, log Gamma is accurate to several roundings.
_ROUNDINGS = 1.5


def plane_rule(family: ExponentialFamily, eta: Float[Array, " eta_dim"], points: int) -> LineRule:
    """Returns the rule for one eta of a family of two dimensions.

    The outer integral is over the first coordinate, and the inner one over the second, which may be
    an angle. Each line of constant outer coordinate has separate pieces and nodes, so that the
    density may be narrow in any direction, and bent. The slope of the marginal log-density of the
    outer coordinate is the expected slope on each line. The marginal is integrated like a density
    on a line.

    Args:
        family: A family of two dimensions.
        eta: Natural parameters, not checked.
        points: Number of nodes per panel. With two pieces, each outer piece has eight panels.

    Returns:
        The rule, in the dtype of eta.
    """
    fixed = lax.stop_gradient(eta)
    pieces = _find_pieces(family, fixed)
    panels = lay_panels(pieces, _PANELS, points)
    lines = panels.u.ravel()
    found = jax.vmap(lambda u: integrate(Section(family, fixed, u), points))(lines)
    at = OnLine(found.at.stats, *(leaf.reshape(panels.u.shape) for leaf in found.at[1:]))
    outer = panel_logs(pieces, panels, at)
    weight = jnp.asarray(legendre(points).weight, eta.dtype)
    logs = (outer + jnp.log(weight * panels.stretch)).ravel()[:, None, None] + found.logs
    stats = jnp.moveaxis(found.stats, 1, 0)
    origin = stats.reshape(len(eta), -1)[:, jnp.argmax(logs)]
    stats = jnp.where(jnp.isneginf(logs), 0, stats - origin[:, None, None, None])
    error = _error(pieces, panels, found, outer, stats, logs, origin)
    # `change` is 0. Its derivatives give the derivatives of eta . T at fixed nodes.
    change = eta - fixed
    stats = stats.reshape(len(eta), -1)
    return LineRule(
        stats, logs.ravel() + change @ stats, origin, pieces.highest + change @ origin, error
    )


def _find_pieces(family: ExponentialFamily, eta: Float[Array, " eta_dim"]) -> Pieces:
    """Finds the pieces of the marginal density in passes, each of which adds lines to a scan."""
    dtype = eta.dtype

    def look(u):
        found = jax.vmap(lambda u: marginal(Section(family, eta, u)))(u)
        return found._replace(stats=found.stats.T)

    first = jnp.asarray(first_scan(dtype, _FIRST), dtype).reshape(-1, _LINES)
    scans = len(first)
    total = _LINES * (scans + _PASSES)
    scan = Scan(
        jnp.full(total, jnp.inf, dtype),
        OnLine(
            jnp.zeros((0, total), dtype),
            jnp.full(total, NOWHERE, dtype),
            *(jnp.zeros(total, dtype) for _ in range(3)),
        ),
    )

    def step(i, scan):
        u = jnp.where(i < scans, first[jnp.minimum(i, scans - 1)], _next_lines(scan, i))
        # The last entries are empty.
        new = Scan(u, look(u))
        merged = jax.tree.map(lambda old, new: old.at[..., -_LINES:].set(new), scan, new)
        u, *rest = lax.sort((merged.u, *merged.at[1:]), num_keys=1)
        return Scan(u, OnLine(merged.at.stats, *rest))

    scan = lax.fori_loop(0, scans + _PASSES, step, scan)
    return pieces_of(scan, find_brackets(scan, _MODES), True)


def _next_lines(scan: Scan, number: Array) -> Float[Array, " n"]:
    """Returns lines toward modes that are not yet located, and around located modes."""
    u, at = scan.u, scan.at
    brackets = find_brackets(scan, _MODES)
    pieces = pieces_of(scan, brackets, True)
    count = jnp.maximum(jnp.sum(brackets.exists), 1)
    index = jnp.arange(_LINES, dtype=count.dtype)
    mode = index % count
    slot, share = ((index // count).astype(u.dtype), (_LINES // count + 1).astype(u.dtype))
    cell = brackets.cell[mode]
    low, high = u[cell], u[cell + 1]
    a, b = at.slopes[cell], at.slopes[cell + 1]
    guess = low + (high - low) * jnp.where(a > b, a / jnp.where(a > b, a - b, 1), 0.5)
    # Some points are even. Most are closer and closer to the estimated mode.
    part = (slot + 0.5) / share
    is_low = part < 0.5
    r = jnp.where(is_low, 2 * part, 2 * part - 1)
    near = jnp.where(r < 0.4, 1 - 0.9 * r / 0.4, 0.1 * 10 ** (-4 * (r - 0.4) / 0.6))
    toward = guess + (jnp.where(is_low, low, high) - guess) * near
    toward = jnp.where(slot == 0, guess, toward)
    # Points are even in the logarithm of the distance, within the width of the piece.
    part = (slot + 0.5 * jnp.exp2(-(number % 4).astype(u.dtype))) / share
    is_low = part < 0.5
    r = jnp.where(is_low, 2 * part, 2 * part - 1)
    piece = jnp.where(is_low, mode + _MODES, mode)
    bulk = pieces.bulk[piece] / 2
    distance = bulk * jnp.expm1(r * jnp.log1p(pieces.width[piece] / bulk))
    around = pieces.start[piece] + pieces.direction[piece] * distance
    return jnp.where(brackets.gain[mode] < _LOCATED, around, toward).astype(u.dtype)


def _error(
    pieces: Pieces,
    panels: Panels,
    found: Sections,
    outer: Array,
    stats: Array,
    logs: Array,
    origin: Float[Array, " eta_dim"],
) -> Float[Array, ""]:
    """Returns the error bound of a rule: its interpolation error, tails, and rounding."""
    dtype = logs.dtype
    eps = float(jnp.finfo(dtype).eps) / 2
    weights = jax.nn.softmax(logs.ravel()).reshape(logs.shape)
    mean = jnp.sum(stats * weights, (1, 2, 3), keepdims=True)
    sd = jnp.sqrt(jnp.sum((stats - mean) ** 2 * weights, (1, 2, 3), keepdims=True))
    z = (stats - mean) / sd
    values = jnp.concatenate([weights[None], weights * z, weights * z**2])

    line_weights = jnp.sum(weights, (1, 2))
    # Between modes, whole log-densities are compared, with their full rounding.
    start = pieces.at_start
    heights = jnp.where(pieces.is_used, start.logs - pieces.highest, -jnp.inf)
    is_other = pieces.start != pieces.start[jnp.argmax(heights)]
    rounding = jnp.max(jnp.where(is_other, start.rounding * jnp.exp(heights), 0))
    # Rounding of the log-density within one nat, of the nodes, and of T itself.
    bulk = pieces.bulk[panels.piece][:, None]
    slope_rounding = found.at.slope_rounding.reshape(bulk.shape[0], -1) * bulk
    nodes_rounding = eps * jnp.abs(panels.u) / bulk
    of_lines = jnp.maximum(slope_rounding.ravel(), nodes_rounding.ravel())
    of_lines = jnp.minimum(of_lines, found.at.rounding)
    rounding += _ROUNDINGS * jnp.sum(jnp.where(line_weights > 0, line_weights * of_lines, 0))
    rounding = jnp.maximum(rounding, eps * jnp.max(jnp.abs(origin) / sd.ravel()))

    points = logs.shape[-1]
    weight = jnp.asarray(legendre(points).weight, dtype)
    inner = jnp.max(jnp.sum(remainder(values / weight, 8 * rounding), (1, 2)))
    across = jnp.sum(values, (2, 3)).reshape(-1, *panels.u.shape) / weight
    across = jnp.max(jnp.sum(remainder(across, 8 * rounding), 1))
    tails = jnp.sum(jnp.where(line_weights > 0, line_weights * jnp.exp(-found.fall), 0))
    fall = jnp.min(falls(panels, pieces.bulk, outer))
    tails = 100 * (tails + jnp.exp(-fall))
    is_held = panels.fits & pieces.is_whole & (fall > least_fall(dtype))
    error = inner + across + tails + rounding
    return jnp.where(is_held & jnp.isfinite(error), error, jnp.inf)
