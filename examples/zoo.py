# %% [markdown]
"""One distribution for each family of the package: labeled, learned, judged, drawn and saved.

    python examples/zoo.py [NAME ...] [--out artifacts/zoo] [--etas N] [--steps 1.0]

A NAME is a file of `configs/zoo`, such as `lattice_phi4`. By default, all families are learned. For
each, the script saves numbers, figures and `NAME.safetensors`, an `AmortizedFamily` that `nd.load`
opens without any other file. `table.md` compares all families. Existing results are kept, so an
interrupted run resumes. Results of other options or configurations are an error. Errors are
relative to labels of other etas, with eight times the number of draws.
"""

# %%
import hashlib
import json
from pathlib import Path

import cells
import jax
import numpy as np
import training

import nnef_dists as nd
from nnef_dists import plotting

# %% [markdown]
# ## Main program
#
# Each YAML file of `configs/zoo` is for one family.

# %%
CONFIGS = Path(training.__file__).parent / "configs" / "zoo"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
COLUMNS = ("family", "dim x", "dim T", "labels", "label z rms", "z rms", "z median", "in 90 %", "s")


def main():
    options = training.parser(__doc__, "artifacts/zoo")
    options.add_argument("names", nargs="*", choices=[*NAMES, []], metavar="NAME", default=[])
    args = cells.parse(options)
    args.out.mkdir(parents=True, exist_ok=True)
    there = results(args)
    for name in args.names or NAMES:
        if name not in there:
            print(f"\n== {name}")
            learn(name, args)
    rows = results(args).values()
    table = [
        COLUMNS,
        ["---"] * len(COLUMNS),
        *([row[column] for column in COLUMNS] for row in rows),
    ]
    text = "\n".join(f"| {' | '.join(map(str, row))} |" for row in table)
    (args.out / "table.md").write_text(text + "\n")
    print(f"\n{text}")


# %% [markdown]
# ## Earlier results


# %%
def results(args):
    """Returns existing results by name. With results of other options, the program ends."""
    found = {}
    for name in NAMES:
        path = args.out / f"{name}.json"
        if path.exists():
            found[name] = json.loads(path.read_text())
            if found[name].get("identity") != identity(name, args):
                raise SystemExit(
                    f"error: Expected results of these options and of configs/zoo/{name}.yaml; got "
                    f"others in {path}: remove it, or choose another --out"
                )
    return found


def identity(name, args):
    """Returns a hash of the configuration and the options."""
    told = (CONFIGS / f"{name}.yaml").read_text(), overrides(args), args.steps
    return hashlib.sha256(repr(told).encode()).hexdigest()


def overrides(args):
    """Returns the overrides of a job from the options."""
    changed = [f"--optimization.seed={args.seed}", f"--sampling.seed={args.seed}"]
    if args.etas is not None:
        changed += [f"--grid.{part}.n={args.etas}" for part in ("training", "validation")]
    return changed


# %% [markdown]
# ## One family


# %%
def learn(name, args):
    """Learns one family, and saves the results."""
    job = nd.generation.read_job(CONFIGS / f"{name}.yaml", overrides(args), training.Optimization)
    family, seconds = job.family, {}
    with training.phase(seconds, "moments"):
        data = training.estimate(job.training, family)
        # One half is for calibration, the other for validation.
        unseen = training.estimate(job.validation, family).only_ok()
    print(data)
    calibration, judge = unseen[::2], unseen[1::2]
    k_fit, k_anchor, k_draws = jax.random.split(jax.random.key(job.optimization.seed), 3)
    network, map_loss, vi_loss = training.fit_job(
        job, data, calibration, k_fit, seconds, scale=args.steps
    )
    with training.phase(seconds, "anchor"):
        q = nd.AmortizedFamily(family, network)
        if q.anchor is None:
            anchor = nd.moments.estimate_log_partition(family, q.center, k_anchor)
            q = nd.AmortizedFamily(family, network, anchor=anchor)
    q = nd.validate(q, judge)
    print(q)

    labels = judge.batch()
    etas, scale = labels.eta, np.asarray(labels.sd)
    history = {
        "map_loss": map_loss,
        "vi_loss": vi_loss,
        "noise": data.batch().z_error,
        "exact": judge.mean,
        "scale": scale,
        **training.predict(network, etas, judge.mean, k_draws),
    }
    z = training.z_errors(history["predicted"], judge.mean, scale)
    label_z = labels.z_error
    # The errors of the validation labels may be as large as the errors of the network.
    doubt = np.sqrt(history["uncertainty"] ** 2 + judge.standard_error**2)
    within = np.abs(history["predicted"] - judge.mean) <= 1.645 * doubt
    row = (
        repr(family),
        int(np.prod(family.x_shape)),
        family.eta_dim,
        int(data.ok.sum()),
        f"{np.sqrt(np.mean(label_z**2)):.4f}",
        f"{np.sqrt(np.mean(z**2)):.4f}",
        f"{np.median(np.abs(z)):.4f}",
        f"{np.mean(within):.0%}",
        f"{sum(seconds.values()):.0f}",
    )
    names = family.stat_names if family.eta_dim <= 9 else None
    figures = {
        "learning_curves": training.draw_learning_curves(history),
        "moments": plotting.plot_moment_comparison(
            judge.mean, history["predicted"], scale, uncertainty=history["uncertainty"], names=names
        ),
        "fisher_information": plotting.plot_fisher_information(
            jax.vmap(q.covariance)(etas), judge.covariance, names=names
        ),
        "errors": plotting.plot_error_distribution({"judging labels": label_z, "network": z}),
    }
    if family.x_shape == ():
        figures["densities"] = plotting.plot_densities(family, etas[:4], log_prob=q.log_prob)
    training.save_figures(args.out, {f"{name}_{kind}": each for kind, each in figures.items()})
    nd.save(args.out / f"{name}.safetensors", q)
    # Written last: this file marks the results as complete.
    numbers = {"identity": identity(name, args), **dict(zip(COLUMNS, row, strict=True))}
    (args.out / f"{name}.json").write_text(json.dumps(numbers, indent=2) + "\n")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
