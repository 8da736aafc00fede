"""Covariances as derivatives of means."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nnef_dists._factorizations import cholesky
from nnef_dists.families import ExponentialFamily

if TYPE_CHECKING:
    from nnef_dists.distributions._base import AbstractTractableFamily


def covariance_and_mean(
    q: "AbstractTractableFamily", eta: Float[Array, " eta_dim"]
) -> tuple[Float[Array, "eta_dim eta_dim"], Float[Array, " eta_dim"]]:
    """Returns the symmetric part of d mu / d eta, and mu, from one evaluation.

    Args:
        q: The tractable family.
        eta: Checked natural parameters, `(eta_dim,)`.

    Returns:
        The covariance, `(eta_dim, eta_dim)`, and the mean parameters, `(eta_dim,)`.
    """

    def twice(eta):
        mean = q._mean(eta)
        return mean, mean

    jacobian, mean = jax.jacfwd(twice, has_aux=True)(eta)
    return (jacobian + jacobian.T) / 2, mean


def directions(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"]
) -> Float[Array, "eta_dim m"]:
    """Returns the directions in which eta can move, as columns with a largest entry of 1."""
    u = family.unconstrain_eta(eta)
    # An edge has no finite coordinates. All etas inside have equal directions.
    tangents = jax.jacfwd(family.constrain_eta)(jnp.where(jnp.isfinite(u), u, 0))
    return tangents / jnp.max(jnp.abs(tangents), 0)


def is_definite(information: Float[Array, "m m"]) -> Bool[Array, ""]:
    """Returns whether a symmetric matrix is positive definite, independent of its units."""
    diagonal = jnp.diagonal(information)
    # Scale to unit diagonal, so that units do not affect rounding.
    scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
    factor = cholesky(information / jnp.outer(scale, scale))
    return jnp.all(diagonal > 0) & jnp.all(jnp.isfinite(factor))
