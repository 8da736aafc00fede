"""Learned against exact Fisher information."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.figure import Figure

from nnef_dists.plotting._style import (
    CYCLE,
    GRAY,
    INK,
    VERMILION,
    check_names,
    check_shape,
    light_grid,
    new_figure,
    styled,
)

# Directions of less variance, of that of the largest, are those in which statistics repeat.
_RANK = 1e-6


@styled
def plot_fisher_information(
    learned: Float[ArrayLike, "n d d"],
    exact: Float[ArrayLike, "n d d"],
    *,
    names: Sequence[str] | None = None,
) -> Figure:
    """Draws how well Cov[T | eta], the Fisher information of eta, is learned at many etas.

    On the left all entries, in units of the exact standard deviations, `F_ij / (s_i s_j)`: exact
    ones are correlations. On the right the generalized eigenvalues of learned against exact: how
    many times too large the learned variance of T is along each of d directions, and how many
    directions are off by more than what is on the axis. Both are independent of scales.

    **Arguments:**

    - `learned`, `exact`: n symmetric matrices each, `(n, d, d)`. Exact ones are positive
        semidefinite; directions in which one is singular are left out.
    - `names`: of the d statistics.

    **Returns:** the figure. Its title says how many learned matrices are not positive definite.

    **Raises:** `ValueError` where shapes differ, and for exact matrices without variance.
    """
    learned, exact = np.asarray(learned, np.float64), np.asarray(exact, np.float64)
    check_shape("learned", learned, exact.shape)
    d = exact.shape[1]
    names = check_names(names, d)
    variances = np.diagonal(exact, axis1=1, axis2=2)
    if not (variances > 0).all():
        raise ValueError("Expected exact matrices with positive diagonals; got one without")
    sd = np.sqrt(variances)
    scale = sd[:, :, None] * sd[:, None]
    learned, exact = learned / scale, exact / scale
    ratios = [_ratios(one, other) for one, other in zip(learned, exact, strict=True)]
    invalid = sum(bool((ratio <= 0).any()) for ratio in ratios)

    figure = new_figure(7.6, 3.5)
    left, right = figure.subplots(1, 2)
    rows, columns = np.triu_indices(d)
    for number, (i, j) in enumerate(zip(rows, columns, strict=True)):
        on_diagonal = i == j
        left.plot(
            exact[:, i, j],
            learned[:, i, j],
            linestyle="none",
            marker="o" if on_diagonal else ".",
            markersize=3.5,
            alpha=0.5,
            color=INK if on_diagonal else CYCLE[number % len(CYCLE)],
            markeredgewidth=0,
            rasterized=True,
            label=None if on_diagonal or d > 4 else f"{names[i]}, {names[j]}",
        )
    ends = [min(exact.min(), learned.min()), max(exact.max(), learned.max())]
    left.plot(ends, ends, color=GRAY, linewidth=0.8, zorder=0)
    left.set(xlabel="exact $F_{ij} / (s_i s_j)$", ylabel="learned $F_{ij} / (s_i s_j)$")
    left.set_title("entries; diagonals in black")
    light_grid(left)
    if 1 < d <= 4:
        left.legend(loc="upper left", markerscale=2)

    off = np.sort(np.abs(np.concatenate(ratios) - 1))
    off = np.maximum(off, np.finfo(np.float64).tiny)
    share = 1 - np.arange(len(off)) / len(off)
    right.plot(off, share, color=VERMILION)
    for level in (0.5, 0.1):
        where = np.quantile(off, 1 - level)
        right.plot([where], [level], "o", color=VERMILION, markersize=4)
        right.annotate(
            f"{where:.1g}", (where, level), (5, 3), textcoords="offset points", fontsize=8
        )
    low = max(off[len(off) // 50], off[-1] * 1e-6)
    right.set(xscale="log", yscale="log", xlim=(low, 1.5 * off[-1]))
    right.set(xlabel="|learned / exact variance − 1|", ylabel="share of directions beyond")
    right.set_title(
        f"{len(ratios) - invalid} of {len(ratios)} learned matrices positive definite",
        color=VERMILION if invalid else INK,
    )
    light_grid(right)
    return figure


def _ratios(learned: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """The eigenvalues of learned against exact, in the directions that exact has."""
    values, vectors = np.linalg.eigh(exact)
    kept = values > _RANK * values[-1]
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    inner = whiten.T @ learned @ whiten
    return np.linalg.eigvalsh((inner + inner.T) / 2)
