"""The beta distribution."""

import math
from typing import ClassVar, final

import jax.numpy as jnp
from flowjax.bijections import Sigmoid
from jaxtyping import Array, Float

from nnef_dists.families._boundary import log_above_zero, log_below_one, log_indicator
from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._constraints import interval
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._gamma_functions import log_multivariate_beta, mean_log_share

_ABOVE_MINUS_ONE = interval(-1.0, math.inf)


@final
class Beta(AbstractNamedFamily):
    """The beta distribution on 0 < x < 1, in natural parameters.

        p(x | eta) proportional to exp(eta1 log x + eta2 log(1 - x)),    eta1, eta2 > -1

    Statistics `log_x` and `log_1mx`. The usual parameters are a = eta1 + 1 and b = eta2 + 1. The
    density is a power at either end, x^eta1 and (1 - x)^eta2, integrable only for exponents above
    -1.

    A float x cannot represent points within rounding of 1. Their mass is about (6e-8)^b in
    float32, 2e-4 for b = 0.5, and HMC then reports divergent transitions. `Dirichlet(2)` stores
    both x and 1 - x, so it has no such limit.
    """

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain(
        log_x=_ABOVE_MINUS_ONE, log_1mx=_ABOVE_MINUS_ONE
    )

    @property
    def support(self) -> Sigmoid:
        """The unit interval."""
        return Sigmoid()

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns log x and log(1 - x)."""
        return {"log_x": log_above_zero(x), "log_1mx": log_below_one(x)}

    def log_base_measure(self, x: Array) -> Float[Array, ""]:
        """Returns 0, or -inf outside the support."""
        return log_indicator((x > 0) & (x < 1), x)

    @property
    def has_unit_base_measure(self) -> bool:
        """True: h is 1 on the support."""
        return True

    def log_partition(self, eta: Float[Array, "2"]) -> Float[Array, ""]:
        """Returns A = log B(a, b), in nats."""
        return log_multivariate_beta(jnp.stack(self.to_concentrations(eta)))

    def mean(self, eta: Float[Array, "2"]) -> Float[Array, "2"]:
        """Returns (digamma(a), digamma(b)) - digamma(a + b)."""
        return mean_log_share(jnp.stack(self.to_concentrations(eta)))

    def to_concentrations(
        self, eta: Float[Array, "2"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns a and b."""
        eta1, eta2 = self.check_eta(eta)
        return eta1 + 1, eta2 + 1

    def to_natural(self, a: Float[Array, ""], b: Float[Array, ""]) -> Float[Array, "2"]:
        """Returns eta for positive a and b."""
        return self.check_eta(jnp.stack([a - 1, b - 1]))
