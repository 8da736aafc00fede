"""Scores of predictive distributions, from draws and observed values."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Real

from nnef_dists._checks import as_array, at_least_float32
from nnef_dists._ranges import check_range


def central_interval(
    draws: Real[Array, "n *shape"], level: float
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
    draws = at_least_float32(draws)
    tail = jnp.asarray((1 - level) / 2, draws.dtype)
    lower, upper = jnp.quantile(draws, jnp.stack([tail, 1 - tail]), axis=0)
    return lower, upper


def interval_coverage(
    lower: Real[Array, "*shape"],
    upper: Real[Array, "*shape"],
    truth: Real[Array, "*shape"],
) -> Float[Array, ""]:
    """Returns the fraction of observed values inside their intervals, ends included.

    Args:
        lower: Lower ends.
        upper: Upper ends.
        truth: Observed values, of the same shape.

    Returns:
        The fraction. NaN if an end or a value is NaN.

    Raises:
        ValueError: If shapes differ. Numbers go with every shape.
    """
    lower, upper, truth = (as_array(value) for value in (lower, upper, truth))
    _check_shapes(lower=lower, upper=upper, truth=truth)
    held = ((lower <= truth) & (truth <= upper)).astype(at_least_float32(truth).dtype)
    bad = jnp.isnan(lower) | jnp.isnan(upper) | jnp.isnan(truth)
    return jnp.mean(jnp.where(bad, jnp.nan, held))


def crps(draws: Real[Array, "n *shape"], truth: Real[Array, "*shape"]) -> Float[Array, "*shape"]:
    r"""Estimates the continuous ranked probability score from predictive draws.

    `CRPS = E|X - y| - E|X - X'| / 2`, in the units of `y`. Smaller is better. This is the fair
    estimator, which is unbiased for every number of draws.

    Args:
        draws: Predictive draws along the first axis, at least 2.
        truth: Observed values.

    Returns:
        The score of every entry of `truth`.

    Raises:
        ValueError: If there are fewer than 2 draws, or the shape of one is not that of `truth`.

    Reference:
        Gneiting and Raftery, "Strictly proper scoring rules" (2007), eq. 21.
        Ferro, "Fair scores for ensemble forecasts" (2014).
    """
    # Sums over draws lose digits, or overflow, in narrow dtypes.
    draws, truth = at_least_float32(draws), at_least_float32(truth)
    n = draws.shape[0]
    if n < 2:
        raise ValueError(f"Expected at least 2 draws; got {n}.")
    if draws.shape[1:] != truth.shape:
        raise ValueError(
            f"Expected draws of shape {truth.shape}, as truth, along a first axis; got draws of "
            f"shape {draws.shape}. Reshape them first."
        )
    ranks = jnp.arange(n, dtype=draws.dtype).reshape(-1, *[1] * truth.ndim)
    weights = (2 * ranks - (n - 1)) / (n * (n - 1))
    half_spread = jnp.sum(weights * jnp.sort(draws, axis=0), axis=0)
    return jnp.mean(jnp.abs(draws - truth), axis=0) - half_spread


def gaussian_crps(
    mean: Real[Array, "*shape"], stdv: Real[Array, "*shape"], truth: Real[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Returns the continuous ranked probability score of a Gaussian prediction.

    Args:
        mean: Predictive mean.
        stdv: Predictive standard deviation, positive.
        truth: Observed values.

    Returns:
        The score of every entry, in the units of `truth`. Smaller is better.

    Raises:
        ValueError: If shapes differ, or a concrete entry of `stdv` is not positive. A traced one
            gives NaN.

    Reference:
        Gneiting and Raftery, "Strictly proper scoring rules" (2007), sec. 4.2.
    """
    mean, stdv, truth = (at_least_float32(value) for value in (mean, stdv, truth))
    _check_shapes(mean=mean, stdv=stdv, truth=truth)
    stdv = check_range("stdv", stdv, 0.0)
    z = (truth - mean) / stdv
    density = jax.scipy.stats.norm.pdf(z)
    cdf = jax.scipy.stats.norm.cdf(z)
    return stdv * (z * (2 * cdf - 1) + 2 * density - 1 / math.sqrt(math.pi))


def _check_shapes(**arrays: Array) -> None:
    """Checks that arrays have one shape. Numbers go with every shape."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values()) - {()}) > 1:
        found = ", ".join(map(str, shapes.values()))
        raise ValueError(
            f"Expected {', '.join(shapes)} of one shape; got {found}. Reshape or broadcast them "
            "first."
        )
