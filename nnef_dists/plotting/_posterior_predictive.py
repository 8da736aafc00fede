"""Posterior predictive checks."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure

from nnef_dists.diagnostics import predictive_p_value
from nnef_dists.plotting._style import (
    BLUE,
    VERMILION,
    check_names,
    check_shape,
    light_grid,
    new_figure,
    styled,
)

# Largest number of entries that are drawn as bars. More entries are drawn as bands.
_MOST_BARS = 16


@styled
def plot_posterior_predictive(
    replicates: Float[ArrayLike, "n *x_shape"],
    observed: Float[ArrayLike, "*x_shape"],
    *,
    names: Sequence[str] | None = None,
) -> Figure:
    """Draws an observation over its posterior predictive distribution.

    Args:
        replicates: Simulated observations from `posterior_predictive`, `(n, *x_shape)`, or
            statistics of them.
        observed: Observation, `(*x_shape)`, or its statistics.
        names: Names of the entries, row by row. Defaults to `x[0]`, `x[1]`, ...

    Returns:
        The figure. It shows the middle 50, 90 and 99% of the predictions of each entry. A dot shows
        the observation, in red if its p-value is below 0.01. Up to 16 entries are bars, in units
        of the predictive standard deviation from the predictive mean. More entries are bands, in
        units of x.

    Raises:
        ValueError: If shapes differ, or the number of names is wrong.
    """
    replicates, observed = np.asarray(replicates), np.asarray(observed)
    check_shape("observed", observed, replicates.shape[1:])
    p_values = np.asarray(predictive_p_value(jnp.asarray(replicates), jnp.asarray(observed)))
    p_values, replicates = p_values.ravel(), replicates.astype(np.float64)
    replicates, observed = replicates.reshape(len(replicates), -1), observed.ravel()
    k = observed.size
    names = check_names([f"x[{i}]" for i in range(k)] if names is None else names, k)
    colors = np.where(p_values < 0.01, VERMILION, BLUE)
    position = np.arange(k)
    few = k <= _MOST_BARS
    if few:
        mean, sd = replicates.mean(0), replicates.std(0)
        sd = np.where(sd > 0, sd, 1)
        replicates, observed = (replicates - mean) / sd, (observed - mean) / sd

    figure = new_figure(max(3.2, 0.6 * k + 1.2) if few else 5.6, 2.9)
    axes = figure.subplots()
    axes.use_sticky_edges = not few
    for level, alpha in ((0.99, 0.14), (0.9, 0.2), (0.5, 0.3)):
        low, high = np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
        if few:
            axes.bar(position, high - low, 0.5, low, color=BLUE, alpha=alpha, linewidth=0)
        else:
            axes.fill_between(position, low, high, color=BLUE, alpha=alpha, linewidth=0)
    size = 24 if few else 6
    axes.scatter(position, observed, c=colors, s=size, zorder=3, edgecolors="white", linewidths=0.5)
    if few:
        axes.set_xticks(position, names)
        axes.set_ylabel("distance from the prediction\n[predictive sd]")
    else:
        axes.set(xlabel="entry", ylabel="x")
    axes.set_title(f"smallest of {k} p values: {p_values.min():.2g}")
    light_grid(axes)
    axes.grid(visible=False, axis="x")
    return figure
