"""Masked observations, for sets and series of varying length and for missing entries."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

# Largest number of quantiles of a set's rows in the features of its region.
_QUANTILES = 64


def masked_observation(
    values: Float[ArrayLike, "*shape"], observed: Bool[ArrayLike, "*leading"] | None = None
) -> Float[Array, "*shape 2"]:
    """Returns an observation with its mask: x[..., 0] are the values, x[..., 1] is the mask.

    The mask is 1 for an observed entry and 0 for a missing entry. The content of a missing entry
    (padding, NaN, infinity) is replaced by 0 and has no effect. Return this array from a simulator,
    and pass it to heads with a masked embedding. The first axis (trials, times) may then have any
    length.

    Args:
        values: Values, for example `(rows, channels)`, or `(d,)` for a vector.
        observed: Whether each value is observed, of the shape of `values` or its leading axes. For
            example, `(rows,)` marks whole rows. By default, all values are observed.

    Returns:
        The observation, of shape `(*shape, 2)`.

    Raises:
        ValueError: If `observed` is not boolean, or does not have the shape of leading axes.
    """
    values = jnp.asarray(values)
    observed = jnp.ones(values.shape, bool) if observed is None else jnp.asarray(observed)
    if observed.dtype != bool:
        raise ValueError(f"Expected observed of dtype bool; got {observed.dtype}")
    if observed.ndim == 0 or observed.shape != values.shape[: observed.ndim]:
        raise ValueError(
            f"Expected observed of shape {values.shape} or of its leading axes; got "
            f"{observed.shape}"
        )
    missing_axes = (1,) * (values.ndim - observed.ndim)
    observed = jnp.broadcast_to(observed.reshape(observed.shape + missing_axes), values.shape)
    values = jnp.where(observed, values, 0)
    return jnp.stack([values, observed.astype(values.dtype)], -1)


def split_mask(xp: Any, x: Any) -> tuple[Any, Any, Any]:
    """Returns the values with 0 for missing entries, the mask as booleans, and its validity.

    A mask is valid if its entries are 0 or 1 and at least one is 1. The validity of a batch is one
    boolean for all of its observations.

    Args:
        xp: NumPy, or `jax.numpy`.
        x: The observation, `(*shape, 2)`.
    """
    mask = x[..., 1]
    observed = mask == 1
    valid = xp.all(observed | (mask == 0)) & xp.any(observed)
    # Before any arithmetic, so that missing entries affect neither values nor gradients.
    return xp.where(observed, x[..., 0], 0), observed, valid


def check_mask(x: np.ndarray) -> None:
    """Checks the mask of one concrete observation.

    Raises:
        ValueError: If an entry is neither 0 nor 1, or no entry is 1.
    """
    mask = x[..., 1]
    bad = (mask != 0) & (mask != 1)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"Expected a mask x[..., 1] of 1 (observed) and 0 (missing); got {mask[index]} at "
            f"x{[*index, 1]}. Make x with nnef_dists.posterior.masked_observation"
        )
    if not mask.any():
        raise ValueError(
            "Expected at least one observed entry; got a mask x[..., 1] that is 0 everywhere. "
            "The posterior of no data is the prior"
        )


def check_masks(x: np.ndarray) -> None:
    """Checks the masks of simulations, `(n, *shape, 2)`.

    Raises:
        ValueError: If x has no mask, or a mask is not valid.
    """
    if x.ndim < 3 or x.shape[-1] != 2:
        raise ValueError(
            f"Expected masked x of shape (..., 2), with values and mask; got {x.shape[1:]}. Make x "
            "with nnef_dists.posterior.masked_observation in the simulator"
        )
    mask = x[..., 1].reshape(len(x), -1)
    bad = ((mask != 0) & (mask != 1)).any(1) | ~mask.any(1)
    if bad.any():
        index = int(np.argmax(bad))
        try:
            check_mask(x[index])
        except ValueError as error:
            raise ValueError(f"{error}. This is simulation {index}, one of {bad.sum()}") from None


def summary_fill(x: np.ndarray, *, exchangeable: bool) -> np.ndarray:
    """Returns the medians of the observed values, by entry, or by channel of a set.

    Args:
        x: Simulated observations, `(n, *shape, 2)`.
        exchangeable: Whether the order of the rows has no meaning.

    Returns:
        Medians, of the shape of the values, without the rows if these are exchangeable.
    """
    values, observed, _ = split_mask(np, np.asarray(x, np.float64))
    if exchangeable:
        values, observed = (a.reshape(-1, *a.shape[2:]) for a in (values, observed))
    fill = np.zeros(values.shape[1:])
    known = observed.any(0)
    fill[known] = np.nanmedian(np.where(observed, values, np.nan)[:, known], 0)
    return fill


def summarize(xp: Any, x: Any, fill: Any, rows: int, *, exchangeable: bool) -> tuple[Any, Any]:
    """Returns the features of observations in a region, and whether they are valid.

    The features of a set are quantiles of each channel and logarithms of counts. Otherwise, they
    are the entries, with medians for missing ones, and the mask. The length of the padding has no
    effect.

    Args:
        xp: NumPy, or `jax.numpy`.
        x: One observation `(*shape, 2)`, or a batch with a leading axis.
        fill: Medians from `summary_fill`.
        rows: Length of the first axis in the simulations.
        exchangeable: Whether the order of the rows has no meaning.

    Returns:
        Features `(..., size)`, and a boolean. It is False for an invalid mask, non-finite observed
        values, or observed rows beyond the length in the simulations.
    """
    values, observed, valid = split_mask(xp, x)
    valid = valid & xp.all(xp.isfinite(values))
    if exchangeable:
        features = _of_set(xp, values, observed, fill, min(rows, _QUANTILES))
    else:
        axis = observed.ndim - fill.ndim
        extra = rows - observed.shape[axis]
        if extra < 0:
            values, beyond = xp.split(values, [rows], axis)
            observed, beyond = xp.split(observed, [rows], axis)
            valid = valid & ~xp.any(beyond)
        elif extra > 0:
            pad = [(0, extra if i == axis else 0) for i in range(observed.ndim)]
            values, observed = xp.pad(values, pad), xp.pad(observed, pad)
        features = [xp.where(observed, values, fill), observed.astype(values.dtype)]
    batch = x.shape[: x.ndim - 1 - fill.ndim - exchangeable]
    return xp.concatenate([part.reshape(*batch, -1) for part in features], -1), valid


def _of_set(xp: Any, values: Any, observed: Any, fill: Any, levels: int) -> list[Any]:
    """Returns quantiles of the observed rows of each channel, and log(1 + their number)."""
    axis = values.ndim - 1 - fill.ndim
    order = xp.argsort(xp.where(observed, values, xp.inf), axis)
    ordered = xp.take_along_axis(values, order, axis)
    count = observed.sum(axis, keepdims=True)
    last = xp.maximum(count - 1, 0)
    level = xp.linspace(0, 1, levels, dtype=values.dtype).reshape(-1, *(1,) * fill.ndim)
    position = level * last.astype(values.dtype)
    below = xp.floor(position)
    lower = below.astype(order.dtype)
    upper = xp.minimum(lower + 1, last.astype(order.dtype))
    low, high = (xp.take_along_axis(ordered, rows, axis) for rows in (lower, upper))
    quantiles = low + (position - below) * (high - low)
    return [xp.where(count > 0, quantiles, fill), xp.log1p(count.astype(values.dtype))]
