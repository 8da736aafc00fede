"""Newton's method for maxima of functions, and derivatives of the maxima."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from nnef_dists._factorizations import cholesky, eigh, inverse_factor, product

# Largest number of steps per start.
_MOST_STEPS = 200
# Lengths of a step, relative to Newton's step.
_LENGTHS = tuple(2.0**k for k in range(3, -13, -1))
# Squared Newton decrements, in nats. Below the first, Newton's full step is taken. Below the
# second, the search ends. A point above the third is not a maximum.
_QUADRATIC, _CLOSE, _MAXIMUM = 0.1, 1e-4, 1e-3
# Number of Newton steps after the search. Each step squares the remaining decrement.
_POLISH = 2
# Largest curvature that counts as zero, in machine epsilons of the largest curvature.
_LEAST_CURVATURE = 16.0


class Summit(NamedTuple):
    """The end of a search.

    Attributes:
        point: The maximum, `(n,)`. NaN if none is found.
        height: The function at the maximum, in nats. -inf if none is found.
        found: Whether the gradient is zero and the Hessian negative definite.
    """

    point: Float[Array, " n"]
    height: Float[Array, ""]
    found: Bool[Array, ""]


class _State(NamedTuple):
    """One point of a search, its Newton step, and its Newton decrement in nats."""

    point: Float[Array, " n"]
    height: Float[Array, ""]
    step: Float[Array, " n"]
    decrement: Float[Array, ""]
    is_definite: Bool[Array, ""]
    steps: Array


def climb(height: Callable[[Array], Array], start: Float[Array, " n"]) -> Summit:
    """Returns a local maximum of a function, by Newton's method from one point.

    Steps use the absolute values of the curvatures, and a line search over fixed lengths.

    Args:
        height: The function, twice differentiable, in nats. -inf or NaN outside its domain.
        start: A point of its domain, `(n,)`.

    Returns:
        The maximum.
    """
    dtype = start.dtype
    lengths, eps = jnp.asarray(_LENGTHS, dtype), jnp.finfo(dtype).eps

    def look(u, count):
        slope, curvature = jax.grad(height)(u), -jax.hessian(height)(u)
        values, vectors = eigh(curvature)
        least = _LEAST_CURVATURE * eps * jnp.max(jnp.abs(values)) + jnp.finfo(dtype).tiny
        along = vectors.T @ slope
        weighed = along / jnp.maximum(jnp.abs(values), least)
        decrement = jnp.sum(along * weighed)
        definite = (values[0] > least) & jnp.isfinite(decrement)
        return _State(u, height(u), vectors @ weighed, decrement, definite, count)

    def is_far(state):
        near = state.is_definite & (state.decrement < _CLOSE)
        return ~near & (state.steps < _MOST_STEPS) & jnp.isfinite(state.decrement)

    def move(state):
        points = state.point + lengths[:, None] * state.step
        heights = jax.vmap(height)(points)
        exists = jnp.isfinite(heights)
        heights = jnp.where(exists, heights, -jnp.inf)
        best = jnp.argmax(heights)
        # Near the maximum, heights differ by less than their rounding. Newton's step is accurate.
        rounding = 8 * eps * jnp.abs(state.height)
        newton = state.is_definite & (state.decrement < _QUADRATIC + rounding)
        newton &= exists[_LENGTHS.index(1.0)]
        higher = jnp.where(heights[best] > state.height, points[best], state.point)
        point = jnp.where(newton, state.point + state.step, higher)
        # A search that cannot get higher has ended, at a maximum or not.
        stuck = jnp.all(point == state.point)
        return look(point, jnp.where(stuck, _MOST_STEPS, state.steps + 1))

    state = lax.while_loop(is_far, move, look(start, jnp.zeros((), jnp.int32)))
    for _ in range(_POLISH):
        state = look(state.point + state.step, state.steps)
    found = state.is_definite & (state.decrement < _MAXIMUM)
    nan = jnp.asarray(jnp.nan, dtype)
    point = jnp.where(found, state.point, nan)
    return Summit(point, jnp.where(found, state.height, -jnp.inf), found)


def tangent_of_maximum(
    height: Callable[[Any, Array], Array],
    eta: Float[Array, " eta_dim"],
    point: Float[Array, " n"],
    tangent: Float[Array, " eta_dim"],
) -> Float[Array, " n"]:
    """Returns the tangent of a maximum u of l(eta, u), by the implicit function theorem.

        du = -(hess_u l)^-1 (d grad_u l / d eta) d eta

    Args:
        height: The function l of eta and u.
        eta: Its parameters, `(eta_dim,)`.
        point: The maximum u at eta, `(n,)`.
        tangent: The tangent of eta, `(eta_dim,)`.

    Returns:
        The tangent of u, `(n,)`.
    """
    slope = jax.grad(height, 1)
    curvature = jax.jacfwd(slope, 1)(eta, point)
    moved = jax.jvp(lambda eta: slope(eta, point), (eta,), (tangent,))[1]
    inverse = inverse_factor(cholesky(-curvature))
    return product(inverse.T, product(inverse, moved))
