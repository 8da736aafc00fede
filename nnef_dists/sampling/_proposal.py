"""Densities fitted to the warm-up of the chains: a whitening, and a proposal for global moves.

The factorizations are safe in programs with other work beside them. On CPUs a batched one waits, on
a thread of the pool, for work given to the same pool: as many of them at once as the pool has
threads wait for ever. Here a batch is a loop of single ones on CPUs, which do not wait, and which
are as fast. On other platforms it is one batched factorization.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap, sequential_vmap
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray


def _loop_on_cpus(one: Callable[..., Array]) -> Callable[..., Array]:
    """Returns a function whose batches are loops on CPUs, and batched elsewhere."""
    loop = sequential_vmap(one)

    @custom_vmap
    def either(*args):
        return one(*args)

    @either.def_vmap
    def batch(size, is_batched, *args):
        axes = [0 if is_mapped else None for is_mapped in is_batched]
        # An outer batch becomes a batch of either branch.
        found = lax.platform_dependent(*args, cpu=jax.vmap(loop, axes), default=jax.vmap(one, axes))
        return found, True

    return either


@_loop_on_cpus
def cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Returns the lower Cholesky factor; NaN where the matrix is not positive definite."""
    return jnp.linalg.cholesky(matrix)


@_loop_on_cpus
def inverse_factor(factor: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Returns the inverse of a lower triangular matrix."""
    identity = jnp.eye(len(factor), dtype=factor.dtype)
    return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)


@_loop_on_cpus
def solve_definite(matrix: Float[Array, "n n"], right: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Solves matrix @ x = right for a positive definite matrix; NaN where it is not."""
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)


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
        """Fits pooled draws of u; correlations are shrunk as if by 5 uncorrelated draws."""
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
