"""Time, memory and disk space of moment data that is generated to disk.

    python tests/benchmarks/bench_scale.py [quartic] [lattice10] ... [--etas 1000 10000 100000]
        [--workers 0] [--repeats 1] [--quick]

Each row is a fresh process, whose peak of resident memory is its own. It first makes a small store,
which compiles; what that took beyond sampling is reported apart. `--workers 2` makes chunks in two
processes, each of which has compiled before the clock starts.
"""

import itertools
import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import jax
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.jobs import JOBS
from tests.benchmarks.results import Table, main

CHUNK_TILES = 4
SPAWN = multiprocessing.get_context("spawn")


def measure(name: str, n: int, workers: int) -> dict[str, float]:
    """Makes one store of n etas and returns what it cost."""
    job, config = JOBS[name], nd.HMCConfig()
    executor = ProcessPoolExecutor(workers, mp_context=SPAWN) if workers else None

    def generate(folder, size, seed):
        etas = nd.generation.RandomEtas(jax.random.key(seed), size, job.ranges)
        return nd.generate_moments(
            job.family,
            etas,
            folder,
            jax.random.key(seed + 1),
            config,
            executor=executor,
            chunk=CHUNK_TILES * config.tile,
            progress=False,
        )

    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter()
        generate(f"{root}/first", 4 * max(workers, 1) * CHUNK_TILES * config.tile, 10)
        first = time.perf_counter() - start
        start = time.perf_counter()
        data = generate(f"{root}/data", n, 0)
        seconds = time.perf_counter() - start
        ok = float(np.mean(data.ok))
        size = sum(file.stat().st_size for file in Path(f"{root}/data").rglob("*"))
    if executor is not None:
        executor.shutdown()
    # Linux counts in KiB; children are the workers, the largest of them.
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    return {
        "compilation": first - seconds / n * 4 * max(workers, 1) * CHUNK_TILES * config.tile,
        "milliseconds": 1e3 * seconds / n,
        "memory": max(memory, worker if workers else 0),
        "bytes": size / n,
        "ok": ok,
    }


def in_fresh_process(name: str, n: int, workers: int) -> dict[str, float]:
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool:
        return pool.submit(measure, name, n, workers).result()


def scale(options) -> None:
    config = nd.HMCConfig()
    table = Table(
        f"Moment data on disk, {config.chains} x {config.draws} draws, tiles of {config.tile}",
        ["family", "x_dim", "eta_dim", "etas", "workers", "compilation [s]", "ms per eta",
         "etas per second", "memory [GiB]", "bytes per eta", "valid [%]"],
    )  # fmt: skip
    runs_of = itertools.product(options.jobs[:1], options.etas, options.workers)
    others = itertools.product(options.jobs[1:], [options.few], [0])
    for name, n, workers in itertools.chain(runs_of, others):
        family = JOBS[name].family
        runs = [in_fresh_process(name, n, workers) for _ in range(options.repeats)]
        cost = {key: float(np.median([run[key] for run in runs])) for key in runs[0]}
        table.add(
            *(type(family).__name__, int(np.prod(family.support.shape)), family.eta_dim, n),
            *(workers, cost["compilation"], cost["milliseconds"], 1e3 / cost["milliseconds"]),
            *(cost["memory"], cost["bytes"], 100 * cost["ok"]),
        )


def arguments(parser) -> None:
    jobs = ["quartic", "gamma_shape", "dirichlet", "lattice10", "lattice50"]
    parser.add_argument("jobs", nargs="*", default=jobs, help=f"of {', '.join(JOBS)}")
    parser.add_argument("--few", type=int, default=512, help="etas of all jobs but the first")
    parser.add_argument(
        "--etas", type=int, nargs="+", default=[1000, 10000, 100000], help="of the first"
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--repeats", type=int, default=1)


if __name__ == "__main__":
    quick = {"jobs": ["quartic"], "etas": [1000]}
    main(__doc__, {"scale": scale}, arguments, quick)
