"""Comparison of learned with exact covariance matrices."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from nnef_dists.plotting._style import GRAY, check_names, check_shape, new_figure, styled

_MOST_ANNOTATED = 5


@styled
def plot_covariance_comparison(
    learned: Float[ArrayLike, "n d d"],
    exact: Float[ArrayLike, "n d d"],
    *,
    names: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
) -> Figure:
    """Draws covariance matrices as heatmaps: exact, learned, and their difference.

    Args:
        learned: Learned covariance matrices, `(n, d, d)`.
        exact: Exact covariance matrices, `(n, d, d)`.
        names: Names of the d coordinates. Defaults to `x[0]`, `x[1]`, ...
        titles: Titles of the n cases. Defaults to `case 1`, `case 2`, ...

    Returns:
        The figure, with one row per case. Exact and learned matrices share a color scale, and the
        difference has its own. With up to five coordinates, the cells show the values.

    Raises:
        ValueError: If shapes differ, or the number of names or titles is wrong.
    """
    learned, exact = np.asarray(learned), np.asarray(exact)
    check_shape("learned", learned, exact.shape)
    n, d = exact.shape[:2]
    names = check_names([f"x[{i}]" for i in range(d)] if names is None else names, d)
    titles = check_names([f"case {i + 1}" for i in range(n)] if titles is None else titles, n)

    figure = new_figure(7.6, 2.15 * n + 0.35)
    panels = figure.subplots(n, 3, squeeze=False)
    for row, (matrix_learned, matrix_exact) in enumerate(zip(learned, exact, strict=True)):
        difference = matrix_learned - matrix_exact
        shared = max(np.abs(matrix_exact).max(), np.abs(matrix_learned).max())
        for column, (heading, matrix, reach) in enumerate(
            [
                ("exact", matrix_exact, shared),
                ("learned", matrix_learned, shared),
                ("learned − exact", difference, np.abs(difference).max()),
            ]
        ):
            axes = panels[row, column]
            reach = float(reach) or 1.0
            image = axes.imshow(matrix, cmap="RdBu_r", vmin=-reach, vmax=reach)
            if column > 0:
                bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03)
                bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
                bar.locator = _three_ticks(reach)
                bar.update_ticks()
            if d <= _MOST_ANNOTATED:
                for (i, j), value in np.ndenumerate(matrix):
                    color = "white" if abs(value) > 0.6 * reach else "black"
                    axes.text(
                        j,
                        i,
                        f"{value:.2g}".replace("-", "−"),
                        ha="center",
                        va="center",
                        color=color,
                        fontsize=8,
                    )
            if row == 0:
                axes.set_title(heading)
            axes.set_xticks(range(d), names if row == n - 1 else [""] * d)
            axes.set_yticks(range(d), names if column == 0 else [""] * d)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
        panels[row, 0].set_ylabel(titles[row], color=GRAY, fontsize=8)
    return figure


def _three_ticks(reach: float) -> FixedLocator:
    """Returns ticks at 0 and near both ends."""
    digits = -int(np.floor(np.log10(0.9 * reach)))
    end = np.floor(0.95 * reach * 10**digits) / 10**digits
    return FixedLocator([-end, 0.0, end])
