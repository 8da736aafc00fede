"""Roots of functions of one variable in brackets, in a fixed number of steps."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def find_root(
    fn: Callable[[Array], Array], ends: tuple[Array, Array], values: tuple[Array, Array], steps: int
) -> Array:
    """Returns roots of a function by the ITP method.

    In the worst case, n steps are as accurate as n - 1 bisections.

    Args:
        fn: Elementwise function of an array.
        ends: Lower and upper ends of the brackets.
        values: Values of the function at both ends, of different signs.
        steps: Number of evaluations.

    Returns:
        The end of each bracket, after all steps, at which the function is closer to 0.

    Reference:
        Oliveira and Takahashi, *An enhancement of the bisection method average performance
        preserving minmax optimality*, ACM Trans. Math. Software 47 (2020).
    """
    whole = ends[1] - ends[0]

    def step(i, state):
        (low, high), (at_low, at_high) = state
        middle, half = (low + high) / 2, (high - low) / 2
        size = jnp.maximum(jnp.abs(at_low), jnp.abs(at_high))
        a, b = at_low / size, at_high / size
        secant = low + (high - low) * jnp.where(a != b, a / (a - b), 0.5)
        toward = jnp.sign(middle - secant)
        shift = 0.8 * half**2 / jnp.maximum(whole, jnp.finfo(whole.dtype).tiny)
        new = jnp.where(shift <= jnp.abs(middle - secant), secant + toward * shift, middle)
        radius = jnp.maximum(whole * jnp.exp2(-i.astype(whole.dtype)) - half, 0)
        new = jnp.where(jnp.abs(new - middle) <= radius, new, middle - toward * radius)
        at_new = fn(new)
        is_low = jnp.sign(at_new) == jnp.sign(at_low)
        return (
            (jnp.where(is_low, new, low), jnp.where(is_low, high, new)),
            (jnp.where(is_low, at_new, at_low), jnp.where(is_low, at_high, at_new)),
        )

    (low, high), (at_low, at_high) = lax.fori_loop(0, steps, step, (ends, values))
    return jnp.where(jnp.abs(at_low) < jnp.abs(at_high), low, high)
