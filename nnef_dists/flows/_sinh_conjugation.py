"""Shifts and stretches, conjugated by the hyperbolic sine."""

from typing import final

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer, check_range
from nnef_dists.flows._analytic import AbstractAnalyticBijection, BoundedScale, Wrapped


@final
class SinhConjugation(AbstractAnalyticBijection):
    """Stretches, shifts and stretches again what the hyperbolic sine makes of the line.

        f(z) = asinh(outer (inner sinh(z) + shift)),    z = (x - loc) / scale

    Far from the location points move by log(inner outer) scale, outwards; the shift's effect falls
    as exp(-|z|). The inverse has the same form, with the reciprocals of outer and inner.

    Args:
        loc: Where it acts.
        scale: Over what width, between 1/20 and 20.
        shift: How far sinh(z) is moved; without stretches, 0 is the identity.
        inner: The stretch before the shift, between 1/2 and 2.
        outer: The stretch after it, between 1/2 and 2.

    Raises:
        ValueError: If a concrete parameter is out of bounds or NaN. A traced one gives NaN.

    Reference:
        Jones and Pewsey, Sinh-arcsinh distributions, Biometrika 96 (2009), for the conjugation.
    """

    loc: Float[Array, ""]
    scale: Wrapped
    shift: Float[Array, ""]
    inner: Wrapped
    outer: Wrapped

    def __init__(
        self,
        loc: ArrayLike = 0.0,
        scale: ArrayLike = 1.0,
        shift: ArrayLike = 0.0,
        inner: ArrayLike = 1.0,
        outer: ArrayLike = 1.0,
    ):
        self.loc = jnp.asarray(check_range("loc", loc), float)
        self.scale = BoundedScale(scale, name="scale")
        self.shift = jnp.asarray(check_range("shift", shift), float)
        self.inner = BoundedScale(inner, 2.0, name="inner")
        self.outer = BoundedScale(outer, 2.0, name="outer")

    @classmethod
    def random(cls, key: PRNGKeyArray, *, depth: int = 1, spread: float = 1.0) -> "SinhConjugation":
        """Returns a map near the identity, one layer of a stack of `depth`.

        Args:
            key: PRNG key.
            depth: Number of layers of the stack, at least 1. Shifts have a spread of
                1 / sqrt(depth).
            spread: Standard deviation of the location, not negative.

        Returns:
            A bijection of scale 1/2 that does not stretch.

        Raises:
            ValueError: If `depth` or `spread` is out of range.
        """
        depth = check_integer("depth", depth, 1)
        spread = check_range("spread", spread, 0.0, closed="low")
        loc, shift = jax.random.normal(key, (2,)) * jnp.array([spread, depth**-0.5])
        return cls(loc, 0.5, shift)

    def displacement_and_log_slope(self, z):
        """Returns f(z) - z, and the log-slope."""
        return _displacement_and_log_slope(z, self.shift, self.inner, self.outer)

    def inverse_displacement_and_log_slope(self, z):
        """Returns f^-1(z) - z, and the log-slope of that."""
        return _displacement_and_log_slope(z, -self.shift, 1 / self.outer, 1 / self.inner)


def _displacement_and_log_slope(z, shift, inner, outer):
    # Beyond the edge the displacement is constant to rounding, and powers of sinh would overflow.
    edge = 4.0 - jnp.log(jnp.finfo(z.dtype).eps).astype(z.dtype)
    z = jnp.clip(z, -edge, edge)
    delta = _displacement(z, shift, inner, outer)
    return delta, jnp.log(inner * outer * jnp.cosh(z) / jnp.cosh(z + delta))


@jax.custom_jvp
def _displacement(z, shift, inner, outer):
    w = outer * (inner * jnp.sinh(z) + shift)
    moved = jnp.arcsinh(w)
    # One step of Newton's method, since asinh is some roundings off in float32.
    return moved - (jnp.sinh(moved) - w) / jnp.cosh(moved) - z


@_displacement.defjvp
def _(primals, tangents):
    z, shift, inner, outer = primals
    dz, dshift, dinner, douter = tangents
    delta = _displacement(z, shift, inner, outer)
    moved = z + delta
    # With w = outer v, dw = cosh(moved) dmoved and sqrt(1 + w^2) = cosh(moved).
    slope = inner * outer * jnp.cosh(z) / jnp.cosh(moved)
    v = inner * jnp.sinh(z) + shift
    rest = outer * (jnp.sinh(z) * dinner + dshift) + v * douter
    return delta, (slope - 1) * dz + rest / jnp.cosh(moved)
