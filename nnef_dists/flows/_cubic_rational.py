"""A rational map of degree three."""

from typing import final

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer, check_range
from nnef_dists.flows._analytic import AbstractAnalyticBijection, BoundedScale, Wrapped


@final
class CubicRational(AbstractAnalyticBijection):
    """A bijection that spreads the points around a location, or contracts them.

        f(z) = z + (slope - 1) z / (1 + z^2),    z = (x - loc) / scale

    f is increasing for 0 < slope < 9. The inverse is the real root of
    z^3 - y z^2 + slope z - y.

    Args:
        loc: Location around which the map acts. Defaults to 0.
        scale: Width of the map, between 1/20 and 20. Defaults to 1.
        slope: Slope at the location, between 1/9 and 9. Defaults to 1, the identity.

    Raises:
        ValueError: If a concrete parameter is out of bounds or NaN. If traced, the result is NaN.
    """

    loc: Float[Array, ""]
    scale: Wrapped
    slope: Wrapped

    def __init__(self, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, slope: ArrayLike = 1.0):
        self.loc = jnp.asarray(check_range("loc", loc), float)
        self.scale = BoundedScale(scale, name="scale")
        self.slope = BoundedScale(slope, 9.0, name="slope")

    @classmethod
    def random(cls, key: PRNGKeyArray, *, depth: int = 1, spread: float = 1.0) -> "CubicRational":
        """Returns a map near the identity, one layer of a stack of `depth`.

        Args:
            key: PRNG key.
            depth: Number of layers of the stack, at least 1. Defaults to 1. Logs of slopes have a
                standard deviation of 1 / sqrt(depth), and are clipped to [-2, 2].
            spread: Standard deviation of the location, not negative. Defaults to 1.

        Returns:
            A bijection of scale 1/2.

        Raises:
            ValueError: If `depth` or `spread` is out of range.
        """
        depth = check_integer("depth", depth, 1)
        spread = check_range("spread", spread, 0.0, closed="low")
        loc, log_slope = jax.random.normal(key, (2,)) * jnp.array([spread, depth**-0.5])
        # Without clipping, one slope in 36 is out of bounds at depth 1.
        return cls(loc, 0.5, jnp.exp(jnp.clip(log_slope, -2.0, 2.0)))

    def displacement_and_log_slope(self, z):
        """Returns (slope - 1) z / (1 + z^2), and the log-slope there."""
        return _displacement(z, self.slope), _log_slope(z, self.slope)

    def inverse_displacement_and_log_slope(self, z):
        """Returns f^-1(z) - z, and the log-slope of f^-1."""
        x = _preimage(z, self.slope)
        return -_displacement(x, self.slope), -_log_slope(x, self.slope)


def _displacement(z, c):
    return (c - 1) * z / (1 + z**2)


def _log_slope(z, c):
    r = 1 / (1 + z**2)
    return jnp.log1p((c - 1) * r * (2 * r - 1))


@jax.custom_jvp
def _preimage(y, c):
    # By Cardano's formula, z = t + y / 3 with t^3 + p t + q = 0. 108 times the discriminant
    # q^2 / 4 + p^3 / 27 is 4 y^4 - b y^2 + 4 c^3. All of its terms are positive for c < 1. For
    # c > 1 the square is completed, so that they are positive too.
    square = y**2
    p = c - square / 3
    q = y * (c / 3 - 1 - 2 * square / 27)
    b = c**2 + 18 * c - 27
    below = 4 * square**2 - b * square + 4 * c**3
    above = 4 * (square - b / 8) ** 2 + (c - 1) * (9 - c) ** 3 / 16
    u = jnp.cbrt(jnp.abs(q) / 2 + jnp.sqrt(jnp.where(c < 1, below, above) / 108))
    v = p / (3 * u)
    # u - v without cancellation, by u^3 - v^3 = |q|.
    t = jnp.where(p > 0, jnp.abs(q) / (u**2 + u * v + v**2), u - v)
    z = y / 3 - jnp.sign(q) * t
    # One step of Newton's method removes rounding errors, which are large if the map is flat.
    return z - (z + _displacement(z, c) - y) / jnp.exp(_log_slope(z, c))


@_preimage.defjvp
def _(primals, tangents):
    (y, c), (dy, dc) = primals, tangents
    z = _preimage(y, c)
    return z, (dy - z / (1 + z**2) * dc) / jnp.exp(_log_slope(z, c))
