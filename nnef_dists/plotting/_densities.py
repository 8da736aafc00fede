"""Densities of scalar families, and probabilities of discrete ones."""

import math
import textwrap
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnef_dists.families import (
    AbstractDiscreteSupport,
    CircleProjection,
    Counts,
    ExponentialFamily,
    continuous_support,
)
from nnef_dists.plotting._style import (
    BLUE,
    GRAY,
    INK,
    ORANGE,
    VERMILION,
    check_shape,
    grid_of,
    new_figure,
    styled,
)
from nnef_dists.sampling import sum_counts

_POINTS = 2001
# Range of a drawn density: number of nats below its maximum.
_DRAWN_NATS = 9.0
# Discrete points: largest number to draw, largest number to evaluate, and evaluated range in nats
# below the largest mean mass of a block of counts.
_MOST_DRAWN, _MOST_POINTS, _LOOKED_NATS = 2**12, 2**20, 20.0
# Largest number of characters per line of a title, and a space without a line break.
_TITLE_WIDTH, _FIXED = 38, "\u00a0"
# Discrete families: largest missing probability at which E[x] is marked, and largest error of a
# sum over counts.
_LACKING, _MOST_ERROR = 1e-6, 1e-3
# Continuous families: reach of the grid for E[x] in units of the drawn range, number of its points,
# and largest value of p and |x| p at its ends, relative to its maximum, at which E[x] is marked.
_REACH, _MEAN_POINTS, _MOST_AT_ENDS = 1e15, 2**14 + 1, 1e-4


@styled
def plot_densities(
    family: ExponentialFamily,
    etas: Float[ArrayLike, "n eta_dim"],
    *,
    means: Float[ArrayLike, " n"] | None = None,
    uncertainty: Float[ArrayLike, " n"] | None = None,
    log_prob: Callable[[Array, Array], Array] | None = None,
    most_columns: int = 4,
) -> Figure:
    """Draws p(x | eta) of several etas, normalized on a grid, with E[x] marked.

    If x is discrete (counts, categories, one spin or one bit), stems show its probabilities.

    Args:
        family: Exponential family. Its x must be a scalar or an angle.
        etas: Valid natural parameters, `(n, eta_dim)`, one panel each.
        means: Learned E[x] of each eta, in units of x, `(n,)`, drawn as a colored line. The exact
            E[x] is a dashed line. It is left out if it is infinite, or far tails have too much
            weight to compute it.
        uncertainty: Predictive standard deviations of `means`, `(n,)`, drawn as a band of two
            standard deviations on each side.
        log_prob: Learned log-density of one x and one eta, in nats, such as from an
            `AmortizedFamily`. It is drawn as a dashed curve, or as circles for discrete x. NaN is
            not drawn.
        most_columns: Largest number of panels in a row. Defaults to 4.

    Returns:
        The figure.

    Raises:
        ValueError: If x is not a scalar, shapes differ, more than 2^12 discrete points are to be
            drawn, or a sum over counts does not converge. Also if `family.check_eta` raises.
    """
    if family.x_shape != ():
        raise ValueError(
            f"Expected a family of scalar x; got {family!r} with x of shape {family.x_shape}. "
            "Draw a histogram of each entry of q.sample(key, eta, n)."
        )
    for name, value in {"means": means, "uncertainty": uncertainty}.items():
        if value is not None:
            check_shape(name, np.asarray(value), np.shape(etas)[:1])
    rows, columns = grid_of(np.shape(etas)[0], most_columns)
    figure = new_figure(2.5 * columns, 2.45 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for i, (axes, eta) in enumerate(zip(panels, np.asarray(etas), strict=False)):
        eta = jnp.asarray(eta)
        is_discrete = isinstance(family.support, AbstractDiscreteSupport)
        points_of = _probabilities if is_discrete else _density
        x, density, exact = points_of(family, family.check_eta(eta))
        learned = None
        if log_prob is not None:
            values = jax.jit(jax.vmap(log_prob, (0, None)))(jnp.asarray(x, eta.dtype), eta)
            learned = np.exp(np.asarray(values))
        (_draw_stems if is_discrete else _draw_curve)(axes, x, density, learned)
        top = 1.18 * density.max()
        if means is not None:
            mean = float(np.asarray(means)[i])
            if uncertainty is not None:
                reach = 2 * float(np.asarray(uncertainty)[i])
                axes.axvspan(mean - reach, mean + reach, color=VERMILION, alpha=0.2, linewidth=0)
            axes.axvline(mean, color=VERMILION, linewidth=2.0, label="learned E[x]")
        axes.axvline(exact, color=INK, linestyle=(0, (2, 3)), linewidth=1.1, label="exact E[x]")
        axes.set(ylim=(0, top), xlabel="x")
        axes.set_title(_title(family, np.asarray(eta)), fontsize=8, color=GRAY)
        axes.spines["left"].set_visible(False)
        axes.tick_params(left=False, labelleft=False)
        axes.locator_params(axis="x", nbins=5)
        if i % columns == 0:
            axes.set_ylabel("p(x | η)")
    for axes in panels[np.shape(etas)[0] :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _draw_curve(axes: Axes, x: np.ndarray, density: np.ndarray, learned: np.ndarray | None) -> None:
    axes.fill_between(x, density, color=BLUE, alpha=0.15, linewidth=0)
    axes.plot(x, density, color=BLUE, label=None if learned is None else "exact p(x | η)")
    if learned is not None:
        dashes, label = (0, (4, 4)), "learned p(x | η)"
        axes.plot(x, learned, color=ORANGE, linestyle=dashes, linewidth=1.8, label=label)
    axes.set_xlim(x[0], x[-1])


def _draw_stems(axes: Axes, x: np.ndarray, density: np.ndarray, learned: np.ndarray | None) -> None:
    size = float(np.clip(60 / len(x), 0.6, 4.0))
    axes.vlines(x, 0, density, color=BLUE, linewidth=size / 2, alpha=0.6)
    label = None if learned is None else "exact p(x | η)"
    axes.plot(x, density, "o", color=BLUE, markersize=size, label=label)
    if learned is not None:
        circle, label = (
            {"markersize": 1.4 * size + 1, "mew": 0.2 + size / 5, "mfc": "none"},
            "learned p(x | η)",
        )
        axes.plot(x, learned, "o", color=ORANGE, label=label, **circle)
    margin = max(0.5, 0.03 * (x[-1] - x[0]))
    axes.set_xlim(x[0] - margin, x[-1] + margin)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _probabilities(
    family: ExponentialFamily, eta: Array
) -> tuple[np.ndarray, np.ndarray, np.floating]:
    """Returns the points of a discrete support to draw, their probabilities, and E[x]."""
    support = family.support
    assert isinstance(support, AbstractDiscreteSupport)
    with jax.enable_x64(True):
        eta = jnp.asarray(np.asarray(eta, np.float64))
        log_partition = None
        if isinstance(support, Counts):
            x, log_partition = _counts(family, support, eta)
        else:
            assert support.values is not None
            x = np.asarray(support.values)
        log_density = jax.jit(jax.vmap(lambda x: family.unnormalized_logdensity(eta, x)))
        logs = np.asarray(log_density(jnp.asarray(x, jnp.float64)))
    logs = np.where(np.isfinite(logs), logs, -np.inf)
    if log_partition is None:
        log_partition = logs.max() + np.log(np.sum(np.exp(logs - logs.max())))
    drawn = np.flatnonzero(logs > logs.max() - _DRAWN_NATS)
    if len(drawn) > _MOST_DRAWN:
        raise _too_many(family, len(drawn), eta)
    p = np.exp(logs - log_partition)
    mean = np.sum(x * p) if abs(np.sum(p) - 1) < _LACKING else np.float64(np.nan)
    shown = slice(drawn[0], drawn[-1] + 1)
    return x[shown].astype(np.float64), p[shown], mean


def _counts(
    family: ExponentialFamily, support: Counts, eta: Array
) -> tuple[np.ndarray, np.floating]:
    """Returns the counts to evaluate, and the log-partition."""
    found = jax.jit(lambda eta: sum_counts(family, eta))(eta)
    if not float(found.error) <= _MOST_ERROR:
        raise ValueError(
            f"Expected a sum over counts of {family!r} that converges; got an error bound of "
            f"{float(found.error):.1e} at {eta}. If the sum diverges, correct natural_domain."
        )
    level, start = np.asarray(found.level), np.asarray(found.start)
    mean_logs = np.asarray(found.log_mass) - level * math.log(2)
    is_looked_at = mean_logs > mean_logs.max() - _LOOKED_NATS
    low = int(start[is_looked_at].min())
    high = int((start + 2.0**level)[is_looked_at].max()) - 1
    if support.upper is not None:
        high = min(high, support.upper)
    if high - low >= _MOST_POINTS:
        raise _too_many(family, high - low + 1, eta)
    return np.arange(low, high + 1), np.float64(found.log_partition)


def _too_many(family: ExponentialFamily, points: int, eta: Array) -> ValueError:
    return ValueError(
        f"Expected at most {_MOST_DRAWN} points to draw; got {points} of {family!r} at {eta}. "
        "Draw a histogram of q.sample(key, eta, n)."
    )


def _density(family: ExponentialFamily, eta: Array) -> tuple[np.ndarray, np.ndarray, np.floating]:
    """Returns points to draw, the normalized density at these points, and E[x]."""
    support = continuous_support(family, "a plot of a density")
    if isinstance(support, CircleProjection):
        x = np.linspace(-np.pi, np.pi, _POINTS)
        logs = jax.vmap(lambda x: family.unnormalized_logdensity(eta, x))(jnp.asarray(x, eta.dtype))
        density = np.exp(np.asarray(logs, np.float64) - np.max(logs))
        density = density / np.trapezoid(density, x)
        return x, density, np.trapezoid(x * density, x)

    @jax.jit
    def on_grid(u: Array) -> tuple[Array, Array, Array]:
        x, log_det = jax.vmap(support.transform_and_log_det)(u)
        logs = jax.vmap(lambda x: family.unnormalized_logdensity(eta, x))(x)
        return x, logs, logs + log_det

    # Refine a grid in the unconstrained coordinate, which reaches the ends of the support.
    u = np.sinh(np.linspace(-math.asinh(1e3), math.asinh(1e3), _POINTS))
    for _ in range(4):
        logs = np.asarray(on_grid(jnp.asarray(u, eta.dtype))[2])
        logs = np.where(np.isfinite(logs), logs, -np.inf)
        shown = np.flatnonzero(logs > logs.max() - _DRAWN_NATS)
        low, high = max(shown[0] - 1, 0), min(shown[-1] + 1, len(u) - 1)
        u = np.linspace(u[low], u[high], _POINTS)
    x, logs, logs_of_u = (
        np.asarray(values, np.float64) for values in on_grid(jnp.asarray(u, eta.dtype))
    )
    total = np.trapezoid(np.exp(logs_of_u - logs_of_u.max()), u)
    density = np.exp(logs - logs_of_u.max()) / total
    return x, density, _mean(family, eta, u[0], u[-1])


def _mean(family: ExponentialFamily, eta: Array, low: float, high: float) -> np.floating:
    """Returns E[x], or NaN if it is infinite or has too much of its weight in far tails.

    Args:
        family: Exponential family of a scalar x.
        eta: Natural parameters, `(eta_dim,)`.
        low: Lower end of the drawn range of the unconstrained coordinate.
        high: Upper end of this range.

    Returns:
        The mean.
    """
    support = continuous_support(family, "a plot of a density")
    # Points are dense in the drawn range, and tails of powers of u are exponential in s.
    s = np.linspace(-math.asinh(_REACH), math.asinh(_REACH), _MEAN_POINTS)
    u = (low + high) / 2 + (high - low) / 2 * np.sinh(s)
    with jax.enable_x64(True):
        eta = jnp.asarray(np.asarray(eta, np.float64))

        @jax.jit
        def on_grid(u: Array) -> tuple[Array, Array]:
            x, log_det = jax.vmap(support.transform_and_log_det)(u)
            logs = jax.vmap(lambda x: family.unnormalized_logdensity(eta, x))(x)
            return x, logs + log_det

        x, logs = (np.asarray(values) for values in on_grid(jnp.asarray(u)))
    logs = logs + np.log(np.cosh(s))
    finite = np.isfinite(x) & np.isfinite(logs)
    x, logs = x[finite], logs[finite]
    p = np.exp(logs - logs.max())
    for weighted in (p, np.abs(x) * p):
        if not weighted[[0, -1]].max() <= _MOST_AT_ENDS * weighted.max():
            return np.float64(np.nan)
    return np.sum(x * p) / np.sum(p)


def _title(family: ExponentialFamily, eta: np.ndarray) -> str:
    """Returns eta . T, with line breaks only between its terms."""
    terms = [f"{value:+.2f} {name}" for name, value in zip(family.stat_names, eta, strict=True)]
    signed = [f"{term[0]} {term[1:]}".replace("-", "−").replace(" ", _FIXED) for term in terms]
    first = signed[0].removeprefix(f"+{_FIXED}").replace(f"−{_FIXED}", "−")
    signed[0] = f"η·T{_FIXED}={_FIXED}{first}"
    return textwrap.fill(" ".join(signed), _TITLE_WIDTH).replace(_FIXED, " ")
