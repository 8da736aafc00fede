"""What tests of moment data run in processes of their own: `python -m tests.moments.store_jobs`.

The processes of pools and clusters import this module again; only a job's name starts a job.
"""

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from unittest import mock

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import nnef_dists as nd
from tests.moments.stores import GAUSSIAN, QUICK, RANGES, assert_same, generate, random_etas

N_DASK = 160


def make(path):
    """In one process, on all its devices."""
    generate(path)


def sharded():
    """Labels of etas that are sharded over two of three devices, on meshes of both kinds."""
    etas, key = GAUSSIAN.sample_eta(jax.random.key(1), 16, RANGES), jax.random.key(2)
    alone = nd.estimate_moments(GAUSSIAN, etas, key, QUICK)
    devices = jax.devices()[1:3]
    for kind in AxisType.Explicit, AxisType.Auto:
        mesh = Mesh(np.array(devices), "etas", axis_types=(kind,))
        parts = jax.device_put(etas, NamedSharding(mesh, PartitionSpec("etas")))
        with mock.patch.object(jax, "device_put", wraps=jax.device_put) as put, jax.set_mesh(mesh):
            assert_same(nd.estimate_moments(GAUSSIAN, parts, key, QUICK), alone)
        assert {call.args[1] for call in put.call_args_list} == set(devices)


def processes(path, workers):
    """In worker processes, the chunks in another order than one process makes them."""
    spawn = multiprocessing.get_context("spawn")
    generate(path, executor=functools.partial(ProcessPoolExecutor, int(workers), mp_context=spawn))


class Fragile(nd.ExponentialFamily):
    """A normal distribution that kills the first worker that looks at it."""

    x_shape = ()
    natural_domain = nd.domain(x2=nd.negative)

    def compute_stats(self, x):
        flag = os.environ.get("FRAGILE")
        if flag and multiprocessing.parent_process() is not None:
            with contextlib.suppress(FileExistsError):
                os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
        return {"x": x, "x2": x**2}


def broken_pool(path):
    """A worker of a pool is killed: the pool breaks, and is made again."""
    # As a worker sees it: this module has another name when it runs as a program.
    from tests.moments.store_jobs import Fragile

    os.environ["FRAGILE"] = f"{path}.killed"
    spawn = multiprocessing.get_context("spawn")
    pool = functools.partial(ProcessPoolExecutor, 1, mp_context=spawn)
    generate(path, family=Fragile(), executor=pool)
    assert Path(f"{path}.killed").exists()


def in_turn(folder):
    """The jobs of one device, in one process: importing takes longer than they do."""
    folder = Path(folder)
    make(folder / "alone")
    processes(folder / "processes", 2)
    broken_pool(folder / "broken")


def alone(path):
    """What `dask` makes, without it."""
    generate(path, random_etas(N_DASK), chunk=8)


def dask(path, kill):
    """On a Dask cluster of two processes, of which one may be killed on the way."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address=":0",
            local_directory=str(Path(path).parent / "dask"),
        ) as cluster,
        Client(cluster) as client,
    ):
        pids = client.run(os.getpid)
        if kill == "kill":
            victim = next(iter(pids.values()))
            threading.Thread(target=_kill_when_writing, args=(path, victim)).start()
        generate(path, random_etas(N_DASK), executor=client.get_executor(), chunk=8)
        print(f"killed {set(pids.values()) - set(client.run(os.getpid).values())}")


def _kill_when_writing(path, pid):
    while not list(Path(path).glob("status/c/*")):
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    JOBS = {job.__name__: job for job in (make, in_turn, sharded, alone, dask)}
    JOBS[sys.argv[1]](*sys.argv[2:])
