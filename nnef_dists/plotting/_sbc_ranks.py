"""Ranks of simulation-based calibration."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
import scipy.stats
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure

from nnef_dists.diagnostics import uniformity_p_value
from nnef_dists.plotting._style import BLUE, GRAY, PALE, check_names, new_figure, styled
from nnef_dists.plotting._uniform_band import check_levels, draw_distribution


@styled
def plot_sbc_ranks(
    ranks: Float[ArrayLike, "m k"],
    *,
    names: Sequence[str] | None = None,
    bins: int = 20,
) -> Figure:
    """Draws the ranks of simulation-based calibration, which are uniform for a correct posterior.

    Args:
        ranks: Normalized ranks in (0, 1) from `sbc_ranks`, `(m, k)`.
        names: Names of the k parameters. Defaults to `θ[0]`, `θ[1]`, ...
        bins: Number of bins of the histograms. Defaults to 20.

    Returns:
        The figure, with one column per parameter. The upper panels show histograms, with the 99%
        interval of a bin count in gray. A hump in the middle indicates a posterior that is too
        wide. Peaks at both ends indicate one that is too narrow, and a slope a bias. The lower
        panels show the empirical CDF minus the uniform CDF, with a band that contains 95% of such
        curves along their whole length.

    Raises:
        ValueError: If ranks are not in [0, 1] or not `(m, k)`, or the number of names is wrong.
    """
    ranks = check_levels("ranks", np.asarray(ranks))
    if ranks.ndim != 2:
        raise ValueError(
            f"Expected ranks of shape (m, k); got {ranks.shape}. Use ranks[:, None] for one "
            "parameter."
        )
    m, k = ranks.shape
    names = check_names([f"θ[{i}]" for i in range(k)] if names is None else names, k)
    p_values = np.asarray(uniformity_p_value(jnp.asarray(ranks)))
    low, high = scipy.stats.binom(m, 1 / bins).ppf([0.005, 0.995])

    figure = new_figure(max(2.6, 2.1 * k + 0.6), 3.9)
    panels = figure.subplots(2, k, squeeze=False, sharex=True, sharey="row")
    for column, name in enumerate(names):
        top, bottom = panels[:, column]
        top.axhspan(low, high, color=PALE, alpha=0.7, linewidth=0)
        top.axhline(m / bins, color=GRAY, linestyle=(0, (4, 3)), linewidth=1.0)
        top.hist(ranks[:, column], np.linspace(0, 1, bins + 1), color=BLUE, alpha=0.75, rwidth=0.9)
        top.set_title(f"{name}\n{_p_text(float(p_values[column]))}")
        draw_distribution(bottom, {"": ranks[:, column]}, difference=True)
        bottom.set_xlabel("rank of the truth")
    panels[0, 0].set_ylabel("simulations")
    panels[1, 0].set_ylabel("distribution\nminus uniform")
    figure.align_ylabels()
    return figure


def _p_text(p_value: float) -> str:
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"
