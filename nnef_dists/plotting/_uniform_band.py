"""Simultaneous band of the empirical CDF of uniform numbers."""

import functools
from collections.abc import Mapping

import numpy as np
import scipy.stats
from matplotlib.axes import Axes

from nnef_dists.plotting._style import CYCLE, GRAY, PALE, light_grid

_GRID = 200
_SIMULATIONS = 2000


@functools.cache
def uniform_band(m: int, confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a simultaneous band for the empirical CDF of m uniform numbers.

    At each grid point, the band is a binomial interval. Simulations determine the common level of
    these intervals, such that the whole curve is inside with probability `confidence`.

    Args:
        m: Number of uniform numbers.
        confidence: Probability of the band. Defaults to 0.95.

    Returns:
        The grid in (0, 1), and the lower and upper ends of the band.

    Reference:
        Säilynoja, Bürkner and Vehtari, *Graphical test for discrete uniformity and its applications
        in goodness-of-fit evaluation and multiple sample comparison*, Statistics and Computing 32
        (2022).
    """
    grid = np.arange(1, _GRID) / _GRID
    rng = np.random.default_rng(0)
    steps = rng.multinomial(m, np.full(_GRID, 1 / _GRID), size=_SIMULATIONS)[:, :-1]
    counts = np.cumsum(steps, 1)
    law = scipy.stats.binom(m, grid)
    tails = 2 * np.minimum(law.cdf(counts), law.sf(counts - 1))
    level = np.quantile(tails.min(1), 1 - confidence)
    return grid, law.ppf(level / 2) / m, law.ppf(1 - level / 2) / m


def draw_distribution(axes: Axes, levels: Mapping[str, np.ndarray], *, difference: bool) -> None:
    """Draws empirical CDFs of numbers in (0, 1), with the band for uniform numbers.

    Args:
        axes: Axes to draw on.
        levels: Numbers, `(m,)` each, by name.
        difference: Whether to subtract the uniform CDF.
    """
    for m in sorted({len(values) for values in levels.values()}):
        grid, low, high = uniform_band(m)
        shift = grid if difference else 0 * grid
        axes.fill_between(grid, low - shift, high - shift, color=PALE, alpha=0.7, linewidth=0)
    uniform = np.zeros(2) if difference else np.asarray([0.0, 1.0])
    axes.plot([0, 1], uniform, color=GRAY, linestyle=(0, (4, 3)), linewidth=1.0)
    for color, (name, values) in zip(CYCLE * len(levels), levels.items(), strict=False):
        x = np.concatenate([[0.0], np.sort(values), [1.0]])
        y = np.concatenate([[0.0], np.arange(1, len(values) + 1) / len(values), [1.0]])
        axes.plot(
            x, y - x if difference else y, color=color, drawstyle="steps-post", label=name or None
        )
    light_grid(axes)
    axes.set_xlim(0, 1)


def check_levels(name: str, values: np.ndarray) -> np.ndarray:
    """Returns the values if all are in [0, 1].

    Raises:
        ValueError: If there are no values, or some are not in [0, 1].
    """
    if values.size == 0 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"Expected {name} in [0, 1]; got {values.size} numbers, not all inside")
    return values
