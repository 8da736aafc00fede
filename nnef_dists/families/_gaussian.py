"""The Gaussian in one dimension."""

import math
from typing import ClassVar, final

import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._constraints import negative
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._symmetries import LocationScale
from nnef_dists.families._symmetry import AbstractSymmetry


@final
class GaussianNatural1D(AbstractNamedFamily):
    """The Gaussian on the real line, in natural parameters.

        p(x | eta) proportional to exp(eta1 x + eta2 x^2),    eta2 < 0

    Statistics `x` and `x2`. The mean is -eta1 / (2 eta2) and the variance -1 / (2 eta2).
    """

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain(x2=negative)

    @property
    def symmetries(self) -> tuple[AbstractSymmetry, ...]:
        """Location and scale."""
        return (LocationScale(),)

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns x and x^2."""
        return {"x": x, "x2": x**2}

    def log_partition(self, eta: Float[Array, "2"]) -> Float[Array, ""]:
        """Returns A = -eta1^2 / (4 eta2) + log(pi / -eta2) / 2, in nats."""
        eta1, eta2 = self.check_eta(eta)
        return -(eta1**2) / (4 * eta2) + (math.log(math.pi) - jnp.log(-eta2)) / 2

    def mean(self, eta: Float[Array, "2"]) -> Float[Array, "2"]:
        """Returns (m, m^2 + v) with m = -eta1 / (2 eta2) and v = -1 / (2 eta2)."""
        mean, variance = self.to_mean_variance(eta)
        return jnp.stack([mean, mean**2 + variance])

    def to_mean_variance(self, eta: Float[Array, "2"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the mean and the variance of x."""
        eta1, eta2 = self.check_eta(eta)
        variance = -1 / (2 * eta2)
        return eta1 * variance, variance

    def to_natural(self, mean: Float[Array, ""], variance: Float[Array, ""]) -> Float[Array, "2"]:
        """Returns eta for a mean and a positive variance."""
        return self.check_eta(jnp.stack([mean / variance, -1 / (2 * variance)]))
