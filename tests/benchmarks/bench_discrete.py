"""Discrete families and random matrices: sums and labels, beside reference values and peers.

    python tests/benchmarks/bench_discrete.py [counts] [points] [ising] [network] [matrices]
        [--etas 256] [--quick]

counts    Conway-Maxwell-Poisson with dispersions from 0.05 to 5 and modes from 0.1 to 1e5, against
          sums of all terms in extended precision; beside it the sum of the first 1,000 terms
points    enumeration: the 2^20 words of 20 units, the 2^20 spins of a 4 x 5 grid, and the 2^21
          graphs of seven nodes
ising     labels of the 10 x 10 Ising model with couplings from 0 to 0.5 and fields from -0.5 to
          0.5, against the transfer matrix, with and without control variates; beside them NumPyro's
          DiscreteHMCGibbs at some of the etas, for as long
network   a network of 1,024 labels of this model, against the transfer matrix at other etas
matrices  labels of Wishart and inverse Wishart matrices with 2 to 4 rows, at most 12 etas each,
          against the closed forms in double precision

Errors are in z units. Seconds are processor time, after compilation, unless they are stated.
"""

import math
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import training

from tests.benchmarks.results import Table, main
from tests.counts import conway_truth
from tests.spins import ising_truth

REPEATS = 3
PEERS = 4


def measure(function, *args):
    """Seconds of the first call, and the median of later ones."""
    clock = time.process_time()
    jax.block_until_ready(function(*args))
    first, seconds = time.process_time() - clock, []
    for _ in range(REPEATS):
        clock = time.process_time()
        jax.block_until_ready(function(*args))
        seconds.append(time.process_time() - clock)
    return first, float(np.median(seconds))


def counts(options):
    q = nd.Summation(nd.families.ConwayMaxwellPoisson())
    rng = np.random.default_rng(0)
    mode = np.exp(rng.uniform(math.log(0.1), math.log(1e5), options.etas))
    nu = np.exp(rng.uniform(math.log(0.05), math.log(5), options.etas))
    etas = np.stack([nu * np.log(mode), -nu], 1)

    def summed(eta):
        return q.log_partition(eta), q.mean(eta)

    def first_terms(eta):
        x = jnp.arange(1000.0)
        stats = jax.vmap(q.family.sufficient_statistics)(x)
        logs = stats @ eta
        return jax.nn.logsumexp(logs), jax.nn.softmax(logs) @ stats

    def errors(found, truth):
        z = np.abs(found[1] - truth[1]) / truth[2]
        return np.max(z, 1), np.abs(found[0] - truth[0])

    table = Table(
        f"Conway-Maxwell-Poisson, {options.etas} etas",
        ["dtype", "method", "us per eta", "first call [s]", "NaN", "median error [z units]",
         "largest", "largest error of A [nats]"],
    )  # fmt: skip
    eager = Table(
        "The same family outside of compiled programs",
        ["dtype", "largest error [z units]", "rounding of the result", "largest error of A [nats]"],
    )
    for dtype in (jnp.float64, jnp.float32):
        with jax.enable_x64(dtype == jnp.float64):
            given = jnp.asarray(etas, dtype)
            truth = [conway_truth(np.asarray(eta, float)) for eta in given]
            truth = [np.array(part) for part in zip(*truth, strict=True)]

            for title, function in (("Summation", summed), ("first 1,000 terms", first_terms)):
                program = jax.jit(jax.vmap(function))
                first, seconds = measure(program, given)
                z, nats = errors([np.asarray(part, float) for part in program(given)], truth)
                known = np.isfinite(z)
                table.add(
                    *(jnp.dtype(dtype).name, title, 1e6 * seconds / len(etas), first),
                    *(int(np.sum(~known)), np.median(z[known]), z[known].max(), nats[known].max()),
                )
            # Outside of compiled programs, one by one.
            some = range(0, len(etas), max(1, len(etas) // 32))
            found = [(q.log_partition(given[i]), q.mean(given[i])) for i in some]
            found = [np.array(part, float) for part in zip(*found, strict=True)]
            z, nats = errors(found, [part[list(some)] for part in truth])
            eps = float(jnp.finfo(dtype).eps)
            ulp = np.max(np.abs(truth[1][list(some)]) / truth[2][list(some)], 1) * eps
            eager.add(jnp.dtype(dtype).name, z.max(), ulp.max(), nats.max())


def points(options):
    table = Table(
        "Enumeration, processor time",
        ["family", "points", "table", "table made in [s]", "mean [s]", "first call [s]",
         "covariance [s]", "1,000 draws [s]"],
    )  # fmt: skip
    for family in (
        nd.families.PairwiseBinary(12 if options.quick else 20),
        nd.families.Ising((3, 4) if options.quick else (4, 5)),
        nd.families.ExponentialRandomGraph(5 if options.quick else 7),
    ):
        clock = time.process_time()
        q = nd.Enumeration(family)
        listing = time.process_time() - clock
        eta = jnp.full(family.eta_dim, 0.05)
        first, seconds = measure(q.mean, eta)
        _, of_covariance = measure(q.covariance, eta)
        _, of_draws = measure(q.sample, jax.random.key(0), eta, 1000)
        cells = q.table.tree
        kind = f"{len(cells[0])} {'products' if hasattr(cells, 'masks') else 'cells'}"
        table.add(
            *(repr(family), round(2**family.support.log2_states), kind, listing, seconds, first),
            *(of_covariance, of_draws),
        )


def ising(options):
    family = nd.families.Ising((10, 10))
    etas = family.sample_eta(
        jax.random.key(0), options.etas, {"x": (-0.5, 0.5), "neighbors": (0.0, 0.5)}
    )
    truth = [ising_truth(np.asarray(eta, float), (10, 10)) for eta in etas]
    log_partition, mean, sd = (np.array(part) for part in zip(*truth, strict=True))
    table = Table(
        f"10 x 10 Ising model, {options.etas} etas",
        ["sampler", "valid [%]", "ms per eta", "RMS error [z units]", "largest",
         "RMS of error / standard error", "largest of error / standard error"],
    )  # fmt: skip
    for title, config in (
        ("labels", nd.HMCConfig()),
        ("without control variates", nd.HMCConfig(control_variates=False)),
    ):
        nd.estimate_moments(family, etas[: config.tile], jax.random.key(2), config)
        clock = time.process_time()
        data = nd.estimate_moments(family, etas, jax.random.key(1), config)
        seconds = (time.process_time() - clock) / len(etas)
        z = ((data.mean - mean) / sd)[data.ok]
        t = ((data.mean - mean) / data.standard_error)[data.ok]
        table.add(
            *(title, 100 * data.ok.mean(), 1e3 * seconds, np.sqrt(np.mean(z**2)), np.abs(z).max()),
            *(np.sqrt(np.mean(t**2)), np.abs(t).max()),
        )
        if config.control_variates:
            allowed = seconds
    z = np.concatenate(
        [(peer_mean(family, etas[i], allowed) - mean[i]) / sd[i] for i in range(PEERS)]
    )
    table.add(
        f"NumPyro DiscreteHMCGibbs, {PEERS} etas, for as long as the labels",
        *(None, 1e3 * allowed, np.sqrt(np.mean(z**2)), np.abs(z).max(), None, None),
    )
    found = [
        nd.moments.estimate_log_partition(family, etas[i], jax.random.key(i)) for i in range(8)
    ]
    off = np.array([float(part.value) for part in found]) - log_partition[:8]
    errors = np.array([float(part.standard_error) for part in found])
    annealing = Table(
        "A of the 10 x 10 Ising model by annealing",
        ["etas", "largest error [nats]", "RMS of error / standard error"],
    )
    annealing.add(len(found), np.abs(off).max(), np.sqrt(np.mean((off / errors) ** 2)))


def network(options):
    """A network of Ising labels, against the transfer matrix at fresh etas."""
    family = nd.families.Ising((10, 10))
    ranges = {"x": (-0.5, 0.5), "neighbors": (0.0, 0.5)}
    clock = time.process_time()
    etas = family.sample_eta(jax.random.key(3), options.labels, ranges)
    data = nd.estimate_moments(family, etas, jax.random.key(4))
    labeling, clock = time.process_time() - clock, time.process_time()
    learned = nd.LogPartitionNetwork(family, data, key=jax.random.key(5))
    learned, _ = training.fit_means(learned, data, jax.random.key(6), steps=options.steps)
    seconds = time.process_time() - clock
    center = jnp.median(data.eta, 0)
    anchor = nd.moments.estimate_log_partition(family, center, jax.random.key(7))
    q = nd.AmortizedFamily(family, learned, anchor=anchor)
    fresh = family.sample_eta(jax.random.key(8), options.etas, ranges)
    truth = [ising_truth(np.asarray(eta, float), (10, 10)) for eta in fresh]
    log_partition, mean, sd = (np.array(part) for part in zip(*truth, strict=True))
    z = (np.asarray(jax.vmap(q.mean)(fresh)) - mean) / sd
    off = np.asarray(jax.vmap(q.log_partition)(fresh)) - log_partition
    table = Table(
        f"10 x 10 Ising model: a network of {options.labels:,} labels at {len(fresh)} fresh etas",
        ["labels [s]", "training [s]", "RMS error [z units]", "largest", "RMS error of A [nats]",
         "largest", "refused [%]"],
        f"Valid labels: {data.ok.mean():.1%}.",
    )  # fmt: skip
    table.add(
        *(labeling, seconds, np.sqrt(np.nanmean(z**2)), np.nanmax(np.abs(z))),
        *(np.sqrt(np.nanmean(off**2)), np.nanmax(np.abs(off)), 100 * np.isnan(off).mean()),
    )


def peer_mean(family, eta, seconds):
    """E[T] by NumPyro's Gibbs moves of discrete sites, run for some seconds after compilation."""
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import MCMC, NUTS, DiscreteHMCGibbs

    def model():
        rows, columns = family.x_shape
        with numpyro.plate("columns", columns, dim=-1), numpyro.plate("rows", rows, dim=-2):
            bits = numpyro.sample("bits", dist.Bernoulli(0.5))
        # The kernel asks for a continuous site.
        numpyro.sample("unused", dist.Normal())
        numpyro.factor("density", jnp.sum(eta * family.sufficient_statistics(2.0 * bits - 1)))

    def run(draws, key):
        kernel = DiscreteHMCGibbs(NUTS(model), modified=True)
        sampler = MCMC(kernel, num_warmup=100, num_samples=draws, progress_bar=False)
        clock = time.process_time()
        sampler.run(jax.random.key(key))
        return sampler.get_samples()["bits"], time.process_time() - clock

    # Compilation is the same for all lengths: two runs tell the seconds of one draw.
    (_, short), (_, long) = run(100, 0), run(1100, 1)
    draws = max(200, round(1000 * seconds / max(long - short, 1e-3)))
    bits, _ = run(draws, 2)
    return np.asarray(jax.vmap(family.sufficient_statistics)(2.0 * bits - 1)).mean(0)


def matrices(options):
    table = Table(
        "Labels of matrices",
        ["family", "valid [%]", "s per eta", "first call [s]", "labels by rung",
         "RMS error [z units]", "median", "largest", "RMS of error / standard error", "largest"],
    )  # fmt: skip
    for d in (2,) if options.quick else (2, 3, 4):
        for family, ranges in (
            (nd.families.Wishart(d), {"log_det": (0.0, 4.0), "x": (-3.0, -0.5)}),
            (
                nd.families.InverseWishart(d),
                {"log_det": (-d - 5.0, -d - 2.0), "inverse": (-3.0, -0.5)},
            ),
        ):
            etas = family.sample_eta(jax.random.key(0), min(options.etas, 12), ranges)
            config = nd.HMCConfig(tile=12)
            seconds = []
            for seed in (2, 1):  # the first compiles
                clock = time.process_time()
                data = nd.estimate_moments(family, etas, jax.random.key(seed), config)
                seconds.append(time.process_time() - clock)
            with jax.enable_x64(True):
                given = jnp.asarray(np.asarray(etas, float))
                mean = np.asarray(jax.vmap(family.mean)(given))
                sd = np.sqrt([np.diag(family.covariance(eta)) for eta in given])
            z = ((data.mean - mean) / sd)[data.ok]
            t = ((data.mean - mean) / data.standard_error)[data.ok]
            table.add(
                *(repr(family), 100 * data.ok.mean(), seconds[1] / len(etas), seconds[0]),
                *(str(np.bincount(data.rung).tolist()), np.sqrt(np.mean(z**2))),
                *(np.median(np.abs(z)), np.abs(z).max()),
                *(np.sqrt(np.mean(t**2)), np.abs(t).max()),
            )


PARTS = {
    "counts": counts,
    "points": points,
    "ising": ising,
    "network": network,
    "matrices": matrices,
}


def arguments(parser):
    parser.add_argument("--etas", type=int, default=256)
    parser.add_argument("--labels", type=int, default=1024, help="of network")
    parser.add_argument("--steps", type=int, default=12000, help="of network")


if __name__ == "__main__":
    main(__doc__, PARTS, arguments, {"etas": 8, "labels": 64, "steps": 500})
