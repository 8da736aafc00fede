"""Diagnostics of moment data over eta."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Transform

from nnef_dists.moments import MomentDataset, Status
from nnef_dists.plotting._style import (
    BLUE,
    CYCLE,
    GRAY,
    INK,
    light_grid,
    new_figure,
    ramp,
    styled,
)

_MOST_POINTS = 4000
_LEAST_EXCESS = 1e-4  # smallest drawn value of R-hat - 1
_STRIP = 0.06  # height of the strip of one status, as a fraction of the panel
_CELLS = (64, 44)


@styled
def plot_moment_diagnostics(
    data: MomentDataset,
    *,
    names: Sequence[str] | None = None,
    most_columns: int = 4,
) -> Figure:
    """Draws the diagnostics of labels over eta: ESS, split R-hat, standard error and status.

    Args:
        data: Moment data of any size, from `estimate_moments` or from a store.
        names: Natural parameters to draw over, by the names of their statistics. By default, the
            first `most_columns` of `family.stat_names`.
        most_columns: Number of natural parameters to draw if `names` is None. Defaults to 4.

    Returns:
        The figure, with one column per natural parameter. Each label is drawn at the worst value of
        its statistics. Valid labels are dots, or a density if there are more than 4,000 of them.
        Other labels are crosses in the color of their status. If they have no value, they are in a
        strip at the top. Dashed lines are the thresholds of the configuration. Values of split
        R-hat below 1.0001 are drawn at 1.0001.

    Raises:
        ValueError: If there are no labels, or a name is not a statistic of the family.
    """
    known = list(data.family.stat_names)
    if len(data) == 0:
        raise ValueError("Expected labels; got data without any")
    chosen = known[:most_columns] if names is None else list(names)
    if not chosen or not set(chosen) <= set(known):
        raise ValueError(f"Expected names among {known}; got {chosen}")

    status = np.asarray(data.status)
    bad = [s for s in Status if s is not Status.OK and np.any(status == s)]
    palette = [color for color in CYCLE if color != BLUE] + [INK]
    kinds = [s for s in Status if s not in (Status.OK, Status.MISSING)]
    colors = {s: palette[i % len(palette)] for i, s in enumerate(kinds)} | {Status.MISSING: GRAY}
    config = data.config
    rows = [
        ("least ESS", np.min(data.ess, 1), None if config is None else config.min_ess),
        (
            "worst split R-hat − 1",
            np.maximum(np.max(data.rhat, 1) - 1, _LEAST_EXCESS),
            None if config is None else config.max_rhat - 1,
        ),
        ("worst standard error\n[z units]", _worst_z_error(data), None),
    ]
    figure = new_figure(max(4.8, 0.9 + 2.1 * len(chosen)), 5.3 + 0.18 * len(bad))
    panels = figure.subplots(len(rows), len(chosen), squeeze=False, sharey="row", sharex="col")
    for row, (label, values, limit) in enumerate(rows):
        drawable = np.isfinite(values) & (values > 0)
        strips = [kind for kind in bad if np.any((status == kind) & ~drawable)]
        limits = _limits(values[drawable], limit, len(strips))
        panels[row, 0].set(yscale="log", ylim=limits, ylabel=label)
        for column, name in enumerate(chosen):
            axes, eta = panels[row, column], np.asarray(data.eta)[:, known.index(name)]
            light_grid(axes)
            good = (status == Status.OK) & drawable
            _draw_good(axes, eta[good], values[good])
            for kind in bad:
                at = eta[(status == kind) & drawable]
                _draw_bad(axes, at, values[(status == kind) & drawable], colors[kind])
            for strip, kind in enumerate(strips):
                at = eta[(status == kind) & ~drawable]
                height = np.full(len(at), 1 - _STRIP * (strip + 0.6))
                _draw_bad(axes, at, height, colors[kind], axes.get_xaxis_transform())
            if limit is not None and limit > 0:
                axes.axhline(limit, color=GRAY, linestyle=(0, (4, 3)), linewidth=1.0, zorder=4)
            if row == len(rows) - 1:
                axes.set_xlabel(f"η of {name}")
                axes.locator_params(axis="x", nbins=5)
    if not np.any(status == Status.OK):
        for axes in panels[-1]:
            axes.text(0.5, 0.4, "no label is ok", transform=axes.transAxes, ha="center", color=GRAY)
    figure.legend(
        handles=[_key(kind, colors, int(np.sum(status == kind))) for kind in (Status.OK, *bad)],
        loc="outside lower center",
        handletextpad=0.2,
    )
    figure.align_ylabels()
    return figure


def _worst_z_error(data: MomentDataset) -> np.ndarray:
    worst = np.full(len(data), np.nan)
    if data.ok.any():
        worst[data.ok] = np.max(data.only_ok().batch().z_error, 1)
    return worst


def _draw_good(axes: Axes, eta: np.ndarray, values: np.ndarray) -> None:
    if len(eta) <= _MOST_POINTS:
        axes.scatter(eta, values, s=6, color=BLUE, alpha=0.5, linewidths=0, zorder=2)
        return
    x = np.linspace(eta.min(), eta.max(), _CELLS[0] + 1)
    y = np.geomspace(*axes.get_ylim(), _CELLS[1] + 1)
    counts = np.histogram2d(eta, values, (x, y))[0].T
    # The color of a cell with one label must be visible.
    axes.pcolormesh(
        x,
        y,
        np.ma.masked_equal(counts, 0),
        norm=LogNorm(1, max(10.0, counts.max())),
        cmap=ramp(BLUE),
        rasterized=True,
        zorder=2,
    )


def _draw_bad(
    axes: Axes,
    eta: np.ndarray,
    heights: np.ndarray,
    color: str,
    transform: Transform | None = None,
) -> None:
    """Draws crosses for at most 4,000 labels, chosen evenly."""
    step = max(1, -(-len(eta) // _MOST_POINTS))
    axes.scatter(
        eta[::step],
        heights[::step],
        s=16 if len(eta) <= 200 else 6,
        marker="x",
        color=color,
        linewidths=0.9 if len(eta) <= 200 else 0.6,
        transform=axes.transData if transform is None else transform,
        zorder=3,
    )


def _limits(shown: np.ndarray, limit: float | None, strips: int) -> tuple[float, float]:
    """Returns the limits of a row, which include all values and room above for strips."""
    shown = np.append(shown, [limit] if limit else [])
    shown = np.asarray([0.1, 1.0]) if shown.size == 0 else shown
    low, high = np.log(shown.min()), np.log(shown.max())
    margin = 0.06 * (high - low) + 0.15
    height = (high - low + 2 * margin) / (1 - _STRIP * (strips + 0.4 * (strips > 0)))
    return float(np.exp(low - margin)), float(np.exp(low - margin + height))


def _key(kind: Status, colors: dict[Status, str], count: int) -> Line2D:
    good = kind is Status.OK
    return Line2D(
        [],
        [],
        linestyle="none",
        marker="o" if good else "x",
        markersize=4 if good else 5,
        markeredgewidth=0 if good else 0.9,
        color=BLUE if good else colors[kind],
        label=f"{count:,} ok" if good else f"{count:,} {kind.name.lower()}: {kind.reason}",
    )
