"""The mode of a density in unconstrained coordinates, differentiable to any order."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from nnef_dists._factorizations import cholesky, eigh, inverse_factor, product
from nnef_dists.families import ExponentialFamily, support_dim, unconstrained_logdensity

# Number of starts, one of them at the origin, and standard deviation of the others around it.
_STARTS, _SPREAD = 4, 2.0
# Largest number of steps per start.
_MOST_STEPS = 200
# Lengths of a step, relative to Newton's step.
_LENGTHS = tuple(2.0**k for k in range(3, -13, -1))
# Squared Newton decrements, in nats. Below the first, Newton's full step is taken. Below the
# second, the search ends. A point above the third is not a mode.
_QUADRATIC, _CLOSE, _MODE = 0.1, 1e-4, 1e-3
# Number of Newton steps after the search. Each step squares the remaining decrement.
_POLISH = 2
# Largest curvature that counts as zero, in machine epsilons of the largest curvature.
_LEAST_CURVATURE = 16.0


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def find_mode(family: ExponentialFamily, eta: Float[Array, " eta_dim"]) -> Float[Array, " n"]:
    """Returns the highest mode u of the log-density l in unconstrained coordinates.

    Newton's method starts from four points, with the absolute values of the curvatures and a line
    search. Derivatives of any order follow from the implicit equation grad l(u; eta) = 0:

        du / d eta = -(hess l)^-1 d grad l / d eta

    Args:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.

    Returns:
        The mode, `(n,)`. NaN if no point is found with zero gradient and a negative definite
        Hessian.
    """
    n = support_dim(family)
    normal = np.random.default_rng(0).normal(size=(_STARTS - 1, n))
    starts = jnp.asarray(_SPREAD * np.concatenate([np.zeros((1, n)), normal]), eta.dtype)
    ends = jax.vmap(functools.partial(_climb, family, eta))(starts)
    return ends.point[jnp.argmax(jnp.where(ends.found, ends.height, -jnp.inf))]


@find_mode.defjvp
def _(family, primals, tangents):
    (eta,), (tangent,) = primals, tangents
    mode = find_mode(family, eta)

    def slope(eta, u):
        return jax.grad(unconstrained_logdensity, 2)(family, eta, u)

    curvature = jax.jacfwd(slope, 1)(eta, mode)
    moved = jax.jvp(lambda eta: slope(eta, mode), (eta,), (tangent,))[1]
    inverse = inverse_factor(cholesky(-curvature))
    return mode, product(inverse.T, product(inverse, moved))


class _End(NamedTuple):
    """The end of a search. If it is not a mode, NaN, -inf and False."""

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


def _climb(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], start: Float[Array, " n"]
) -> _End:
    height = functools.partial(unconstrained_logdensity, family, eta)
    lengths = jnp.asarray(_LENGTHS, eta.dtype)
    eps = jnp.finfo(eta.dtype).eps

    def look(u, count):
        slope, curvature = jax.grad(height)(u), -jax.hessian(height)(u)
        values, vectors = eigh(curvature)
        least = _LEAST_CURVATURE * eps * jnp.max(jnp.abs(values)) + jnp.finfo(eta.dtype).tiny
        along = vectors.T @ slope
        weighed = along / jnp.maximum(jnp.abs(values), least)
        decrement = jnp.sum(along * weighed)
        definite = (values[0] > least) & jnp.isfinite(decrement)
        return _State(u, height(u), vectors @ weighed, decrement, definite, count)

    def is_far(state):
        near = state.is_definite & (state.decrement < _CLOSE)
        return ~near & (state.steps < _MOST_STEPS) & jnp.isfinite(state.decrement)

    def climb(state):
        points = state.point + lengths[:, None] * state.step
        heights = jax.vmap(height)(points)
        heights = jnp.where(jnp.isfinite(heights), heights, -jnp.inf)
        best = jnp.argmax(heights)
        # Near the mode, heights differ by less than their rounding, but Newton's step is accurate.
        rounding = 8 * eps * jnp.abs(state.height)
        newton = state.is_definite & (state.decrement < _QUADRATIC + rounding)
        higher = jnp.where(heights[best] > state.height, points[best], state.point)
        point = jnp.where(newton, state.point + state.step, higher)
        # A search that cannot get higher has ended, at a mode or not.
        stuck = jnp.all(point == state.point)
        return look(point, jnp.where(stuck, _MOST_STEPS, state.steps + 1))

    state = lax.while_loop(is_far, climb, look(start, jnp.zeros((), jnp.int32)))
    for _ in range(_POLISH):
        state = look(state.point + state.step, state.steps)
    found = state.is_definite & (state.decrement < _MODE)
    nan = jnp.asarray(jnp.nan, eta.dtype)
    return _End(jnp.where(found, state.point, nan), jnp.where(found, state.height, -jnp.inf), found)
