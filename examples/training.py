"""What the examples share, written as a user of nnef_dists would write it.

Training has two stages. MAP: the means of all weights are fitted to the labels by least squares in
z units. VI: the means stay, and the widths are fitted to the predictive density of the labels, so
that they account for the network's errors.
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
    """Adam on `loss(dynamic, rest, key)`; the learning rate falls to zero along a cosine.

    Steps run in compiled chunks, between which the progress bar moves. The loop is compiled once,
    however often it is called.

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
    """Labels drawn at random, with replacement."""
    return labels[jax.random.randint(key, (size,), 0, len(labels))]


def map_loss(network, batch, key):
    """The squared error in z units; of a log-partition's curvature too, for labels have it."""
    if isinstance(network, nd.networks.AbstractLogPartitionNetwork):
        return nd.sobolev_loss(network, batch, key)
    return nd.moment_loss(network, batch)


def map_loss_of_entropy(network, batch, key):
    """The same, and the squared error of eta . mu: for when entropies are to be exact."""
    return map_loss(network, batch, key) + nd.networks.entropy_loss(network, batch)


def fit_means(
    network, data, key, *, loss=map_loss, steps=24000, batch_size=256, learning_rate=3e-3
):
    """Stage 1, MAP: all means, by least squares. Returns the network and losses."""
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
    """Stage 2, VI: all widths, by the predictive density of the labels.

    The means stay as they are, so that the evidence bound would train widths to say how well labels
    determine the weights. Labels that are more exact than the network leave next to nothing there;
    what it cannot represent is what users have to know, and the predictive density counts it.
    Errors on labels that it was not trained on are a little larger: their calibration ratio scales
    all widths in the end.

    Returns:
        The network, and the losses in nats for each label.
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
    # At its lower end the labels' noise explains all errors, so that they cannot tell.
    ratio = jnp.where(ratio > 1e-3, ratio, 1.0)
    print(f"variances times {float(ratio):.2f}, by errors on unseen labels")
    # A standard deviation is the square of its raw width, but for a floor.
    dynamic = jax.tree.map(lambda raw: raw * ratio**0.25, dynamic)
    return nd.unfreeze_all(dynamic, static), losses


def estimate(request, family):
    """Labels in memory of what a job asks for."""
    etas = family.sample_eta(request.etas.key, request.etas.n, request.etas.ranges)
    return nd.estimate_moments(family, etas, request.key, request.config, progress=True)


@runtime_checkable
class NetworkFactory(Protocol):
    """Makes a network: the class of one, or a `functools.partial` of that."""

    def __call__(
        self, family: nd.ExponentialFamily, data: nd.MomentDataset, *, key: jax.Array
    ) -> nd.networks.AbstractMomentNetwork:
        """Returns a network of the family: coordinates from the data, weights from the key."""
        ...


@dataclasses.dataclass(frozen=True)
class Optimization:
    """The optimization section of a job: `nd.generation.read_job(path, overrides, Optimization)`.

    Attributes:
        network: Makes the network: `how.network(family, data, key=key)`. In YAML the class of
            nnef_dists by its name, or one's own by its import path, with its arguments.
        epochs: Passes over the training labels, for the means of the weights.
        batch_size: Labels in a batch.
        learning_rate: Of the means.
        variational_epochs: Passes over the training labels, for the widths of the weights.
        variational_learning_rate: Of the widths.
        seed: Of initial weights, batches and draws.
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
    """Both stages as the optimization section of a job says; `scale` is for all numbers of steps.

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
    """Errors of moments in units of sd(T | eta)."""
    return (np.asarray(predicted) - np.asarray(exact)) / np.asarray(scale)


def predict(network, etas, exact, key, *, draws=256):
    """Moments at the weights' means, their uncertainty, and how often intervals hold the truth.

    Returns:
        A dict of arrays: `predicted` and `uncertainty` (predictive standard deviation) of shape
        `(n, eta_dim)`, and the `coverage` of the 50 % and of the 90 % interval.
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
    """The numbers of a run, for people (printed) and for programs (returned)."""
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
    """Adds the time that a block takes to `seconds[name]`."""
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


# ------------------------------------------------------------------------- command line and disk


def parser(description, out):
    """The options that all examples have."""
    first_line = (description or "").partition("\n")[0]
    options = argparse.ArgumentParser(description=first_line)
    options.add_argument("--seed", type=int, default=0, help="of all random numbers")
    options.add_argument("--out", type=Path, default=Path(out), help=f"folder (default {out})")
    options.add_argument("--etas", type=int, help="how many etas to train on")
    options.add_argument("--steps", type=float, default=1.0, help="scales all numbers of steps")
    return options


def save(out, network, history, summary):
    """Writes the learned parameters, the arrays of a run and its numbers."""
    nd.save(out / "network.safetensors", network)
    np.savez_compressed(out / "history.npz", **history)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")


def load_history(out):
    """The arrays of an earlier run; ends the program where there are none."""
    path = out / "history.npz"
    if not path.exists():
        raise SystemExit(f"No history in {path}: run once without --plot-only")
    with np.load(path) as arrays:
        return dict(arrays)


def save_figures(out, figures):
    """Writes figures as PNG files, by name."""
    for name, figure in figures.items():
        cells.save(figure, out / f"{name}.png")


# ------------------------------------------------------------------------------------- pictures


def draw_learning_curves(history):
    """Both stages' losses, and the error that the labels themselves have."""
    floor = float(np.sqrt(np.mean(history["noise"] ** 2)))
    return plotting.plot_learning_curves(history["map_loss"], history["vi_loss"], noise_floor=floor)


def draw_errors(history):
    """The labels' errors and the network's."""
    network_z = z_errors(history["predicted"], history["exact"], history["scale"])
    return plotting.plot_error_distribution({"labels": history["label_z"], "network": network_z})
