"""Log-densities in the unconstrained coordinates of the support of a family."""

import math

from jaxtyping import Array, Float

from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._support import continuous_support

_USER = "Hamiltonian Monte Carlo and Laplace's approximation"


def support_dim(family: ExponentialFamily) -> int:
    """Returns the number n of unconstrained coordinates of a point x."""
    return math.prod(continuous_support(family, _USER).shape)


def unconstrained_logdensity(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], u: Float[Array, " n"]
) -> Float[Array, ""]:
    """Returns the log-density of the coordinates u, in nats, up to A(eta).

        eta . T(x) + log h(x) + log |dx / du|,    x = support(u)

    Args:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`, not checked.
        u: Flat unconstrained coordinates of one point, `(n,)`.
    """
    support = continuous_support(family, _USER)
    x, log_det = support.transform_and_log_det(u.reshape(support.shape))
    return family.unnormalized_logdensity(eta, x) + log_det.astype(eta.dtype)
