"""Moment labels beside moments by other samplers: errors in z units, and seconds.

    python tests/benchmarks/bench_moments.py [quartic] [lattice10] [lattice50] [gamma_shape]
        [dirichlet] [--etas 256] [--repeats 5] [--no-peers] [--quick]

Efficiency is 1 / (z^2 x seconds), after compilation, against exact truth (quadrature or transfer
matrices), with z the median or the root mean square over all statistics of all etas whose label is
ok; peers have no status, and all their etas count. Every program runs in turn in each repeat;
seconds are medians.

Peers: the plain average of our own draws; HMC with a fixed step (0.1, 10 leapfrogs, 500 warm-up
iterations, 1,000 draws, 5 chains); BlackJAX's window adaptation and NUTS, and NumPyro's NUTS, both
with 4 chains of 500 + 1,000 under vmap.
"""

import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer.hmc import hmc as numpyro_hmc

import nnef_dists as nd
from nnef_dists.sampling import Density

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.jobs import JOBS
from tests.benchmarks.results import Table, main


def statistics(family: nd.ExponentialFamily, u: jax.Array) -> jax.Array:
    shape = family.support.shape
    return family.sufficient_statistics(family.support.transform(u.reshape(shape)))


def averages(family, sample) -> Callable:
    """A program that runs chains of every eta and averages T over all of them."""

    def one(eta, key):
        log_density = Density.unconstrained(family, eta)
        u = sample(log_density, int(np.prod(family.support.shape)), key)
        return jnp.mean(jax.vmap(lambda u: statistics(family, u))(u.reshape(-1, u.shape[-1])), 0)

    return jax.jit(jax.vmap(one))


def fixed_step_hmc(log_density, dim, key, chains=5, warmup=500, draws=1000):
    kernel = blackjax.hmc(log_density, 0.1, jnp.ones(dim), 10)

    def chain(key):
        start, moves = jax.random.split(key)
        state = kernel.init(jax.random.normal(start, (dim,)))

        def step(state, key):
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(step, state, jax.random.split(moves, warmup + draws))[1][warmup:]

    return jax.vmap(chain)(jax.random.split(key, chains))


def blackjax_nuts(log_density, dim, key, chains=4, warmup=500, draws=1000):
    adaptation = blackjax.window_adaptation(blackjax.nuts, log_density)

    def chain(key):
        start, adapt, moves = jax.random.split(key, 3)
        (state, parameters), _ = adaptation.run(adapt, jax.random.normal(start, (dim,)), warmup)
        kernel = blackjax.nuts(log_density, **parameters)

        def step(state, key):
            state, _ = kernel.step(key, state)
            return state, state.position

        return jax.lax.scan(step, state, jax.random.split(moves, draws))[1]

    return jax.vmap(chain)(jax.random.split(key, chains))


def numpyro_nuts(log_density, dim, key, chains=4, warmup=500, draws=1000):
    initialize, advance = numpyro_hmc(lambda u: -log_density(u), algo="NUTS")

    def chain(key):
        start, moves = jax.random.split(key)
        state = initialize(jax.random.normal(start, (dim,)), warmup, rng_key=moves)

        def step(state, _):
            state = advance(state)
            return state, state.z

        return jax.lax.scan(step, state, None, length=warmup + draws)[1][warmup:]

    return jax.vmap(chain)(jax.random.split(key, chains))


PEERS = {
    "fixed-step HMC": fixed_step_hmc,
    "BlackJAX NUTS": blackjax_nuts,
    "NumPyro NUTS": numpyro_nuts,
}


def run(name: str, n: int, repeats: int, with_peers: bool) -> None:
    job = JOBS[name]
    family = job.family
    etas = family.sample_eta(jax.random.key(0), n, job.ranges)
    mean, covariance = job.exact(np.asarray(etas, np.float64))
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    keys = jax.random.split(jax.random.key(1), n)

    def ours(control_variates: bool):
        config = nd.HMCConfig(control_variates=control_variates)
        return lambda: nd.estimate_moments(family, etas, jax.random.key(1), config)

    def peer(sample):
        program = averages(family, sample)
        return lambda: np.asarray(program(etas, keys))

    programs = {"nnef_dists": ours(True), "plain average": ours(False)}
    if with_peers:
        programs |= {title: peer(sample) for title, sample in PEERS.items()}
    results, compile_seconds = {}, {}
    for title, program in programs.items():
        start = time.perf_counter()
        results[title] = program()
        compile_seconds[title] = time.perf_counter() - start
    seconds: dict[str, list[float]] = {title: [] for title in programs}
    for _ in range(repeats):
        for title, program in programs.items():
            start = time.perf_counter()
            program()
            seconds[title].append(time.perf_counter() - start)
    table = Table(
        f"{n} etas of {family!r}",
        ["sampler", "s", "ms per eta", "compilation [s]", "valid [%]", "RMS error [z units]",
         "median", "largest", "efficiency by RMS", "by median"],
    )  # fmt: skip
    efficiency = {}
    for title, result in results.items():
        is_ours = isinstance(result, nd.MomentDataset)
        ok = result.ok if is_ours else np.ones(n, bool)
        z = np.abs((result.mean if is_ours else result) - mean)[ok] / sd[ok]
        took = float(np.median(seconds[title]))
        rms, median = float(np.sqrt(np.mean(z**2))), float(np.median(z))
        efficiency[title] = 1 / (rms**2 * took), 1 / (median**2 * took)
        first = compile_seconds[title] - took
        table.add(
            *(title, took, 1e3 * took / n, first, 100 * ok.mean(), rms, median, z.max()),
            *efficiency[title],
        )
    data = results["nnef_dists"]
    t = ((data.mean - mean) / data.standard_error)[data.ok]
    best = [max(e[i] for t, e in efficiency.items() if t != "nnef_dists") for i in (0, 1)]
    ratios = [mine / peer for mine, peer in zip(efficiency["nnef_dists"], best, strict=True)]
    table.note = (
        f"Efficiency of the labels over the best other row: {ratios[0]:.2g} by RMS error, "
        f"{ratios[1]:.2g} by the median. Standard deviation of error / standard error: "
        f"{t.std():.2f}, beyond 4: {np.mean(abs(t) > 4):.2%}. "
        f"Labels by rung: {np.bincount(data.rung, minlength=4).tolist()}."
    )


def moments(options) -> None:
    warnings.filterwarnings("ignore", category=UserWarning)
    for name in options.jobs:
        run(name, options.etas, options.repeats, not options.no_peers)


def arguments(parser) -> None:
    parser.add_argument("jobs", nargs="*", default=list(JOBS), help=f"of {', '.join(JOBS)}")
    parser.add_argument("--etas", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-peers", action="store_true", help="our own two programs alone")


if __name__ == "__main__":
    quick = {"jobs": ["quartic"], "etas": 32, "repeats": 1}
    main(__doc__, {"moments": moments}, arguments, quick)
