"""Tests of accuracy with random points (TARP)."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure

from nnef_dists.plotting._style import BLUE, GRAY, PALE, new_figure, styled
from nnef_dists.plotting._uniform_band import check_levels, draw_distribution


@styled
def plot_tarp(levels: Float[ArrayLike, " m"], *, bins: int = 20) -> Figure:
    """Draws the coverage of balls around random points over their probability.

    Args:
        levels: Levels from `tarp_levels`, `(m,)`.
        bins: Number of bins of the histogram. Defaults to 20.

    Returns:
        The figure. The left panel shows coverage, with a band that contains 95% of the curves of a
        correct posterior along their whole length. The right panel shows the levels, which are
        uniform for a correct posterior. Many levels at both ends indicate a posterior that is too
        narrow, and in the middle one that is too wide. Many levels at one end indicate a bias, or a
        posterior that ignores part of the information in x.

    Raises:
        ValueError: If there are no levels, or some are not in [0, 1].
    """
    levels = check_levels("levels", np.asarray(levels))
    figure = new_figure(6.4, 3.2)
    left, right = figure.subplots(1, 2)
    draw_distribution(left, {"": levels}, difference=False)
    left.set(ylim=(0, 1), xlabel="probability of the ball", ylabel="coverage")
    expected = len(levels) / bins
    reach = 2.6 * np.sqrt(expected * (1 - 1 / bins))
    right.axhspan(max(expected - reach, 0), expected + reach, color=PALE, alpha=0.7, linewidth=0)
    right.axhline(expected, color=GRAY, linestyle=(0, (4, 3)), linewidth=1.0)
    right.hist(levels, np.linspace(0, 1, bins + 1), color=BLUE, alpha=0.75, rwidth=0.9)
    right.set(xlim=(0, 1), xlabel="level of the truth", ylabel="simulations")
    return figure
