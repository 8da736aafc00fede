# %% [markdown]
"""MAP, then variational inference, on a regression whose posterior is known exactly.

    python examples/two_stage_regression.py [--seed 0] [--steps 1.0] [--out DIR] [--plot-only]

A curve is a sum of Legendre polynomials with unknown weights. The noise is known and the prior is
Gaussian, so the posterior of the weights is Gaussian in closed form. Three stages fit a mean-field
distribution on minibatches: the means (MAP), the standard deviations, and both. The script compares
them with the exact posterior, with the optimal mean field and with NUTS.
"""

# %%
import argparse
import json
import math
from pathlib import Path
from typing import Any

import blackjax
import cells
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import training
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import (
    AbstractParameter,
    Module,
    draw_or_mean,
    freeze_means,
    freeze_stdvs,
    gaussian_entropy,
    make_parameter,
    partition_trainable,
    sample_all_parameters,
    unfreeze_all,
)
from nnef_dists.generation import keep_compiled
from nnef_dists.saving import load, save

# %% [markdown]
# ## Model

# %%
DEGREE = 5
NOISE = 0.2
POINTS = 80
BATCH = 40


class Series(Module):
    """`f(x) = sum_k w_k P_k(x)` with Legendre polynomials P_k and random weights w."""

    w: AbstractParameter

    def __init__(self):
        self.w = make_parameter(jnp.zeros(DEGREE + 1))

    def __call__(
        self,
        x: Float[Array, " n"],
        *,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
    ) -> Float[Array, " n"]:
        """Evaluates the curve with drawn weights, or with their means."""
        model = draw_or_mean(self, key=key, sample=sample)
        return legendre(x) @ model.w.mean


def legendre(x: Float[Array, " n"]) -> Float[Array, "n terms"]:
    """Evaluates the polynomials by Bonnet's recursion."""
    columns = [jnp.ones_like(x), x]
    for k in range(1, DEGREE):
        columns.append(((2 * k + 1) * x * columns[-1] - k * columns[-2]) / (k + 1))
    return jnp.stack(columns, axis=-1)


# %% [markdown]
# ## Data and exact posterior


# %%
def make_data(key: PRNGKeyArray) -> tuple[Array, Array, Array]:
    """Draws weights from the prior, and data with x below 0.5."""
    weight_key, x_key, noise_key = jax.random.split(key, 3)
    w = jax.random.normal(weight_key, (DEGREE + 1,)) / math.sqrt(2)
    x = jnp.sort(jax.random.uniform(x_key, (POINTS,), minval=-1.0, maxval=0.5))
    y = legendre(x) @ w + NOISE * jax.random.normal(noise_key, (POINTS,))
    return x, y, w


def exact_posterior(x: Array, y: Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and precision of the weights. The log-density of the prior is `-|w|^2`."""
    features = np.asarray(legendre(x), np.float64)
    precision = features.T @ features / NOISE**2 + 2 * np.eye(DEGREE + 1)
    return np.linalg.solve(precision, features.T @ np.asarray(y) / NOISE**2), precision


# %% [markdown]
# ## Training
#
# The three stages train means, standard deviations, and both.


# %%
def fit(
    x: Array, y: Array, *, key: PRNGKeyArray, steps: int, samples: int = 16
) -> tuple[Series, dict[str, np.ndarray]]:
    """Runs the three stages. Returns the model and the losses by stage.

    The objective of each stage is the negative ELBO times `prior_weight = 2 noise^2 / points`, up
    to a constant.
    """
    prior_weight = 2 * NOISE**2 / POINTS

    def minibatch(key: PRNGKeyArray) -> tuple[Array, Array]:
        rows = jax.random.choice(key, POINTS, (BATCH,), replace=False)
        return x[rows], y[rows]

    def map_loss(dynamic: Any, static: Any, key: PRNGKeyArray) -> Array:
        model = unfreeze_all(dynamic, static)
        inputs, targets = minibatch(key)
        fit = jnp.mean((model(inputs, sample=False) - targets) ** 2)
        return fit + prior_weight * model.compute_prior()

    def vi_loss(dynamic: Any, static: Any, key: PRNGKeyArray) -> Array:
        model = unfreeze_all(dynamic, static)
        batch_key, draws_key = jax.random.split(key)
        inputs, targets = minibatch(batch_key)

        def terms(key: PRNGKeyArray) -> Array:
            drawn = sample_all_parameters(model, key)
            fit = jnp.mean((drawn(inputs) - targets) ** 2)
            return fit + prior_weight * drawn.compute_prior()

        expected = jnp.mean(jax.vmap(terms)(jax.random.split(draws_key, samples)))
        return expected - prior_weight * gaussian_entropy(model)

    model = Series()
    history = {}
    stages = (
        ("MAP", freeze_stdvs, map_loss, 3e-2),
        ("VI", freeze_means, vi_loss, 2e-2),
        ("joint", partition_trainable, vi_loss, 1e-2),
    )
    for (label, split, loss, rate), stage_key in zip(
        stages, jax.random.split(key, len(stages)), strict=True
    ):
        dynamic, static = split(model)
        run = training.minimizer(loss, steps=steps, learning_rate=rate)
        dynamic, history[label] = run(dynamic, static, stage_key, label)
        model = unfreeze_all(dynamic, static)
    return model, history


# %% [markdown]
# ## Samples by NUTS


# %%
def run_nuts(x: Array, y: Array, key: PRNGKeyArray, draws: int) -> np.ndarray:
    """Draws the weights by NUTS. The window adaptation takes a third of the number of draws."""
    features = legendre(x)

    def log_density(w: Array) -> Array:
        return -jnp.sum((y - features @ w) ** 2) / (2 * NOISE**2) - jnp.sum(w**2)

    warm_key, key = jax.random.split(key)
    warmup = blackjax.window_adaptation(blackjax.nuts, log_density)
    result, _ = warmup.run(warm_key, jnp.zeros(DEGREE + 1), max(draws // 3, 20))  # pyright: ignore[reportCallIssue]
    kernel = blackjax.nuts(log_density, **result.parameters)

    def step(state: Any, key: PRNGKeyArray) -> Any:
        state, _ = kernel.step(key, state)
        return state, state.position

    _, positions = jax.jit(lambda s, k: jax.lax.scan(step, s, k))(
        result.state, jax.random.split(key, draws)
    )
    return np.asarray(positions, np.float64)


# %% [markdown]
# ## Report and figures


# %%
def report(model: Series, nuts: np.ndarray, x: Array, y: Array) -> dict[str, float]:
    """Prints and returns the comparison with the exact posterior."""
    mean, precision = exact_posterior(x, y)
    exact_stdv = np.sqrt(np.diag(np.linalg.inv(precision)))
    mean_field = 1 / np.sqrt(np.diag(precision))
    error = np.abs(np.asarray(model.w.mean) - mean) / exact_stdv
    ratio = np.asarray(model.w.stdv) / mean_field
    nuts_ratio = nuts.std(axis=0) / exact_stdv
    figures = {
        "largest error of a mean, in posterior sd": float(error.max()),
        "sd / mean-field optimum, smallest": float(ratio.min()),
        "sd / mean-field optimum, largest": float(ratio.max()),
        "mean-field optimum / exact sd, smallest": float((mean_field / exact_stdv).min()),
        "NUTS: largest error of a mean, in posterior sd": float(
            (np.abs(nuts.mean(axis=0) - mean) / exact_stdv).max()
        ),
        "NUTS: sd / exact sd, furthest from 1": float(
            nuts_ratio[np.argmax(np.abs(np.log(nuts_ratio)))]
        ),
    }
    for name, value in figures.items():
        print(f"{name:48s}{value:8.3f}")
    return figures


def draw(
    model: Series, nuts: np.ndarray, history: dict[str, np.ndarray], data: Any, out: Path
) -> None:
    """Saves the figures."""
    x, y, w = data
    mean, precision = exact_posterior(x, y)
    covariance = np.linalg.inv(precision)
    grid = jnp.linspace(-1.0, 1.0, 201)
    features = np.asarray(legendre(grid), np.float64)
    bands = {
        "exact": (features @ mean, np.sqrt(np.sum(features @ covariance * features, axis=1))),
        "NUTS": (features @ nuts.mean(axis=0), (features @ nuts.T).std(axis=1)),
        "VI (mean field)": (
            features @ np.asarray(model.w.mean),
            np.sqrt(features**2 @ np.asarray(model.w.stdv, np.float64) ** 2),
        ),
    }
    styles = {"exact": ("C0", "-"), "NUTS": ("C2", "--"), "VI (mean field)": ("C1", "-")}

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), dpi=140, layout="constrained")
    for name, (center, stdv) in bands.items():
        color, line = styles[name]
        if name == "exact":
            left.fill_between(grid, center - 2 * stdv, center + 2 * stdv, color=color, alpha=0.15)
        left.plot(grid, center - 2 * stdv, line, color=color, lw=1.2)
        left.plot(grid, center + 2 * stdv, line, color=color, lw=1.2, label=f"{name}: mean ± 2 sd")
    left.plot(grid, features @ np.asarray(w), "k:", lw=1.2, label="true curve")
    left.plot(x, y, "k.", ms=3, alpha=0.5)
    left.set(xlabel="x", ylabel="f(x)", title="The curve, given data for x < 0.5")
    low, high = bands["exact"][0] - 3 * bands["exact"][1], bands["exact"][0] + 3 * bands["exact"][1]
    left.set_ylim(min(low.min(), float(y.min())), max(high.max(), float(y.max())))
    left.legend(fontsize=8)

    terms = np.arange(DEGREE + 1)
    sds = {
        "exact": np.sqrt(np.diag(covariance)),
        "NUTS": nuts.std(axis=0),
        "VI (mean field)": np.asarray(model.w.stdv),
    }
    means = {"exact": mean, "NUTS": nuts.mean(axis=0), "VI (mean field)": np.asarray(model.w.mean)}
    for i, (name, stdv) in enumerate(sds.items()):
        right.errorbar(
            terms + 0.18 * (i - 1),
            means[name] - mean,
            2 * stdv,
            fmt="o",
            ms=4,
            capsize=3,
            color=styles[name][0],
            label=f"{name}: ± 2 sd",
        )
    optimum = 2 / np.sqrt(np.diag(precision))
    right.plot(terms + 0.18, optimum, "k_", ms=12, label="mean-field optimum")
    right.plot(terms + 0.18, -optimum, "k_", ms=12)
    right.axhline(0, color="k", lw=0.6)
    right.set(
        xlabel="weight of the k-th polynomial",
        ylabel="deviation from the exact posterior mean",
        title="The weights",
    )
    low, high = right.get_ylim()
    right.set_ylim(low, high + 0.35 * (high - low))
    right.legend(fontsize=8, ncols=2, loc="upper center")
    cells.save(figure, out / "posterior.png")

    figure, axes = plt.subplots(1, len(history), figsize=(11, 3), dpi=140, layout="constrained")
    for axis, (name, losses) in zip(axes, history.items(), strict=True):
        window = max(len(losses) // 100, 1)
        means_ = losses[: len(losses) // window * window].reshape(-1, window).mean(axis=1)
        axis.plot(np.arange(len(means_)) * window, means_, lw=1)
        axis.set(title=name, xlabel="step")
    axes[0].set_ylabel("loss (minibatch)")
    cells.save(figure, out / "learning_curves.png")


# %% [markdown]
# ## Main program


# %%
def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(
        description="MAP, then variational inference, beside the exact posterior."
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=float, default=1.0, help="scales all numbers of steps")
    parser.add_argument("--out", type=Path, default=Path("artifacts/two_stage_regression"))
    parser.add_argument("--plot-only", action="store_true", help="redraw from what was saved")
    options = cells.parse(parser, arguments)
    data_key, fit_key, nuts_key = jax.random.split(jax.random.key(options.seed), 3)
    data = make_data(data_key)
    model_path = options.out / "model.safetensors"
    history_path = options.out / "history.npz"

    if options.plot_only:
        if not (model_path.exists() and history_path.exists()):
            raise SystemExit(f"Nothing to plot in {options.out}: run without --plot-only first.")
        model = load(model_path, classes=(Series,))
        with np.load(history_path) as saved:
            history = {name: saved[name] for name in saved.files if name != "nuts"}
            nuts = saved["nuts"]
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        model, history = fit(*data[:2], key=fit_key, steps=max(round(6000 * options.steps), 1))
        nuts = run_nuts(*data[:2], nuts_key, draws=max(round(3000 * options.steps), 20))
        save(model_path, model)
        np.savez(history_path, allow_pickle=False, nuts=nuts, **history)
        if not eqx.tree_equal(load(model_path, classes=(Series,)), model):
            raise RuntimeError(f"Expected {model_path} to hold the model; got another.")
    figures = report(model, nuts, *data[:2])
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2))
    draw(model, nuts, history, data, options.out)
    print(f"pictures, model and history are in {options.out}")
    return figures


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    keep_compiled()
    main()
