"""Normal and truncated normal distributions and mixtures, parameterized by networks."""

import math
from typing import final

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr, ndtri
from jax.scipy.stats import norm
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.posterior._base import AbstractLaw, Vector

# Largest absolute log-scale, relative to the standard deviations of the simulations.
_MOST_LOG_SCALE = 8.0
# Distance in standard deviations beyond which a tail mass rounds to zero, also in float64.
_FAR = 40.0
# Largest width * (1 + |middle|) of an interval for which a midpoint rule gives the mass.
_NARROW = 0.1
# Number of Newton steps for a truncated quantile.
_NEWTON_STEPS = 4


@final
class Normal(AbstractLaw):
    """A normal distribution, given by its whitening: t = W (z - mean) is standard normal.

    W is lower triangular, so that the density needs no matrix factorization.

    Attributes:
        mean: Mean, `(theta_dim,)`.
        log_scale: Negative logarithms of the diagonal of W, `(theta_dim,)`.
        lower: Entries below the diagonal of W diag(exp(log_scale)), `(theta_dim, theta_dim)`.
    """

    mean: Float[Array, "*k theta_dim"]
    log_scale: Float[Array, "*k theta_dim"]
    lower: Float[Array, "*k theta_dim theta_dim"]

    @property
    def scale_tril(self) -> Float[Array, "*k theta_dim theta_dim"]:
        """The Cholesky factor of the covariance: the inverse of W."""
        d = self.mean.shape[-1]
        eye = jnp.eye(d, dtype=self.mean.dtype)
        # The product (1 - M)^-1 = (1 + M)(1 + M^2)(1 + M^4) ... is finite: M^d = 0.
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

    def log_prob(self, z: Vector) -> Float[Array, ""]:
        """Returns the log-density at z, in nats."""
        t = (z - self.mean) * jnp.exp(-self.log_scale)
        t = t + self.lower @ t
        return jnp.sum(norm.logpdf(t)) - jnp.sum(self.log_scale)

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points."""
        noise = jax.random.normal(key, (n, *self.mean.shape), self.mean.dtype)
        return self.mean + noise @ self.scale_tril.T

    def parameters(self, shift: Vector, scale: Vector) -> "Normal":
        """Returns the distribution of shift + scale z."""
        return Normal(shift + scale * self.mean, self.log_scale + jnp.log(scale), self.lower)


@final
class TruncatedNormal(AbstractLaw):
    """A normal distribution with each conditional truncated to an interval.

        q(z) = prod_j N(z_j; m_j, s_j^2) / (Phi((high_j - m_j) / s_j) - Phi((low_j - m_j) / s_j))

    where m_j and s_j are the mean and standard deviation of z_j given z_1, ..., z_{j-1} under the
    normal distribution. In one dimension or with a diagonal covariance, this is the normal
    distribution truncated to the box. With correlations it is an approximation with a closed-form
    normalization. The density at the bounds is finite and positive.

    Attributes:
        normal: Normal distribution before truncation.
        low: Lower bounds, `(theta_dim,)`.
        high: Upper bounds, `(theta_dim,)`.
    """

    normal: Normal
    low: Float[Array, "*k theta_dim"]
    high: Float[Array, "*k theta_dim"]

    def log_prob(self, z: Vector) -> Float[Array, ""]:
        """Returns the log-density at z, inside the box, in nats."""
        y = (z - self.normal.mean) * jnp.exp(-self.normal.log_scale)
        shift = self.normal.lower @ y
        low, high = (self._standardized(end) for end in (self.low, self.high))
        return self.normal.log_prob(z) - jnp.sum(log_interval_mass(low + shift, high + shift))

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points, entry by entry."""
        normal, dtype = self.normal, self.low.dtype
        tiny = float(jnp.finfo(dtype).tiny)
        uniform = jax.random.uniform(key, (n, *self.low.shape), dtype, tiny)
        low, high = (self._standardized(end) for end in (self.low, self.high))

        def step(y, j):
            shift = y @ normal.lower[j]
            entry = truncated_quantile(uniform[:, j], low[j] + shift, high[j] + shift)
            return y.at[:, j].set(entry - shift), None

        y, _ = jax.lax.scan(step, jnp.zeros_like(uniform), jnp.arange(uniform.shape[1]))
        return jnp.clip(normal.mean + jnp.exp(normal.log_scale) * y, self.low, self.high)

    def parameters(self, shift: Vector, scale: Vector) -> "TruncatedNormal":
        """Returns the distribution of shift + scale z."""
        ends = (shift + scale * end for end in (self.low, self.high))
        return TruncatedNormal(self.normal.parameters(shift, scale), *ends)

    def _standardized(self, end: Array) -> Array:
        # Masks infinite ends before the arithmetic, so that gradients are not NaN.
        finite = jnp.isfinite(end)
        distance = jnp.where(finite, end, 0) - self.normal.mean
        return jnp.where(finite, distance * jnp.exp(-self.normal.log_scale), end)


@final
class Mixture(AbstractLaw):
    """A mixture of distributions.

    Attributes:
        log_weights: Normalized logarithms of the weights, `(k,)`.
        components: Components, with a leading axis of length k. In `MixturePosterior` they are a
            `Normal` (`mean`, `scale_tril`, `covariance`, `log_variance`), or with bounds a
            `TruncatedNormal`.
    """

    log_weights: Float[Array, "*m k"]
    components: AbstractLaw

    @property
    def weights(self) -> Float[Array, "*m k"]:
        """The weights, which sum to 1."""
        return jnp.exp(self.log_weights)

    def log_prob(self, z: Vector) -> Float[Array, ""]:
        """Returns the log-density at z, in nats."""
        each = jax.vmap(lambda law: law.log_prob(z))(self.components)
        return jax.nn.logsumexp(self.log_weights + each)

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points."""
        key_which, key_draws = jax.random.split(key)
        which = jax.random.choice(key_which, len(self.weights), (n,), p=self.weights)
        chosen = jax.tree.map(lambda leaf: leaf[which], self.components)
        keys = jax.random.split(key_draws, n)
        return jax.vmap(lambda law, key: law.sample(key, 1)[0])(chosen, keys)

    def parameters(self, shift: Vector, scale: Vector) -> "Mixture":
        """Returns the mixture of the distributions of shift + scale z."""
        moved = jax.vmap(lambda law: law.parameters(shift, scale))(self.components)
        return Mixture(self.log_weights, moved)


def normal_size(d: int, *, diagonal: bool) -> int:
    """Returns the number of network outputs for `normal_at`."""
    return 2 * d + (0 if diagonal else d * (d - 1) // 2)


def normal_at(outputs: Float[Array, " size"], d: int) -> Normal:
    """Returns the normal distribution of z at the outputs of a network.

    Args:
        outputs: Mean, log-scale and, unless the covariance is diagonal, the entries below the
            diagonal by rows.
        d: Dimension of z.
    """
    mean, raw, below = jnp.split(outputs, [d, 2 * d])
    lower = jnp.zeros((d, d), outputs.dtype)
    if below.size:
        lower = lower.at[jnp.tril_indices(d, -1)].set(below)
    return Normal(mean, _MOST_LOG_SCALE * jnp.tanh(raw / _MOST_LOG_SCALE), lower)


def log_interval_mass(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns log(Phi(b) - Phi(a)) for a < b, accurate in the tails and for narrow intervals.

    Args:
        a: Lower ends, in standard deviations. Minus infinity is allowed.
        b: Upper ends. Infinity is allowed.
    """
    a, b, _ = _to_the_left(a, b)
    middle, width = (a + b) / 2, b - a
    narrow = width * (1 + jnp.abs(middle)) < _NARROW
    # The unused formula gets a width of 1, so that its gradient is finite.
    wide = jnp.where(narrow, b - 1, a)
    tail = log_ndtr(b)
    by_tails = tail + jnp.log1p(-jnp.exp(jnp.minimum(log_ndtr(wide) - tail, -1e-6)))
    width = jnp.where(narrow, width, 1)
    curvature = (middle**2 - 1) * width**2 / 24
    by_middle = jnp.log(width) - middle**2 / 2 - math.log(2 * math.pi) / 2 + curvature
    return jnp.where(narrow, by_middle, by_tails)


def truncated_quantile(
    p: Float[Array, "..."], a: Float[Array, "..."], b: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Returns the quantiles of a standard normal distribution truncated to [a, b].

    Args:
        p: Probabilities, in (0, 1).
        a: Lower ends. Minus infinity is allowed.
        b: Upper ends. Infinity is allowed.
    """
    a, b, mirrored = _to_the_left(a, b)
    p = jnp.where(mirrored, 1 - p, p)
    target = jnp.logaddexp(log_ndtr(a) + jnp.log1p(-p), log_ndtr(b) + jnp.log(p))
    # In the tail log Phi(t) is about -t^2 / 2 - log(-t sqrt(2 pi)).
    far = jnp.minimum(target, -10.0)
    root = jnp.sqrt(-2 * far)
    t = jnp.where(
        target < -10.0,
        -jnp.sqrt(-2 * (far + jnp.log(root) + math.log(2 * math.pi) / 2)),
        ndtri(jnp.exp(jnp.maximum(target, -10.0))),
    )
    t = jnp.clip(t, a, b)
    for _ in range(_NEWTON_STEPS):
        log_cdf = log_ndtr(t)
        slope = jnp.exp(-(t**2) / 2 - math.log(2 * math.pi) / 2 - log_cdf)
        t = jnp.clip(t - (log_cdf - target) / slope, a, b)
    # In an interval so narrow that log Phi is almost equal at both ends, the density is flat.
    t = jnp.where((b - a) * (1 + jnp.abs(a)) < 1e-2, a + p * (b - a), t)
    return jnp.where(mirrored, -t, t)


def _to_the_left(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Mirrors intervals whose middle is positive, and makes infinite ends finite."""
    mirrored = a + b > 0
    a, b = jnp.where(mirrored, -b, a), jnp.where(mirrored, -a, b)
    b = jnp.minimum(b, _FAR)
    return jnp.maximum(a, b - 2 * _FAR), b, mirrored
