"""Panels of counts, and rules with few integer nodes for sums over them."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_context
from jaxtyping import Array, Float, Int

from nnef_dists.families import Counts, ExponentialFamily
from nnef_dists.sampling._smooth import is_smooth

# Number of nodes per panel. A panel of at most this many counts is summed term by term.
NODES = 16
# Largest degree of polynomials for which the rules of longer panels are exact.
_DEGREE = 13
LEAST = int(math.log2(NODES))
# Number of panel lengths, 2^0 to 2^44 counts.
LEVELS = 45
# Largest number of panels, of 16 counts each, if T is not smooth.
_MOST_SHORT = 2048
_COMPARISONS = frozenset({"eq", "ne"})


@functools.cache
def rules() -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and weights of panels of 2^k counts, each `(levels, nodes)`.

    Nodes are counted from the start of the panel. They are all counts of a short panel, and the
    counts nearest to Gauss-Legendre nodes of a longer one. Of all weights that sum polynomials up
    to a degree exactly, the rule has the weights closest to Gauss-Legendre weights. No weight is
    negative.

    Reference:
        Wilson, *Necessary and sufficient conditions for equidistant quadrature formula*, SIAM J.
        Numer. Anal. 7 (1970), for the rules of least squares.
    """
    gauss, gauss_weights = np.polynomial.legendre.leggauss(NODES)
    nodes, weights = np.zeros((LEVELS, NODES)), np.zeros((LEVELS, NODES))
    half = NODES // 2
    for level in range(LEVELS):
        length = 2.0**level
        if level <= LEAST:
            nodes[level] = np.minimum(np.arange(NODES), length - 1)
            weights[level] = np.arange(NODES) < length
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
    """Returns the means of Legendre polynomials over 2^level counts, mapped to [-1, 1]."""
    length = 2.0**level
    if level <= 14:
        x = (2 * np.arange(length) + 1) / length - 1
        return np.polynomial.legendre.legvander(x, _DEGREE).mean(0)
    # The midpoint Euler-Maclaurin formula replaces long sums.
    step, sums = 2 / length, np.zeros(_DEGREE + 1)
    for degree in range(_DEGREE + 1):
        one = np.polynomial.Legendre.basis(degree)
        first, third = one.deriv(1), one.deriv(3)
        sums[degree] = (degree == 0) - step**2 / 48 * (first(1) - first(-1))
        sums[degree] += 7 * step**4 / 11520 * (third(1) - third(-1))
    return sums


class FirstPanels(NamedTuple):
    """Panels before refinement.

    Attributes:
        starts: First count of each panel, `(panels,)`.
        levels: log2 of the length of each panel, `(panels,)`.
        is_complete: Whether the panels end at the last count of the support.
        is_smooth: Whether T and log h are smooth, according to their traced program.
    """

    starts: np.ndarray
    levels: np.ndarray
    is_complete: bool
    is_smooth: bool


@functools.cache
def first_panels(family: ExponentialFamily) -> FirstPanels:
    """Returns panels that cover all counts, or the first 2^15 if T is not smooth.

    Lengths double from 16, as long as T is finite. If the traced program of T contains operations
    such as comparisons or remainders, T may jump between any two nodes. All panels then have 16
    counts.

    Args:
        family: A family whose support is `Counts`.

    Raises:
        ValueError: If T is not finite at the first counts. The message contains a remedy.
    """
    support = counts_of(family)
    starts, levels, x = [], [], support.lower
    level, smooth = LEAST, _is_smooth(family)
    while len(starts) < (2 * LEVELS if smooth else _MOST_SHORT) and level < LEVELS:
        left = math.inf if support.upper is None else support.upper + 1 - x
        if left <= 0:
            break
        if 2**level > left:
            level = int(math.log2(left))
            # Shorter and shorter panels cover the rest of a bounded support.
            while left > 0:
                level = min(level, int(math.log2(left)))
                starts.append(x)
                levels.append(level)
                x, left = x + 2**level, left - 2**level
            break
        starts.append(x)
        levels.append(level)
        x += 2**level
        level += smooth and len(starts) > 1
    nodes = np.asarray(starts, float)[:, None] + rules()[0][np.asarray(levels)]
    with jax.enable_x64(True), eval_context():
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
    whole = np.asarray(finite.all((1, 2)))
    known = len(whole) if whole.all() else int(np.argmin(whole))
    is_complete = known == len(whole) and support.upper is not None
    return FirstPanels(
        np.asarray(starts[:known], float), np.asarray(levels[:known]), is_complete, smooth
    )


def _is_smooth(family: ExponentialFamily) -> bool:
    def parts(x):
        return family.sufficient_statistics(x), family.log_base_measure(x)

    return is_smooth(parts, jax.ShapeDtypeStruct((), jnp.result_type(float)), _COMPARISONS)


def counts_of(family: ExponentialFamily) -> Counts:
    """Returns the support of a family of counts.

    Raises:
        ValueError: If the support is not `Counts`. The message names an alternative.
    """
    support = family.support
    if isinstance(support, Counts):
        return support
    remedy = getattr(support, "remedy", "Use nd.Quadrature(family) in one or two dimensions.")
    raise ValueError(
        f"Expected a family with the support nd.Counts for summation; {family!r} has {support!r}. "
        f"{remedy}"
    )


def panel_lengths(level: Int[Array, "*p"], dtype: Any) -> Float[Array, "*p"]:
    """Returns 2^level, without rounding."""
    return jnp.asarray(2.0 ** np.arange(LEVELS), dtype)[level]


def panel_nodes(
    start: Float[Array, "*p"], level: Int[Array, "*#p"]
) -> tuple[Float[Array, "*p nodes"], Float[Array, "*p nodes"]]:
    """Returns the nodes of panels and the logarithms of their weights."""
    nodes, weights = (jnp.asarray(part, start.dtype)[level] for part in rules())
    weights = jnp.broadcast_to(weights, (*start.shape, NODES))
    return start[..., None] + nodes, jnp.log(weights)
