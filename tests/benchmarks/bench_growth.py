"""Growth of costs with the numbers of etas, dimensions, hidden units, groups and devices.

    python tests/benchmarks/bench_growth.py [etas] [x_dim] [eta_dim] [width] [groups] [devices]
        [--quick]

etas     labels of quartics
x_dim    labels of phi^4 chains
eta_dim  labels of von Mises harmonics
width    steps of training a log-partition network, and its moments
groups   sweeps of message passing in `examples/hierarchical_gamma.py`
devices  labels of quartics on host devices, which share the cores of the machine

Seconds are wall time after compilation, medians of three runs.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import hierarchical_gamma as gamma
import training

from tests.benchmarks.jobs import JOBS, LATTICE
from tests.benchmarks.results import Table, main

REPEATS, SWEEPS, ON_DEVICES = 3, 10, 512


def seconds_of(run):
    """Seconds of the first call, and the median of later ones."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    return seconds[0], float(np.median(seconds[1:]))


def label(family, ranges, n):
    """The same of labels of n etas."""
    etas = family.sample_eta(jax.random.key(0), n, ranges)

    def run():
        nd.estimate_moments(family, etas, jax.random.key(1))

    return seconds_of(run)


def etas(options):
    table = Table("Labels of quartics", ["etas", "first call [s]", "s"])
    for n in (64, 128, 256) if options.quick else (64, 256, 1024, 4096, 16384):
        table.add(n, *label(JOBS["quartic"].family, JOBS["quartic"].ranges, n))


def x_dim(options):
    table = Table("64 labels of phi^4 chains", ["x_dim", "first call [s]", "s"])
    for n in (2, 4) if options.quick else (2, 4, 8, 16, 32, 64):
        table.add(n, *label(nd.LatticePhi4(n), LATTICE, 64))


def eta_dim(options):
    table = Table("64 labels of von Mises harmonics", ["eta_dim", "first call [s]", "s"])
    for order in (1, 2) if options.quick else (1, 2, 4, 8, 16):
        family = nd.VonMisesHarmonic(order)
        ranges = {"cos": (-1.0, 1.0), "sin": (-1.0, 1.0)}
        table.add(family.eta_dim, *label(family, ranges, 64))


def width(options):
    job = JOBS["quartic"]
    given = job.family.sample_eta(jax.random.key(0), 256, job.ranges)
    data = nd.estimate_moments(job.family, given, jax.random.key(1))
    table = Table(
        "A network of depth 2 on quartics, 250 steps of batch 256",
        ["width", "first 250 steps [s]", "moments of 4,096 etas [ms]", "ms per step"],
        "The first steps include compilation.",
    )
    many = job.family.sample_eta(jax.random.key(2), 4096, job.ranges)
    for size in (16, 64) if options.quick else (16, 64, 256, 1024):
        network = nd.LogPartitionNetwork(job.family, data, width=size, key=jax.random.key(3))
        moments = jax.jit(jax.vmap(network))
        dynamic, static = nd.freeze_stdvs(network)

        def loss(dynamic, labels, key, static=static):
            key_rows, key_loss = jax.random.split(key)
            batch = training.minibatch(labels, 256, key_rows)
            return nd.sobolev_loss(nd.unfreeze_all(dynamic, static), batch, key_loss)

        run = training.minimizer(loss, steps=250, learning_rate=1e-3)
        labels = network.batch(data)
        first, took = seconds_of(
            lambda run=run, d=dynamic, labels=labels: run(d, labels, jax.random.key(4), "")[0]
        )
        _, calls = seconds_of(lambda moments=moments: moments(many))
        table.add(size, first, 1e3 * calls, 1e3 * took / 250)


def groups(options):
    table = Table(
        "Message passing, groups of 20 observations", ["groups", "compilation [s]", "ms per sweep"]
    )
    for n in (100, 1000) if options.quick else (100, 1000, 10_000, 100_000):
        data, nodes = gamma.simulate(n, 20, 0), gamma.make_nodes(n)
        start = time.perf_counter()
        program = jax.jit(lambda eta, n=nodes, d=data: gamma.infer(n, eta, d, SWEEPS))
        program = program.lower(gamma.start(n)).compile()
        compilation = time.perf_counter() - start
        _, took = seconds_of(lambda program=program, n=n: program(gamma.start(n)))
        table.add(n, compilation, 1e3 * took / SWEEPS)


def on_devices(n):
    """Prints the seconds of labels on all devices of this process."""
    print(*label(JOBS["quartic"].family, JOBS["quartic"].ranges, n))


def devices(options):
    n = 128 if options.quick else ON_DEVICES
    table = Table(
        f"{n} labels of quartics on host devices",
        ["devices", "first call [s]", "s"],
        f"Host devices share the {os.cpu_count()} cores of this machine.",
    )
    for count in (1, 2) if options.quick else (1, 2, 4):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
        code = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
            f"import bench_growth; bench_growth.on_devices({n})"
        )
        settings = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=settings
        )
        table.add(count, *map(float, done.stdout.split()[-2:]))


PARTS = {part.__name__: part for part in (etas, x_dim, eta_dim, width, groups, devices)}


if __name__ == "__main__":
    main(__doc__, PARTS)
