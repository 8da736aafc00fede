"""A shift, conjugated by a cubic polynomial."""

from typing import final

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer, check_range
from nnef_dists.flows._analytic import AbstractAnalyticBijection, BoundedScale, Wrapped


@final
class CubicConjugation(AbstractAnalyticBijection):
    """A bijection that moves points near a location to one side, and distant points hardly at all.

        f(z) = g^-1(g(z) + shift),    g(z) = z + z^3,    z = (x - loc) / scale

    The displacement is about `shift` at z = 0 and falls as shift / (3 z^2). The inverse is this map
    with the opposite shift. g is inverted in closed form, by the hyperbolic solution of the cubic,
    without cancellation.

    Args:
        loc: Location around which the map acts. Defaults to 0.
        scale: Width of the map, between 1/20 and 20. Defaults to 1.
        shift: Shift of g(z). Defaults to 0, the identity.

    Raises:
        ValueError: If a concrete parameter is out of bounds or NaN. If traced, the result is NaN.
    """

    loc: Float[Array, ""]
    scale: Wrapped
    shift: Float[Array, ""]

    def __init__(self, loc: ArrayLike = 0.0, scale: ArrayLike = 1.0, shift: ArrayLike = 0.0):
        self.loc = jnp.asarray(check_range("loc", loc), float)
        self.scale = BoundedScale(scale, name="scale")
        self.shift = jnp.asarray(check_range("shift", shift), float)

    @classmethod
    def random(
        cls, key: PRNGKeyArray, *, depth: int = 1, spread: float = 1.0
    ) -> "CubicConjugation":
        """Returns a map near the identity, one layer of a stack of `depth`.

        Args:
            key: PRNG key.
            depth: Number of layers of the stack, at least 1. Defaults to 1. Shifts have a standard
                deviation of 1 / sqrt(depth).
            spread: Standard deviation of the location, not negative. Defaults to 1.

        Returns:
            A bijection of scale 1/2.

        Raises:
            ValueError: If `depth` or `spread` is out of range.
        """
        depth = check_integer("depth", depth, 1)
        spread = check_range("spread", spread, 0.0, closed="low")
        loc, shift = jax.random.normal(key, (2,)) * jnp.array([spread, depth**-0.5])
        return cls(loc, 0.5, shift)

    def displacement_and_log_slope(self, z):
        """Returns g^-1(g(z) + shift) - z, and the log-slope g'(z) / g'(f(z))."""
        return _displacement_and_log_slope(z, self.shift)

    def inverse_displacement_and_log_slope(self, z):
        """Returns f^-1(z) - z = g^-1(g(z) - shift) - z, and the log-slope of f^-1."""
        return _displacement_and_log_slope(z, -self.shift)


def _displacement_and_log_slope(z, shift):
    delta = _displacement(z, shift)
    return delta, jnp.log((1 + 3 * z**2) / (1 + 3 * (z + delta) ** 2))


@jax.custom_jvp
def _displacement(z, shift):
    w = z + z**3 + shift
    # The real root of moved + moved^3 = w is 2 / sqrt(3) sinh(t) with sinh(3 t) = a, up to its
    # sign. It is a quotient here, by sinh(3 t) = sinh(t) (exp(2 t) + 1 + exp(-2 t)).
    a = 3 * 3**0.5 / 2 * jnp.abs(w)
    u = jnp.exp(jnp.log(a + jnp.sqrt(1 + a**2)) * (2 / 3))
    moved = 3 * w / (u + 1 + 1 / u)
    # g(z + delta) - g(z) = shift has the factor delta, so nothing cancels for large z. One step of
    # Newton's method removes the rounding errors of exp and log.
    delta = shift / (1 + z**2 + z * moved + moved**2)
    residual = delta * (1 + 3 * z**2 + 3 * z * delta + delta**2) - shift
    return delta - residual / (1 + 3 * (z + delta) ** 2)


@_displacement.defjvp
def _(primals, tangents):
    (z, shift), (dz, dshift) = primals, tangents
    delta = _displacement(z, shift)
    moved = z + delta
    # The slope of the displacement, g'(z) / g'(moved) - 1, without cancellation.
    return delta, (dshift - 3 * delta * (z + moved) * dz) / (1 + 3 * moved**2)
