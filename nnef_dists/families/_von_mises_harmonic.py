"""Exponentials of trigonometric polynomials on the circle."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer
from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._support import CircleProjection


@final
class VonMisesHarmonic(ExponentialFamily):
    """The von Mises distribution with harmonics up to a given order, on the circle.

        p(theta | eta) proportional to exp(sum_m (cos_m cos(m theta) + sin_m sin(m theta)))

    with m = 1, ..., order. Statistics `cos` and `sin`, both of shape `(order,)`. Densities are with
    respect to d theta. The circle is compact and T continuous, so every real eta is valid. Order 1
    is the von Mises distribution. Order 2 is the generalized von Mises distribution, with up to two
    modes.

    Args:
        order: Highest harmonic, at least 1.

    Raises:
        ValueError: If `order < 1`.

    Reference:
        Gatto and Jammalamadaka, *The generalized von Mises distribution*, Statistical Methodology 4
        (2007).
    """

    order: int = eqx.field(static=True)

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain()

    def __init__(self, order: int):
        self.order = check_integer("order", order, 1)

    @property
    def support(self) -> CircleProjection:
        """The circle."""
        return CircleProjection()

    def compute_stats(self, x: Float[Array, ""]) -> dict[str, Array]:
        """Returns the cosines and sines of the multiples of the angle."""
        angles = x * jnp.arange(1, self.order + 1, dtype=x.dtype)
        return {"cos": jnp.cos(angles), "sin": jnp.sin(angles)}
