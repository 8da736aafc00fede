"""A box as the support of parameters."""

from typing import ClassVar, final

import jax.numpy as jnp
import paramax
from flowjax.bijections import AbstractBijection
from jax.scipy.special import ndtr, ndtri
from jax.scipy.stats import norm
from jaxtyping import Array, ArrayLike, Float

from nnef_dists.bayes import register_saveable


@register_saveable
@final
class BoxSupport(AbstractBijection):
    """The box [low, high], reached from R^d by the normal distribution function.

        theta = low + (high - low) Phi(u)

    A uniform distribution on the box is a standard normal one of u, and densities that do not
    vanish at an edge have tails in u as light as a normal's: logits would have exponential tails.

    Args:
        low: Lower ends, `(d,)`.
        high: Upper ends, `(d,)`, each above the lower one.

    Raises:
        ValueError: If shapes differ, or an end is not finite or not above the other one.
    """

    low: paramax.NonTrainable[Array]
    high: paramax.NonTrainable[Array]

    cond_shape: ClassVar[None] = None

    def __init__(self, low: Float[Array, " d"], high: Float[Array, " d"]):
        low, high = jnp.asarray(low, float), jnp.asarray(high, float)
        if low.ndim != 1 or low.shape != high.shape:
            raise ValueError(f"Expected ends of one shape (d,); got {low.shape} and {high.shape}")
        if not bool(jnp.all(jnp.isfinite(low) & jnp.isfinite(high) & (low < high))):
            raise ValueError(f"Expected finite ends, low < high; got {low} and {high}")
        self.low, self.high = paramax.NonTrainable(low), paramax.NonTrainable(high)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of theta and of u, `(d,)`."""
        return paramax.unwrap(self.low).shape

    def transform_and_log_det(
        self, x: ArrayLike, condition: ArrayLike | None = None
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """Returns theta of unconstrained coordinates, and the log Jacobian determinant, in nats."""
        x = jnp.asarray(x)
        low, high = self._ends(x)
        theta = jnp.clip(low + (high - low) * ndtr(x), low, high)
        return theta, jnp.sum(norm.logpdf(x) + jnp.log(high - low))

    def inverse_and_log_det(
        self, y: ArrayLike, condition: ArrayLike | None = None
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """Returns the unconstrained coordinates of theta, and the log Jacobian determinant.

        The ends themselves belong to the next floating number inside; outside all is NaN.
        """
        y = jnp.asarray(y)
        low, high = self._ends(y)
        fraction = (y - low) / (high - low)
        tiny = jnp.finfo(y.dtype).tiny
        inside = jnp.clip(fraction, tiny, 1 - jnp.finfo(y.dtype).epsneg)
        u = jnp.where((y >= low) & (y <= high), ndtri(inside), jnp.nan)
        return u, -jnp.sum(norm.logpdf(u) + jnp.log(high - low))

    def _ends(self, like: Array) -> tuple[Array, Array]:
        unwrapped = paramax.unwrap(self)
        return unwrapped.low.astype(like.dtype), unwrapped.high.astype(like.dtype)
