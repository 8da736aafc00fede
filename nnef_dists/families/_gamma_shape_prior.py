"""The conjugate prior of the shape of a gamma distribution."""

from typing import ClassVar, final

import jax.numpy as jnp
from flowjax.bijections import SoftPlus
from jaxtyping import Array, Float

from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._constraints import negative
from nnef_dists.families._domain import ProductDomain
from nnef_dists.families._gamma_functions import log_gamma

# Largest mean log(r y) of the exponential feature. A quadratic continues it beyond.
_LARGEST_LOG = 12.0


def _convex_features(eta: Float[Array, "2"]) -> Float[Array, "1"]:
    """Returns n exp(eta1 / n), with n = -eta2, convex as the perspective of the exponential.

    This is the leading term of A for large eta1 / n. There, log Gamma(alpha) is about
    alpha log(alpha) - alpha, with the convex conjugate exp. The quadratic continuation is finite
    for very large eta1 / n.
    """
    n = -eta[1]
    mean_log = eta[0] / n
    beyond = jnp.maximum(mean_log - _LARGEST_LOG, 0)
    exponential = jnp.exp(jnp.minimum(mean_log, _LARGEST_LOG))
    return jnp.reshape(n * exponential * (1 + beyond + beyond**2 / 2), (1,))


@final
class GammaShapePrior(ExponentialFamily):
    """The conjugate prior of the shape alpha > 0 of a gamma distribution of known rate.

        p(alpha | eta) proportional to exp(eta1 alpha + eta2 log Gamma(alpha)),    eta2 < 0

    Statistics `alpha` and `log_gamma`. For data y_1, ..., y_n with rate r, the likelihood of alpha
    is proportional to exp(alpha sum_j log(r y_j) - n log Gamma(alpha)). So data add
    sum_j log(r y_j) to eta1 and -n to eta2. -eta2 is the number of observations, and eta1 / -eta2
    is their mean log(r y).

    The integral exists for eta2 < 0 and every eta1. At 0, Gamma(alpha)^eta2 is alpha^-eta2 up to a
    bounded factor. At infinity, log Gamma(alpha) = alpha log(alpha) (1 + o(1)) grows faster than
    eta1 alpha, so the integral is infinite for eta2 > 0. The edge eta2 = 0, an exponential
    distribution if eta1 < 0, is excluded. So the domain is open and a product.
    """

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = ProductDomain(
        {"log_gamma": negative}, _convex_features
    )

    @property
    def support(self) -> SoftPlus:
        """The positive half-line."""
        return SoftPlus()

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns alpha and log Gamma(alpha)."""
        return {"alpha": x, "log_gamma": log_gamma(x)}
