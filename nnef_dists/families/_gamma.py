"""The gamma distribution."""

import math
from typing import ClassVar, final

import jax.numpy as jnp
from flowjax.bijections import Exp
from jaxtyping import Array, Float

from nnef_dists.families._boundary import log_above_zero, log_indicator
from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._constraints import interval, negative
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._gamma_functions import (
    HALF_LOG_TWO_PI,
    digamma_remainder,
    log_gamma_remainder,
    log_ratio,
)
from nnef_dists.families._symmetries import Scaling
from nnef_dists.families._symmetry import AbstractSymmetry


@final
class Gamma(AbstractNamedFamily):
    """The gamma distribution on x > 0, in natural parameters.

        p(x | eta) proportional to exp(eta1 log x + eta2 x),    eta1 > -1, eta2 < 0

    Statistics `log_x` and `x`. The shape is eta1 + 1 and the rate -eta2. At 0 the density is
    x^eta1, integrable only for eta1 > -1. At infinity the exponential decides, and for eta2 = 0 no
    power is integrable at both ends. The coordinate is log x, in which a change of rate is a shift.

    In float32, x cannot be below 1e-38, so HMC needs a shape above about 0.1.
    """

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain(log_x=interval(-1.0, math.inf), x=negative)

    @property
    def support(self) -> Exp:
        """The positive half-line."""
        return Exp()

    @property
    def symmetries(self) -> tuple[AbstractSymmetry, ...]:
        """Scale."""
        return (Scaling(x=1),)

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns log x and x."""
        return {"log_x": log_above_zero(x), "x": x}

    def log_base_measure(self, x: Array) -> Float[Array, ""]:
        """Returns 0, or -inf outside the support."""
        return log_indicator(x > 0, x)

    @property
    def has_unit_base_measure(self) -> bool:
        """True: h is 1 on the support."""
        return True

    def log_partition(self, eta: Float[Array, "2"]) -> Float[Array, ""]:
        """Returns A = log Gamma(shape) - shape log(rate), in nats."""
        shape, rate = self.to_shape_rate(eta)
        elementary = shape * (log_ratio(shape, rate) - 1) - jnp.log(shape) / 2
        return elementary + HALF_LOG_TWO_PI + log_gamma_remainder(shape)

    def mean(self, eta: Float[Array, "2"]) -> Float[Array, "2"]:
        """Returns (digamma(shape) - log(rate), shape / rate)."""
        shape, rate = self.to_shape_rate(eta)
        return jnp.stack([digamma_remainder(shape) + log_ratio(shape, rate), shape / rate])

    def to_shape_rate(self, eta: Float[Array, "2"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the shape and the rate."""
        eta1, eta2 = self.check_eta(eta)
        return eta1 + 1, -eta2

    def to_natural(self, shape: Float[Array, ""], rate: Float[Array, ""]) -> Float[Array, "2"]:
        """Returns eta for a positive shape and a positive rate."""
        return self.check_eta(jnp.stack([shape - 1, -rate]))
