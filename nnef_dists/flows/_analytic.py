"""The base class of smooth bijections of the line with closed-form inverses."""

import math
from abc import abstractmethod
from typing import Any, ClassVar, TypeAlias, final

import equinox as eqx
import jax.numpy as jnp
import paramax
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, ArrayLike, Float

from nnef_dists._ranges import check_number, check_range

# An array, or a paramax wrapper, which is unwrapped before a method runs.
Wrapped: TypeAlias = Any


class AbstractAnalyticBijection(AbstractBijection):
    """A smooth increasing map of the line, shifted and scaled to act around a location.

        y = x + scale * delta(z),    z = (x - loc) / scale

    A subclass has closed forms of the displacement delta and of the displacement of the inverse.
    The displacement moves points near z = 0. For distant points it tends to zero or to a constant.
    The sum of x and a displacement avoids rounding errors, also in a deep stack.

    It is a flowjax bijection of shape `()`. `Scan` stacks it, `Vmap` maps it over coordinates, and
    `Coupling` and `MaskedAutoregressive` accept it as `transformer`.

    Attributes:
        loc: Location around which the map acts, `()`.
        scale: Width of the map, `()`, usually a `BoundedScale`.
    """

    shape: ClassVar[tuple[int, ...]] = ()
    cond_shape: ClassVar[tuple[int, ...] | None] = None
    loc: eqx.AbstractVar[Float[Array, ""]]
    scale: eqx.AbstractVar[Wrapped]

    @abstractmethod
    def displacement_and_log_slope(
        self, z: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns delta(z) and log(1 + delta'(z))."""

    @abstractmethod
    def inverse_displacement_and_log_slope(
        self, z: Float[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns f^-1(z) - z for f(z) = z + delta(z), and the log-slope of f^-1 at z."""

    @final
    def transform_and_log_det(self, x: Any, condition: Any = None):
        """Returns y and log dy/dx."""
        delta, log_slope = self.displacement_and_log_slope((x - self.loc) / self.scale)
        return x + self.scale * delta, log_slope

    @final
    def inverse_and_log_det(self, y: Any, condition: Any = None):
        """Returns x and log dx/dy."""
        delta, log_slope = self.inverse_displacement_and_log_slope((y - self.loc) / self.scale)
        return y + self.scale * delta, log_slope


@final
class BoundedScale(paramax.AbstractUnwrappable[Array]):
    """A positive parameter that stays between 1 / bound and bound.

        value = exp(b tanh(raw / b)),    b = log(bound)

    Args:
        value: Initial value, of any shape, in (1 / bound, bound). A traced value out of this range
            becomes NaN.
        bound: Largest value, above 1. The smallest is 1 / bound. Defaults to 20, so that all powers
            of z = (x - loc) / scale in the bijections are within float32 for |x| <= 1e4.
        name: Name of the parameter in error messages. Defaults to "value".

    Attributes:
        raw: The unconstrained array, close to the log of the value near 1.
        bound: The largest value.

    Raises:
        ValueError: If a concrete entry of `value` is out of bounds or NaN, or `bound` is not above
            1.
    """

    raw: Float[Array, "..."]
    bound: float = eqx.field(static=True)

    def __init__(self, value: ArrayLike, bound: float = 20.0, *, name: str = "value"):
        bound = check_number("bound", bound, 1.0)
        value = check_range(name, value, 1 / bound, bound)
        b = math.log(bound)
        self.raw = b * jnp.arctanh(jnp.log(jnp.asarray(value, float)) / b)
        self.bound = bound

    def unwrap(self) -> Array:
        """Returns the value."""
        b = math.log(self.bound)
        return jnp.exp(b * jnp.tanh(self.raw / b))
