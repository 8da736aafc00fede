"""`accuracy` and the errors of networks, inside and outside the training box.

    python tests/benchmarks/everywhere_accuracy.py [--jobs NAME ...] [--seeds 2] [--steps 0.25]
        [--quick]

An error is the largest over statistics, in z units. An eta with an infinite accuracy is refused. Of
the others `accuracy` should cover 95 %, with a median of at most 5 times the error; of the etas in
the box at most 5 % should be refused. Etas outside are those in the box times a random factor.
The second row is the peer: twice the standard deviation over weight samples, nothing refused.
"""

import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import quickstart
import training

from nnef_dists.distributions import AmortizedFamily
from tests.benchmarks.bench_networks import labels
from tests.benchmarks.jobs import JOBS, Job
from tests.benchmarks.results import Table, main

FRESH = 512


def log_rates(etas):
    """Means and variances of the family of `quickstart.py`, by its grid with more points."""
    one = functools.partial(quickstart.by_grid, quickstart.LogRates(), points=72)
    with jax.enable_x64(True):
        mean, sd = jax.jit(lambda etas: jax.lax.map(one, etas))(jnp.asarray(etas))
    return np.asarray(mean, float), np.asarray(sd, float)[:, None] ** 2 * np.eye(etas.shape[1])


ALL_JOBS = JOBS | {"log_rates": Job(quickstart.LogRates(), quickstart.RANGES, log_rates)}
JOBS_SHOWN = ["quartic", "gamma_shape", "lattice10", "log_rates"]
# Factors of the etas, beyond 1 all outside of the box.
FACTORS = {
    "in the box": (1.0, 1.0),
    "times 1 to 2": (1.0, 2.0),
    "times 2 to 5": (2.0, 5.0),
    "times 10 to 50": (10.0, 50.0),
    "times 0.2 to 0.5": (0.2, 0.5),
}


def trained(job, seed, options):
    """A network after both stages and the fit of its residual, validated."""
    data = labels(job, seed, options.labels)
    unseen = labels(job, 100 + seed, 2 * options.calibration, draws=2000).only_ok()
    network = nd.LogPartitionNetwork(job.family, data, key=jax.random.key(4000 + seed))
    steps = round(24000 * options.steps)
    network, _ = training.fit_means(network, data, jax.random.key(5000 + seed), steps=steps)
    network, _ = training.fit_widths(
        network, data, unseen[::2], jax.random.key(7000 + seed), steps=round(1500 * options.steps)
    )
    network = nd.networks.fit_residual(
        network,
        network.batch(data),
        network.batch(unseen[::2]),
        jax.random.key(9000 + seed),
    )
    return nd.validate(AmortizedFamily(job.family, network), unseen[1::2])


def compare(q, name, job, seed, table):
    """Adds coverage, size and refusals of each region."""
    evaluate = jax.jit(jax.vmap(lambda eta: (q.mean(eta), q.accuracy(eta))))
    spread = jax.jit(jax.vmap(lambda eta: q.predictive(eta, jax.random.key(1))[1]))
    for number, (where, (low, high)) in enumerate(FACTORS.items()):
        key_etas, key_factors = jax.random.split(jax.random.key(3000 + 10 * seed + number))
        etas = job.family.sample_eta(key_etas, FRESH, job.ranges)
        factors = jax.random.uniform(key_factors, (FRESH, 1), minval=low, maxval=high)
        etas = etas * factors
        etas = etas[np.asarray(jax.vmap(job.family.is_valid_eta)(etas))]
        mean, limit = (np.asarray(leaf, np.float64) for leaf in evaluate(etas))
        exact, covariance = job.exact(np.asarray(etas, np.float64))
        scale = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        error = np.max(np.abs(mean - exact) / scale, 1)
        own = 2 * np.max(np.asarray(spread(etas)) / scale, 1)
        known = np.isfinite(limit)
        half = most = None
        if known.any():
            key_draws = jax.random.key(8000 + seed)
            found = training.predict(q.network, etas[known], exact[known], key_draws)
            half, most = (100 * share for share in found["coverage"])
        first = name, seed, where
        table.add(*first, "accuracy", *describe(error, limit, known), half, most)
        every = np.ones_like(known)
        table.add(*first, "twice the spread", *describe(error, own, every), None, None)


def describe(error, limit, known):
    if not known.any():
        return 100, None, None, None, None, error.max()
    covered = np.mean(error[known] <= limit[known])
    within = np.mean(error[known] <= 3 * limit[known])
    ratio = np.median(limit[known]) / np.median(error[known])
    median = np.median(limit[known])
    return 100 * np.mean(~known), 100 * covered, 100 * within, median, ratio, error.max()


def accuracy(options):
    table = Table(
        "Accuracy beside errors",
        ["family", "seed", "etas", "bound", "refused [%]", "error below [%]",
         "error below 3 times [%]", "median bound [z units]", "median bound / median error",
         "largest error, with refused", "in 50% intervals [%]", "in 90% intervals [%]"],
    )  # fmt: skip
    for name in options.jobs:
        for seed in range(options.seeds):
            compare(trained(ALL_JOBS[name], seed, options), name, ALL_JOBS[name], seed, table)


def arguments(parser):
    parser.add_argument("--jobs", nargs="*", choices=list(ALL_JOBS), default=JOBS_SHOWN)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=float, default=0.25, help="of the examples' steps")
    parser.add_argument("--labels", type=int, default=1024)
    parser.add_argument("--calibration", type=int, default=256, help="and validation labels")


if __name__ == "__main__":
    quick = {"jobs": ["quartic"], "seeds": 1, "steps": 0.02, "labels": 128, "calibration": 64}
    main(__doc__, {"accuracy": accuracy}, arguments, quick)
