"""Training jobs for families with a closed form, and comparison with it.

A job is a file of `examples/configs` with the family, etas, sampling and optimization.
"""

from pathlib import Path

import cells
import jax
import jax.numpy as jnp
import numpy as np
import training

import nnef_dists as nd

CONFIGS = Path(__file__).parent / "configs"


def main(description, family, draw, *, config, out):
    """Runs a job with the options of the command line, and draws its figures.

    Args:
        description: Docstring of the script.
        family: An `AbstractNamedFamily`.
        draw: Function from the arrays of a run to figures by name.
        config: Name of the files of the job, for example `gaussian_1d`.
        out: Folder of the results.
    """
    args = cells.parse(parser(description, config, out))
    if args.plot_only:
        history = training.load_history(args.out)
    else:
        try:
            job, data, unseen, seconds = labels_of(args, family)
        except (ValueError, OSError) as error:
            raise SystemExit(f"error: {error}") from None
        history = learn(args, job, data, unseen, seconds)
    training.save_figures(args.out, draw(history))


def parser(description, config, out):
    """Returns the parser of the options."""
    options = training.parser(description, out)
    options.set_defaults(seed=None)
    options.add_argument("--preset", choices=["small", "large"], default="large", help="size")
    options.add_argument("--config", type=Path, help=f"job (default configs/{config}_PRESET.yaml)")
    options.add_argument(
        "--data", type=Path, help="folder of `python -m nnef_dists generate`; none: labels are made"
    )
    options.add_argument(
        "--plot-only", action="store_true", help="redraw the figures of an earlier run"
    )
    options.set_defaults(configs=config)
    return options


def labels_of(args, family):
    """Returns the job, training and validation labels, and the seconds of both.

    Args:
        args: Options from `parser`.
        family: Expected family of the job.

    Returns:
        The job, two `MomentDataset`s, and a dict of seconds.
    """
    path = args.config or CONFIGS / f"{args.configs}_{args.preset}.yaml"
    overrides = [] if args.etas is None else [f"--grid.training.n={args.etas}"]
    if args.seed is not None:
        overrides += [f"--sampling.seed={args.seed}", f"--optimization.seed={args.seed}"]
    job = nd.generation.read_job(path, overrides, training.Optimization)
    if job.family != family:
        raise ValueError(f"Expected a job of {family!r}; got {job.family!r} in {path}")
    seconds = {}
    with training.phase(seconds, "moments"):
        if args.data is None:
            requests = job.training, job.validation
            data, unseen = (training.estimate(request, family) for request in requests)
        else:
            data, unseen = (
                nd.MomentDataset.open(args.data / name, family=family)
                for name in ("training.zarr", "validation.zarr")
            )
            data = data if args.etas is None else data[: args.etas]
    return job, data, unseen, seconds


def learn(args, job, data, unseen, seconds):
    """Trains a network, compares it with the closed form, and saves the results.

    Args:
        args: Options from `parser`.
        job: The job.
        data: Training labels.
        unseen: Labels for the calibration of the uncertainty.
        seconds: Seconds so far, by phase.

    Returns:
        The arrays of the run, by name, for the figures.
    """
    print(data)
    family, labels = job.family, data.only_ok()
    k_held, k_fit, k_draws = jax.random.split(jax.random.key(job.optimization.seed), 3)
    network, map_loss, vi_loss = training.fit_job(
        job, data, unseen, k_fit, seconds, scale=args.steps
    )
    with training.phase(seconds, "evaluation"):
        held_out = family.sample_eta(k_held, 512, job.validation.etas.ranges)
        exact, scale = closed_form_moments(family, held_out)
        history = {
            "map_loss": map_loss,
            "vi_loss": vi_loss,
            "noise": data.batch().z_error,
            "label_z": training.z_errors(labels.mean, *closed_form_moments(family, labels.eta)),
            "eta": np.asarray(held_out),
            "exact": exact,
            "scale": scale,
            **training.predict(network, held_out, exact, k_draws),
        }
    args.out.mkdir(parents=True, exist_ok=True)
    training.save(args.out, network, history, training.summarize(history, seconds))
    return history


def closed_form_moments(family, etas):
    """Returns E[T | eta] and sd(T | eta) of many etas."""

    @jax.jit
    @jax.vmap
    def both(eta):
        return family.mean(eta), jnp.sqrt(jnp.diag(family.covariance(eta)))

    return jax.tree.map(np.asarray, both(jnp.asarray(etas)))
