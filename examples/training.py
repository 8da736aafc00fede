"""What the examples share, written as a user of nnef_dists would write it.

Training has two stages. MAP: the means of all weights are fitted to the labels by least squares in
z units. VI: the means stay, and the widths are fitted to the evidence lower bound, at the
temperature at which they account for the network's errors on labels that it was not trained on.
"""

import argparse
import contextlib
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm.auto import tqdm

import nnef_dists as nd
from nnef_dists import plotting

# ------------------------------------------------------------------------------------- training


def minimiser(loss, *, steps, learning_rate):
    """Adam on `loss(dynamic, rest, key)`; the learning rate falls to zero along a cosine.

    Steps run in compiled chunks, between which the progress bar moves. The loop is compiled once,
    however often it is called.

    Returns:
        `run(dynamic, rest, key, description) -> (dynamic, losses)`.
    """
    chunks = max(1, round(steps / 250))
    chunk = -(-steps // chunks)
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, chunks * chunk))

    @jax.jit
    def run_chunk(carry, rest, key):
        def step(carry, key):
            dynamic, state = carry
            value, gradient = jax.value_and_grad(loss)(dynamic, rest, key)
            updates, state = optimiser.update(gradient, state, dynamic)
            return (optax.apply_updates(dynamic, updates), state), value

        return jax.lax.scan(step, carry, jax.random.split(key, chunk))

    def run(dynamic, rest, key, description):
        carry, losses = (dynamic, optimiser.init(dynamic)), []
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
    rows = jax.random.randint(key, (size,), 0, len(labels.eta))
    return jax.tree.map(lambda leaf: leaf[rows], labels)


def fit_means(network, data, key, *, steps=6000, batch_size=512, learning_rate=3e-3):
    """Stage 1, MAP: all means, by the squared error in z units. Returns the network and losses."""
    labels = jax.tree.map(jnp.asarray, data.only_ok().arrays())
    dynamic, static = nd.freeze_stdvs(network)

    def loss(dynamic, rest, key):
        static, labels = rest
        batch = minibatch(labels, batch_size, key)
        return nd.moment_loss(nd.unfreeze_all(dynamic, static), batch)

    run = minimiser(loss, steps=steps, learning_rate=learning_rate)
    dynamic, losses = run(dynamic, (static, labels), key, "MAP")
    return nd.unfreeze_all(dynamic, static), losses


VI_ROUNDS = 3


def fit_widths(network, data, calibration, key, *, steps=1000, batch_size=512, learning_rate=4e-3):
    """Stage 2, VI: all widths, by the tempered evidence bound, in rounds.

    The labels inform far fewer combinations of weights than there are weights, so that at
    temperature 1 the widths would promise too little, by far where labels are more exact than the
    network: its errors on them set the temperature of the first round. Each of the others starts
    where the last one ended, at its temperature times its calibration ratio.

    Returns:
        The network, and the negative bound in nats for each label, all rounds in one.
    """
    labels = jax.tree.map(jnp.asarray, data.only_ok().arrays())
    unseen = jax.tree.map(jnp.asarray, calibration.only_ok().arrays())
    dynamic, static = nd.freeze_means(network)

    def loss(dynamic, rest, key):
        static, labels, temperature = rest
        key_rows, key_weights = jax.random.split(key)
        return nd.negative_elbo(
            nd.unfreeze_all(dynamic, static),
            minibatch(labels, batch_size, key_rows),
            key_weights,
            total=len(labels.eta),
            temperature=temperature,
        )

    run = minimiser(loss, steps=steps, learning_rate=learning_rate)
    calibration_ratio = jax.jit(nd.calibration_ratio)
    errors = (jax.jit(jax.vmap(network))(labels.eta) - labels.mean) / labels.standard_error
    temperature = 0.1 * jnp.maximum(1.0, jnp.mean(errors**2))
    losses, report = [], []
    for number, round_key in enumerate(jax.random.split(key, VI_ROUNDS), start=1):
        key_run, key_ratio = jax.random.split(round_key)
        rest = (static, labels, temperature)
        dynamic, values = run(dynamic, rest, key_run, f"VI {number}/{VI_ROUNDS}")
        losses.append(values)
        ratio = calibration_ratio(nd.unfreeze_all(dynamic, static), unseen, key_ratio)
        report.append(f"{float(ratio):.2f} at temperature {float(temperature):.2g}")
        temperature = temperature * jnp.clip(ratio, 0.02, 50.0)
    print("calibration ratio:", ", ".join(report))
    return nd.unfreeze_all(dynamic, static), np.concatenate(losses)


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

        drawn = nd.predictive_draws(network, moments, key, draws)
        coverage = [
            nd.interval_coverage(*nd.central_interval(drawn, level), exact) for level in (0.5, 0.9)
        ]
        return {
            "predicted": moments(network),
            "uncertainty": jnp.std(drawn, axis=0),
            "coverage": jnp.stack(coverage),
        }

    return jax.tree.map(np.asarray, evaluate(network, etas, exact, key))


def summarise(history, seconds):
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
        figure.savefig(out / f"{name}.png")
    print(f"wrote {', '.join(f'{name}.png' for name in figures)} to {out}/")


# ------------------------------------------------------------------------------------- pictures


def draw_learning_curves(history):
    """Both stages' losses, and the error that the labels themselves have."""
    floor = float(np.sqrt(np.mean(history["noise"] ** 2)))
    return plotting.plot_learning_curves(
        history["map_loss"], history["vi_loss"], noise_floor=floor, rounds=VI_ROUNDS
    )


def draw_errors(history):
    """The labels' errors and the network's."""
    network_z = z_errors(history["predicted"], history["exact"], history["scale"])
    return plotting.plot_error_distribution({"labels": history["label_z"], "network": network_z})
