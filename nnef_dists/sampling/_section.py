"""Sections of a density in the plane: its integrals along lines of constant outer coordinate."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nnef_dists.families import AbstractAngularSupport, ExponentialFamily
from nnef_dists.sampling._grids import sinh_scan
from nnef_dists.sampling._legendre import legendre
from nnef_dists.sampling._line import NOWHERE, OnLine, on_line, transform
from nnef_dists.sampling._panels import falls, lay_panels, panel_logs
from nnef_dists.sampling._roots import find_root
from nnef_dists.sampling._scan import Scan, find_brackets, pieces_of

# Number of modes of a section that are kept.
_MODES = 3
# Number of points of a scan, and largest distance at which it is dense: in u for the first scan, in
# widths of a mode for the second.
_SCAN, _FIRST_REACH, _SECOND_REACH = 48, 1e4, 50.0
# Number of steps of root finding.
_STEPS = 10
# Step of the finite difference that estimates a curvature, relative to the cell.
_DIFFERENCE = 1e-4
# Number of panels of a section.
_PANELS = 12


class Sections(NamedTuple):
    """Integrals of a density along lines of constant outer coordinate.

    Attributes:
        stats: T at the nodes, `(eta_dim, lines, panels, nodes)`.
        logs: Logarithms of the shares of the nodes in the integral of their line, in nats,
            `(lines, panels, nodes)`.
        at: The marginal log-density of the outer coordinate, without statistics, `(lines,)`.
        fall: Smallest fall of the density at the open ends of each section, in nats, `(lines,)`.
            -inf if its pieces do not cover the density.
    """

    stats: Float[Array, "eta_dim lines panels nodes"]
    logs: Float[Array, "lines panels nodes"]
    at: OnLine
    fall: Float[Array, " lines"]


class Section(NamedTuple):
    """A density along a line of constant outer coordinate.

    Attributes:
        family: A family of two dimensions.
        eta: Natural parameters, `(eta_dim,)`.
        outer: The outer coordinate.
    """

    family: ExponentialFamily
    eta: Float[Array, " eta_dim"]
    outer: Float[Array, ""]

    def along(self, inner: Float[Array, "*points"]) -> OnLine:
        """Returns the log-density, and its slope in the inner coordinate."""
        return self._evaluate(inner, np.array([[0, 1]]))[0]

    def across(self, inner: Float[Array, "*points"]) -> OnLine:
        """Returns the log-density, and its slope in the outer coordinate."""
        return self._evaluate(inner, np.array([[1, 0]]))[0]

    def both(self, inner: Float[Array, "*points"]) -> list[OnLine]:
        """Returns the log-density with its slope in the inner and in the outer coordinate."""
        return self._evaluate(inner, np.array([[0, 1], [1, 0]]))

    def _evaluate(self, inner, directions: np.ndarray) -> list[OnLine]:
        family, eta = self.family, self.eta
        dtype = eta.dtype
        tangents = jnp.asarray(directions, dtype)

        def parts(point):
            x, log_det = transform(family, point)
            base = jnp.asarray(family.log_base_measure(x), dtype) + log_det.astype(dtype)
            return family.sufficient_statistics(x), base

        def with_slopes(inner):
            point = jnp.stack([self.outer, inner])
            # Both directions share the primal values.
            return jax.vmap(
                lambda tangent: jax.jvp(parts, (point,), (tangent,)), out_axes=(None, 0)
            )(tangents)

        values, slopes = jax.vmap(with_slopes, out_axes=-1)(inner.ravel())
        return [
            on_line(eta, values, (slopes[0][i], slopes[1][i]), inner.shape)
            for i in range(len(directions))
        ]


def _is_circle(family: ExponentialFamily) -> bool:
    return isinstance(family.support, AbstractAngularSupport)


@functools.cache
def _shares(points: int, modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mode of each point of a scan, and its distance in widths, for 1, 2, ... modes."""
    number = np.zeros((modes, points), np.int32)
    distance = np.zeros((modes, points))
    far = 300.0
    for i in range(modes):
        share = points // (i + 1)
        scan = sinh_scan(share // 2, np.arcsinh(_SECOND_REACH), far)
        number[i] = np.minimum(np.arange(points) // share, i)
        distance[i] = np.resize(scan, points)
        distance[i, share * (i + 1) :] = np.inf
    return number, distance


def first_scan(dtype, points: int) -> np.ndarray:
    """Returns points of a line, even in asinh(u) at first, thinner toward the largest numbers."""
    far = math.log(float(jnp.finfo(dtype).max)) / 6
    return sinh_scan(points // 2, np.arcsinh(_FIRST_REACH), far)


def _look(line: Section) -> Float[Array, " n"]:
    """Returns the points of a scan around the modes of a section."""
    dtype = line.eta.dtype
    if _is_circle(line.family):
        first = jnp.asarray(2 * math.pi * np.arange(_SCAN + 1) / _SCAN, dtype)
        first = first + first[jnp.argmin(line.along(first).logs)]
        ends = first[0], first[-1]
    else:
        first = jnp.asarray(first_scan(dtype, _SCAN), dtype)
        ends = jnp.asarray(-jnp.inf, dtype), jnp.asarray(jnp.inf, dtype)
    at = line.along(first)
    scan = Scan(first, at)
    cell, exists, _ = find_brackets(scan, _MODES)
    low, high = first[cell], first[cell + 1]
    # Without density, the slope points toward the other end.
    nowhere = at.is_nowhere[cell], at.is_nowhere[cell + 1]
    steepest = jnp.maximum(jnp.abs(at.slopes[cell]), jnp.abs(at.slopes[cell + 1]))
    beyond = jnp.where(nowhere[0], steepest, -steepest)
    at_low = jnp.where(nowhere[0], beyond, at.slopes[cell])
    at_high = jnp.where(nowhere[1], beyond, at.slopes[cell + 1])

    def slope(u):
        found = line.along(u)
        return jnp.where(found.is_nowhere, beyond, found.slopes)

    mode = find_root(slope, (low, high), (at_low, at_high), _STEPS)
    mode = jnp.where(at_low <= 0, low, jnp.where(at_high > 0, high, mode))
    step = _DIFFERENCE * (high - low)
    beside = line.along(jnp.stack([mode - step, mode, mode + step]))
    logs = beside.logs[1]
    bend = (beside.slopes[0] - beside.slopes[2]) / (2 * step)
    away = jnp.abs(first[:, None] - mode)
    limit = jnp.min(jnp.where(logs - at.logs[:, None] > 1, away, jnp.inf), 0)
    limit = jnp.where(jnp.isfinite(limit), limit, jnp.max(away, 0))
    width = jnp.where(bend > 0, jnp.sqrt(2 / jnp.where(bend > 0, bend, 1)), limit)
    width = jnp.minimum(width, limit)
    numbers, distances = _shares(_SCAN, _MODES)
    count = jnp.maximum(jnp.sum(exists), 1) - 1
    number = jnp.asarray(numbers)[count]
    far = math.log(float(jnp.finfo(dtype).max)) / 2
    distance = jnp.asarray(np.clip(distances, -math.exp(far), math.exp(far)), dtype)[count]
    middle = (mode[1:] + mode[:-1]) / 2
    is_last = np.arange(_MODES) >= count
    highs = jnp.where(is_last, ends[1], jnp.append(middle, ends[1]))
    lows = jnp.append(ends[0], middle)
    return jnp.clip(mode[number] + width[number] * distance, lows[number], highs[number])


def marginal(line: Section) -> OnLine:
    """Estimates the marginal log-density of the outer coordinate by the trapezoidal rule."""
    inner = _look(line)
    at = line.across(inner)
    ends = jnp.concatenate([inner[:1], (inner[1:] + inner[:-1]) / 2, inner[-1:]])
    length = ends[1:] - ends[:-1]
    logs = jnp.where(at.is_nowhere | ~(length > 0), -jnp.inf, at.logs + jnp.log(length))
    return _summary(logs, at)


def _summary(logs: Array, at: OnLine) -> OnLine:
    total = jax.nn.logsumexp(logs)
    exists = total > -jnp.inf
    weights = jnp.where(exists, jnp.exp(logs - jnp.where(exists, total, 0)), 0)
    highest = jnp.argmax(logs)
    return OnLine(
        jnp.zeros(0, logs.dtype),
        jnp.where(exists, total, NOWHERE),
        jnp.sum(weights * at.slopes),
        jnp.where(exists, at.rounding.ravel()[highest], 0),
        jnp.sum(weights * at.slope_rounding),
    )


def integrate(line: Section, points: int) -> Sections:
    """Integrates a density along one line. Returns `Sections` without the axis of lines."""
    inner = _look(line)
    at = line.along(inner)
    scan = Scan(inner, at._replace(stats=at.stats[:0]))
    pieces = pieces_of(scan, find_brackets(scan, _MODES), not _is_circle(line.family))
    panels = lay_panels(pieces, _PANELS, points)
    along, across = line.both(panels.u)
    logs = panel_logs(pieces, panels, along)
    fall = jnp.min(falls(panels, pieces.bulk, logs))
    weight = jnp.asarray(legendre(points).weight, inner.dtype)
    logs = logs + jnp.log(weight * panels.stretch)
    found = _summary(logs, across)
    exists = found.logs > NOWHERE
    found = found._replace(logs=jnp.where(exists, found.logs + pieces.highest, NOWHERE))
    is_held = panels.fits & pieces.is_whole
    fall = jnp.where(exists, jnp.where(is_held, fall, -jnp.inf), jnp.inf)
    logs = jnp.where(exists, logs - jax.nn.logsumexp(logs), -jnp.inf)
    # Rounding of the inner mean shifts the marginal slope in proportion to the spread of slopes.
    start = pieces.at_start
    rounding = jnp.maximum(jnp.finfo(logs.dtype).eps * jnp.abs(pieces.start) / pieces.bulk, 0)
    rounding = jnp.maximum(rounding, start.slope_rounding * pieces.bulk)
    rounding = jnp.max(jnp.where(pieces.is_used & (start.logs > pieces.highest - 1), rounding, 0))
    spread = jnp.sum(jnp.exp(logs) * (across.slopes - found.slopes) ** 2)
    found = found._replace(slope_rounding=found.slope_rounding + rounding * jnp.sqrt(spread))
    return Sections(along.stats, logs, found, fall)
