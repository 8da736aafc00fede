"""A chain of coupled quartic sites."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._constraints import negative
from nnef_dists.families._domain import ProductDomain, domain


@final
class LatticePhi4(ExponentialFamily):
    """The phi^4 model on an open chain of n sites: four statistics in any dimension.

        p(x | eta) proportional to exp(sum_i (eta1 x_i + eta2 x_i^2 + eta4 x_i^4)
                                       + eta_nn sum_{i<n} x_i x_{i+1}),    eta4 < 0

    Statistics `x`, `x2`, `x4` (sums over the sites) and `neighbours` (the sum over the n - 1 bonds
    of an open chain; the ends are not joined). For eta2 > 0 each site is a double well, and
    eta_nn > 0 aligns neighbours: modes and long correlations.

    The integral exists for eta4 < 0 and all other values: sum_i x_i^4 >= |x|^4 / n, while all else
    is at most quadratic in |x|. It is infinite for eta4 > 0. On the edge eta4 = 0 the model is
    Gaussian, normalisable for some etas; that edge is left out, so that the domain is open and a
    product.

    On an open chain the log-partition and all moments are exact by transfer matrices: the sites are
    integrated out one after another, n - 1 integrals in one dimension.

    Args:
        n: The number of sites, at least 2.

    Raises:
        ValueError: If `n < 2`.

    Reference:
        Scalapino, Sears and Ferrell, *Statistical mechanics of one-dimensional Ginzburg-Landau
        fields*, Phys. Rev. B 6 (1972), for the transfer integral.
    """

    n: int = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain(x4=negative)

    def __init__(self, n: int):
        if n < 2:
            raise ValueError(f"Expected n >= 2; got {n}")
        self.n = n

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one point: `(n,)`."""
        return (self.n,)

    def compute_stats(self, x: Float[Array, " n"]) -> dict[str, Array]:
        """Returns the sums of x_i, x_i^2, x_i^4 and x_i x_{i+1}."""
        return {
            "x": jnp.sum(x),
            "x2": jnp.sum(x**2),
            "x4": jnp.sum(x**4),
            "neighbours": jnp.sum(x[1:] * x[:-1]),
        }
