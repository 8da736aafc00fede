"""Adaptive refinement of panels of counts."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from nnef_dists.families import ExponentialFamily
from nnef_dists.sampling._count_panels import LEAST, LEVELS, panel_lengths, panel_nodes
from nnef_dists.sampling._line import NOWHERE

_PANELS = 128
# Number of panels that are halved at once.
_WIDTH = 4
# Tolerance of the refinement, relative to the sum, plus this part of the rounding of eta . T. A
# panel is halved if its sum differs by more from the sum of its halves.
_TOLERANCE = 1e-13
_PART = 1 / 16
# Number of modes that are located between nodes of the first panels, and of points per step.
_MODES = 6
_BRACKET = 17


class Panels(NamedTuple):
    """Panels of counts, and the logarithms of their sums.

    Attributes:
        start: First count of each panel, `(panels,)`.
        level: log2 of the length of each panel, `(panels,)`.
        misfit: Logarithm of the difference between the sum by one rule and the sum of both halves,
            `(panels,)`. The sums are of the terms, or of the terms times their place in the panel,
            each statistic, or its square, whichever differ most. Statistics are relative to their
            range in the panel.
        halves: Logarithms of the sums of both halves, `(panels, 2)`. For a panel of at most 16
            counts, its own sum and -inf.
        peak: Highest known log-density in each panel, `(panels,)`.
        seen: Highest log-density at the nodes of each panel, `(panels,)`.
    """

    start: Float[Array, " panels"]
    level: Int[Array, " panels"]
    misfit: Float[Array, " panels"]
    halves: Float[Array, "panels 2"]
    peak: Float[Array, " panels"]
    seen: Float[Array, " panels"]

    def errors(self, top: Float[Array, ""]) -> Float[Array, " panels"]:
        """Returns the estimated errors of the sums, in units of exp(`top`)."""
        # A peak between the nodes counts with its height.
        hidden = jnp.where(self.peak > self.seen + 0.5, jnp.exp(self.peak - top), 0)
        return jnp.where(self.level <= LEAST, 0, jnp.maximum(jnp.exp(self.misfit - top), hidden))


def log_rounding(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], x: Float[Array, ""]
) -> Float[Array, ""]:
    """Returns the rounding error of eta . T at a count, in nats."""
    terms = jnp.sum(jnp.abs(eta * family.sufficient_statistics(x)))
    return jnp.finfo(eta.dtype).eps * (1 + terms)


def log_weights_of(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], x: Float[Array, " *n"]
) -> Float[Array, " *n"]:
    """Returns eta . T + log h at counts, `NOWHERE` without density."""
    return parts_of(family, eta, x)[0]


def parts_of(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], x: Float[Array, " *n"]
) -> tuple[Float[Array, " *n"], Float[Array, "*n eta_dim"]]:
    """Returns eta . T + log h at counts, `NOWHERE` without density, and T."""

    def one(x):
        stats = family.sufficient_statistics(x)
        return jnp.sum(eta * stats) + family.log_base_measure(x), stats

    values, stats = jax.vmap(one)(x.ravel())
    values, stats = values.reshape(x.shape), stats.reshape(*x.shape, -1)
    return jnp.where(jnp.isnan(values), NOWHERE, jnp.maximum(values, NOWHERE)), stats


def panel_sums(parts: Any, start: Array, level: Array) -> tuple[Array, Array, Array]:
    """Returns the logarithms of the misfit, of the sums of halves, and of the highest density."""
    is_short = level <= LEAST
    child = jnp.where(is_short, level, level - 1)
    starts = jnp.stack([start, start, start + panel_lengths(child, start.dtype)], -1)
    x, log_weights = panel_nodes(starts, jnp.stack([level, child, child], -1))
    values, stats = parts(x)
    seen = jnp.max(values, (-2, -1))
    terms = jnp.exp(values - seen[..., None, None] + log_weights)
    place = (x - start[..., None, None]) / panel_lengths(level, start.dtype)[..., None, None]
    sums, moved = jnp.sum(terms, -1), jnp.sum(terms * place, -1)

    def misfit(sums):
        return jnp.abs(sums[..., 0] - sums[..., 1] - sums[..., 2])

    # The density does not show statistics that oscillate while their eta is near zero.
    relative = _relative(stats)
    of_stats = terms[..., None] * relative
    of_stats = jnp.sum(jnp.concatenate([of_stats, of_stats * relative], -1), -2)
    largest = jnp.max(misfit(jnp.moveaxis(of_stats, -2, -1)), -1)
    largest = jnp.maximum(largest, jnp.maximum(misfit(sums), misfit(moved)))
    halves = seen[..., None] + jnp.log(sums[..., 1:])
    second = jnp.where(is_short, -jnp.inf, halves[..., 1])
    return seen + jnp.log(largest), jnp.stack([halves[..., 0], second], -1), seen


def _relative(stats: Float[Array, "*p 3 nodes k"]) -> Float[Array, "*p 3 nodes k"]:
    """Returns statistics relative to their range over all nodes of a panel, from 0 to 1."""
    low, high = jnp.min(stats, (-3, -2), keepdims=True), jnp.max(stats, (-3, -2), keepdims=True)
    width = high - low
    # Statistics that overflow leave the density to decide.
    exists = (width > 0) & jnp.isfinite(width)
    return jnp.where(exists, (stats - low) / jnp.where(exists, width, 1), 0)


def short_panels(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], starts: np.ndarray, levels: np.ndarray
) -> Panels:
    """Returns panels that are summed term by term."""
    start, level = jnp.asarray(starts, eta.dtype), jnp.asarray(levels, jnp.int32)
    values = log_weights_of(family, eta, panel_nodes(start, level)[0])
    logs = jax.nn.logsumexp(values + panel_nodes(start, level)[1], axis=1)
    none, seen = jnp.full_like(logs, -jnp.inf), jnp.max(values, 1)
    return Panels(start, level, none, jnp.stack([logs, none], 1), seen, seen)


def refine_panels(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], starts: np.ndarray, levels: np.ndarray
) -> Panels:
    """Halves panels until their sums agree with the sums of their halves, or no slots are left."""
    logs = functools.partial(log_weights_of, family, eta)
    parts = functools.partial(parts_of, family, eta)
    count, start, level = (
        len(starts),
        jnp.asarray(starts, eta.dtype),
        jnp.asarray(levels, jnp.int32),
    )
    misfit, halves, seen = panel_sums(parts, start, level)
    modes, heights = _find_modes(logs, start, level)
    ends = start + panel_lengths(level, eta.dtype)
    holds = (modes >= start[:, None]) & (modes < ends[:, None])
    peak = jnp.maximum(seen, jnp.max(jnp.where(holds, heights, -jnp.inf), 1))

    def pad(leaf, value):
        widths = [(0, _PANELS - count)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, widths, constant_values=value)

    panels = Panels(
        pad(start, 0.0),
        pad(level, 0),
        pad(misfit, -jnp.inf),
        pad(halves, -jnp.inf),
        pad(peak, -jnp.inf),
        pad(seen, -jnp.inf),
    )

    tolerance = _TOLERANCE + _PART * log_rounding(family, eta, modes[jnp.argmax(heights)])

    def worst(panels):
        top = jax.nn.logsumexp(panels.halves)
        errors = panels.errors(jnp.maximum(top, jnp.max(panels.peak)))
        return lax.top_k(errors, _WIDTH)

    def is_open(carry):
        panels, used = carry
        return (worst(panels)[0][0] > tolerance) & (used + _WIDTH <= _PANELS)

    def halve(carry):
        panels, used = carry
        errors, rows = worst(panels)
        chosen = errors > tolerance
        level = panels.level[rows] - 1
        first = panels.start[rows]
        starts = jnp.stack([first, first + panel_lengths(level, eta.dtype)], 1)
        both = jnp.stack([level, level], 1)
        misfit, halves, seen = panel_sums(parts, starts, both)
        holds = (modes >= starts[..., None]) & (
            modes < starts[..., None] + panel_lengths(both, eta.dtype)[..., None]
        )
        peak = jnp.maximum(seen, jnp.max(jnp.where(holds, heights, -jnp.inf), -1))
        new = Panels(starts, both, misfit, halves, peak, seen)
        # Panels that are not chosen are written beyond the end, which drops them.
        first_rows = jnp.where(chosen, rows, _PANELS)
        second_rows = jnp.where(chosen, used + jnp.cumsum(chosen) - 1, _PANELS)

        def put(old, part):
            old = old.at[first_rows].set(part[:, 0], mode="drop")
            return old.at[second_rows].set(part[:, 1], mode="drop")

        return jax.tree.map(put, panels, new), used + jnp.sum(chosen)

    return lax.while_loop(is_open, halve, (panels, jnp.asarray(count)))[0]


def _find_modes(logs: Any, start: Array, level: Array) -> tuple[Array, Array]:
    """Returns the modes between nodes of the first panels, and their log-densities."""
    x = panel_nodes(start, level)[0].ravel()
    values = logs(x)
    padded = jnp.pad(values, 1, constant_values=-jnp.inf)
    is_high = (values >= padded[:-2]) & (values >= padded[2:]) & (values > NOWHERE)
    heights, rows = lax.top_k(jnp.where(is_high, values, -jnp.inf), min(_MODES, len(x)))
    low = jnp.where(rows > 0, x[jnp.maximum(rows - 1, 0)], x[0])
    high = jnp.where(rows < len(x) - 1, x[jnp.minimum(rows + 1, len(x) - 1)], x[-1])

    share = jnp.linspace(0, 1, _BRACKET, dtype=x.dtype)[:, None]

    def narrow(carry, _):
        low, high, _, _ = carry
        points = jnp.round(low + (high - low) * share)
        values = logs(points)
        best = jnp.argmax(values, 0)
        at = jnp.take_along_axis(points, best[None], 0)[0]
        height = jnp.take_along_axis(values, best[None], 0)[0]
        below = jnp.take_along_axis(points, jnp.maximum(best - 1, 0)[None], 0)[0]
        above = jnp.take_along_axis(points, jnp.minimum(best + 1, _BRACKET - 1)[None], 0)[0]
        return (below, above, at, height), None

    steps = math.ceil(LEVELS / math.log2((_BRACKET - 1) / 2))
    (_, _, modes, found), _ = lax.scan(narrow, (low, high, x[rows], heights), length=steps)
    return modes, jnp.where(jnp.isfinite(heights), found, -jnp.inf)
