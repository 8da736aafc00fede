"""Costs of one call of each method of tractable families.

    python tests/benchmarks/bench_tractable.py [closed] [quadrature] [network] [--quick]

For each source and method, a table shows the time of the first call and that of later ones, outside
`jax.jit`. The first call traces and compiles, without the persistent cache of compiled programs.
Later calls are the median of 200. All are CPU times of this process, which is what a call costs on
an idle core, except where XLA uses several threads. The network is `LogPartitionNetwork` with its
default sizes on exact labels of Gaussians, without training.
"""

import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.results import Table, main

ETA, OTHER = (0.5, -1.0), (0.3, -0.8)


def make_closed() -> nd.distributions.AbstractTractableFamily:
    return nd.ClosedForm(nd.Gamma())


def make_quadrature() -> nd.distributions.AbstractTractableFamily:
    return nd.Quadrature(nd.Polynomial1D((2, 4)))


def make_network() -> nd.distributions.AbstractTractableFamily:
    family = nd.GaussianNatural1D()
    ranges = {"x": (-2.0, 2.0), "x2": (-2.0, -0.2, "log")}
    etas = family.sample_eta(jax.random.key(0), 256, ranges)
    data = nd.estimate_moments(family, etas, jax.random.key(1))
    network = nd.LogPartitionNetwork(family, data, key=jax.random.key(2))
    return nd.AmortizedFamily(family, network, sampler=nd.distributions.QuadratureSampler())


SOURCES = {"closed": make_closed, "quadrature": make_quadrature, "network": make_network}


def measure(call: Callable[[], jax.Array], calls: int) -> tuple[float, float]:
    """Returns seconds of the first call, and the median of later ones."""

    def clock() -> float:
        start = time.process_time()
        jax.block_until_ready(call())
        return time.process_time() - start

    jax.clear_caches()
    first = clock()
    return first, statistics.median(clock() for _ in range(calls))


def bench(name: str, options) -> None:
    # Also if an environment variable names a cache, and the import has used it.
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    q = SOURCES[name]()
    eta, other, x = jnp.array(ETA), jnp.array(OTHER), jnp.array(0.7)
    key, mu = jax.random.key(0), q.mean(eta)
    calls = {
        "mean": lambda: q.mean(eta),
        "log_partition": lambda: q.log_partition(eta),
        "covariance": lambda: q.covariance(eta),
        "entropy": lambda: q.entropy(eta),
        "kl": lambda: q.kl(eta, other),
        "log_prob": lambda: q.log_prob(x, eta),
        "natural_parameters": lambda: q.natural_parameters(mu),
        "is_positive_definite": lambda: q.is_positive_definite(eta),
        "accuracy": lambda: q.accuracy(eta),
        "sample": lambda: q.sample(key, eta, 100),
        "at": lambda: q.at(eta),
    }
    if isinstance(q, nd.AmortizedFamily):
        calls["predictive"] = lambda: q.predictive(eta, key)[0]
    table = Table(f"Calls of {q!r}", ["method", "first call [s]", "later calls [ms]"])
    for method, call in calls.items():
        first, later = measure(call, options.calls)
        table.add(method, first, 1e3 * later)


def arguments(parser):
    parser.add_argument("--calls", type=int, default=200)


if __name__ == "__main__":
    parts = {name: functools.partial(bench, name) for name in SOURCES}
    main(__doc__, parts, arguments, {"calls": 20})
