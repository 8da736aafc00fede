"""Sums over counts: a rule of few whole numbers, refined where the probability is."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nnef_dists.families import Counts, ExponentialFamily
from nnef_dists.sampling._density import ROUNDING
from nnef_dists.sampling._line import NOWHERE

# Nodes of a panel. A panel of at most as many counts is summed term by term.
_NODES = 16
# Rules of longer panels are exact for polynomials of this degree.
_DEGREE = 13
_LEAST = int(math.log2(_NODES))
# Panels of up to 2^44 counts.
_LEVELS = 45
_PANELS = 128
# Panels that are halved at once.
_WIDTH = 4
# Relative to the sum, and beside the rounding of eta . T: a panel that differs less from its halves
# is not halved.
_TOLERANCE = 1e-13
# Modes that are looked for, beside the highest value of the first panels.
_MODES = 6
_BRACKET = 17
# Of draws.
_MOST_ERROR = 1e-3


class CountsRule(NamedTuple):
    """Moments of one eta by summation, and the panels that they come from.

    Attributes:
        mean: E[T], `(eta_dim,)`.
        covariance: Cov[T], `(eta_dim, eta_dim)`.
        log_partition: A(eta), in nats.
        error: An upper bound of the errors of the mean, in z units, of the covariance, in units of
            both sd(T), and of A, in nats: what the rule leaves, its tail, and the rounding of
            eta . T, which is epsilon times its size.
        start: The first count of each panel, `(panels,)`.
        level: The logarithm to base 2 of their lengths, `(panels,)`.
        log_mass: The logarithms of their probabilities, `(panels,)`.
    """

    mean: Float[Array, " eta_dim"]
    covariance: Float[Array, "eta_dim eta_dim"]
    log_partition: Float[Array, ""]
    error: Float[Array, ""]
    start: Float[Array, " panels"]
    level: Int[Array, " panels"]
    log_mass: Float[Array, " panels"]


@functools.cache
def _rules() -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and weights of panels of 2^k counts, from 0 on, each `(levels, nodes)`.

    Nodes are the counts nearest to those of Gauss and Legendre. The weights, of all that sum
    polynomials up to a degree exactly, are the closest to Gauss's. All are positive.

    Reference:
        Wilson, *Necessary and sufficient conditions for equidistant quadrature formula*, SIAM J.
        Numer. Anal. 7 (1970), for the rules of least squares.
    """
    gauss, gauss_weights = np.polynomial.legendre.leggauss(_NODES)
    nodes, weights = np.zeros((_LEVELS, _NODES)), np.zeros((_LEVELS, _NODES))
    half = _NODES // 2
    for level in range(_LEVELS):
        length = 2.0**level
        if level <= _LEAST:
            nodes[level] = np.minimum(np.arange(_NODES), length - 1)
            weights[level] = np.arange(_NODES) < length
            continue
        x = np.floor((gauss + 1) / 2 * length)
        for i in range(1, half):
            x[i] = max(x[i], x[i - 1] + 1)
        x[half:] = length - 1 - x[:half][::-1]
        values = np.polynomial.legendre.legvander((2 * x + 1) / length - 1, _DEGREE)
        root = np.sqrt(gauss_weights)
        relative = np.linalg.lstsq((values * root[:, None]).T, _sums(level), rcond=None)[0]
        nodes[level], weights[level] = x, root * relative * length
    return nodes, weights


def _sums(level: int) -> np.ndarray:
    """Returns the means of Legendre polynomials over 2^level counts, in [-1, 1]."""
    length = 2.0**level
    if level <= 14:
        x = (2 * np.arange(length) + 1) / length - 1
        return np.polynomial.legendre.legvander(x, _DEGREE).mean(0)
    # By the Euler-Maclaurin formula of midpoints.
    step, sums = 2 / length, np.zeros(_DEGREE + 1)
    for degree in range(_DEGREE + 1):
        one = np.polynomial.Legendre.basis(degree)
        first, third = one.deriv(1), one.deriv(3)
        sums[degree] = (degree == 0) - step**2 / 48 * (first(1) - first(-1))
        sums[degree] += 7 * step**4 / 11520 * (third(1) - third(-1))
    return sums


@functools.cache
def first_panels(family: ExponentialFamily) -> tuple[np.ndarray, np.ndarray, bool]:
    """Returns starts and levels of panels that cover all counts, and whether they end at the last.

    Lengths double from 16 on, as long as T is finite.

    Args:
        family: A family whose support is `Counts`.

    Raises:
        ValueError: If T is not finite at the first counts, with the bound to declare.
    """
    support = counts_of(family)
    starts, levels, x = [], [], support.lower
    level = _LEAST
    while len(starts) < 2 * _LEVELS and level < _LEVELS:
        left = math.inf if support.upper is None else support.upper + 1 - x
        if left <= 0:
            break
        if 2**level > left:
            level = int(math.log2(left))
            # The rest of a bounded range: ever shorter panels.
            while left > 0:
                level = min(level, int(math.log2(left)))
                starts.append(x)
                levels.append(level)
                x, left = x + 2**level, left - 2**level
            break
        starts.append(x)
        levels.append(level)
        x += 2**level
        level += len(starts) > 1
    nodes = np.asarray(starts, float)[:, None] + _rules()[0][np.asarray(levels)]
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        stats = jax.vmap(family.sufficient_statistics)(jnp.asarray(nodes.ravel()))
        finite = np.isfinite(np.asarray(stats)).reshape(*nodes.shape, -1)
    if not finite[0].all():
        name = family.stat_names[int(np.argmin(finite[0].all(0)))]
        bad = nodes[0][~finite[0].all(-1)]
        advice = f"Declare nd.Counts(lower={int(bad.max()) + 1})"
        if finite[0][0].all():
            advice = "Write T so that it is finite for all counts"
        raise ValueError(
            f"Expected statistics of {family!r} that are finite on {support!r}; got {name!r} that "
            f"is not at x = {int(bad[0])}. {advice}."
        )
    whole = finite.all((1, 2))
    known = len(whole) if whole.all() else int(np.argmin(whole))
    is_complete = known == len(whole) and support.upper is not None
    return np.asarray(starts[:known], float), np.asarray(levels[:known]), is_complete


def counts_of(family: ExponentialFamily) -> Counts:
    """Returns the support of a family of counts.

    Raises:
        ValueError: If the support is another one, with what to use for it.
    """
    support = family.support
    if isinstance(support, Counts):
        return support
    remedy = getattr(support, "remedy", "Use nd.Quadrature(family) in one or two dimensions.")
    raise ValueError(
        f"Expected a family with the support nd.Counts for summation; {family!r} has {support!r}. "
        f"{remedy}"
    )


class _Panels(NamedTuple):
    """Panels of counts, and the logarithms of their sums.

    Attributes:
        start: The first count, `(panels,)`.
        level: log2 of the length, `(panels,)`.
        own: The sum by one rule, `(panels,)`.
        halves: The sums of both halves, `(panels, 2)`; of a shortest panel its own sum and none.
        peak: The highest log-density known in each, `(panels,)`.
        seen: The highest of those at nodes, `(panels,)`.
    """

    start: Float[Array, " panels"]
    level: Int[Array, " panels"]
    own: Float[Array, " panels"]
    halves: Float[Array, "panels 2"]
    peak: Float[Array, " panels"]
    seen: Float[Array, " panels"]

    def errors(self, top: Float[Array, ""]) -> Float[Array, " panels"]:
        """Returns by how much the sums may be off; `top` is the logarithm of their unit."""
        own, halves = jnp.exp(self.own - top), jnp.sum(jnp.exp(self.halves - top), 1)
        # A peak between the nodes.
        hidden = jnp.where(self.peak > self.seen + 0.5, jnp.exp(self.peak - top), 0)
        return jnp.where(self.level <= _LEAST, 0, jnp.maximum(jnp.abs(own - halves), hidden))


def sum_counts(family: ExponentialFamily, eta: Float[Array, " eta_dim"]) -> CountsRule:
    """Sums T and its products over all counts, in the dtype of eta.

    The counts are cut into panels of 2^k, from 16 at the lower end to 2^44 far out. A rule of 16
    nodes sums each; the panels that differ most from their halves are halved, down to 16 counts,
    which are summed one by one. Nodes are counts, so that T may be any function of them. The modes
    are looked for between the nodes of the first panels.

    Derivatives in eta are those of the sum at fixed nodes, to any order: A has the gradient E[T].

    Args:
        family: A family whose support is `Counts`.
        eta: Valid natural parameters, `(eta_dim,)`.

    Returns:
        The moments, with an error bound, which is infinite if the sum diverges or has too many
        separate parts.

    Raises:
        ValueError: If the support is another one, or T is not finite on it.
    """
    starts, levels, is_complete = first_panels(family)
    fixed = lax.stop_gradient(eta)
    panels = _refine(family, fixed, starts, levels)
    top = jnp.max(panels.peak)

    # Halves of all panels: nodes that stay where they are when eta moves.
    is_short = panels.level <= _LEAST
    child = jnp.where(is_short, panels.level, panels.level - 1)
    second = panels.start + _lengths(child, eta.dtype)
    x, log_weights = _nodes(jnp.stack([panels.start, second], 1), child[:, None])
    unused = is_short[:, None, None] & (jnp.arange(2) == 1)[:, None]
    unused = unused | (panels.own == -jnp.inf)[:, None, None]
    log_weights = jnp.where(unused, -jnp.inf, log_weights)
    fine = _moments(family, eta, x.ravel(), log_weights.ravel(), top)
    mean, covariance, log_partition = fine
    sd = jnp.sqrt(jnp.diagonal(lax.stop_gradient(covariance)))
    sd = jnp.where(sd > 0, sd, 1)
    # What a panel lacks counts with the largest z^2 in it.
    ends = jnp.stack([panels.start, panels.start + _lengths(panels.level, eta.dtype) - 1], 1)
    z = (jax.vmap(jax.vmap(family.sufficient_statistics))(ends) - mean) / sd
    left = panels.errors(log_partition) * (1 + jnp.max(z**2, (1, 2)))
    error = jnp.sum(jnp.where(panels.own > -jnp.inf, left, 0))
    if not is_complete:
        error += _tail(family, fixed, starts[-1], levels[-1], log_partition, mean, sd)
    at = jnp.argmax(panels.peak)
    error += ROUNDING * _rounding(family, fixed, panels.start[at])
    error = jnp.where(jnp.isnan(error), jnp.inf, lax.stop_gradient(error))
    log_mass = jax.nn.logsumexp(panels.halves, axis=1) - log_partition
    return CountsRule(mean, covariance, log_partition, error, panels.start, panels.level, log_mass)


def _rounding(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], x: Float[Array, ""]
) -> Float[Array, ""]:
    """Returns the rounding error of eta . T at a count, in nats."""
    terms = jnp.sum(jnp.abs(eta * family.sufficient_statistics(x)))
    return jnp.finfo(eta.dtype).eps * (1 + terms)


def _log_weights(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], x: Float[Array, " *n"]
) -> Float[Array, " *n"]:
    """Returns eta . T + log h at counts, `NOWHERE` where there is no density."""

    def one(x):
        return jnp.sum(eta * family.sufficient_statistics(x)) + family.log_base_measure(x)

    values = jax.vmap(one)(x.ravel()).reshape(x.shape)
    return jnp.where(jnp.isnan(values), NOWHERE, jnp.maximum(values, NOWHERE))


def _lengths(level: Int[Array, "*p"], dtype: Any) -> Float[Array, "*p"]:
    """Returns 2^level, without rounding."""
    return jnp.asarray(2.0 ** np.arange(_LEVELS), dtype)[level]


def _nodes(
    start: Float[Array, "*p"], level: Int[Array, "*p"]
) -> tuple[Float[Array, "*p nodes"], Float[Array, "*p nodes"]]:
    """Returns the nodes of panels and the logarithms of their weights."""
    nodes, weights = (jnp.asarray(part, start.dtype)[level] for part in _rules())
    weights = jnp.broadcast_to(weights, (*start.shape, _NODES))
    return start[..., None] + nodes, jnp.log(weights)


def _panel_sums(logs: Any, start: Array, level: Array) -> tuple[Array, Array, Array]:
    """Returns own sums, sums of halves, and the highest value at nodes."""
    is_short = level <= _LEAST
    child = jnp.where(is_short, level, level - 1)
    starts = jnp.stack([start, start, start + _lengths(child, start.dtype)], -1)
    x, log_weights = _nodes(starts, jnp.stack([level, child, child], -1))
    values = logs(x)
    sums = jax.nn.logsumexp(values + log_weights, axis=-1)
    halves = jnp.stack([sums[..., 1], jnp.where(is_short, -jnp.inf, sums[..., 2])], -1)
    return sums[..., 0], halves, jnp.max(values, (-2, -1))


def _refine(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], starts: np.ndarray, levels: np.ndarray
) -> _Panels:
    """Halves panels until their sums agree with those of their halves, or no room is left."""
    logs = functools.partial(_log_weights, family, eta)
    count, start, level = (
        len(starts),
        jnp.asarray(starts, eta.dtype),
        jnp.asarray(levels, jnp.int32),
    )
    own, halves, seen = _panel_sums(logs, start, level)
    modes, heights = _find_modes(logs, start, level)
    ends = start + _lengths(level, eta.dtype)
    holds = (modes >= start[:, None]) & (modes < ends[:, None])
    peak = jnp.maximum(seen, jnp.max(jnp.where(holds, heights, -jnp.inf), 1))

    def pad(leaf, value):
        widths = [(0, _PANELS - count)] + [(0, 0)] * (leaf.ndim - 1)
        return jnp.pad(leaf, widths, constant_values=value)

    panels = _Panels(
        pad(start, 0.0),
        pad(level, 0),
        pad(own, -jnp.inf),
        pad(halves, -jnp.inf),
        pad(peak, -jnp.inf),
        pad(seen, -jnp.inf),
    )

    tolerance = _TOLERANCE + _rounding(family, eta, modes[jnp.argmax(heights)])

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
        starts = jnp.stack([first, first + _lengths(level, eta.dtype)], 1)
        both = jnp.stack([level, level], 1)
        own, halves, seen = _panel_sums(logs, starts, both)
        holds = (modes >= starts[..., None]) & (
            modes < starts[..., None] + _lengths(both, eta.dtype)[..., None]
        )
        peak = jnp.maximum(seen, jnp.max(jnp.where(holds, heights, -jnp.inf), -1))
        new = _Panels(starts, both, own, halves, peak, seen)
        # Those that are not chosen are written beyond the end, which drops them.
        first_rows = jnp.where(chosen, rows, _PANELS)
        second_rows = jnp.where(chosen, used + jnp.cumsum(chosen) - 1, _PANELS)

        def put(old, part):
            old = old.at[first_rows].set(part[:, 0], mode="drop")
            return old.at[second_rows].set(part[:, 1], mode="drop")

        return jax.tree.map(put, panels, new), used + jnp.sum(chosen)

    return lax.while_loop(is_open, halve, (panels, jnp.asarray(count)))[0]


def _find_modes(logs: Any, start: Array, level: Array) -> tuple[Array, Array]:
    """Returns the highest counts between nodes of the first panels, and their log-densities."""
    x = _nodes(start, level)[0].ravel()
    values = logs(x)
    padded = jnp.pad(values, 1, constant_values=-jnp.inf)
    is_high = (values >= padded[:-2]) & (values >= padded[2:]) & (values > NOWHERE)
    heights, rows = lax.top_k(jnp.where(is_high, values, -jnp.inf), min(_MODES, len(x)))
    low = jnp.where(rows > 0, x[jnp.maximum(rows - 1, 0)], x[0])
    high = jnp.where(rows < len(x) - 1, x[jnp.minimum(rows + 1, len(x) - 1)], x[-1])

    def narrow(carry, _):
        low, high, _, _ = carry
        points = jnp.round(low + (high - low) * jnp.linspace(0, 1, _BRACKET)[:, None])
        values = logs(points)
        best = jnp.argmax(values, 0)
        at = jnp.take_along_axis(points, best[None], 0)[0]
        height = jnp.take_along_axis(values, best[None], 0)[0]
        below = jnp.take_along_axis(points, jnp.maximum(best - 1, 0)[None], 0)[0]
        above = jnp.take_along_axis(points, jnp.minimum(best + 1, _BRACKET - 1)[None], 0)[0]
        return (below, above, at, height), None

    steps = math.ceil(_LEVELS / math.log2((_BRACKET - 1) / 2))
    (_, _, modes, found), _ = lax.scan(narrow, (low, high, x[rows], heights), length=steps)
    return modes, jnp.where(jnp.isfinite(heights), found, -jnp.inf)


def _moments(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    x: Float[Array, " n"],
    log_weights: Float[Array, " n"],
    top: Float[Array, ""],
) -> tuple[Array, Array, Array]:
    """Returns E[T], Cov[T] and A."""
    stats = jax.vmap(family.sufficient_statistics)(x)
    used = jnp.isfinite(log_weights) & jnp.isfinite(stats).all(1)
    stats = jnp.where(used[:, None], stats, 0)
    base = jax.vmap(family.log_base_measure)(x)
    logs = jnp.where(used, stats @ eta + base + log_weights, -jnp.inf)
    # Terms without density have no derivative.
    exists = logs > NOWHERE / 2
    terms = jnp.where(exists, jnp.exp(jnp.where(exists, logs, top) - top), 0)
    total = jnp.sum(terms)
    p = terms / total
    center = lax.stop_gradient(p @ stats)
    centered = jnp.where(used[:, None], stats - center, 0)
    shift = p @ centered
    covariance = (centered - shift).T @ ((centered - shift) * p[:, None])
    return center + shift, covariance, top + jnp.log(total)


def _tail(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    start: float,
    level: int,
    log_partition: Float[Array, ""],
    mean: Float[Array, " eta_dim"],
    sd: Float[Array, " eta_dim"],
) -> Float[Array, ""]:
    """Returns a bound of what lies beyond the last panel, in units of z^2.

    The weights there fall like a power of x at least, the one that they have in the last panel.
    """
    end = start + 2.0**level - 1
    x = jnp.asarray([max(end / 2, start), end])
    half, last = _log_weights(family, eta, x)
    power = (half - last) / jnp.log(x[1] / x[0])
    z = (family.sufficient_statistics(x[1]) - mean) / sd
    tail = jnp.exp(last + jnp.log(end) - log_partition) * (1 + jnp.max(z**2)) / (power - 1)
    return jnp.where(last <= NOWHERE / 2, 0, jnp.where(power > 1, tail, jnp.inf))


def draw_counts(
    key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
) -> tuple[Int[Array, " n"], Bool[Array, ""]]:
    """Draws counts: a panel by its probability, then a half of it, and so on to one count.

    Args:
        key: PRNG key.
        family: A family whose support is `Counts`.
        eta: Valid natural parameters, `(eta_dim,)`.
        n: How many.

    Returns:
        Draws, `(n,)`, and whether the sums that they are drawn by are exact to 1e-3.
    """
    rule = sum_counts(family, eta)
    logs = functools.partial(_log_weights, family, eta)

    def one(key):
        first, descent, last = jax.random.split(key, 3)
        row = jax.random.categorical(first, rule.log_mass)

        def choose(carry):
            start, level, key = carry
            key, here = jax.random.split(key)
            _, halves, _ = _panel_sums(logs, start, level)
            side = jax.random.categorical(here, halves)
            return start + side * _lengths(level - 1, eta.dtype), level - 1, key

        start, level, _ = lax.while_loop(
            lambda carry: carry[1] > _LEAST, choose, (rule.start[row], rule.level[row], descent)
        )
        x, log_weights = _nodes(start, level)
        return x[jax.random.categorical(last, logs(x) + log_weights)]

    found = jax.vmap(one)(jax.random.split(key, n))
    return found.astype(int), rule.error < _MOST_ERROR
