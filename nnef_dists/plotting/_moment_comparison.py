"""Comparison of predicted with exact moments."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure

from nnef_dists.plotting._style import (
    BLUE,
    GRAY,
    check_names,
    check_shape,
    grid_of,
    light_grid,
    new_figure,
    styled,
)


@styled
def plot_moment_comparison(
    exact: Float[ArrayLike, "n eta_dim"],
    predicted: Float[ArrayLike, "n eta_dim"],
    scale: Float[ArrayLike, "n eta_dim"],
    *,
    uncertainty: Float[ArrayLike, "n eta_dim"] | None = None,
    names: Sequence[str] | None = None,
    most_columns: int = 3,
) -> Figure:
    """Draws predicted against exact moments of each statistic, above their errors.

    Args:
        exact: Exact E[T | eta] of n etas, in units of the statistics, `(n, eta_dim)`.
        predicted: Predicted E[T | eta], `(n, eta_dim)`.
        scale: sd(T | eta), which converts errors to z units, `(n, eta_dim)`.
        uncertainty: Predictive standard deviations in units of the statistics, `(n, eta_dim)`,
            drawn as error bars of two standard deviations on each side.
        names: Names of the statistics, such as `family.stat_names`. Defaults to `T[0]`, `T[1]`, ...
        most_columns: Largest number of statistics in a row. Defaults to 3.

    Returns:
        The figure. Each statistic has a panel with its RMS error in z units. The panel below shows
        the errors in z units over the same axis.

    Raises:
        ValueError: If shapes differ, or the number of names is wrong.
    """
    exact, predicted, scale = np.asarray(exact), np.asarray(predicted), np.asarray(scale)
    check_shape("predicted", predicted, exact.shape)
    check_shape("scale", scale, exact.shape)
    if uncertainty is not None:
        check_shape("uncertainty", np.asarray(uncertainty), exact.shape)
    names = check_names(names, exact.shape[1])
    errors = (predicted - exact) / scale
    bars = None if uncertainty is None else 2 * np.asarray(uncertainty) / scale

    rows, columns = grid_of(len(names), most_columns)
    figure = new_figure(2.9 * columns, 3.5 * rows)
    panels = figure.subplots(
        2 * rows, columns, squeeze=False, sharex=False, height_ratios=[2.2, 1.0] * rows
    )
    for i, name in enumerate(names):
        row, column = divmod(i, columns)
        above, below = panels[2 * row, column], panels[2 * row + 1, column]
        truth = exact[:, i]
        ends = [truth.min(), truth.max()]
        above.plot(ends, ends, color=GRAY, linewidth=0.8, zorder=1)
        above.scatter(truth, predicted[:, i], s=7, color=BLUE, alpha=0.55, linewidths=0, zorder=2)
        above.set(title=f"E[{name}]")
        above.text(
            0.04,
            0.95,
            f"rms {np.sqrt(np.mean(errors[:, i] ** 2)):.2g} z",
            transform=above.transAxes,
            va="top",
            color=GRAY,
            fontsize=8,
        )
        below.axhline(0.0, color=GRAY, linewidth=0.8, zorder=1)
        if bars is not None:
            below.errorbar(
                truth,
                errors[:, i],
                bars[:, i],
                fmt="none",
                ecolor=BLUE,
                alpha=0.22,
                elinewidth=0.7,
                zorder=2,
            )
        below.scatter(truth, errors[:, i], s=4, color=BLUE, alpha=0.7, linewidths=0, zorder=3)
        reach = np.max(np.abs(errors[:, i]))
        if bars is not None:
            reach = max(reach, np.quantile(np.abs(errors[:, i]) + bars[:, i], 0.98))
        reach = 1.1 * reach or 1.0
        below.set(ylim=(-reach, reach), xlabel="exact")
        above.tick_params(labelbottom=False)
        below.set_xlim(above.get_xlim())
        for axes in (above, below):
            axes.locator_params(axis="x", nbins=5)
            light_grid(axes)
        below.locator_params(axis="y", nbins=3)
        if column == 0:
            above.set_ylabel("predicted")
            below.set_ylabel("error [z units]")
    for empty in range(len(names), rows * columns):
        row, column = divmod(empty, columns)
        panels[2 * row, column].set_axis_off()
        panels[2 * row + 1, column].set_axis_off()
    figure.align_ylabels()
    return figure
