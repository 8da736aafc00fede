"""Distributions of errors."""

from collections.abc import Mapping

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure

from nnef_dists.plotting._style import CYCLE, light_grid, new_figure, styled


@styled
def plot_error_distribution(errors: Mapping[str, Float[ArrayLike, "..."]]) -> Figure:
    """Draws histograms of absolute errors on a logarithmic axis.

    Args:
        errors: Errors in z units by name, such as `{"labels": ..., "network": ...}`. Arrays may
            have any shape, and signs are ignored.

    Returns:
        The figure, with one histogram per name. The legend shows RMS, median and maximum. Vertical
        lines mark the RMS.

    Raises:
        ValueError: If there are no errors, or some are not finite.
    """
    sizes = {name: np.abs(np.asarray(values)).ravel() for name, values in errors.items()}
    if not sizes or any(size.size == 0 for size in sizes.values()):
        raise ValueError(f"Expected errors; got { ({n: s.size for n, s in sizes.items()}) }")
    for name, size in sizes.items():
        if not np.isfinite(size).all():
            raise ValueError(f"Expected finite errors of {name!r}; got some that are not")
    largest = max(size.max() for size in sizes.values()) or 1.0
    # Clip the smallest 0.4% of the errors, which would stretch the axis.
    smallest = min(np.quantile(size, 4e-3) for size in sizes.values())
    smallest = max(smallest, 1e-5 * largest)
    bins = np.geomspace(0.8 * smallest, 1.25 * largest, 46)

    figure = new_figure(5.4, 3.1)
    axes = figure.subplots()
    for color, (name, size) in zip(CYCLE * len(sizes), sizes.items(), strict=False):
        rms = np.sqrt(np.mean(size**2))
        weights = np.full(size.size, 100 / size.size)
        label = f"{name}: rms {rms:.2g}, median {np.median(size):.2g}, max {size.max():.2g}"
        counted = np.clip(size, bins[0], bins[-1])
        axes.hist(counted, bins, weights=weights, color=color, alpha=0.22)
        axes.hist(
            counted, bins, weights=weights, histtype="step", color=color, linewidth=1.3, label=label
        )
        axes.axvline(rms, color=color, linestyle=(0, (4, 3)), linewidth=1.1)
    axes.set(
        xscale="log",
        xlim=(bins[0], bins[-1]),
        xlabel="size of the error [z units]  (dashed: rms)",
        ylabel="share of the errors [%]",
    )
    light_grid(axes)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (1.06 + 0.09 * len(sizes)))
    axes.legend(loc="upper left", handlelength=1.2)
    return figure
