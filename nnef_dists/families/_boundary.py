"""Points that rounding has put on the boundary of an open support.

A float cannot come arbitrarily close to 1 or to 0. So large unconstrained coordinates map onto the
boundary, where a logarithm in T is infinite. Such a point counts as outside the support. Its
log-density is -inf, so that a sampler rejects and counts it. T stays finite there, so that weights
of zero are not multiplied by infinity.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def log_above_zero(x: Array) -> Array:
    """Returns log x, or the log of the smallest normal float if x is smaller."""
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


def log_below_one(x: Array) -> Array:
    """Returns log(1 - x), with x at most the largest float below 1."""
    return jnp.log1p(-jnp.minimum(x, 1 - float(jnp.finfo(x.dtype).epsneg)))


def log_indicator(inside: Bool[Array, "..."], x: Array) -> Float[Array, ""]:
    """Returns 0 if all of `inside` is True and -inf otherwise, in the dtype of `x`."""
    return jnp.where(jnp.all(inside), 0.0, -jnp.inf).astype(x.dtype)
