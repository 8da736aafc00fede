"""Results of the local classifier two-sample test."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from nnef_dists.diagnostics import LocalC2ST
from nnef_dists.plotting._style import (
    BLUE,
    PALE,
    VERMILION,
    check_names,
    light_grid,
    new_figure,
    styled,
)

_MOST_DRAWS = 2000


@styled
def plot_local_c2st(
    result: LocalC2ST,
    *,
    names: Sequence[str] | None = None,
    dimensions: tuple[int, int] = (0, 1),
) -> Figure:
    """Draws the statistics and classifier probabilities of the local classifier test.

    Args:
        result: Result of `local_c2st` at k observations.
        names: Names of the observations. Defaults to `x[0]`, `x[1]`, ...
        dimensions: Two coordinates of theta to draw, if theta has more. Defaults to (0, 1).

    Returns:
        The figure. The left panel shows the statistic at each observation, in red if its p-value is
        below 0.05, over the lower 95% of the null distribution in gray. Each observation also has a
        panel of posterior draws, colored by the classifier probability of a true theta. The
        posterior has too much mass at blue draws, too little at red draws, and is correct at pale
        draws. For a scalar theta, the panel shows this probability over theta.

    Raises:
        ValueError: If the number of names is wrong, or there are no such dimensions.
    """
    k, _, dim = result.draws.shape
    names = check_names([f"x[{i}]" for i in range(k)] if names is None else names, k)
    if dim > 1 and (len(set(dimensions)) < 2 or not all(0 <= i < dim for i in dimensions)):
        raise ValueError(f"Expected two different dimensions below {dim}; got {dimensions}")
    statistic, null = np.asarray(result.statistic), np.asarray(result.null)
    p_values, probability = np.asarray(result.p_value), np.asarray(result.probability)
    reach = max(float(np.quantile(np.abs(probability - 0.5), 0.99)), 0.05)

    columns = min(k, 4)
    rows = -(-k // columns)
    figure = new_figure(2.6 + 2.1 * columns, max(0.6 + 2.2 * rows, 1.0 + 0.24 * k))
    parts = figure.subfigures(1, 2, width_ratios=[2.6, 2.1 * columns], squeeze=False)
    summary, grid = parts[0]
    axes = summary.subplots()
    low, high = np.quantile(null, [0.0, 0.95], axis=1)
    heights = np.arange(k)
    axes.hlines(heights, low, high, color=PALE, linewidth=7)
    exceeding = p_values < 0.05
    axes.scatter(statistic, heights, c=np.where(exceeding, VERMILION, BLUE), s=26, zorder=3)
    axes.set_yticks(
        heights, [f"{name}\np = {p:.2g}" for name, p in zip(names, p_values, strict=True)]
    )
    axes.set(xscale="log", xlabel="statistic", ylim=(k - 0.4, -0.6))
    light_grid(axes)

    panels = grid.subplots(rows, columns, squeeze=False).ravel()
    image = None
    for i, panel in enumerate(panels[:k]):
        draws = np.asarray(result.draws)[i, :_MOST_DRAWS]
        colors = probability[i, :_MOST_DRAWS]
        first, second = (draws[:, 0], colors) if dim == 1 else draws[:, dimensions].T
        image = panel.scatter(
            first,
            second,
            c=colors,
            s=3,
            cmap="coolwarm",
            vmin=0.5 - reach,
            vmax=0.5 + reach,
            rasterized=True,
        )
        panel.set_title(names[i])
        panel.locator_params(nbins=4)
        panel.set_xlabel(f"θ[{0 if dim == 1 else dimensions[0]}]")
        if i % columns == 0:
            panel.set_ylabel("probability of truth" if dim == 1 else f"θ[{dimensions[1]}]")
    for panel in panels[k:]:
        panel.set_axis_off()
    assert image is not None
    bar = grid.colorbar(image, ax=list(panels), fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    bar.set_label("probability of truth")
    return figure
