"""Gauss-Legendre rules, and positions of their nodes on a piece along which a density falls."""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

# Number of last Legendre coefficients that bound errors of interpolants at the ends, and factor.
LAST, _AT_ENDS = 4, 16.0
# Largest length of a body, in units of the distance at which the density has fallen by one nat.
_LONGEST_BODY = 8.0
# Largest initial rate at which the log distance of tail nodes grows with their position.
_DENSE_TAIL = 3.0
# Required fall of the density before overflow, in nats and as a fraction of the digits.
_LEAST_FALL = 32.0
_LEAST_FALL_OF_DIGITS = 0.75


class Legendre(NamedTuple):
    """Nodes and weights on (0, 1), and matrices from values to integrals and coefficients.

    The rows `first` and `last` extrapolate values to 0 and 1.
    """

    node: np.ndarray
    weight: np.ndarray
    cumulative: np.ndarray
    coefficients: np.ndarray
    first: np.ndarray
    last: np.ndarray


@functools.cache
def legendre(points: int) -> Legendre:
    """Returns the Gauss-Legendre rule with `points` nodes."""
    node, weight = np.polynomial.legendre.leggauss(points)
    values = np.polynomial.legendre.legvander(node, points)
    norm = 2 * np.arange(points) + 1
    coefficients = (norm[:, None] / 2) * values[:, :points].T * weight
    # The integral of P_k from -1 on is (P_{k+1} - P_{k-1}) / (2 k + 1).
    integrals = np.empty((points, points))
    integrals[:, 0] = node + 1
    integrals[:, 1:] = (values[:, 2:] - values[:, : points - 1]) / norm[1:]
    cumulative = integrals @ coefficients / 2
    first, last = (-1.0) ** np.arange(points) @ coefficients, np.sum(coefficients, 0)
    return Legendre((node + 1) / 2, weight / 2, cumulative, coefficients, first, last)


def end_values(values: Float[Array, "*n nodes"]) -> tuple[Array, Array, Array]:
    """Returns the interpolants of values at the nodes, at 0 and at 1, and their largest errors.

    The errors at the ends are those of the coefficients beyond the last ones, which decay.
    """
    rule, dtype = legendre(values.shape[-1]), values.dtype
    first, last = (values @ jnp.asarray(row, dtype) for row in (rule.first, rule.last))
    rows = jnp.asarray(rule.coefficients[-LAST:].T, dtype)
    return first, last, _AT_ENDS * jnp.max(jnp.abs(values @ rows), -1)


class Spread(NamedTuple):
    """Distances of nodes from the start of a piece, in its body and in its tail.

    Attributes:
        inner: The distance at which the body ends and the tail begins.
        body: Distances of nodes in the body.
        tail: Distances of nodes in the tail.
        steps: Derivatives of both distances with respect to the position t of a node.
    """

    inner: Array
    body: Array
    tail: Array
    steps: tuple[Array, Array]


def spread_nodes(t: Array, width: Array, bulk: Array) -> Spread:
    """Spreads nodes over a piece, for a body and for a tail.

    In the body, the distance of a node from the start is w expm1(a t) / expm1(a). A third of the
    nodes lie within one nat, which determines a. In the tail, the logarithm of the distance is a
    quadratic function of t.

    Args:
        t: Positions of the nodes in (0, 1).
        width: Lengths of the pieces. They broadcast against t.
        bulk: Distances at which the density has fallen by one nat. They broadcast against t.

    Returns:
        The distances.
    """
    ratio = jnp.maximum(width / bulk, 1)
    end = jnp.minimum(jnp.sqrt(ratio), _LONGEST_BODY)
    nat = 3 * jnp.log(jnp.maximum((jnp.sqrt(4 * end - 3) - 1) / 2, 0.5))
    alpha = jnp.where(jnp.abs(nat) < 1e-3, 1e-3, nat)
    inner = width * end / ratio
    length = inner / jnp.expm1(alpha)
    # The beginning of a long tail needs more nodes than its rest.
    decades = jnp.log(ratio / end)
    rate = jnp.minimum(decades, _DENSE_TAIL)
    tail = inner * jnp.exp(rate * t + (decades - rate) * t**2)
    steps = length * alpha * jnp.exp(alpha * t), tail * (rate + 2 * (decades - rate) * t)
    return Spread(inner, length * jnp.expm1(alpha * t), tail, steps)


def least_fall(dtype: DTypeLike) -> float:
    """Returns the smallest fall, in nats, of a negligible density at the end of a piece."""
    digits = -math.log(float(jnp.finfo(dtype).eps))
    return min(_LEAST_FALL, _LEAST_FALL_OF_DIGITS * digits)
