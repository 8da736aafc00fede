"""Normal distributions that are truncated to a box, in closed form."""

import math
from typing import Any, ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
import paramax
from flowjax.bijections import AbstractBijection
from jax.scipy.special import log_ndtr, ndtri
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from nnef_dists._ranges import check_range
from nnef_dists.posterior._box_support import box_ends
from nnef_dists.posterior._normal import Normal

# Standard deviations beyond which the mass of a tail is zero to rounding, in float64 too.
_FAR = 40.0
# Width of an interval, in units of the slope of the log-density, that a midpoint rule integrates.
_NARROW = 0.1
_NEWTON_STEPS = 4


@final
class TruncationBox(AbstractBijection):
    """The box [low, high] in its own coordinates: the identity inside, NaN outside.

    Heads with `bounds` have it as their support. Their distributions are truncated to the box, so
    theta needs no other coordinates.

    Args:
        low: Lower ends, `(d,)`. Minus infinity is no bound.
        high: Upper ends, `(d,)`, each above the lower one. Infinity is no bound.

    Raises:
        ValueError: If shapes differ, or a concrete end is NaN, or low is not below high.
    """

    low: paramax.NonTrainable[Array]
    high: paramax.NonTrainable[Array]

    cond_shape: ClassVar[None] = None

    def __init__(self, low: Float[ArrayLike, " d"], high: Float[ArrayLike, " d"]):
        low, high = (
            check_range(name, end, closed="both") for name, end in (("low", low), ("high", high))
        )
        low, high = box_ends(low, high)
        self.low, self.high = paramax.NonTrainable(low), paramax.NonTrainable(high)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of theta, `(d,)`."""
        return paramax.unwrap(self.low).shape

    def transform_and_log_det(self, x: Any, condition: Any = None):
        """Returns the point itself, moved into the box if rounding has left it outside, and 0."""
        low, high = self.ends(x.dtype)
        return jnp.clip(x, low, high), jnp.zeros((), x.dtype)

    def inverse_and_log_det(self, y: Any, condition: Any = None):
        """Returns the point itself, NaN outside of the box, and 0."""
        low, high = self.ends(y.dtype)
        return jnp.where((y >= low) & (y <= high), y, jnp.nan), jnp.zeros((), y.dtype)

    def ends(self, dtype: Any) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """Returns the ends as arrays of a dtype."""
        low, high = paramax.unwrap((self.low, self.high))
        return low.astype(dtype), high.astype(dtype)


class TruncatedNormal(NamedTuple):
    """A normal distribution, each conditional of which is truncated to an interval.

        q(u) = prod_j N(u_j; m_j, s_j^2) / (Phi((high_j - m_j) / s_j) - Phi((low_j - m_j) / s_j))

    with m_j the mean and s_j the standard deviation of u_j given u_1, ..., u_{j-1} under the normal
    distribution. In one dimension and for diagonal covariances this is the normal distribution
    truncated to the box. With correlations it is close to it, and normalized in closed form. The
    density at the bounds is finite and positive. A mixture has a leading axis everywhere.

    Attributes:
        normal: The normal distribution, not truncated.
        low: Lower bounds, `(theta_dim,)`.
        high: Upper bounds, `(theta_dim,)`.
    """

    normal: Normal
    low: Float[Array, "*k theta_dim"]
    high: Float[Array, "*k theta_dim"]

    def log_prob(self, u: Float[Array, " theta_dim"]) -> Float[Array, "*k"]:
        """Returns the log-density at u, inside the box, in nats; of a mixture by component."""
        mean, log_scale, lower = self.normal
        y = (u - mean) * jnp.exp(-log_scale)
        shift = jnp.squeeze(lower @ y[..., None], -1)
        low, high = (self._standardized(end) for end in (self.low, self.high))
        log_mass = log_interval_mass(low + shift, high + shift)
        constant = math.log(2 * math.pi) / 2
        return jnp.sum(-((y + shift) ** 2) / 2 - constant - log_scale - log_mass, -1)

    def sample_from(self, uniform: Float[Array, "*k theta_dim"]) -> Float[Array, "*k theta_dim"]:
        """Turns uniform numbers in (0, 1) into a draw, one entry after the other."""
        mean, log_scale, lower = self.normal
        low, high = (self._standardized(end) for end in (self.low, self.high))

        def step(y, j):
            shift = jnp.sum(lower[..., j, :] * y, -1)
            a, b = low[..., j] + shift, high[..., j] + shift
            return y.at[..., j].set(truncated_quantile(uniform[..., j], a, b) - shift), None

        y, _ = jax.lax.scan(step, jnp.zeros_like(mean), jnp.arange(mean.shape[-1]))
        return jnp.clip(mean + jnp.exp(log_scale) * y, self.low, self.high)

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points."""
        return self._each(
            jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), self), key
        )

    def sample_of(self, key: PRNGKeyArray, which: Int[Array, " n"]) -> Float[Array, "n theta_dim"]:
        """Draws one point of each chosen component of a mixture."""
        return self._each(jax.tree.map(lambda leaf: leaf[which], self), key)

    @staticmethod
    def _each(rows: "TruncatedNormal", key: PRNGKeyArray) -> Float[Array, "n theta_dim"]:
        shape, dtype = rows.low.shape, rows.low.dtype
        tiny = float(jnp.finfo(dtype).tiny)
        return rows.sample_from(jax.random.uniform(key, shape, dtype, tiny))

    def _standardized(self, end: Array) -> Array:
        # No gradient of an infinite end meets another infinity.
        finite = jnp.isfinite(end)
        distance = jnp.where(finite, end, 0) - self.normal.mean
        return jnp.where(finite, distance * jnp.exp(-self.normal.log_scale), end)


def truncate(normal: Normal, support: AbstractBijection | None) -> Normal | TruncatedNormal:
    """Returns a normal distribution, truncated if the support of theta is a `TruncationBox`."""
    if not isinstance(support, TruncationBox):
        return normal
    low, high = support.ends(normal.mean.dtype)
    shape = normal.mean.shape
    return TruncatedNormal(normal, jnp.broadcast_to(low, shape), jnp.broadcast_to(high, shape))


def bounded_support(
    support: AbstractBijection | None, bounds: tuple[ArrayLike, ArrayLike] | None
) -> AbstractBijection | None:
    """Returns the support of a head that takes either `support` or `bounds`.

    Raises:
        ValueError: If both are given, or the bounds are out of range.
    """
    if bounds is None:
        return support
    if support is not None:
        raise ValueError(
            "Expected either support (unconstrained coordinates) or bounds (truncation); got both"
        )
    if len(bounds) != 2:
        raise ValueError(f"Expected bounds (low, high); got {len(bounds)} entries")
    return TruncationBox(*bounds)


def log_interval_mass(a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """Returns log(Phi(b) - Phi(a)) for a < b, accurate in the tails and for narrow intervals.

    Args:
        a: Lower ends, in standard deviations; minus infinity is allowed.
        b: Upper ends; infinity is allowed.
    """
    a, b, _ = _to_the_left(a, b)
    middle, width = (a + b) / 2, b - a
    narrow = width * (1 + jnp.abs(middle)) < _NARROW
    # Where widths are 1 in the formula that is not used, gradients are finite.
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
        a: Lower ends; minus infinity is allowed.
        b: Upper ends; infinity is allowed.
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
    # A linear density in an interval so narrow that its ends have almost one log Phi.
    t = jnp.where((b - a) * (1 + jnp.abs(a)) < 1e-2, a + p * (b - a), t)
    return jnp.where(mirrored, -t, t)


def _to_the_left(a: Array, b: Array) -> tuple[Array, Array, Array]:
    """Mirrors intervals whose middle is positive, and makes infinite ends finite."""
    mirrored = a + b > 0
    a, b = jnp.where(mirrored, -b, a), jnp.where(mirrored, -a, b)
    b = jnp.minimum(b, _FAR)
    return jnp.maximum(a, b - 2 * _FAR), b, mirrored
