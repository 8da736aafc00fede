"""Panels of counts, and rules of few whole numbers for sums over them."""

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

# Nodes of a panel. A panel of at most as many counts is summed term by term.
NODES = 16
# Rules of longer panels are exact for polynomials of this degree.
_DEGREE = 13
LEAST = int(math.log2(NODES))
# Panels of up to 2^44 counts.
LEVELS = 45
# Panels of 16 counts, if T is not smooth.
_MOST_SHORT = 2048
_COMPARISONS = frozenset({"eq", "ne"})


@functools.cache
def rules() -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes and weights of panels of 2^k counts, from 0 on, each `(levels, nodes)`.

    Nodes are the counts nearest to those of Gauss and Legendre. The weights, of all that sum
    polynomials up to a degree exactly, are the closest to Gauss's. All are positive.

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


class FirstPanels(NamedTuple):
    """Panels before any is halved.

    Attributes:
        starts: Their first counts, `(panels,)`.
        levels: The logarithms to base 2 of their lengths, `(panels,)`.
        is_complete: Whether they end at the last count.
        is_smooth: Whether T and log h are smooth as far as their program shows.
    """

    starts: np.ndarray
    levels: np.ndarray
    is_complete: bool
    is_smooth: bool


@functools.cache
def first_panels(family: ExponentialFamily) -> FirstPanels:
    """Returns panels that cover all counts, or the first 2^15 if T is not smooth.

    Lengths double from 16 on, as long as T is finite. If the program of T has comparisons,
    remainders and the like, its jumps may be between any nodes: all panels are of 16 counts then.

    Args:
        family: A family whose support is `Counts`.

    Raises:
        ValueError: If T is not finite at the first counts, with the bound to declare.
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
