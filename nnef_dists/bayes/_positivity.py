"""Smooth maps from an unconstrained array to a positive width."""

from abc import abstractmethod
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from nnef_dists._ranges import check_number, check_range


class AbstractPositivity(eqx.Module):
    """How an unconstrained raw array becomes a width (a standard deviation or a scale).

    An implementation holds numbers in static fields only, so that it is no leaf of a model.
    """

    @abstractmethod
    def forward(self, raw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the width of `raw`: positive, same shape and dtype."""

    @abstractmethod
    def inverse(self, width: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Returns a raw array whose width is `width`.

        It is what to pass as `init_raw_stdv` to start at a given width.
        """


@final
class SquaredPositivity(AbstractPositivity):
    r"""`width = raw**2 + floor`: the default.

    The floor keeps the width's logarithm and its gradient finite at `raw = 0`.
    """

    floor: float = eqx.field(static=True, default=1e-4)

    def __check_init__(self):
        check_number("floor", self.floor, 0.0, closed="low")

    def forward(self, raw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns `raw**2 + floor`."""
        return raw**2 + self.floor

    def inverse(self, width: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the non-negative root `sqrt(width - floor)`.

        Raises:
            ValueError: If a concrete width is below the floor. A traced one gives NaN.
        """
        width = check_range("width", width, self.floor, closed="low")
        return jnp.sqrt(jnp.maximum(jnp.asarray(width) - self.floor, 0))


@final
class SoftplusPositivity(AbstractPositivity):
    """`width = log(1 + exp(raw)) + floor`: linear for wide laws, exponential for narrow ones."""

    floor: float = eqx.field(static=True, default=0.0)

    def __check_init__(self):
        check_number("floor", self.floor, 0.0, closed="low")

    def forward(self, raw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns `log(1 + exp(raw)) + floor`."""
        return jax.nn.softplus(raw) + self.floor

    def inverse(self, width: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Returns `log(exp(width - floor) - 1)`, without overflow for large widths.

        Raises:
            ValueError: If a concrete width is not above the floor. A traced one gives NaN.
        """
        width = check_range("width", width, self.floor)
        excess = jnp.asarray(width) - self.floor
        return excess + jnp.log(-jnp.expm1(-excess))


@final
class ExponentialPositivity(AbstractPositivity):
    """`width = exp(raw)`: steps in `raw` are relative changes of the width."""

    def forward(self, raw: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns `exp(raw)`."""
        return jnp.exp(raw)

    def inverse(self, width: Float[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Returns `log(width)`.

        Raises:
            ValueError: If a concrete width is not positive. A traced one gives NaN.
        """
        width = check_range("width", width, 0.0)
        return jnp.log(jnp.asarray(width))
