"""Errors of each statistic."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure

from nnef_dists.plotting._style import (
    BLUE,
    GRAY,
    ORANGE,
    check_names,
    check_shape,
    light_grid,
    new_figure,
    styled,
)


@styled
def plot_component_errors(
    exact: Float[ArrayLike, "n eta_dim"],
    predicted: Float[ArrayLike, "n eta_dim"],
    scale: Float[ArrayLike, "n eta_dim"],
    *,
    names: Sequence[str] | None = None,
) -> Figure:
    """Draws the mean squared error of each statistic, and its RMS error in z units.

    Args:
        exact: Exact E[T | eta] of n etas, in units of the statistics, `(n, eta_dim)`.
        predicted: Predicted E[T | eta], `(n, eta_dim)`.
        scale: sd(T | eta), which converts errors to z units, `(n, eta_dim)`.
        names: Names of the statistics, such as `family.stat_names`. Defaults to `T[0]`, `T[1]`, ...

    Returns:
        The figure. The left panel shows mean squared errors in squared units of the statistics, on
        a logarithmic axis. The right panel shows RMS errors in z units. Dashed lines are the values
        over all statistics.

    Raises:
        ValueError: If shapes differ, or the number of names is wrong.
    """
    exact, predicted, scale = np.asarray(exact), np.asarray(predicted), np.asarray(scale)
    check_shape("predicted", predicted, exact.shape)
    check_shape("scale", scale, exact.shape)
    names = check_names(names, exact.shape[1])
    # A logarithmic axis cannot show an error of zero.
    squared = np.maximum(np.mean((predicted - exact) ** 2, axis=0), 1e-30)
    rms_z = np.sqrt(np.mean(((predicted - exact) / scale) ** 2, axis=0))

    figure = new_figure(7.2, 0.9 + 0.24 * len(names))
    left, right = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(names))
    for axes, values, overall, color in [
        (left, squared, np.mean(squared), ORANGE),
        (right, rms_z, np.sqrt(np.mean(rms_z**2)), BLUE),
    ]:
        axes.axvline(overall, color=GRAY, linestyle=(0, (4, 3)), linewidth=1.0)
        axes.hlines(rows, 0 if axes is right else values.min() / 3, values, color=color, alpha=0.5)
        axes.scatter(values, rows, color=color, s=26, zorder=3)
        light_grid(axes)
        axes.grid(visible=False, axis="y")
    left.set(
        xscale="log",
        xlim=(squared.min() / 3, squared.max() * 3),
        xlabel="mean squared error  (dashed: over all)",
    )
    right.set(xlim=(0, 1.12 * rms_z.max() or 1.0), xlabel="rms error [z units]  (dashed: over all)")
    left.set_yticks(rows, [f"E[{name}]" for name in names])
    left.set_ylim(len(names) - 0.4, -0.6)
    right.tick_params(left=False)
    return figure
