"""Densities fitted to the warm-up of the chains: a whitening, and a proposal for global moves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from nnef_dists._factorizations import cholesky, inverse_factor


class Whitening(NamedTuple):
    """Coordinates z in which a density has about unit covariance: u = center + factor z.

    Attributes:
        center: The mean of u, `(n,)`.
        factor: The lower Cholesky factor of the covariance of u, `(n, n)`.
    """

    center: Float[Array, " n"]
    factor: Float[Array, "n n"]

    @classmethod
    def identity(cls, dim: int, dtype: DTypeLike) -> "Whitening":
        """Returns the coordinates z = u."""
        return cls(jnp.zeros(dim, dtype), jnp.eye(dim, dtype=dtype))

    @classmethod
    def fit(cls, u: Float[Array, "draws n"]) -> "Whitening":
        """Fits pooled draws of u. Correlations are shrunk as if by 5 uncorrelated draws."""
        weight = u.shape[0] / (u.shape[0] + 5)
        center = jnp.mean(u, 0)
        covariance = (u - center).T @ (u - center) / u.shape[0]
        shrunk = weight * covariance + (1 - weight) * jnp.diag(jnp.diag(covariance))
        return cls(center, cholesky(shrunk))

    def to_u(self, z: Float[Array, " n"]) -> Float[Array, " n"]:
        """Returns the point of coordinates z."""
        return self.center + self.factor @ z

    def to_z(self, u: Float[Array, " n"]) -> Float[Array, " n"]:
        """Returns the coordinates of the point u."""
        return inverse_factor(self.factor) @ (u - self.center)


class KernelMixture(NamedTuple):
    """A mixture of equal normals around given centers: a kernel density estimate.

    Attributes:
        centers: The centers, `(k, n)`.
        scale: The standard deviation of the normals in each coordinate, `(n,)`.
    """

    centers: Float[Array, "k n"]
    scale: Float[Array, " n"]

    @classmethod
    def fit(cls, centers: Float[Array, "k n"], spread: Float[Array, " n"]) -> "KernelMixture":
        """Builds the estimate by Silverman's bandwidth.

        Args:
            centers: The centers, `(k, n)`.
            spread: The standard deviation of the data in each coordinate, `(n,)`.

        Returns:
            The mixture.

        Reference:
            Silverman, *Density Estimation* (1986), equation 4.14.
        """
        k, dim = centers.shape
        return cls(centers, (4 / (k * (dim + 2))) ** (1 / (dim + 4)) * spread)

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "draws n"]:
        """Returns `n` independent draws."""
        key_center, key_noise = jax.random.split(key)
        which = jax.random.randint(key_center, (n,), 0, self.centers.shape[0])
        noise = jax.random.normal(key_noise, (n, self.centers.shape[1]), self.centers.dtype)
        return self.centers[which] + self.scale * noise

    def log_prob(self, z: Float[Array, " n"]) -> Float[Array, ""]:
        """Returns the log-density at z up to a constant, in nats."""
        z, centers = z / self.scale, self.centers / self.scale
        # |z - c|^2 / 2 up to a term that all centers share.
        return jax.nn.logsumexp(centers @ z - jnp.sum(centers**2, -1) / 2) - jnp.sum(z**2) / 2
