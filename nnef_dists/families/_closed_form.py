"""Families with closed-form moments or a direct sampling algorithm."""

from abc import abstractmethod
from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import as_vector
from nnef_dists.families._base import ExponentialFamily


class AbstractNamedFamily(ExponentialFamily):
    """A family with a closed-form log-partition and mean, a reference for tests."""

    @abstractmethod
    def log_partition(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns A(eta) = log of the integral of h(x) exp(eta . T(x)) over x, in nats."""

    @abstractmethod
    def mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        """Returns E[T(x) | eta] = grad A(eta)."""

    @final
    def covariance(self, eta: Float[Array, " eta_dim"]) -> Float[Array, "eta_dim eta_dim"]:
        """Returns Cov[T(x) | eta] = d mean / d eta."""
        return jax.jacfwd(self.mean)(as_vector(eta, self.eta_dim, "eta", self))


class AbstractDrawFamily(eqx.Module):
    """A mixin for families with a direct sampling algorithm, such as `Wishart`.

    `ClosedForm` uses these draws by default, through `DirectSampler`.
    """

    @abstractmethod
    def draw(self, key: PRNGKeyArray, eta: Float[Array, " eta_dim"]) -> Array:
        """Draws one point, independently for each key.

        Args:
            key: PRNG key.
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            The point, of shape `x_shape`, or NaN for an invalid eta under `jax.jit`.
        """
