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
        density: Function from u, `(m,)`, to its log-density up to a constant. -inf without density.
        start: A point of positive density, `(m,)`, with m = 1 or 2.
        n: Number of draws.
        key: A `jax.random.key`.

    Returns:
        The draws, `(n, m)`.

    Raises:
        ValueError: If no grid covers the density, which may be improper.
    """
    m = start.size
    evaluate = jax.jit(lambda points: jax.lax.map(density, points, batch_size=_BATCH))
    unit = _unit_grid(_SEARCH[m], m)
    center, axes = np.asarray(start, np.float64), _curvature_axes(density, start)
    for _ in range(_ROUNDS):
        p = _probabilities(evaluate, center, axes, unit, start.dtype)
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
    p = _probabilities(evaluate, center, axes, unit, start.dtype)
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
) -> np.ndarray:
    values = evaluate(jnp.asarray(center + unit @ axes.T, dtype))
    values = np.nan_to_num(np.asarray(values, np.float64), nan=-np.inf)
    if not np.isfinite(values).any():
        raise ValueError(
            f"Expected a posterior that a grid of natural parameters holds; got one without a "
            f"finite density around {center}. Begin inside the training region, or use "
            "method='nuts'."
        )
    p = np.exp(values - values.max())
    return p / p.sum()


def _curvature_axes(density: Callable[[Array], Array], start: Array) -> np.ndarray:
    """Returns axes of one standard deviation from the curvature at the start, or unit axes."""
    curvature = -np.asarray(jax.jit(jax.hessian(density))(start), np.float64)
    if np.isfinite(curvature).all():
        values, vectors = np.linalg.eigh(curvature)
        if values[0] > 0:
            return vectors / np.sqrt(values)
    return np.eye(start.size)
