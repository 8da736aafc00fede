"""Learning curves of the two training stages."""

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnef_dists.plotting._style import BLUE, VERMILION, light_grid, new_figure, styled


@styled
def plot_learning_curves(
    moment_loss: Float[ArrayLike, " steps"],
    variational_loss: Float[ArrayLike, " more_steps"] | None = None,
    *,
    noise_floor: float | None = None,
) -> Figure:
    """Draws the loss of both stages at every step, with a running average.

    Args:
        moment_loss: `moment_loss` or `sobolev_loss` after every step of the first stage, in squared
            z units, `(steps,)`. Its square root is drawn on a logarithmic axis.
        variational_loss: `negative_log_predictive` or `negative_elbo` after every step of the
            second stage, in nats per label. By default, only the first stage is drawn.
        noise_floor: RMS standard error of the labels in z units, drawn as a dashed line. A perfect
            network has this error against its labels.

    Returns:
        The figure, with one panel per stage.

    Raises:
        ValueError: If a curve is not a non-empty vector.
    """
    curves = [np.asarray(moment_loss)]
    if variational_loss is not None:
        curves.append(np.asarray(variational_loss))
    for curve in curves:
        if curve.ndim != 1 or curve.size == 0:
            raise ValueError(f"Expected a non-empty vector of losses; got shape {curve.shape}")
    figure = new_figure(3.9 * len(curves), 2.9)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    _draw(panels[0], np.sqrt(curves[0]))
    panels[0].set(
        yscale="log", title="MAP: means of the weights", ylabel="root of the loss [z units]"
    )
    if noise_floor is not None:
        panels[0].axhline(noise_floor, color=VERMILION, linestyle=(0, (4, 3)), linewidth=1.1)
        panels[0].annotate(
            "labels' own error",
            (1.0, noise_floor),
            xycoords=("axes fraction", "data"),
            xytext=(-2, -3),
            textcoords="offset points",
            ha="right",
            va="top",
            color=VERMILION,
            fontsize=8,
        )
        low, high = panels[0].get_ylim()
        panels[0].set_ylim(min(low, noise_floor / 1.6), high)
    if variational_loss is not None:
        _draw(panels[1], curves[1])
        _limit(panels[1], curves[1])
        panels[1].set(title="VI: standard deviations of weights", ylabel="loss [nats per label]")
    return figure


def _draw(axes: Axes, curve: np.ndarray) -> None:
    window = max(1, curve.size // 60)
    steps = np.arange(1, curve.size + 1)
    axes.plot(steps, curve, color=BLUE, alpha=0.22, linewidth=0.6)
    if window > 1:
        smooth = np.convolve(curve, np.full(window, 1 / window), mode="valid")
        axes.plot(steps[window - 1 :] - (window - 1) / 2, smooth, color=BLUE)
    axes.set(xlabel="step", xlim=(0, curve.size))
    light_grid(axes)


def _limit(axes: Axes, curve: np.ndarray) -> None:
    """Limits the axis to the curve without a start far above the rest."""
    low, high = np.min(curve), np.quantile(curve, 0.985)
    margin = 0.08 * (high - low)
    if margin > 0:
        axes.set_ylim(low - margin, high + 2 * margin)
