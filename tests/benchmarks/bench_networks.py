"""Learned moments, and the distribution made of them, beside exact truth and other ways.

    python tests/benchmarks/bench_networks.py [accuracy] [quartic] [seed_jobs] [convexity]
        [distribution] [coverage] [throughput] [--jobs NAME ...] [--seeds 3] [--steps 1.0]

Errors of moments are in z units, |mu_hat - mu| / sd(T), at etas that nothing has seen. Figures are
medians over seeds, which draw etas, labels, weights and batches. Training is that of the examples.

accuracy      five families: direct, log-partition and convex networks
quartic       plain and corrected labels; how long training takes, compilation included
seed_jobs     the normal in one and three dimensions, beside the figures of the seed's own network
convexity     smallest eigenvalue of the convex network's Jacobian, 10,000 etas x 100 weight samples
distribution  KL, entropy and the inverse map, with labels of the same and of wider ranges
coverage      predictive intervals on 2,000 held-out etas, inside and outside the training box
throughput    100,000 etas in one call, beside HMC and quadrature
"""

import argparse
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

TRAIN, HELD_OUT = 4096, 512
NETWORKS = {
    "direct MLP": nd.MLPMomentNetwork,
    "direct GLU": nd.networks.GLUMomentNetwork,
    "direct quadratic": nd.networks.QuadraticMomentNetwork,
    "log-partition": nd.LogPartitionNetwork,
    "convex": nd.ConvexLogPartitionNetwork,
}


def labels(job, seed, n=TRAIN, ranges=None, **config):
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


def print_medians(title, rows, bound=""):
    """Prints medians over seeds of (rms, median, max, seconds)."""
    rms, median, largest, seconds = np.median(np.array(rows), 0)
    each = " ".join(f"{row[0]:.4f}" for row in rows)
    print(
        f"  {title:34s} z rms {rms:.5f} ({each}), median {median:.5f}, largest {largest:.4f}; "
        f"{seconds:.0f} s {bound}",
        flush=True,
    )


def accuracy(options):
    """rms <= 0.005 for the best of each family; log-partition no worse than direct."""
    names = ("normal3", "laplace1", "gamma_shape", "dirichlet", "lattice10")
    for name in chosen(names, options):
        job = JOBS[name]
        print(f"{name}: {job.family!r}, {TRAIN} corrected labels")
        titles = ("direct MLP", "log-partition", "convex")
        rows = {title: [] for title in titles}
        for seed in range(options.seeds):
            data, truth = labels(job, seed), held_out(job, seed, 256)
            for title in titles:
                network, seconds = learned(NETWORKS[title], job, data, seed, options)
                rows[title].append((*sizes_of(z_of(network, truth)), seconds))
        for title, row in rows.items():
            print_medians(title, row)


def quartic(options):
    """Plain labels: direct <= 0.015 rms, log-partition <= 0.004 / 0.0015; corrected: 0.001."""
    job = JOBS["quartic"]
    for title, corrected in (("plain", False), ("corrected", True)):
        rows = {name: [] for name in ("labels", *NETWORKS)}
        for seed in range(options.seeds):
            data = labels(job, seed, control_variates=corrected)
            good = data.only_ok()
            mean, covariance = job.exact(np.asarray(good.eta, np.float64))
            sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
            rows["labels"].append((*sizes_of(np.abs(good.mean - mean) / sd), 0.0))
            truth = held_out(job, seed, 2000)
            for name, make in NETWORKS.items():
                network, seconds = learned(make, job, data, seed, options)
                rows[name].append((*sizes_of(z_of(network, truth)), seconds))
        print(f"quartic: {TRAIN} {title} labels")
        for name, row in rows.items():
            print_medians(name, row)


def seed_jobs(options):
    """At least 100 times less squared error than the seed's network, and nothing invalid."""
    for name, (job, ranges, theirs, invalid) in SEED_JOBS.items():
        rows, errors, wrong = [], [], []
        for seed in range(options.seeds):
            data = labels(job, seed, 2000)
            network, seconds = learned(nd.LogPartitionNetwork, job, data, seed, options)
            etas, mean, sd = held_out(job, seed, 10_000, ranges)
            found = np.asarray(jax.jit(jax.vmap(network))(etas), np.float64)
            rows.append((*sizes_of(np.abs(found - mean) / sd), seconds))
            errors.append(np.mean((found - mean) ** 2))
            wrong.append(np.mean(~positive_variances(job.family, found)))
        error, bad = np.median(errors), np.median(wrong)
        print(f"{name}: {job.family!r}, 2,000 labels, 10,000 fresh etas")
        print_medians("log-partition", rows)
        print(
            f"  mean squared error {error:.3g} (theirs {theirs}: {theirs / error:.0f} times less); "
            f"invalid {bad:.2%} (theirs {invalid:.1%})",
            flush=True,
        )


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
    for name in chosen(wide, options):
        job, ranges = JOBS[name], wide[name]
        data = labels(job, 0)
        network, _ = learned(nd.ConvexLogPartitionNetwork, job, data, 0, options, steps=6000)
        etas = job.family.sample_eta(jax.random.key(6000), 10_000, ranges)

        @jax.jit
        def extremes(network, etas, key):
            drawn = nd.sample_all_parameters(network, key)
            values = jnp.linalg.eigvalsh(jax.vmap(jax.jacfwd(drawn))(etas))
            return jnp.min(values[:, 0] / values[:, -1])

        keys = jax.random.split(jax.random.key(6001), 100)
        worst = min(float(extremes(network, etas, key)) for key in keys)
        print(f"  {name:12s} smallest / largest eigenvalue {worst:.1e} (bound -1e-5)", flush=True)


def distribution(options):
    """KL within 2 % or 1e-3 nats, entropy within 0.01 nats, inverse within 1e-3 for 99 %."""
    job = JOBS["quartic"]
    exact = jax.jit(
        lambda etas: jax.lax.map(
            lambda eta: nd.quadrature_moments(job.family, eta), etas, batch_size=64
        )
    )
    wider = {"x": (-2.1, 2.1), "x2": (-2.1, 2.1), "x4": (-2.1, -0.095, "log")}
    sources = {"labels of these ranges": job.ranges, "labels 5 % beyond": wider}
    for source, seed in itertools.product(sources, range(options.seeds)):
        data = labels(job, seed, ranges=sources[source])
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
        print(
            f"  {source}, seed {seed}: KL within max(2 %, 1e-3 nats) "
            f"{np.mean(kl_error <= np.maximum(0.02 * kl, 1e-3)):.1%}, median error "
            f"{np.median(kl_error):.1e} nats; entropy within 0.01 nats "
            f"{np.mean(entropy_error <= 0.01):.1%}, at most {entropy_error.max():.1e} off; "
            f"inverse within 1e-3: {np.mean(difference < 1e-3):.1%}",
            flush=True,
        )


def coverage(options):
    """50 % interval in [0.42, 0.58], 90 % in [0.85, 0.95], rank correlation with errors >= 0.5."""
    job = JOBS["quartic"]
    near = {"x": (-2.2, 2.2), "x2": (-2.2, 2.2), "x4": (-2.2, -0.09, "log")}
    far = {"x": (3.0, 4.0), "x2": (3.0, 4.0), "x4": (-2.0, -1.0)}
    for seed in range(options.seeds):
        data = labels(job, seed)
        unseen = labels(job, 100 + seed, 256, draws=2000)
        network, _ = learned(nd.LogPartitionNetwork, job, data, seed, options)
        network, _ = training.fit_widths(network, data, unseen, jax.random.key(7000 + seed))
        for where, ranges in (("in the box", job.ranges), ("near it", near), ("far out", far)):
            etas, mean, sd = held_out(job, seed, 2000, ranges)
            found = training.predict(network, etas, mean, jax.random.key(8000 + seed))
            error, spread = np.abs(found["predicted"] - mean) / sd, found["uncertainty"] / sd
            half, most = found["coverage"]
            single = spearmanr(spread.ravel(), error.ravel())[0]
            whole = spearmanr(np.mean(spread**2, 1), np.mean(error**2, 1))[0]
            print(
                f"  seed {seed}, {where:10s}: 50 % {half:.3f}, 90 % {most:.3f}; rank correlation "
                f"{single:.2f} by moment, {whole:.2f} by eta; medians of predictive sd "
                f"{np.median(spread):.4f} and error {np.median(error):.4f}",
                flush=True,
            )


def throughput(options):
    """100,000 etas in one call, and HMC on 256, scaled to 100,000 and to the network's accuracy."""
    n = 100_000
    sizes = {"quartic": TRAIN, "lattice10": TRAIN // 4, "lattice50": TRAIN}
    for name in chosen(sizes, options):
        job = JOBS[name]
        data = labels(job, 0, sizes[name])
        network, _ = learned(nd.LogPartitionNetwork, job, data, 0, options)
        truth = held_out(job, 0, 256)
        accuracy = float(np.sqrt(np.mean(z_of(network, truth) ** 2)))
        etas = job.family.sample_eta(jax.random.key(9000), n, job.ranges)
        run = jax.jit(jax.vmap(network))
        ours, _ = timed(lambda run=run, etas=etas: run(etas))
        print(f"  {name}: {1e3 * ours:.0f} ms, {n / ours:.3g} etas a second, z rms {accuracy:.4f}")
        for title, corrected in (("plain-average", False), ("control-variate", True)):
            config = nd.HMCConfig(control_variates=corrected)

            def sample(job=job, etas=truth[0], config=config):
                return nd.estimate_moments(job.family, etas, jax.random.key(1), config)

            seconds, found = timed(sample)
            error = np.sqrt(np.mean(((found.mean - truth[1]) / truth[2])[found.ok] ** 2))
            # The error of an average falls with the root of its draws.
            slower = seconds / 256 * n / ours
            print(
                f"    {title} HMC: {1e3 * seconds / 256:.2f} ms an eta, z rms {error:.4f}; "
                f"{slower:,.0f} times slower as it is, "
                f"{slower * (error / accuracy) ** 2:,.0f} at the network's accuracy (extrapolated)",
                flush=True,
            )
        if name == "quartic":
            quadrature = jax.jit(
                lambda etas, family=job.family: jax.lax.map(
                    lambda eta: nd.quadrature_moments(family, eta).mean, etas, batch_size=1024
                )
            )
            seconds, _ = timed(lambda run=quadrature, etas=etas: run(etas))
            print(f"    quadrature: {seconds:.2f} s, {seconds / ours:.1f} times slower", flush=True)


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


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument(
        "--jobs", nargs="+", choices=[*JOBS], help="of accuracy, convexity, throughput"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=float, default=1.0, help="scales the number of steps")
    options = parser.parse_args()
    print(f"jax {jax.__version__}, {jax.devices()[0].platform}, {options.seeds} seeds")
    for name in options.sections or SECTIONS:
        print(f"\n== {name}: {SECTIONS[name].__doc__}", flush=True)
        SECTIONS[name](options)


if __name__ == "__main__":
    main()
