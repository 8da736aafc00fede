"""Exponentials of quadratic polynomials on the sphere."""

import math
from typing import ClassVar, final

import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._support import SphereProjection


@final
class FisherBingham(ExponentialFamily):
    """The Fisher-Bingham distribution on the unit sphere in R^3, in its minimal form.

        p(x | eta) proportional to exp(b . x + x . A x),    |x| = 1

    Densities are with respect to the surface measure. On the sphere the products x_i x_j are
    dependent, because x_0^2 + x_1^2 + x_2^2 = 1. With all of them the family would be over-complete
    (the trace of A has no effect). So the statistics are `x`, shape `(3,)`, and `harmonics`, shape
    `(5,)`, the spherical harmonics of degree two:

        x_0 x_1,  x_1 x_2,  x_0 x_2,  (x_0^2 - x_1^2) / 2,  (3 x_2^2 - 1) / (2 sqrt(3)).

    Under the uniform distribution all eight are uncorrelated with mean zero, and the harmonics
    have variance 1/15. `to_natural` takes b and A. The sphere is compact and T continuous, so every
    real eta is valid. The Fisher, Bingham and Kent distributions are special cases.

    Reference:
        Mardia, *Statistics of directional data*, J. R. Statist. Soc. B 37 (1975), section 3.
    """

    x_shape: ClassVar[tuple[int, ...]] = (3,)
    natural_domain: ClassVar[ProductDomain] = domain()

    @property
    def support(self) -> SphereProjection:
        """The unit sphere."""
        return SphereProjection(3)

    def compute_stats(self, x: Float[Array, "3"]) -> dict[str, Array]:
        """Returns x and the harmonics of degree two."""
        products = x * jnp.roll(x, -1)  # x_0 x_1, x_1 x_2, x_2 x_0
        squares = jnp.stack([(x[0] ** 2 - x[1] ** 2) / 2, (3 * x[2] ** 2 - 1) / (2 * math.sqrt(3))])
        return {"x": x, "harmonics": jnp.concatenate([products, squares])}

    def to_natural(self, b: Float[Array, "3"], matrix: Float[Array, "3 3"]) -> Float[Array, "8"]:
        """Returns eta for exp(b . x + x . A x), up to a constant factor of the density.

        Args:
            b: Linear coefficients, `(3,)`.
            matrix: Matrix A, `(3, 3)`. The antisymmetric part and the trace have no effect.

        Returns:
            The natural parameters, `(8,)`.
        """
        pairs = matrix + matrix.T
        diagonal = jnp.diag(matrix)
        harmonics = jnp.stack(
            [
                pairs[0, 1],
                pairs[1, 2],
                pairs[0, 2],
                diagonal[0] - diagonal[1],
                (2 * diagonal[2] - diagonal[0] - diagonal[1]) / math.sqrt(3),
            ]
        )
        return self.flatten_stats_or_eta({"x": b, "harmonics": harmonics})
