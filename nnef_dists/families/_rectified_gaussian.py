"""The Gaussian restricted to the positive half-line."""

from typing import ClassVar, final

from flowjax.bijections import SoftPlus
from jaxtyping import Array

from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._constraints import negative
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._symmetries import Scaling
from nnef_dists.families._symmetry import AbstractSymmetry


@final
class RectifiedGaussian(ExponentialFamily):
    """The Gaussian restricted to x >= 0, for non-negative quantities.

        p(x | eta) proportional to exp(eta1 x + eta2 x^2) for x >= 0,    eta2 < 0

    Statistics `x` and `x2`. The integrand is bounded at 0, so that its tail decides: the square for
    eta2 < 0, whatever eta1; nothing helps for eta2 > 0. On the boundary eta2 = 0 the integral still
    exists for eta1 < 0 (the exponential distribution); that edge is left out, so that the domain is
    open and a product.

    The coordinate is the inverse of softplus: the density has a Gaussian tail in it on one side, an
    exponential one on the other.
    """

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain(x2=negative)

    @property
    def support(self) -> SoftPlus:
        """The positive half-line."""
        return SoftPlus()

    @property
    def symmetries(self) -> tuple[AbstractSymmetry, ...]:
        """Scale."""
        return (Scaling(x2=2),)

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns x and x^2."""
        return {"x": x, "x2": x**2}
