"""Independent draws of one or two variables, from a grid of their density."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

# Numbers of points per axis of the search grids and of the last grid, by number of axes.
_SEARCH, _FINAL = {1: 65, 2: 33}, {1: 65536, 2: 256}
# Half-width of a grid in standard deviations, and the largest mass at its border.
_REACH, _BORDER = 7.0, 1e-5
_ROUNDS = 40
# Density beside a point of NaN, relative to the largest density, from which a grid is refused.
_BESIDE_NAN = 1e-4
NAN_REMEDY = (
    "If A is NaN, use double precision, jax.config.update('jax_enable_x64', True), or a tractable "
    "family that computes A there. A prior must be -inf where it has no density."
)
# Number of points that are evaluated at once.
_BATCH = 4096


def draw_from_grid(
    density: Callable[[Array], Array], start: Float[Array, " m"], n: int, key: PRNGKeyArray
) -> Float[Array, "n m"]:
    """Draws from a density of one or two variables.

    The grid is centered and oriented by the moments of coarser grids, which are repeated until the
    moments settle. A draw is uniform in its cell, which is 0.05 standard deviations wide with two
    variables.

    Args:
        density: Function from u, `(m,)`, to its log-density up to a constant. -inf without density,
            NaN if the density is not known.
        start: A point of positive density, `(m,)`, with m = 1 or 2.
        n: Number of draws.
        key: A `jax.random.key`.

    Returns:
        The draws, `(n, m)`.

    Raises:
        ValueError: If no grid covers the density, which may be improper, or the density is not
            known beside likely points.
    """
    m = start.size
    evaluate = jax.jit(lambda points: jax.lax.map(density, points, batch_size=_BATCH))
    unit = _unit_grid(_SEARCH[m], m)
    center, axes = np.asarray(start, np.float64), _curvature_axes(density, start)
    for _ in range(_ROUNDS):
        p, _ = _probabilities(evaluate, center, axes, unit, start.dtype)
        mean = p @ unit
        covariance = (p[:, None] * (unit - mean)).T @ (unit - mean)
        step = 2 * _REACH / _SEARCH[m]
        values, vectors = np.linalg.eigh(covariance + (step / 4) ** 2 * np.eye(m))
        at_border = p[np.max(np.abs(unit), 1) > _REACH - step].sum()
        center = center + axes @ mean
        is_settled = np.max(np.abs(mean)) < 0.2 and (np.abs(np.log(values)) < 0.5).all()
        if is_settled and at_border < _BORDER:
            break
        # There may be more mass beyond the border.
        widening = 2.0 if at_border > _BORDER else 1.0
        axes = axes @ (vectors * np.sqrt(values) * widening)
    else:
        raise ValueError(
            f"Expected a posterior that a grid of natural parameters holds; got one that still "
            f"moves after {_ROUNDS} grids, around {center}. Use a proper prior. If it is "
            "proper, use method='nuts'."
        )
    unit = _unit_grid(_FINAL[m], m)
    p, is_nan = _probabilities(evaluate, center, axes, unit, start.dtype)
    _check_no_nan(p, is_nan, center + unit @ axes.T, m)
    key_cell, key_order, key_inside = jax.random.split(key, 3)
    levels = np.sort(np.asarray(jax.random.uniform(key_cell, (n,)), np.float64))
    # Draws are shuffled, because diagnostics would fail for draws in the order of cells.
    cells = np.searchsorted(np.cumsum(p) / p.sum(), levels, side="right").clip(max=len(p) - 1)
    cells = np.asarray(jax.random.permutation(key_order, jnp.asarray(cells)))
    inside = np.asarray(jax.random.uniform(key_inside, (n, m)), np.float64) - 0.5
    points = center + (unit[cells] + inside * (2 * _REACH / _FINAL[m])) @ axes.T
    return jnp.asarray(points, start.dtype)


def _unit_grid(side: int, m: int) -> np.ndarray:
    """Returns the centers of the cells of [-reach, reach]^m, `(side^m, m)`."""
    axis = ((np.arange(side) + 0.5) / side * 2 - 1) * _REACH
    return np.stack(np.meshgrid(*[axis] * m, indexing="ij"), -1).reshape(-1, m)


def _probabilities(
    evaluate: Any, center: np.ndarray, axes: np.ndarray, unit: np.ndarray, dtype: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the probabilities of the cells, and which densities are NaN, with probability 0."""
    values = np.asarray(evaluate(jnp.asarray(center + unit @ axes.T, dtype)), np.float64)
    is_nan = np.isnan(values)
    values = np.where(is_nan, -np.inf, values)
    if not np.isfinite(values).any():
        raise ValueError(
            f"Expected a posterior that a grid of natural parameters holds; got one without a "
            f"finite density around {center}. Begin inside the training region, or use "
            "method='nuts'."
        )
    p = np.exp(values - values.max())
    return p / p.sum(), is_nan


def _check_no_nan(p: np.ndarray, is_nan: np.ndarray, points: np.ndarray, m: int) -> None:
    """Checks that no likely point has a neighbor whose density is NaN."""
    beside = np.reshape(is_nan, (_FINAL[m],) * m)
    for axis in range(m):
        padded = np.pad(beside, [(int(i == axis),) * 2 for i in range(m)])
        ends = (slice(None, -2), slice(2, None))
        shifted = [padded[(slice(None),) * axis + (end,)] for end in ends]
        beside = beside | shifted[0] | shifted[1]
    bad = beside.ravel() & (p > _BESIDE_NAN * p.max())
    if bad.any():
        raise ValueError(
            "Expected a log-density that is a number or -inf inside the natural domain and the "
            f"training region; got NaN beside {points[np.argmax(bad)]}, in unconstrained "
            f"coordinates of eta, where the posterior has density. {NAN_REMEDY}"
        )


def _curvature_axes(density: Callable[[Array], Array], start: Array) -> np.ndarray:
    """Returns axes of one standard deviation from the curvature at the start, or unit axes."""
    curvature = -np.asarray(jax.jit(jax.hessian(density))(start), np.float64)
    if np.isfinite(curvature).all():
        values, vectors = np.linalg.eigh(curvature)
        if values[0] > 0:
            return vectors / np.sqrt(values)
    return np.eye(start.size)
