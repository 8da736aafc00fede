"""Ranks of the truth among posterior draws."""

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
    """Draws the ranks of simulation-based calibration, which are uniform where all is well.

    **Arguments:**

    - `ranks`: normalized ranks in (0, 1) of `sbc_ranks`, `(m, k)`.
    - `names`: of the k parameters.
    - `bins`: of the histograms.

    **Returns:** the figure: a column each parameter. Above, histograms, with the 99 % interval of a
    bin's count in gray: a hump in the middle tells of a posterior too wide, horns at the ends of
    one too narrow, a slope of a bias. Below, the empirical distribution function minus that of
    uniform ranks, with a band in which 95 % of such curves stay all along.

    **Raises:** `ValueError` where ranks are not in [0, 1], or names differ in number.
    """
    ranks = check_levels("ranks", np.asarray(ranks))
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
