"""Learned moments and distributions, beside reference moments, HMC and quadrature.

    python tests/benchmarks/bench_networks.py [accuracy] [quartic] [seed_jobs] [convexity]
        [distribution] [coverage] [throughput] [--jobs NAME ...] [--seeds 3] [--steps 1.0]
        [--quick]

Errors of moments are in z units, |mu_hat - mu| / sd(T), at fresh etas. Figures are
medians over seeds, which draw etas, labels, weights and batches. Training is that of the examples.

accuracy      five families: direct, log-partition and convex networks
quartic       plain and corrected labels; how long training takes, compilation included
seed_jobs     the normal in one and three dimensions, beside the figures of the seed's own network
convexity     smallest eigenvalue of the convex network's Jacobian, 10,000 etas x 100 weight samples
distribution  KL, entropy and the inverse map, with labels of the same and of wider ranges
coverage      predictive intervals on 2,000 held-out etas, inside and outside the training box
throughput    100,000 etas in one call, beside HMC and quadrature
"""

import itertools
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import training

from tests.benchmarks.jobs import JOBS, SEED_JOBS
from tests.benchmarks.results import Table, main

HELD_OUT = 512
NETWORKS = {
    "direct MLP": nd.MLPMomentNetwork,
    "direct GLU": nd.networks.GLUMomentNetwork,
    "direct quadratic": nd.networks.QuadraticMomentNetwork,
    "log-partition": nd.LogPartitionNetwork,
    "convex": nd.ConvexLogPartitionNetwork,
}


def labels(job, seed, n, ranges=None, **config):
    """Labels of n random etas."""
    etas = job.family.sample_eta(jax.random.key(1000 + seed), n, ranges or job.ranges)
    return nd.estimate_moments(
        job.family, etas, jax.random.key(2000 + seed), nd.HMCConfig(**config), progress=True
    )


def held_out(job, seed, n=HELD_OUT, ranges=None):
    """Fresh etas with their exact moments and sd(T)."""
    etas = job.family.sample_eta(jax.random.key(3000 + seed), n, ranges or job.ranges)
    mean, covariance = job.exact(np.asarray(etas, np.float64))
    return etas, mean, np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))


def learned(make, job, data, seed, options, *, loss=training.map_loss, steps=24000):
    """A network after the MAP stage, and the seconds that took, compilation included."""
    start = time.perf_counter()
    network = make(job.family, data, key=jax.random.key(4000 + seed))
    network, _ = training.fit_means(
        network,
        data,
        jax.random.key(5000 + seed),
        loss=loss,
        steps=round(steps * options.steps),
    )
    return network, time.perf_counter() - start


def chosen(names, options):
    """Those of a section's jobs that were asked for; all without a choice."""
    return [name for name in names if not options.jobs or name in options.jobs]


def z_of(network, truth):
    etas, mean, sd = truth
    return np.abs((np.asarray(jax.jit(jax.vmap(network))(etas), np.float64) - mean) / sd)


def sizes_of(z):
    return float(np.sqrt(np.mean(z**2))), float(np.median(z)), float(z.max())


def new_errors(title):
    columns = ["network", "RMS error [z units]", "by seed", "median", "largest", "training [s]"]
    return Table(title, columns, "Medians over seeds.")


def add_medians(table, title, rows):
    """Adds medians over seeds of (rms, median, max, seconds)."""
    rms, median, largest, seconds = np.median(np.array(rows), 0)
    each = " ".join(f"{row[0]:.4f}" for row in rows)
    table.add(title, rms, each, median, largest, seconds)


def accuracy(options):
    """rms <= 0.005 for the best of each family; log-partition no worse than direct."""
    names = ("normal3", "laplace1", "gamma_shape", "dirichlet", "lattice10")
    for name in chosen(names, options):
        job = JOBS[name]
        table = new_errors(f"{options.labels:,} labels of {job.family!r}")
        titles = ("direct MLP", "log-partition", "convex")
        rows = {title: [] for title in titles}
        for seed in range(options.seeds):
            data, truth = labels(job, seed, options.labels), held_out(job, seed, 256)
            for title in titles:
                network, seconds = learned(NETWORKS[title], job, data, seed, options)
                rows[title].append((*sizes_of(z_of(network, truth)), seconds))
        for title, row in rows.items():
            add_medians(table, title, row)


def quartic(options):
    """Plain labels: direct <= 0.015 rms, log-partition <= 0.004 / 0.0015; corrected: 0.001."""
    job = JOBS["quartic"]
    for title, corrected in (("plain-average", False), ("control-variate", True)):
        rows = {name: [] for name in ("labels", *NETWORKS)}
        for seed in range(options.seeds):
            data = labels(job, seed, options.labels, control_variates=corrected)
            good = data.only_ok()
            mean, covariance = job.exact(np.asarray(good.eta, np.float64))
            sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
            rows["labels"].append((*sizes_of(np.abs(good.mean - mean) / sd), 0.0))
            truth = held_out(job, seed, 2000)
            for name, make in NETWORKS.items():
                network, seconds = learned(make, job, data, seed, options)
                rows[name].append((*sizes_of(z_of(network, truth)), seconds))
        table = new_errors(f"{options.labels:,} {title} labels of quartics")
        for name, row in rows.items():
            add_medians(table, name, row)


def seed_jobs(options):
    """At least 100 times less squared error than the seed's network, and nothing invalid."""
    table = Table(
        f"{min(options.labels, 2000):,} labels of normal distributions, beside the seed's network",
        ["family", "network", "squared error", "invalid [%]", "RMS error [z units]", "median",
         "largest", "training [s]"],
        "Invalid: no positive variance, or no positive-definite covariance.",
    )  # fmt: skip
    for name, (job, ranges, theirs, invalid) in SEED_JOBS.items():
        rows, errors, wrong = [], [], []
        for seed in range(options.seeds):
            data = labels(job, seed, min(options.labels, 2000))
            network, seconds = learned(nd.LogPartitionNetwork, job, data, seed, options)
            etas, mean, sd = held_out(job, seed, 10_000, ranges)
            found = np.asarray(jax.jit(jax.vmap(network))(etas), np.float64)
            rows.append((*sizes_of(np.abs(found - mean) / sd), seconds))
            errors.append(np.mean((found - mean) ** 2))
            wrong.append(np.mean(~positive_variances(job.family, found)))
        error, bad = np.median(errors), np.median(wrong)
        table.add(name, "log-partition", error, 100 * bad, *np.median(np.array(rows), 0))
        table.add(name, "the seed's", theirs, 100 * invalid, None, None, None, None)


def positive_variances(family, mean):
    """Whether E[x x^T] - E[x] E[x]^T is positive definite, from moments `(n, eta_dim)`."""
    d = int(np.prod(family.x_shape))
    first, second = mean[:, :d], mean[:, d:].reshape(-1, d, d)
    covariance = second - first[:, :, None] * first[:, None]
    return np.linalg.eigvalsh((covariance + covariance.swapaxes(1, 2)) / 2)[:, 0] > 0


def convexity(options):
    """Smallest eigenvalue of the Jacobian >= -1e-5 of the largest, for 100 weight samples."""
    wide = {
        "quartic": {"x": (-6.0, 6.0), "x2": (-6.0, 6.0), "x4": (-6.0, -0.02, "log")},
        "gamma_shape": {"alpha": (-6.0, 12.0), "log_gamma": (-15.0, -0.1, "log")},
        "dirichlet": {"alpha": (-18.0, -0.5), "log_beta": (-12.0, -0.3)},
        "normal3": {"x": (-3.0, 3.0), "xxT": (-6.0, -0.1, "log")},
    }
    table = Table(
        f"Convex networks, 10,000 etas, {options.draws} weight samples",
        ["family", "smallest / largest eigenvalue of the Jacobian"],
        "Bound: at least -1e-5.",
    )
    for name in chosen(wide, options):
        job, ranges = JOBS[name], wide[name]
        data = labels(job, 0, options.labels)
        network, _ = learned(nd.ConvexLogPartitionNetwork, job, data, 0, options, steps=6000)
        etas = job.family.sample_eta(jax.random.key(6000), 10_000, ranges)

        @jax.jit
        def extremes(network, etas, key):
            drawn = nd.sample_all_parameters(network, key)
            values = jnp.linalg.eigvalsh(jax.vmap(jax.jacfwd(drawn))(etas))
            return jnp.min(values[:, 0] / values[:, -1])

        keys = jax.random.split(jax.random.key(6001), options.draws)
        worst = min(float(extremes(network, etas, key)) for key in keys)
        table.add(name, worst)


def distribution(options):
    """KL within 2 % or 1e-3 nats, entropy within 0.01 nats, inverse within 1e-3 for 99 %."""
    job = JOBS["quartic"]
    exact = jax.jit(
        lambda etas: jax.lax.map(
            lambda eta: nd.quadrature_moments(job.family, eta), etas, batch_size=64
        )
    )
    wider = {"x": (-2.1, 2.1), "x2": (-2.1, 2.1), "x4": (-2.1, -0.095, "log")}
    sources = {"ranges of the fresh etas": job.ranges, "5% wider ranges": wider}
    table = Table(
        "Quartics at 1,000 fresh etas",
        ["labels from", "seed", "KL within 2% or 0.001 nats [%]", "median error of KL [nats]",
         "entropy within 0.01 nats [%]", "largest error of the entropy [nats]",
         "inverse within 0.001 [%]"],
    )  # fmt: skip
    for source, seed in itertools.product(sources, range(options.seeds)):
        data = labels(job, seed, options.labels, ranges=sources[source])
        loss = training.map_loss_of_entropy
        network, _ = learned(nd.LogPartitionNetwork, job, data, seed, options, loss=loss)
        q = nd.AmortizedFamily(job.family, network)
        etas, _, _ = held_out(job, seed, 1000)
        truth = exact(etas)
        entropy = truth.log_partition - jnp.sum(etas * truth.mean, 1)
        other, other_a = jnp.roll(etas, 1, 0), jnp.roll(truth.log_partition, 1)
        kl = jnp.sum((etas - other) * truth.mean, 1) - truth.log_partition + other_a
        kl_error = np.abs(jax.jit(jax.vmap(q.kl))(etas, other) - kl)
        entropy_error = np.abs(jax.jit(jax.vmap(q.entropy))(etas) - entropy)

        back = jax.jit(jax.vmap(lambda mu, q=q: q.natural_parameters(mu, throw=False)))
        found = back(jax.jit(jax.vmap(q.mean))(etas))
        difference = np.linalg.norm(found - etas, axis=1) / np.linalg.norm(etas, axis=1)
        table.add(
            *(source, seed, 100 * np.mean(kl_error <= np.maximum(0.02 * kl, 1e-3))),
            *(np.median(kl_error), 100 * np.mean(entropy_error <= 0.01), entropy_error.max()),
            100 * np.mean(difference < 1e-3),
        )


def coverage(options):
    """50 % interval in [0.42, 0.58], 90 % in [0.85, 0.95], rank correlation with errors >= 0.5."""
    job = JOBS["quartic"]
    near = {"x": (-2.2, 2.2), "x2": (-2.2, 2.2), "x4": (-2.2, -0.09, "log")}
    far = {"x": (3.0, 4.0), "x2": (3.0, 4.0), "x4": (-2.0, -1.0)}
    table = Table(
        "Predictive intervals of quartics at 2,000 fresh etas",
        ["seed", "etas", "in the 50% interval [%]", "in the 90% interval [%]",
         "rank correlation by moment", "by eta", "median predictive sd [z units]",
         "median error [z units]"],
        "Correlations of the predictive standard deviation with the error.",
    )  # fmt: skip
    for seed in range(options.seeds):
        data = labels(job, seed, options.labels)
        unseen = labels(job, 100 + seed, min(256, options.labels // 2), draws=2000)
        network, _ = learned(nd.LogPartitionNetwork, job, data, seed, options)
        network, _ = training.fit_widths(
            network, data, unseen, jax.random.key(7000 + seed), steps=round(1500 * options.steps)
        )
        for where, ranges in (("in the box", job.ranges), ("near", near), ("far", far)):
            etas, mean, sd = held_out(job, seed, 2000, ranges)
            found = training.predict(network, etas, mean, jax.random.key(8000 + seed))
            error, spread = np.abs(found["predicted"] - mean) / sd, found["uncertainty"] / sd
            half, most = found["coverage"]
            single = spearmanr(spread.ravel(), error.ravel())[0]
            whole = spearmanr(np.mean(spread**2, 1), np.mean(error**2, 1))[0]
            table.add(
                *(seed, where, 100 * half, 100 * most, single, whole),
                *(np.median(spread), np.median(error)),
            )


def throughput(options):
    """100,000 etas in one call, and HMC on 256, scaled to 100,000 and to the network's accuracy."""
    n, few = options.etas, min(256, options.etas)
    sizes = {"quartic": 1, "lattice10": 4, "lattice50": 1}
    table = Table(
        f"Moments of {n:,} etas in one call",
        ["family", "method", "s", "etas per s", "RMS error [z units]", "times as long",
         "times as long at the network's error"],
        f"HMC labels {few} etas. Its other figures are extrapolated.",
    )  # fmt: skip
    for name in chosen(sizes, options):
        job = JOBS[name]
        data = labels(job, 0, options.labels // sizes[name])
        network, _ = learned(nd.LogPartitionNetwork, job, data, 0, options)
        truth = held_out(job, 0, few)
        accuracy = float(np.sqrt(np.mean(z_of(network, truth) ** 2)))
        etas = job.family.sample_eta(jax.random.key(9000), n, job.ranges)
        run = jax.jit(jax.vmap(network))
        ours, _ = timed(lambda run=run, etas=etas: run(etas))
        table.add(name, "network", ours, n / ours, accuracy, 1, 1)
        for title, corrected in (("HMC, plain average", False), ("HMC", True)):
            config = nd.HMCConfig(control_variates=corrected)

            def sample(job=job, etas=truth[0], config=config):
                return nd.estimate_moments(job.family, etas, jax.random.key(1), config)

            seconds, found = timed(sample)
            error = np.sqrt(np.mean(((found.mean - truth[1]) / truth[2])[found.ok] ** 2))
            # The error of an average falls with the root of its draws.
            total = seconds / few * n
            slower = total / ours
            table.add(
                *(name, title, total, n / total, error, slower),
                slower * (error / accuracy) ** 2,
            )
        if name == "quartic":
            quadrature = jax.jit(
                lambda etas, family=job.family: jax.lax.map(
                    lambda eta: nd.quadrature_moments(family, eta).mean, etas, batch_size=1024
                )
            )
            seconds, _ = timed(lambda run=quadrature, etas=etas: run(etas))
            table.add(name, "quadrature", seconds, n / seconds, 0, seconds / ours, None)


def timed(run, repeats=5, enough=30.0):
    """The median of seconds after compilation, of up to five runs in 30 seconds, and the result."""
    result, seconds = jax.block_until_ready(run()), []
    while len(seconds) < repeats and sum(seconds) < enough:
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds)), result


SECTIONS = {
    part.__name__: part
    for part in (accuracy, quartic, seed_jobs, convexity, distribution, coverage, throughput)
}


def arguments(parser):
    parser.add_argument("--jobs", nargs="+", help="of accuracy, convexity, throughput")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=float, default=1.0, help="scales the number of steps")
    parser.add_argument("--labels", type=int, default=4096)
    parser.add_argument("--etas", type=int, default=100_000, help="of throughput")
    parser.add_argument("--draws", type=int, default=100, help="weight samples of convexity")


QUICK = {"seeds": 1, "steps": 0.02, "labels": 128, "etas": 4096, "draws": 3,
         "jobs": ["quartic", "gamma_shape"]}  # fmt: skip


if __name__ == "__main__":
    main(__doc__, SECTIONS, arguments, QUICK)
