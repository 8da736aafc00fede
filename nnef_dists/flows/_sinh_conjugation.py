"""Shifts and stretches, conjugated by the hyperbolic sine."""

from typing import final

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer, check_range
from nnef_dists.flows._analytic import AbstractAnalyticBijection, BoundedScale, Wrapped


@final
class SinhConjugation(AbstractAnalyticBijection):
    """A bijection that stretches, shifts and stretches again, conjugated by the hyperbolic sine.

        f(z) = asinh(outer (inner sinh(z) + shift)),    z = (x - loc) / scale

    Far from the location, points move outward by scale * log(inner outer). The effect of the shift
    falls as exp(-|z|). The inverse also has this form, with -shift and the reciprocals of outer and
    inner.

    Args:
        loc: Location around which the map acts. Defaults to 0.
        scale: Width of the map, between 1/20 and 20. Defaults to 1.
        shift: Shift of sinh(z). Defaults to 0, the identity if both stretches are 1.
        inner: Stretch before the shift, between 1/2 and 2. Defaults to 1.
        outer: Stretch after the shift, between 1/2 and 2. Defaults to 1.

    Raises:
        ValueError: If a concrete parameter is out of bounds or NaN. If traced, the result is NaN.

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
            depth: Number of layers of the stack, at least 1. Defaults to 1. Shifts have a standard
                deviation of 1 / sqrt(depth).
            spread: Standard deviation of the location, not negative. Defaults to 1.

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
        """Returns f^-1(z) - z, and the log-slope of f^-1."""
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
    # One step of Newton's method, because asinh has an error of a few roundings in float32.
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
