"""Rates on the CPU and on the GPU of one machine, in one run.

    python tests/benchmarks/bench_gpu.py [--seconds 8] [--quick]

Labels of quartics, training steps of a log-partition network (batch 256), moments of 10^6 etas by
it, sweeps of message passing (1,000 groups of 20), draws of a flow conditioned on eta (64 etas),
and training steps of a posterior estimator (batch 128). Compilation is apart. Without a GPU, its
columns are "not measured".
"""

import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import amortized_sampler
import hierarchical_gamma as gamma
import npe
import npe_from_scratch as tutorial
import training

from tests.benchmarks.jobs import JOBS
from tests.benchmarks.results import Table, main

JOB = JOBS["quartic"]
STEPS, SWEEPS = 100, 10


def rate(run, count, options):
    """Seconds of compilation, and the median rate of repeated calls."""
    start = time.perf_counter()
    jax.block_until_ready(run())
    first = time.perf_counter() - start
    seconds, began = [], time.perf_counter()
    while not seconds or time.perf_counter() - began < options.seconds:
        start = time.perf_counter()
        jax.block_until_ready(run())
        seconds.append(time.perf_counter() - start)
    took = float(np.median(seconds))
    return first - took, count / took


def place(etas, device):
    """Etas on one device, whichever devices are the default."""
    return jax.device_put(etas, NamedSharding(Mesh(np.array([device]), "etas"), PartitionSpec()))


def labels(n, key):
    return JOB.family.sample_eta(jax.random.key(key), n, JOB.ranges)


def label(device, options):
    etas = place(labels(options.etas, 0), device)

    def run():
        nd.estimate_moments(JOB.family, etas, jax.random.key(1))

    return rate(run, options.etas, options)


def make_network(device, n=256):
    data = nd.estimate_moments(JOB.family, place(labels(n, 2), device), jax.random.key(3))
    return data, nd.LogPartitionNetwork(JOB.family, data, key=jax.random.key(4))


def descend(loss, dynamic, options):
    """The rate of Adam steps on `loss(dynamic, key)`, in a compiled loop."""
    optimizer = optax.adam(1e-3)

    def step(carry, key):
        dynamic, state = carry
        updates, state = optimizer.update(jax.grad(loss)(dynamic, key), state)
        return (optax.apply_updates(dynamic, updates), state), None

    start, keys = (dynamic, optimizer.init(dynamic)), jax.random.split(jax.random.key(5), STEPS)
    run = jax.jit(lambda start: jax.lax.scan(step, start, keys)[0])
    return rate(lambda: run(start), STEPS, options)


def train(device, options):
    data, network = make_network(device)
    batch, (dynamic, static) = network.batch(data), nd.freeze_stdvs(network)

    def loss(dynamic, key):
        key_rows, key_loss = jax.random.split(key)
        rows = training.minibatch(batch, 256, key_rows)
        return nd.sobolev_loss(nd.unfreeze_all(dynamic, static), rows, key_loss)

    return descend(loss, dynamic, options)


def moments(device, options):
    _, network = make_network(device)
    etas, run = labels(options.many, 6), jax.jit(jax.vmap(network))
    return rate(lambda: run(etas), options.many, options)


def sweep(device, options):
    data, nodes, start = gamma.simulate(1000, 20, 0), gamma.make_nodes(1000), gamma.start(1000)
    run = jax.jit(lambda start: gamma.infer(nodes, start, data, SWEEPS))
    return rate(lambda: run(start), SWEEPS, options)


def draw(device, options):
    flow = amortized_sampler.make_flow(JOB.family, labels(4096, 7), jax.random.key(8))
    parameters, static = nd.partition_trainable(flow)
    etas, keys = labels(64, 9), jax.random.split(jax.random.key(10), 64)

    @jax.jit
    def run(parameters):
        flow = nd.unfreeze_all(parameters, static)
        return jax.vmap(lambda key, eta: flow.sample(key, eta, options.draws))(keys, etas)

    return rate(lambda: run(parameters), 64 * options.draws, options)


def fit_posterior(device, options):
    key = jax.random.key(11)
    data = nd.simulate(tutorial.simulator, tutorial.PRIOR, key, 1000, progress=False)
    head = nd.MixturePosterior(data, 8, depth=2, support=tutorial.SUPPORT, key=jax.random.key(12))
    batch, (dynamic, static) = npe.batch_of(data), nd.freeze_stdvs(head)

    def loss(dynamic, key):
        rows = jax.random.randint(key, (128,), 0, 1000)
        some = jax.tree.map(lambda leaf: leaf[rows], batch)
        return nd.nll_loss(nd.unfreeze_all(dynamic, static), some)

    return descend(loss, dynamic, options)


RATES = {
    "labels per s": label,
    "training steps per s": train,
    "moments of etas per s": moments,
    "sweeps per s": sweep,
    "flow draws per s": draw,
    "NPE training steps per s": fit_posterior,
}


def find_gpu():
    try:
        return jax.devices("gpu")[0]
    except RuntimeError:
        return None


def compare(options):
    cpu, gpu = jax.devices("cpu")[0], find_gpu()
    title = "CPU alone" if gpu is None else f"CPU beside {gpu.device_kind}"
    table = Table(
        title,
        ["rate", "CPU", "GPU", "GPU / CPU", "CPU compilation [s]", "GPU compilation [s]"],
        f"Labels: {options.etas:,} etas in a call. Moments: {options.many:,} etas in a call.",
    )
    for name, measure in RATES.items():
        found = []
        for device in (cpu, gpu):
            if device is None:
                found.append((None, None))
                continue
            with jax.default_device(device):
                found.append(measure(device, options))
        (on_cpu, slow), (on_gpu, fast) = found
        ratio = None if fast is None else fast / slow
        table.add(name, slow, fast, ratio, on_cpu, on_gpu)


def arguments(parser):
    parser.add_argument("--seconds", type=float, default=8.0, help="per rate, after compilation")
    parser.add_argument("--etas", type=int, default=2048, help="labels in a call")
    parser.add_argument("--many", type=int, default=1_000_000, help="etas of moments")
    parser.add_argument("--draws", type=int, default=16_384, help="of the flow, per eta")


if __name__ == "__main__":
    quick = {"seconds": 0.5, "etas": 64, "many": 20_000, "draws": 256}
    main(__doc__, {"gpu": compare}, arguments, quick)
