"""Shared style of figures: colors, sizes and an empty figure."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

# Colors of Okabe and Ito, which color-blind readers can distinguish.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
CYCLE = (ORANGE, BLUE, GREEN, "#CC79A7", VERMILION, "#56B4E9")
INK, GRAY, PALE = "#222222", "#767676", "#D9D9D9"

_RC: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRAY,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.unicode_minus": True,
    "xtick.color": GRAY,
    "ytick.color": GRAY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "text.color": INK,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "mathtext.fontset": "dejavusans",
}

_Arguments = ParamSpec("_Arguments")


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Wraps a function to draw in this style, without changes to the settings of the user."""

    @functools.wraps(draw)
    def wrapped(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_RC)
            return draw(*args, **kwargs)

    return wrapped


def new_figure(width: float, height: float) -> Figure:
    """Returns an empty figure of this size in inches, which pyplot does not manage."""
    figure = Figure(figsize=(width, height), dpi=160, layout="constrained")
    figure.set_facecolor("white")
    return figure


def ramp(color: str) -> LinearSegmentedColormap:
    """Returns a color map from a tint, still visible on white, to a shade of a color."""
    rgb = np.asarray(to_rgb(color))
    tint, shade = 0.55 * rgb + 0.45, 0.45 * rgb
    return LinearSegmentedColormap.from_list("ramp", [tuple(tint), tuple(rgb), tuple(shade)])


def grid_of(n: int, most_columns: int) -> tuple[int, int]:
    """Returns the numbers of rows and columns for n panels, with rows as even as possible."""
    rows = -(-n // most_columns)
    return rows, -(-n // rows)


def light_grid(axes: Axes) -> None:
    """Draws faint grid lines behind the data."""
    axes.grid(visible=True, which="major", color=PALE, linewidth=0.5)


def check_names(names: Sequence[str] | None, n: int) -> list[str]:
    """Returns the names of n statistics, by default `T[0]`, `T[1]`, ...

    Raises:
        ValueError: If there is another number of names.
    """
    if names is None:
        return [f"T[{i}]" for i in range(n)]
    if len(names) != n:
        raise ValueError(f"Expected {n} names; got {len(names)}")
    return list(names)


def check_shape(name: str, value: np.ndarray, shape: tuple[int, ...]) -> None:
    """Checks the shape of an argument.

    Raises:
        ValueError: If `value` has another shape.
    """
    if value.shape != shape:
        raise ValueError(f"Expected {name} of shape {shape}; got {value.shape}")
