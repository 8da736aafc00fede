# %% [markdown]
"""A posterior from more data than one machine holds: sums of statistics, chunk by chunk.

    pip install ".[dask]"
    python examples/inference/chunked_sums.py [--chunks 100] [--rows 1000000] [--workers 2]

Rows are gamma variables with a known rate and an unknown shape. A chunk of rows takes one pass, on
any worker of a Dask cluster, and returns two numbers. Chunks arrive in any order. A compensated sum
adds them in a fixed order, so that the posterior is bitwise identical. Two runs show this: a normal
run, and a run in which a worker is killed.

Here each worker draws the rows of a chunk from a seed. With your data it would open the file of the
chunk instead, for example a part of a Zarr array or a Parquet table.
"""

# %%
import argparse
import logging
import math
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from dask.distributed import Client, LocalCluster, as_completed
from matplotlib.figure import Figure

import nnef_dists as nd

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells

# %% [markdown]
# ## Sums of chunks
#
# Workers need no JAX. A chunk gives two numbers.

# %%
SHAPE, RATE = 2.7, 2.0
PRIOR = (-1.0, -0.5)


def sum_chunk(chunk, rows):
    """Returns the sum of a chunk's statistics of (a, log Gamma(a)), and the process id."""
    x = np.random.default_rng((1, chunk)).gamma(SHAPE, 1 / RATE, rows)
    return np.array([rows * math.log(RATE) + np.log(x).sum(), -rows]), os.getpid()


def gather(options, kill):
    """Returns the sums of all chunks, their order of arrival, and rows per second."""
    sums, order = np.zeros((options.chunks, 2)), []
    cluster = LocalCluster(
        n_workers=options.workers,
        threads_per_worker=1,
        dashboard_address=":0",
        silence_logs=logging.ERROR,
    )
    with cluster, Client(cluster) as client:
        client.run(os.getpid)
        start = time.perf_counter()
        # The order does not matter. Here the last chunk is first.
        futures = {
            client.submit(sum_chunk, chunk, options.rows, key=f"sum {chunk}"): chunk
            for chunk in reversed(range(options.chunks))
        }
        for future in as_completed(futures):
            sums[futures[future]], pid = future.result()
            future.release()
            order.append(futures[future])
            if kill and len(order) == options.chunks // 4:
                os.kill(pid, signal.SIGKILL)
        seconds = time.perf_counter() - start
    return sums, order, options.chunks * options.rows / seconds


# %% [markdown]
# ## Compensated sum


# %%
def running_sums(sums):
    """Returns the compensated sums after each chunk."""

    def add(total, statistics):
        total = total.add(statistics)
        return total, total

    zeros = nd.inference.StatisticsSum.zeros(2)
    return jax.lax.scan(add, zeros, jnp.asarray(sums))[1]


# %% [markdown]
# ## Figure


# %%
def draw(rows, mean, sd):
    """Plots the posterior of the shape by the number of rows."""
    figure = Figure(figsize=(6, 3.4), dpi=160, layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color="0.6", linewidth=1, label="true shape")
    axes.errorbar(rows, mean - SHAPE, 2 * sd, fmt="C0o", capsize=3, label="posterior, 2 sd")
    axes.set(xscale="log", xlabel="rows", ylabel="shape - true shape")
    axes.legend(frameon=False)
    return figure


# %% [markdown]
# ## Main program


# %%
def main():
    """Runs with and without a killed worker, and prints the posterior."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=100)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of each chunk")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/chunked_sums"))
    options = cells.parse(parser)
    q = nd.Quadrature(nd.GammaShapePrior())
    moments = jax.jit(jax.vmap(lambda eta: (q.mean(eta)[0], jnp.sqrt(q.covariance(eta)[0, 0]))))
    posteriors = []
    for title, kill in (("all workers", False), ("one is killed", True)):
        sums, order, speed = gather(options, kill)
        totals = running_sums(sums)
        etas = jax.vmap(lambda total: nd.inference.conjugate_update(jnp.array(PRIOR), total))(
            totals
        )
        posteriors.append(np.asarray(etas[-1]))
        exact = math.fsum([PRIOR[0], *sums[:, 0]])
        print(
            f"{title}: first chunks {order[:5]}, {speed / options.workers:.3g} rows a second and "
            f"worker; sum {float(etas[-1, 0])!r}, off by {float(etas[-1, 0]) - exact:.1e}"
        )
    print(f"the same bits: {posteriors[0].tobytes() == posteriors[1].tobytes()}")
    seen = np.unique(np.geomspace(1, options.chunks, 8).astype(int))
    mean, sd = (np.asarray(part) for part in moments(etas[seen - 1]))
    print(f"shape {mean[-1]:.6f} +/- {sd[-1]:.6f}, {(mean[-1] - SHAPE) / sd[-1]:+.2f} sd off")
    cells.save(draw(seen * options.rows, mean, sd), options.out / "chunked_sums.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    nd.generation.keep_compiled()
    main()
