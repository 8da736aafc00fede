# %% [markdown]
"""A Bayesian vector field: neural Lotka-Volterra from noisy data.

    python examples/bayesian_ode.py [--seed 0] [--steps 1.0] [--out DIR] [--plot-only]

Noisy counts of predators and prey end at some time. A neural vector field fits the counts and
forecasts later ones. `bayesianize` makes an ordinary diffrax vector field Bayesian. Weights are
drawn once per trajectory. Gradients flow through the solver to the means and standard deviations of
the weights. MAP comes first, then variational inference of both. The script prints the coverage of
the true trajectory by the 90% band of 100 posterior trajectories, and the widening of the band
after the data end.
"""

# %%
import argparse
import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import cells
import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import training
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import (
    Bayesianized,
    GaussianParameter,
    bayesianize,
    central_interval,
    freeze_stdvs,
    interval_coverage,
    kl_divergence,
    partition_trainable,
    sample_all_parameters,
    unfreeze_all,
)
from nnef_dists.generation import keep_compiled
from nnef_dists.saving import load, save

# %% [markdown]
# ## True equation and network

# %%
NOISE = 0.1
OBSERVED, END = 8.0, 16.0
OBSERVATIONS = 33
STEP = 0.25
START = jnp.log(jnp.array([1.0, 0.6]))
PRIOR = GaussianParameter.from_stdv(0.0, 1.0)


class LotkaVolterra(eqx.Module):
    """The true field of log prey u and log predators v: `d log u = 1 - v`, `d log v = u - 0.7`."""

    def __call__(self, t: Any, y: Float[Array, "2"], args: Any) -> Float[Array, "2"]:
        """Returns the time derivative of the logarithms."""
        prey, predators = jnp.exp(y)
        return jnp.stack([1.0 - predators, prey - 0.7])


class NeuralField(eqx.Module):
    """The fitted vector field, a network of Equinox layers."""

    layers: list[eqx.nn.Linear]

    def __init__(self, key: PRNGKeyArray):
        sizes = (2, 16, 16, 2)
        keys = jax.random.split(key, len(sizes) - 1)
        self.layers = [
            eqx.nn.Linear(m, n, key=k) for (m, n), k in zip(pairwise(sizes), keys, strict=True)
        ]

    def __call__(self, t: Any, y: Float[Array, "2"], args: Any) -> Float[Array, "2"]:
        """Returns the time derivative of the logarithms."""
        for layer in self.layers[:-1]:
            y = jnp.tanh(layer(y))
        return self.layers[-1](y)


# %% [markdown]
# ## Solver and data


# %%
@jax.jit
def integrate(field: Any, times: Float[Array, " n"]) -> Float[Array, "n 2"]:
    """Solves the equation from the known initial state. Returns the states at `times`."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=0.0,
        t1=times[-1],
        dt0=STEP,
        y0=START,
        saveat=diffrax.SaveAt(ts=times),
        max_steps=math.ceil(END / STEP) + 2,
    )
    return jnp.asarray(solution.ys)


def make_data(key: PRNGKeyArray) -> tuple[Array, Array]:
    """Returns the times and the noisy logarithms of the counts."""
    times = jnp.linspace(0.0, OBSERVED, OBSERVATIONS)[1:]
    exact = integrate(LotkaVolterra(), times)
    return times, exact + NOISE * jax.random.normal(key, exact.shape)


# %% [markdown]
# ## Training
#
# MAP comes first, then variational inference.


# %%
def fit(
    times: Array, counts: Array, *, key: PRNGKeyArray, scale: float, samples: int = 4
) -> tuple[Bayesianized, dict[str, np.ndarray]]:
    """Runs the stages. Returns the field and the losses (negative log-densities) by stage."""
    init_key, *stage_keys = jax.random.split(key, 4)
    field = bayesianize(NeuralField(init_key))

    def misfit(field: Any, horizon: Array) -> Array:
        squares = ((integrate(field, times) - counts) / NOISE) ** 2
        return 0.5 * jnp.sum(jnp.where(times[:, None] <= horizon, squares, 0.0))

    def map_loss(dynamic: Any, rest: Any, key: PRNGKeyArray) -> Array:
        static, horizon = rest
        field = unfreeze_all(dynamic, static)
        return misfit(field, horizon) + 0.5 * field.compute_prior()

    def vi_loss(dynamic: Any, rest: Any, key: PRNGKeyArray) -> Array:
        static, horizon = rest
        field = unfreeze_all(dynamic, static)
        draws = jax.vmap(lambda k: misfit(sample_all_parameters(field, k), horizon))
        expected = jnp.mean(draws(jax.random.split(key, samples)))
        return expected + kl_divergence(field, PRIOR)

    def minimizer(loss: Any, steps: int, rate: float) -> Any:
        return training.minimizer(loss, steps=max(round(steps * scale), 1), learning_rate=rate)

    run_map = minimizer(map_loss, 1250, 1e-2)
    # First only early times: whole trajectories of an untrained field are uninformative.
    stages = (
        ("MAP, first quarter", freeze_stdvs, run_map, OBSERVED / 4),
        ("MAP", freeze_stdvs, run_map, OBSERVED),
        ("VI", partition_trainable, minimizer(vi_loss, 2000, 5e-3), OBSERVED),
    )
    history = {}
    for stage_key, (label, split, run, horizon) in zip(stage_keys, stages, strict=True):
        dynamic, static = split(field)
        rest = (static, jnp.asarray(horizon))
        dynamic, history[label] = run(dynamic, rest, stage_key, label)
        field = unfreeze_all(dynamic, static)
    return field, history


# %% [markdown]
# ## Posterior trajectories


# %%
def posterior_trajectories(
    field: Bayesianized, times: Array, key: PRNGKeyArray, n: int = 100
) -> Float[Array, "n times 2"]:
    """Integrates `n` draws of the field. The weights are fixed along each trajectory."""

    def trajectory(key: PRNGKeyArray) -> Array:
        return integrate(sample_all_parameters(field, key), times)

    return jax.jit(jax.vmap(trajectory))(jax.random.split(key, n))


def report(
    trajectories: Array, truth: Array, times: Array
) -> tuple[dict[str, float], tuple[Array, Array]]:
    """Prints the coverage and width of the 90% band, and returns them with the band."""
    lower, upper = central_interval(trajectories, 0.9)
    seen = times <= OBSERVED
    width = upper - lower
    figures = {
        "coverage of the 90 % band, all times": interval_coverage(lower, upper, truth),
        "coverage while there are data": interval_coverage(lower[seen], upper[seen], truth[seen]),
        "coverage after the data": interval_coverage(lower[~seen], upper[~seen], truth[~seen]),
        "mean width of the band, data": jnp.mean(width[seen]),
        "mean width of the band, after": jnp.mean(width[~seen]),
        "widening after the data end": jnp.mean(width[~seen]) / jnp.mean(width[seen]),
    }
    numbers = {name: float(value) for name, value in figures.items()}
    for name, value in numbers.items():
        print(f"{name:40s}{value:8.3f}")
    return numbers, (lower, upper)


# %% [markdown]
# ## Figures


# %%
def draw(
    trajectories: Array, band: Any, truth: Array, times: Array, data: Any
) -> dict[str, plt.Figure]:
    """Returns the figures, by name."""
    figure, axes = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    seen_times, counts = data
    for i, (axis, name) in enumerate(zip(axes, ("prey", "predators"), strict=True)):
        color = f"C{i}"
        axis.plot(times, np.exp(trajectories[:20, :, i]).T, color=color, lw=0.5, alpha=0.25)
        axis.fill_between(
            times,
            np.exp(band[0][:, i]),
            np.exp(band[1][:, i]),
            color=color,
            alpha=0.25,
            label="90 % band",
        )
        axis.plot(
            times,
            np.exp(jnp.median(trajectories[..., i], axis=0)),
            color=color,
            lw=1.5,
            label="posterior median",
        )
        axis.plot(times, np.exp(truth[:, i]), "k--", lw=1.2, label="true trajectory")
        axis.plot(seen_times, np.exp(counts[:, i]), "k.", ms=4, label="data")
        axis.axvline(OBSERVED, color="0.4", lw=0.8, ls=":")
        axis.set_ylabel(name)
        axis.set_ylim(0, 1.8 * float(np.exp(truth[:, i]).max()))
        axis.legend(fontsize=8, ncols=4, loc="upper left")
    axes[0].set_title("Learned Lotka-Volterra equations: fit to the data, and forecast")
    axes[1].set_xlabel("time")
    return {"trajectories": figure}


def draw_history(history: dict[str, np.ndarray]) -> plt.Figure:
    """Returns the learning curves."""
    figure, axes = plt.subplots(1, len(history), figsize=(11, 3), layout="constrained")
    for axis, (name, losses) in zip(axes, history.items(), strict=True):
        axis.plot(losses, lw=0.7)
        spans_decades = losses.min() > 0 and losses.max() > 30 * losses.min()
        axis.set(title=name, xlabel="step", yscale="log" if spans_decades else "linear")
    axes[0].set_ylabel("loss in nats")
    return figure


# %% [markdown]
# ## Main program


# %%
def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers")
    parser.add_argument("--steps", type=float, default=1.0, help="scales all numbers of steps")
    parser.add_argument("--out", type=Path, default=Path("artifacts/bayesian_ode"))
    parser.add_argument("--plot-only", action="store_true", help="redraw from what was saved")
    options = cells.parse(parser, arguments)
    data_key, fit_key, draws_key = jax.random.split(jax.random.key(options.seed), 3)
    data = make_data(data_key)
    model_path = options.out / "field.safetensors"
    history_path = options.out / "history.npz"

    if options.plot_only:
        if not (model_path.exists() and history_path.exists()):
            raise SystemExit(f"Nothing to plot in {options.out}: run without --plot-only first.")
        with np.load(history_path) as saved:
            history = dict(saved)
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        field, history = fit(*data, key=fit_key, scale=options.steps)
        save(model_path, field)
        np.savez(history_path, allow_pickle=False, **history)
    field = load(model_path, classes=(NeuralField,))

    times = jnp.linspace(0.0, END, 161)[1:]
    truth = integrate(LotkaVolterra(), times)
    trajectories = posterior_trajectories(field, times, draws_key)
    figures, band = report(trajectories, truth, times)
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    pictures = draw(trajectories, band, truth, times, data)
    training.save_figures(options.out, {**pictures, "learning_curves": draw_history(history)})
    return figures


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    keep_compiled()
    main()
