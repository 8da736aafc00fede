"""Comparison of learned with exact Fisher information."""

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

# Smallest variance of a direction, relative to the largest. Directions with less variance are
# linear dependences of the statistics.
_RANK = 1e-6


@styled
def plot_fisher_information(
    learned: Float[ArrayLike, "n d d"],
    exact: Float[ArrayLike, "n d d"],
    *,
    names: Sequence[str] | None = None,
) -> Figure:
    """Compares learned with exact Cov[T | eta], the Fisher information of eta, at many etas.

    The left panel shows all entries in units of the exact standard deviations, `F_ij / (s_i s_j)`.
    In these units, the exact entries are correlations. The right panel shows the generalized
    eigenvalues of the learned against the exact matrix. They are ratios of the learned to the exact
    variance of T along d directions. The curve is the fraction of directions whose ratio deviates
    from 1 by more than the value on the axis. Both panels are independent of the scales of T.

    Args:
        learned: Learned matrices, symmetric, `(n, d, d)`.
        exact: Exact matrices, symmetric and positive semidefinite, `(n, d, d)`. Singular directions
            are left out.
        names: Names of the d statistics. Defaults to `T[0]`, `T[1]`, ...

    Returns:
        The figure. The title on the right is the number of learned matrices that are positive
        definite.

    Raises:
        ValueError: If shapes differ, the number of names is wrong, or an exact matrix has a
            diagonal entry that is not positive.
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
    # Where the exact matrix is singular, the learned one may be singular up to rounding.
    values = np.linalg.eigvalsh(learned)
    definite = values[:, 0] > -_RANK * np.abs(values).max(1)
    definite &= [bool((ratio > 0).all()) for ratio in ratios]

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
        f"{definite.sum()} of {len(definite)} learned matrices positive definite",
        color=INK if definite.all() else VERMILION,
    )
    light_grid(right)
    return figure


def _ratios(learned: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Returns the eigenvalues of learned against exact, without singular directions of exact."""
    values, vectors = np.linalg.eigh(exact)
    kept = values > _RANK * values[-1]
    whiten = vectors[:, kept] / np.sqrt(values[kept])
    inner = whiten.T @ learned @ whiten
    return np.linalg.eigvalsh((inner + inner.T) / 2)
