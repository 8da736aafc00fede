"""A normal law whose density and whose draws need no factorisation."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

# Standard deviations are within e^-8 and e^8 of those of the simulations.
_MOST_LOG_SCALE = 8.0


class Normal(NamedTuple):
    """A normal law in unconstrained coordinates, by its whitening: t = W (u - mean) is standard.

    W is lower triangular. The inverse factor is what a network gives, since densities then are a
    product; a mixture's has a leading axis everywhere.

    Attributes:
        mean: The mean, `(theta_dim,)`.
        log_scale: Minus the logarithms of the diagonal of W, `(theta_dim,)`.
        lower: What is below the diagonal in W diag(exp(log_scale)), `(theta_dim, theta_dim)`.
    """

    mean: Float[Array, "*k theta_dim"]
    log_scale: Float[Array, "*k theta_dim"]
    lower: Float[Array, "*k theta_dim theta_dim"]

    @property
    def scale_tril(self) -> Float[Array, "*k theta_dim theta_dim"]:
        """The Cholesky factor of the covariance: the inverse of W."""
        d = self.mean.shape[-1]
        eye = jnp.eye(d, dtype=self.mean.dtype)
        # (1 - M)^-1 = (1 + M)(1 + M^2)(1 + M^4) ... ends, for M^d = 0.
        power = -self.lower
        inverse = eye + power
        for _ in range(math.ceil(math.log2(max(d, 2))) - 1):
            power = power @ power
            inverse = inverse + inverse @ power
        return jnp.exp(self.log_scale)[..., :, None] * inverse

    @property
    def covariance(self) -> Float[Array, "*k theta_dim theta_dim"]:
        """The covariance."""
        factor = self.scale_tril
        return factor @ jnp.swapaxes(factor, -1, -2)

    @property
    def log_variance(self) -> Float[Array, "*k theta_dim"]:
        """The logarithm of each coordinate's variance."""
        return jnp.log(jnp.sum(self.scale_tril**2, -1))

    def log_prob(self, u: Float[Array, " theta_dim"]) -> Float[Array, "*k"]:
        """Returns the log-density at u, in nats; of a mixture that of each component."""
        t = (u - self.mean) * jnp.exp(-self.log_scale)
        t = t + jnp.squeeze(self.lower @ t[..., None], -1)
        constant = u.shape[-1] * math.log(2 * math.pi) / 2
        return -jnp.sum(t**2, -1) / 2 - jnp.sum(self.log_scale, -1) - constant

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points."""
        noise = jax.random.normal(key, (n, *self.mean.shape), self.mean.dtype)
        return self.mean + noise @ self.scale_tril.T

    def sample_of(self, key: PRNGKeyArray, which: Int[Array, " n"]) -> Float[Array, "n theta_dim"]:
        """Draws one point of each chosen component of a mixture."""
        mean, factor = self.mean, self.scale_tril
        noise = jax.random.normal(key, (len(which), mean.shape[-1]), mean.dtype)
        return mean[which] + jnp.einsum("nij,nj->ni", factor[which], noise)


def lower_size(d: int, *, diagonal: bool) -> int:
    """Returns how many numbers stand below the diagonal."""
    return 0 if diagonal else d * (d - 1) // 2


def normal_at(
    outputs: Float[Array, "*k size"], shift: Float[Array, " d"], scale: Float[Array, " d"]
) -> Normal:
    """Makes the normal law that a network's outputs stand for.

    Args:
        outputs: Mean, log-scale and, unless the covariance is diagonal, the rows of what is below
            the diagonal, all in standardised coordinates z.
        shift: Of the coordinates u = shift + scale z.
        scale: Of the same.

    Returns:
        The law of u.
    """
    d = shift.shape[0]
    mean, raw, below = jnp.split(outputs, [d, 2 * d], axis=-1)
    # W stays of one form: scaling z only moves its diagonal.
    log_scale = _MOST_LOG_SCALE * jnp.tanh(raw / _MOST_LOG_SCALE) + jnp.log(scale)
    lower = jnp.zeros((*outputs.shape[:-1], d, d), outputs.dtype)
    if below.shape[-1]:
        rows, columns = jnp.tril_indices(d, -1)
        lower = lower.at[..., rows, columns].set(below)
    return Normal(shift + scale * mean, log_scale, lower)
