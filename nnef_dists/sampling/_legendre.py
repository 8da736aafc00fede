"""Gauss-Legendre rules, and places of their nodes on a piece along which a density falls."""

import functools
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike

# Largest distance of the end of a body, in distances of one nat.
_LONGEST_BODY = 8.0
# Logarithm of the distance over which the nodes of a tail are even at first.
_DENSE_TAIL = 3.0
# Fall of the density, in nats or relative to the digits, that is required before overflow.
_LEAST_FALL = 32.0
_LEAST_FALL_OF_DIGITS = 0.75


class Legendre(NamedTuple):
    """A rule on (0, 1): nodes, weights, and of values there integrals and Legendre coefficients."""

    node: np.ndarray
    weight: np.ndarray
    cumulative: np.ndarray
    coefficients: np.ndarray


@functools.cache
def legendre(points: int) -> Legendre:
    """Returns the Gauss-Legendre rule with so many nodes."""
    node, weight = np.polynomial.legendre.leggauss(points)
    values = np.polynomial.legendre.legvander(node, points)
    norm = 2 * np.arange(points) + 1
    coefficients = (norm[:, None] / 2) * values[:, :points].T * weight
    # The integral of P_k from -1 on is (P_{k+1} - P_{k-1}) / (2 k + 1).
    integrals = np.empty((points, points))
    integrals[:, 0] = node + 1
    integrals[:, 1:] = (values[:, 2:] - values[:, : points - 1]) / norm[1:]
    return Legendre((node + 1) / 2, weight / 2, integrals @ coefficients / 2, coefficients)


class Spread(NamedTuple):
    """Distances of nodes from the start of a piece, in its body and in its tail.

    Attributes:
        inner: The distance at which the body ends and the tail begins.
        body: Distances of nodes in the body.
        tail: Distances of nodes in the tail.
        steps: Derivatives of both distances in the place t of a node.
    """

    inner: Array
    body: Array
    tail: Array
    steps: tuple[Array, Array]


def spread_nodes(t: Array, width: Array, bulk: Array) -> Spread:
    """Spreads nodes over a piece, for a body and for a tail.

    In the body the distance of a node from the start is w expm1(a t) / expm1(a), with a such that a
    third of the nodes lie within one nat. In the tail its logarithm is a quadratic function of t.

    Args:
        t: Places of the nodes in (0, 1).
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
    # The beginning of a long tail takes more nodes than its rest.
    decades = jnp.log(ratio / end)
    rate = jnp.minimum(decades, _DENSE_TAIL)
    tail = inner * jnp.exp(rate * t + (decades - rate) * t**2)
    steps = length * alpha * jnp.exp(alpha * t), tail * (rate + 2 * (decades - rate) * t)
    return Spread(inner, length * jnp.expm1(alpha * t), tail, steps)


def least_fall(dtype: DTypeLike) -> float:
    """Returns the fall, in nats, below which a density is not negligible at the end of a piece."""
    digits = -math.log(float(jnp.finfo(dtype).eps))
    return min(_LEAST_FALL, _LEAST_FALL_OF_DIGITS * digits)
