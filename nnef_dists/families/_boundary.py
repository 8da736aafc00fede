"""Points that rounding has put on the boundary of an open support.

A float cannot come arbitrarily close to 1, nor to 0, so that unconstrained coordinates far out map
onto the boundary, where a logarithm in T is infinite. Such a point is outside the support: its
log-density is -inf (a sampler rejects it, and counts it), while T stays finite, so that weights of
zero are not multiplied by infinity.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def log_above_zero(x: Array) -> Array:
    """Returns log x; where x is below the smallest normal float, the log of that."""
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


def log_below_one(x: Array) -> Array:
    """Returns log(1 - x); where x is 1, that of the largest float below it."""
    return jnp.log1p(-jnp.minimum(x, 1 - float(jnp.finfo(x.dtype).epsneg)))


def log_indicator(inside: Bool[Array, "..."], x: Array) -> Float[Array, ""]:
    """Returns 0 where all of `inside` holds and -inf elsewhere, in the dtype of `x`."""
    return jnp.where(jnp.all(inside), 0.0, -jnp.inf).astype(x.dtype)
