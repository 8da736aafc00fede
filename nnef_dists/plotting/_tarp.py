"""Tests of accuracy with random points."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure

from nnef_dists.plotting._style import BLUE, GRAY, PALE, new_figure, styled
from nnef_dists.plotting._uniform_band import check_levels, draw_distribution


@styled
def plot_tarp(levels: Float[ArrayLike, " m"], *, bins: int = 20) -> Figure:
    """Draws how often balls round random points hold the truth, over their probability.

    **Arguments:**

    - `levels`: of `tarp_levels`, `(m,)`.
    - `bins`: of the histogram.

    **Returns:** the figure: on the left coverage, with the band in which 95 % of curves of an exact
    posterior stay all along; on the right the levels themselves, which are uniform then. Many
    levels at both ends tell of a posterior too narrow, in the middle of one too wide, at one end of
    a bias, or of a posterior that knows less than it could.

    **Raises:** `ValueError` where there are no levels, or some are not in [0, 1].
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
