"""Smooth maps from an unconstrained array to a positive scale."""

from abc import abstractmethod
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from nnef_dists._ranges import check_number, check_range


class AbstractPositivity(eqx.Module):
    """A map from an unconstrained array to a scale: a standard deviation or a Laplace b.

    An implementation must hold only numbers in static fields, so that it has no leaves.
    """

    @abstractmethod
    def forward(self, raw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the positive scale of `raw`, with its shape and dtype."""

    @abstractmethod
    def inverse(self, scale: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Returns an unconstrained array whose scale is `scale`.

        Pass the result as `init_raw_stdv` to start at a given scale.
        """


@final
class SquaredPositivity(AbstractPositivity):
    r"""`scale = raw**2 + floor`: the default.

    The floor keeps the logarithm of the scale, and its gradient, finite at `raw = 0`.
    """

    floor: float = eqx.field(static=True, default=1e-4)

    def __check_init__(self):
        check_number("floor", self.floor, 0.0, closed="low")

    def forward(self, raw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns `raw**2 + floor`."""
        return raw**2 + self.floor

    def inverse(self, scale: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the non-negative root `sqrt(scale - floor)`.

        Raises:
            ValueError: If a concrete `scale` is below the floor. A traced one gives NaN.
        """
        scale = check_range("scale", scale, self.floor, closed="low")
        return jnp.sqrt(jnp.maximum(jnp.asarray(scale) - self.floor, 0))


@final
class SoftplusPositivity(AbstractPositivity):
    """`scale = log(1 + exp(raw)) + floor`: linear for large `raw`, exponential for small."""

    floor: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        check_number("floor", self.floor, 0.0, closed="low")

    def forward(self, raw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns `log(1 + exp(raw)) + floor`."""
        return jax.nn.softplus(raw) + self.floor

    def inverse(self, scale: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Returns `log(exp(scale - floor) - 1)`, without overflow for large `scale`.

        Raises:
            ValueError: If a concrete `scale` is not above the floor. A traced one gives NaN.
        """
        scale = check_range("scale", scale, self.floor)
        excess = jnp.asarray(scale) - self.floor
        return excess + jnp.log(-jnp.expm1(-excess))


@final
class ExponentialPositivity(AbstractPositivity):
    """`scale = exp(raw)`: steps in `raw` are relative changes of the scale."""

    def forward(self, raw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns `exp(raw)`."""
        return jnp.exp(raw)

    def inverse(self, scale: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Returns `log(scale)`.

        Raises:
            ValueError: If a concrete `scale` is not positive. A traced one gives NaN.
        """
        scale = check_range("scale", scale, 0.0)
        return jnp.log(jnp.asarray(scale))
