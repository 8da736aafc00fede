"""Scores of predictive distributions, from draws and observed values."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._ranges import check_range


def central_interval(
    draws: Float[Array, "n *shape"], level: float
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Returns the interval that leaves `(1 - level) / 2` of the draws on each side.

    Args:
        draws: Predictive draws along the first axis.
        level: Probability of the interval, in (0, 1).

    Returns:
        `(lower, upper)`.

    Raises:
        ValueError: If a concrete `level` is not in (0, 1). A traced one gives NaN.
    """
    level = check_range("level", level, 0.0, 1.0)
    tail = jnp.asarray((1 - level) / 2, draws.dtype)
    lower, upper = jnp.quantile(draws, jnp.stack([tail, 1 - tail]), axis=0)
    return lower, upper


def interval_coverage(
    lower: Float[Array, "*shape"],
    upper: Float[Array, "*shape"],
    truth: Float[Array, "*shape"],
) -> Float[Array, ""]:
    """Returns the fraction of observed values inside their intervals, ends included."""
    return jnp.mean(((lower <= truth) & (truth <= upper)).astype(truth.dtype))


def crps(draws: Float[Array, "n *shape"], truth: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Estimates the continuous ranked probability score from predictive draws.

    `CRPS = E|X - y| - E|X - X'| / 2`, in the units of `y`. Smaller is better. This is the fair
    estimator, which is unbiased for every number of draws.

    Args:
        draws: Predictive draws along the first axis, at least 2.
        truth: Observed values.

    Returns:
        The score of every entry of `truth`.

    Raises:
        ValueError: If there are fewer than 2 draws.

    Reference:
        Gneiting and Raftery, "Strictly proper scoring rules" (2007), eq. 21.
        Ferro, "Fair scores for ensemble forecasts" (2014).
    """
    n = draws.shape[0]
    if n < 2:
        raise ValueError(f"Expected at least 2 draws; got {n}.")
    ranks = jnp.arange(n, dtype=draws.dtype).reshape(-1, *[1] * truth.ndim)
    weights = (2 * ranks - (n - 1)) / (n * (n - 1))
    half_spread = jnp.sum(weights * jnp.sort(draws, axis=0), axis=0)
    return jnp.mean(jnp.abs(draws - truth), axis=0) - half_spread


def gaussian_crps(
    mean: Float[Array, "*shape"], stdv: Float[Array, "*shape"], truth: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Returns the continuous ranked probability score of a Gaussian prediction.

    Args:
        mean: Predictive mean.
        stdv: Predictive standard deviation, positive.
        truth: Observed values.

    Returns:
        The score of every entry, in the units of `truth`. Smaller is better.

    Raises:
        ValueError: If a concrete entry of `stdv` is not positive. A traced one gives NaN.

    Reference:
        Gneiting and Raftery, "Strictly proper scoring rules" (2007), sec. 4.2.
    """
    stdv = check_range("stdv", stdv, 0.0)
    z = (truth - mean) / stdv
    density = jax.scipy.stats.norm.pdf(z)
    cdf = jax.scipy.stats.norm.cdf(z)
    return stdv * (z * (2 * cdf - 1) + 2 * density - 1 / math.sqrt(math.pi))
