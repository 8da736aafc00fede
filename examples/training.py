"""Training, evaluation and options, shared by the examples, in user code.

Training has two stages. MAP fits the means of all weights to the labels by least squares in z
units. VI keeps the means and fits the standard deviations of the weights to the predictive density
of the labels. The standard deviations then account for the errors of the network.
"""

import argparse
import contextlib
import dataclasses
import json
import time
from pathlib import Path
from typing import Protocol, runtime_checkable

import cells
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm.auto import tqdm

import nnef_dists as nd
from nnef_dists import plotting

# ------------------------------------------------------------------------------------- training


def minimizer(loss, *, steps, learning_rate):
    """Returns a function that minimizes `loss(dynamic, rest, key)` by Adam with cosine decay.

    Steps run in compiled chunks. The progress bar moves after each chunk. The loop is compiled
    once for all calls.

    Returns:
        `run(dynamic, rest, key, description) -> (dynamic, losses)`.
    """
    chunks = max(1, round(steps / 250))
    chunk = -(-steps // chunks)
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, chunks * chunk))

    @jax.jit
    def run_chunk(carry, rest, key):
        def step(carry, key):
            dynamic, state = carry
            value, gradient = jax.value_and_grad(loss)(dynamic, rest, key)
            updates, state = optimizer.update(gradient, state, dynamic)
            return (optax.apply_updates(dynamic, updates), state), value

        return jax.lax.scan(step, carry, jax.random.split(key, chunk))

    def run(dynamic, rest, key, description):
        carry, losses = (dynamic, optimizer.init(dynamic)), []
        with tqdm(total=chunks * chunk, desc=description, unit="step") as bar:
            for chunk_key in jax.random.split(key, chunks):
                carry, values = run_chunk(carry, rest, chunk_key)
                losses.append(np.asarray(values))
                bar.update(chunk)
                bar.set_postfix(loss=f"{losses[-1].mean():.3g}", refresh=False)
        return carry[0], np.concatenate(losses)

    return run


def minibatch(labels, size, key):
    """Draws labels at random, with replacement."""
    return labels[jax.random.randint(key, (size,), 0, len(labels))]


def map_loss(network, batch, key):
    """Returns the squared error in z units, including covariances for log-partition networks."""
    if isinstance(network, nd.networks.AbstractLogPartitionNetwork):
        return nd.sobolev_loss(network, batch, key)
    return nd.moment_loss(network, batch)


def map_loss_of_entropy(network, batch, key):
    """Returns `map_loss` plus the squared error of eta . mu, for accurate entropies."""
    return map_loss(network, batch, key) + nd.networks.entropy_loss(network, batch)


def fit_means(
    network, data, key, *, loss=map_loss, steps=24000, batch_size=256, learning_rate=3e-3
):
    """Fits all means by least squares (stage 1, MAP). Returns the network and losses."""
    labels = network.batch(data)
    dynamic, static = nd.freeze_stdvs(network)

    def loss_of_batch(dynamic, rest, key):
        static, labels = rest
        key_rows, key_loss = jax.random.split(key)
        batch = minibatch(labels, batch_size, key_rows)
        return loss(nd.unfreeze_all(dynamic, static), batch, key_loss)

    run = minimizer(loss_of_batch, steps=steps, learning_rate=learning_rate)
    dynamic, losses = run(dynamic, (static, labels), key, "MAP")
    return nd.unfreeze_all(dynamic, static), losses


def fit_widths(network, data, calibration, key, *, steps=1500, batch_size=128, learning_rate=1e-2):
    """Fits the standard deviations of all weights by the predictive density (stage 2, VI).

    The means stay fixed. The ELBO would fit the posterior of the weights given the labels, which
    is very narrow if the labels are more accurate than the network. The predictive density also
    includes the approximation error of the network. Errors on unseen labels are a little larger,
    so their calibration ratio scales all standard deviations at the end.

    Returns:
        The network, and the losses in nats per label.
    """
    labels = network.batch(data)
    unseen = network.batch(calibration)
    dynamic, static = nd.freeze_means(network)

    def loss(dynamic, rest, key):
        static, labels = rest
        key_rows, key_weights = jax.random.split(key)
        return nd.negative_log_predictive(
            nd.unfreeze_all(dynamic, static),
            minibatch(labels, batch_size, key_rows),
            key_weights,
            total=len(labels),
        )

    key_run, key_ratio = jax.random.split(key)
    run = minimizer(loss, steps=steps, learning_rate=learning_rate)
    dynamic, losses = run(dynamic, (static, labels), key_run, "VI")
    ratio = jax.jit(nd.networks.calibration_ratio)(
        nd.unfreeze_all(dynamic, static), unseen, key_ratio
    )
    # At the lower end the noise of the labels explains all errors, and the ratio is unknown.
    ratio = jnp.where(ratio > 1e-3, ratio, 1.0)
    print(f"variances times {float(ratio):.2f}, by errors on unseen labels")
    # A standard deviation is the square of its raw parameter, up to a floor.
    dynamic = jax.tree.map(lambda raw: raw * ratio**0.25, dynamic)
    return nd.unfreeze_all(dynamic, static), losses


def estimate(request, family):
    """Returns the labels of a request of a job, in memory."""
    etas = family.sample_eta(request.etas.key, request.etas.n, request.etas.ranges)
    return nd.estimate_moments(family, etas, request.key, request.config, progress=True)


@runtime_checkable
class NetworkFactory(Protocol):
    """A function that returns a network: a network class, or a `functools.partial` of it."""

    def __call__(
        self, family: nd.ExponentialFamily, data: nd.MomentDataset, *, key: jax.Array
    ) -> nd.networks.AbstractMomentNetwork:
        """Returns a network of the family, with coordinates from `data` and weights from `key`."""
        ...


@dataclasses.dataclass(frozen=True)
class Optimization:
    """The optimization section of a job: `nd.generation.read_job(path, overrides, Optimization)`.

    Attributes:
        network: Factory of the network, `how.network(family, data, key=key)`. In YAML, the name
            of a class of nnef_dists, or the import path of a custom class, with its arguments.
        epochs: Number of passes over the labels for the means of the weights.
        batch_size: Number of labels per batch.
        learning_rate: Learning rate of the means.
        variational_epochs: Number of passes over the labels for the standard deviations.
        variational_learning_rate: Learning rate of the standard deviations.
        seed: Seed of initial weights, batches and draws.
    """

    network: NetworkFactory = nd.LogPartitionNetwork
    epochs: int = 1500
    batch_size: int = 512
    learning_rate: float = 3e-3
    variational_epochs: int = 250
    variational_learning_rate: float = 4e-3
    seed: int = 0

    def __post_init__(self):
        for name in ("epochs", "batch_size", "variational_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"Expected optimization.{name} >= 1; got {getattr(self, name)}")
        for name in ("learning_rate", "variational_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"Expected optimization.{name} > 0; got {getattr(self, name)}")


def fit_job(job, data, unseen, key, seconds, *, scale=1.0):
    """Runs both stages of the optimization section of a job. `scale` multiplies the steps.

    Returns:
        The network, and the losses of both stages.
    """
    how, n = job.optimization, int(data.ok.sum())
    k_net, k_map, k_vi = jax.random.split(key, 3)

    def steps(epochs):
        return max(1, round(epochs * n / how.batch_size * scale))

    network = how.network(job.family, data, key=k_net)
    with phase(seconds, "MAP"):
        network, map_loss = fit_means(
            network,
            data,
            k_map,
            steps=steps(how.epochs),
            batch_size=how.batch_size,
            learning_rate=how.learning_rate,
        )
    with phase(seconds, "VI"):
        network, vi_loss = fit_widths(
            network,
            data,
            unseen,
            k_vi,
            steps=steps(how.variational_epochs),
            batch_size=how.batch_size,
            learning_rate=how.variational_learning_rate,
        )
    return network, map_loss, vi_loss


# ----------------------------------------------------------------------------------- evaluation


def z_errors(predicted, exact, scale):
    """Returns errors of moments in units of sd(T | eta)."""
    return (np.asarray(predicted) - np.asarray(exact)) / np.asarray(scale)


def predict(network, etas, exact, key, *, draws=256):
    """Returns moments at the means of the weights, their uncertainty, and interval coverage.

    Returns:
        A dict of arrays: `predicted` and `uncertainty` (predictive standard deviation) of shape
        `(n, eta_dim)`, and the `coverage` of the 50% and 90% intervals.
    """

    @jax.jit
    def evaluate(network, etas, exact, key):
        def moments(network):
            return jax.vmap(network)(etas)

        drawn = nd.bayes.predictive_draws(network, moments, key, draws)
        coverage = [
            nd.bayes.interval_coverage(*nd.bayes.central_interval(drawn, level), exact)
            for level in (0.5, 0.9)
        ]
        return {
            "predicted": moments(network),
            "uncertainty": jnp.std(drawn, axis=0),
            "coverage": jnp.stack(coverage),
        }

    return jax.tree.map(np.asarray, evaluate(network, etas, exact, key))


def summarize(history, seconds):
    """Prints and returns the numbers of a run."""
    network_z = z_errors(history["predicted"], history["exact"], history["scale"])
    sizes = {"label": history["label_z"], "network": network_z}
    mse = float(np.mean((history["predicted"] - history["exact"]) ** 2))
    numbers = {
        "z_error": {
            name: {
                "rms": float(np.sqrt(np.mean(z**2))),
                "median": float(np.median(np.abs(z))),
                "max": float(np.max(np.abs(z))),
                "etas": len(z),
            }
            for name, z in sizes.items()
        },
        "mean_squared_error": mse,
        "coverage": {"50 %": float(history["coverage"][0]), "90 %": float(history["coverage"][1])},
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "total_seconds": round(sum(seconds.values()), 2),
    }
    print(f"\n{'error of E[T] in z units':<34}{'rms':>9}{'median':>9}{'max':>9}")
    for name, row in numbers["z_error"].items():
        of = f"{name} ({row['etas']} {'held-out' if name == 'network' else 'training'} etas)"
        print(f"  {of:<32}{row['rms']:9.4f}{row['median']:9.4f}{row['max']:9.4f}")
    print(f"mean squared error of E[T]        {mse:9.3g}")
    print("predictive intervals hold the truth   50 %: {:.3f}   90 %: {:.3f}".format(
        *history["coverage"]
    ))  # fmt: skip
    print("seconds  ", "   ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    print(f"total     {sum(seconds.values()):.1f}\n")
    return numbers


@contextlib.contextmanager
def phase(seconds, name):
    """Adds the seconds of a block to `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


# ------------------------------------------------------------------------- command line and disk


def parser(description, out):
    """Returns a parser of the options that all examples share."""
    first_line = (description or "").partition("\n")[0]
    options = argparse.ArgumentParser(description=first_line)
    options.add_argument("--seed", type=int, default=0, help="of all random numbers")
    options.add_argument("--out", type=Path, default=Path(out), help=f"folder (default {out})")
    options.add_argument("--etas", type=int, help="number of training etas")
    options.add_argument("--steps", type=float, default=1.0, help="scales all numbers of steps")
    return options


def save(out, network, history, summary):
    """Saves the learned parameters, the arrays and the numbers of a run."""
    nd.save(out / "network.safetensors", network)
    np.savez_compressed(out / "history.npz", **history)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def load_history(out):
    """Returns the arrays of an earlier run. If there are none, the program ends."""
    path = out / "history.npz"
    if not path.exists():
        raise SystemExit(f"No history in {path}: run once without --plot-only")
    with np.load(path) as arrays:
        return dict(arrays)


def save_figures(out, figures):
    """Writes figures as PNG files, by name."""
    for name, figure in figures.items():
        cells.save(figure, out / f"{name}.png")


# -------------------------------------------------------------------------------------- figures


def draw_learning_curves(history):
    """Plots the losses of both stages, and the error of the labels."""
    floor = float(np.sqrt(np.mean(history["noise"] ** 2)))
    return plotting.plot_learning_curves(history["map_loss"], history["vi_loss"], noise_floor=floor)


def draw_errors(history):
    """Plots the errors of the labels and the network."""
    network_z = z_errors(history["predicted"], history["exact"], history["scale"])
    return plotting.plot_error_distribution({"labels": history["label_z"], "network": network_z})
