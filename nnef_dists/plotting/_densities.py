"""Densities of a family on the real line."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from nnef_dists.families import CircleProjection, ExponentialFamily, continuous_support
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

_POINTS = 2001
# A density is drawn where it is within so many nats of its largest value.
_DRAWN_NATS = 9.0


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

    **Arguments:**

    - `family`: one whose x is a scalar, or an angle.
    - `etas`: valid natural parameters, `(n, eta_dim)`: a panel each.
    - `means`: the learned E[x] of each eta, in units of x: a colored line beside the exact one,
        which is dashed.
    - `uncertainty`: its predictive standard deviation: a band of two of them either way.
    - `log_prob`: a learned log-density of one x and one eta, in nats, such as that of an
        tractable family: a dashed curve over the exact one.
    - `most_columns`: how many panels stand side by side.

    **Returns:** the figure.

    **Raises:** `ValueError` for a family whose x is not a scalar, for shapes that differ, and what
    `family.check_eta` raises.
    """
    if family.x_shape != ():
        raise ValueError(f"Expected a family of scalar x; {family!r} has shape {family.x_shape}")
    for name, value in {"means": means, "uncertainty": uncertainty}.items():
        if value is not None:
            check_shape(name, np.asarray(value), np.shape(etas)[:1])
    rows, columns = grid_of(np.shape(etas)[0], most_columns)
    figure = new_figure(2.5 * columns, 2.45 * rows)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for i, (axes, eta) in enumerate(zip(panels, np.asarray(etas), strict=False)):
        x, density = _density(family, family.check_eta(jnp.asarray(eta)))
        exact = np.trapezoid(x * density, x)
        axes.fill_between(x, density, color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(x, density, color=BLUE, label=None if log_prob is None else "exact p(x | η)")
        if log_prob is not None:
            learned = jax.jit(jax.vmap(log_prob, (0, None)))(
                jnp.asarray(x, np.asarray(eta).dtype), jnp.asarray(eta)
            )
            axes.plot(
                x,
                np.exp(np.asarray(learned)),
                color=ORANGE,
                linestyle=(0, (4, 4)),
                linewidth=1.8,
                label="learned p(x | η)",
            )
        top = 1.18 * density.max()
        if means is not None:
            mean = float(np.asarray(means)[i])
            if uncertainty is not None:
                reach = 2 * float(np.asarray(uncertainty)[i])
                axes.axvspan(mean - reach, mean + reach, color=VERMILION, alpha=0.2, linewidth=0)
            axes.axvline(mean, color=VERMILION, linewidth=2.0, label="learned E[x]")
        axes.axvline(exact, color=INK, linestyle=(0, (2, 3)), linewidth=1.1, label="exact E[x]")
        axes.set(ylim=(0, top), xlim=(x[0], x[-1]), xlabel="x")
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


def _density(family: ExponentialFamily, eta: Array) -> tuple[np.ndarray, np.ndarray]:
    """Points where the density matters, and the density there, which integrates to 1."""
    support = continuous_support(family, "a plot of a density")
    if isinstance(support, CircleProjection):
        x = np.linspace(-np.pi, np.pi, _POINTS)
        logs = jax.vmap(lambda x: family.unnormalized_logdensity(eta, x))(jnp.asarray(x, eta.dtype))
        density = np.exp(np.asarray(logs, np.float64) - np.max(logs))
        return x, density / np.trapezoid(density, x)

    @jax.jit
    def on_grid(u: Array) -> tuple[Array, Array, Array]:
        x, log_det = jax.vmap(support.transform_and_log_det)(u)
        logs = jax.vmap(lambda x: family.unnormalized_logdensity(eta, x))(x)
        return x, logs, logs + log_det

    # A grid in the unconstrained coordinate, where no end of the support is missed, zooms in.
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
    return x, np.exp(logs - logs_of_u.max()) / total


def _title(family: ExponentialFamily, eta: np.ndarray) -> str:
    terms = [f"{value:+.2f} {name}" for name, value in zip(family.stat_names, eta, strict=True)]
    text = " ".join(terms).removeprefix("+")
    return "η·T = " + text.replace(" +", " + ").replace(" -", " − ").replace("-", "−")
