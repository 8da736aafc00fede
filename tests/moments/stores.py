"""Small moment data on disk, and programs that make them in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

import nnef_dists as nd
from tests.moment_data import data_of_arrays

ROOT = Path(__file__).parents[2]

GAUSSIAN = nd.GaussianNatural1D()
RANGES = {"x": (-1.0, 1.0), "x2": (-2.0, -0.5, "log")}
# Labels that nobody would want, made in no time.
QUICK = nd.HMCConfig(
    chains=4,
    warmup=24,
    draws=8,
    leapfrog_steps=1,
    global_moves=False,
    ladder=False,
    quadrature=False,
    tile=8,
    max_rhat=100.0,
    min_ess=0.0,
    max_divergences=1.0,
)
COLUMNS = ("eta", *nd.moments.MomentLabel._fields)


def random_etas(n=40, seed=1, **changes):
    return nd.generation.RandomEtas(jax.random.key(seed), n, RANGES | changes)


def generate(path, etas=None, config=QUICK, *, family=GAUSSIAN, seed=2, **options):
    etas = random_etas() if etas is None else etas
    options = {"progress": False, "chunk": 16} | options
    return nd.generate_moments(family, etas, path, jax.random.key(seed), config, **options)


def assert_same(one, two):
    """Every array, bit for bit."""
    for name in COLUMNS:
        a, b = getattr(one, name), getattr(two, name)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), name
        assert a.tobytes() == b.tobytes(), name


def files(path):
    """The content of every file below a folder."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(Path(path).rglob("*"))
        if file.is_file()
    }


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file):
    file.write_bytes(file.read_bytes()[:-6])


def run_job(name, *arguments, cache, devices=1, timeout=240):
    """Runs a job of `store_jobs.py`, or `drill_job.py`, in a process of its own; what it says."""
    module = ["drill_job"] if name == "drill" else ["store_jobs", name]
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    flags = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    done = subprocess.run(
        [sys.executable, "-m", f"tests.moments.{module[0]}", *module[1:], *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def made_up_data(n=50, seed=0):
    """Data that nobody sampled; the last labels are not good."""
    rng = np.random.default_rng(seed)
    status = np.full(n, nd.Status.OK, np.int8)
    status[-3:] = nd.Status.LOW_ESS
    axes = {"eta": 1, "mean": 1, "covariance": 2, "standard_error": 1, "covariance_error": 2}
    arrays = {
        name: rng.uniform(0.5, 1.0, (n, *(2,) * axes)).astype(np.float32)
        for name, axes in axes.items()
    }
    for name in set(COLUMNS) - {*arrays, "status"}:
        per_statistic = name in ("ess", "rhat")
        arrays[name] = rng.uniform(size=(n, 2) if per_statistic else n).astype(np.float32)
    return data_of_arrays(GAUSSIAN, QUICK, status=status, **arrays)
