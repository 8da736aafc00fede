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

# Starts of the climb: the origin, and normal points of this standard deviation around it.
_STARTS, _SPREAD = 4, 2.0
_MOST_STEPS = 200
# Lengths of a step, relative to Newton's.
_LENGTHS = tuple(2.0**k for k in range(3, -13, -1))
# Squared Newton decrements, in nats: below the first one Newton's own step is taken, below the
# second one the climb ends, and a point above the last one is no mode.
_QUADRATIC, _CLOSE, _MODE = 0.1, 1e-4, 1e-3
# Steps after the climb: each one squares the remaining decrement.
_POLISH = 2
# The curvatures that count as zero, relative to the largest one.
_LEAST_CURVATURE = 16.0


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def find_mode(family: ExponentialFamily, eta: Float[Array, " eta_dim"]) -> Float[Array, " n"]:
    """Returns the highest mode u of the log-density l in unconstrained coordinates.

    Newton's method climbs from four points, with the absolute values of the curvatures and a line
    search. Derivatives follow from the implicit equation grad l(u; eta) = 0, to any order:

        du / d eta = -(hess l)^-1 d grad l / d eta

    Args:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.

    Returns:
        The mode, `(n,)`; NaN if no point is found where the gradient is zero and the Hessian
        negative definite.
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
    """Where a climb ends: NaN and False where that is no mode."""

    point: Float[Array, " n"]
    height: Float[Array, ""]
    found: Bool[Array, ""]


class _State(NamedTuple):
    """One point of a climb, Newton's step from there, and its decrement in nats."""

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
        # Near the mode heights differ by less than their rounding, and Newton's step is right.
        rounding = 8 * eps * jnp.abs(state.height)
        newton = state.is_definite & (state.decrement < _QUADRATIC + rounding)
        higher = jnp.where(heights[best] > state.height, points[best], state.point)
        point = jnp.where(newton, state.point + state.step, higher)
        # A climb that cannot get higher has ended, whether at a mode or not.
        stuck = jnp.all(point == state.point)
        return look(point, jnp.where(stuck, _MOST_STEPS, state.steps + 1))

    state = lax.while_loop(is_far, climb, look(start, jnp.zeros((), jnp.int32)))
    for _ in range(_POLISH):
        state = look(state.point + state.step, state.steps)
    found = state.is_definite & (state.decrement < _MODE)
    nan = jnp.asarray(jnp.nan, eta.dtype)
    return _End(jnp.where(found, state.point, nan), jnp.where(found, state.height, -jnp.inf), found)
