"""Sections of `bench_posterior.py`: posteriors of standard tasks, by C2ST and by calibration."""

import functools
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import npe

from tests.benchmarks.c2st import c2st
from tests.benchmarks.results import Table
from tests.benchmarks.tasks import TASKS

# Mean C2ST of neural posterior estimation at 1,000 and 10,000 simulations, as published.
PUBLISHED = {
    "gaussian_linear": (0.694, 0.552),
    "two_moons": (0.725, 0.606),
    "slcp": (0.975, 0.901),
    "gaussian_mixture": (0.716, 0.615),
}
SIMULATIONS = (1000, 10_000)
# Of training from the fewer and from the more simulations; thin crescents take longest.
STEPS = {"two_moons": (1500, 20_000)}
USUAL_STEPS = (1500, 4000)


def heads(task, data):
    """Heads of any task, by name: with linear and with deep trunks."""
    d = data.theta_dim
    box = None
    if task.box is not None:
        box = nd.BoxSupport(*(jnp.full(d, end) for end in task.box))
    linear = {"width": 32, "depth": 1, "activation": lambda h: h}

    def options(key):
        """Four points are a set."""
        if len(data.x_shape) < 2:
            return {"key": key}
        key, key_set = jax.random.split(key)
        return {"key": key, "embedding": nd.posterior.SetEmbedding(data.x_shape, key=key_set)}

    return {
        "Gaussian, linear": lambda key: nd.GaussianPosterior(
            data, diagonal=True, **linear, **options(key)
        ),
        "mixture, linear": lambda key: nd.MixturePosterior(data, 4, **linear, **options(key)),
        "mixture": lambda key: nd.MixturePosterior(data, 16, support=box, **options(key)),
        "flow": lambda key: nd.FlowPosterior.coupling(data, support=box, **options(key)),
    }


@functools.cache
def learned(name, n, scale):
    """The name of the head with the least loss on held-out simulations, and two versions of it.

    They are the ensemble of six members, and its member with the least loss.
    """
    task, found = TASKS[name], {}
    keys = jax.random.split(jax.random.fold_in(jax.random.key(100), n))
    data = nd.simulate(task.simulate, task.prior, keys[0], n, progress=False)
    for head, make in heads(task, data).items():
        usual = STEPS.get(name, USUAL_STEPS)[SIMULATIONS.index(n)]
        steps = max(1, round(scale * usual / 50)) * 50
        ensemble, (_, held) = npe.fit_posterior(
            make, data, keys[1], steps=steps, learning_rate=3e-3
        )
        found[head] = np.min(held, 1), ensemble
    best = min(found, key=lambda head: np.mean(found[head][0]))
    losses, ensemble = found[best]
    at = int(np.argmin(losses))
    member = jax.tree.map(lambda leaf: leaf[at : at + 1] if eqx.is_array(leaf) else leaf, ensemble)
    return best, {"six members": ensemble, "best member alone": member}


def tasks(options):
    """Mean C2ST of 10 observations, below the published figures. 1/2 is the least possible."""
    draw = eqx.filter_jit(lambda head, key, x: head.sample(key, x, options.draws))
    table = Table(
        "Accuracy of a classifier between draws and exact posteriors, 1/2 is best",
        ["task", "simulations", "head", "ensemble", "classifier", "mean of 10 observations",
         "published figure of NPE", "least", "largest"],
    )  # fmt: skip
    for name in options.tasks or PUBLISHED:
        task, published = TASKS[name], PUBLISHED[name]
        _, observations = task.observations()
        for n, bound in zip(SIMULATIONS, published, strict=True):
            best, versions = learned(name, n, options.steps)
            classifier = "network" if task.log_evidence is None else "best possible"
            scores = {title: [] for title in versions}
            for i, x in enumerate(observations):
                keys = jax.random.split(jax.random.fold_in(jax.random.key(200), i))
                reference = task.reference(keys[0], x, options.draws)
                for title, head in versions.items():
                    draws = draw(head, keys[1], x)
                    if task.log_evidence is None:
                        scores[title].append(c2st(reference, draws))
                    else:
                        exact = jnp.asarray(reference)
                        scores[title].append(best_accuracy(task, head, x, exact, draws))
            for title, each in scores.items():
                ends = min(each), max(each)
                table.add(name, n, best, title, classifier, np.mean(each), bound, *ends)


@eqx.filter_jit
def best_accuracy(task, head, x, reference, draws):
    """The accuracy of the classifier that knows both densities, which no other exceeds."""

    def log_ratio(theta):
        exact = jnp.sum(task.prior.log_prob(theta)) + task.log_likelihood(theta, x)
        return exact - task.log_evidence(x) - head.log_prob(theta, x)

    def share(points):
        return jnp.mean(jax.lax.map(log_ratio, points, batch_size=1000) > 0)

    return (share(reference) + 1 - share(draws)) / 2


def calibration(options):
    """SBC p > 0.01 after Bonferroni; coverage within 0.05 at all levels; 10,000 simulations."""
    nominal = np.linspace(0, 1, 101)
    columns = ["central", "highest density", "TARP"]
    table = Table(
        f"Calibration on {options.checked:,} simulations: coverage less nominal level",
        ["task", "head", "ensemble", "p-value of ranks",
         *(f"{end} {kind}" for kind in columns for end in ("least,", "largest,"))],
        "The p-value is that of the worst parameter, after Bonferroni's correction.",
    )  # fmt: skip
    for name in options.tasks or PUBLISHED:
        task = TASKS[name]
        fresh = nd.simulate(
            task.simulate, task.prior, jax.random.key(300), options.checked, progress=False
        ).arrays()
        pairs = [jnp.asarray(each) for each in fresh]
        best, versions = learned(name, SIMULATIONS[1], options.steps)
        for title, head in versions.items():
            keys = jax.random.split(jax.random.key(301), 3)
            ranks = nd.diagnostics.sbc_ranks(head, *pairs, keys[0], 200)
            levels = {
                "central": nd.diagnostics.central_levels(ranks),
                "highest density": nd.diagnostics.highest_density_levels(
                    head, *pairs, keys[1], 200
                ),
                "TARP": nd.diagnostics.tarp_levels(head, *pairs, keys[2], 200),
            }
            p_value = min(
                1.0, float(nd.diagnostics.uniformity_p_value(ranks).min()) * ranks.shape[1]
            )
            gaps = [
                end
                for kind in columns
                for covered in [nd.diagnostics.expected_coverage(levels[kind], nominal)]
                for gap in [np.asarray(covered).T - nominal]
                for end in (gap.min(), gap.max())
            ]
            table.add(name, best, title, p_value, *gaps)
