"""Expected coverage of credible regions."""

from collections.abc import Mapping

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure

from nnef_dists.plotting._style import new_figure, styled
from nnef_dists.plotting._uniform_band import check_levels, draw_distribution


@styled
def plot_expected_coverage(levels: Mapping[str, Float[ArrayLike, " m"]]) -> Figure:
    """Draws expected coverage over the nominal level of credible regions.

    Args:
        levels: Levels of the smallest regions that contain the true parameters, `(m,)` each, by
            name, such as `{"highest density": highest_density_levels(...), "theta_0":
            central_levels(ranks)[:, 0]}`.

    Returns:
        The figure, with one curve per name and its largest distance from the diagonal. Below the
        diagonal, the posterior is overconfident. Above, it is underconfident. The gray band
        contains 95% of the curves of a correct posterior along their whole length.

    Raises:
        ValueError: If there are no levels, or some are not in [0, 1].
    """
    curves = {name: check_levels(name, np.asarray(each)) for name, each in levels.items()}
    if not curves:
        raise ValueError("Expected levels by name; got none")
    figure = new_figure(3.7, 3.5)
    axes = figure.subplots()
    labeled = {f"{name}: off by {_distance(each):.2g}": each for name, each in curves.items()}
    draw_distribution(axes, labeled, difference=False)
    axes.set(ylim=(0, 1), aspect="equal", xlabel="nominal level", ylabel="expected coverage")
    axes.legend(loc="upper left", handlelength=1.2)
    return figure


def _distance(levels: np.ndarray) -> float:
    """Returns the largest distance of the empirical CDF from the diagonal."""
    ordered, m = np.sort(levels), len(levels)
    steps = np.arange(m + 1) / m
    return float(max(np.max(steps[1:] - ordered), np.max(ordered - steps[:-1])))
