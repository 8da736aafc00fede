# %% [markdown]
"""A million observations, one at a time, with a prediction and its density after each.

    python examples/inference/stream.py [--observations 1000000] [--chunk 10000]

Observations are y ~ Gamma(shape a, rate 1), and p(a) is proportional to exp(-log Gamma(a)). The
conjugate prior of a shape is `nd.GammaShapePrior()`, whose moments are integrals. Each observation
adds (log y, -1) to its natural parameters, so the state of the stream is one `StatisticsSum`. After
each observation the program predicts the next, with

    E[y | data] = E[a],    Var[y | data] = E[a] + Var[a].

One compiled `jax.lax.scan` handles a chunk and returns the state. The time per observation and the
memory are therefore constant. The predictions are compared with a fine grid, and their errors in
the stream with the predicted variance. The baseline is the running mean of y.
"""

# %%
import argparse
import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.special import gammaln

import nnef_dists as nd

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells

# %% [markdown]
# ## Stream
#
# One compiled scan handles a chunk, and returns the state.

# %%
SHAPE = 3.0
PRIOR = (0.0, -1.0)
Q = nd.Quadrature(nd.GammaShapePrior())


@jax.jit
def advance(total, y):
    """Returns the state after a chunk, and the mean and variance of the shape by observation."""

    def observe(total, y):
        total = total.add(jnp.stack([jnp.log(y), -jnp.ones_like(y)]))
        eta = nd.inference.conjugate_update(jnp.asarray(PRIOR), total)

        def mean(eta):
            found = Q.mean(eta)
            return found, found

        covariance, found = jax.jacfwd(mean, has_aux=True)(eta)
        return total, (found[0], covariance[0, 0])

    return jax.lax.scan(observe, total, y)


# %% [markdown]
# ## Reference by a fine grid


# %%
def grid(log_sum, n, points=20_001):
    """Returns mean and variance of the shape, by a trapezoidal rule around the mode of log a."""
    u = np.linspace(-12.0, 6.0, points)
    for _ in range(3):  # each time restricted to the region with mass
        a = np.exp(u)
        logs = a * (PRIOR[0] + log_sum) + (PRIOR[1] - n) * gammaln(a) + u
        matters = u[logs > logs.max() - 60]
        u = np.linspace(matters[0] - (u[1] - u[0]), matters[-1] + (u[1] - u[0]), points)
    a = np.exp(u)
    logs = a * (PRIOR[0] + log_sum) + (PRIOR[1] - n) * gammaln(a) + u
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    mean = weights @ a
    return mean, weights @ (a - mean) ** 2


# %% [markdown]
# ## Memory and figure


# %%
def peak_memory():
    """Returns the peak memory of the process, in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def draw(costs, memory, chunk, y, means, variances):
    """Plots time and memory by position in the stream, and the errors of the estimate."""
    figure = Figure(figsize=(10, 3.0), dpi=160, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    positions = chunk * np.arange(1, len(costs) + 1)
    left.plot(positions, costs)
    left.set(xlabel="observations", ylabel="processor time [µs per observation]")
    left.set_ylim(0, 1.3 * max(costs))
    middle.plot(positions, memory)
    middle.set(xlabel="observations", ylabel="peak memory of the process [MB]")
    middle.set_ylim(0, 1.3 * max(memory))
    n = np.unique(np.geomspace(1, len(y), 400).astype(int))
    right.loglog(n, np.abs(means[n - 1] - SHAPE), linewidth=0.8, label="posterior mean")
    running = np.cumsum(y) / np.arange(1, len(y) + 1)
    right.loglog(n, np.abs(running[n - 1] - SHAPE), linewidth=0.8, label="running mean of y")
    right.loglog(n, np.sqrt(variances[n - 1]), "k--", linewidth=0.8, label="posterior sd")
    right.set(xlabel="observations", ylabel="error of the prediction", ylim=(1e-6, None))
    right.legend(frameon=False, fontsize=8)
    return figure


# %% [markdown]
# ## Main program


# %%
def run(options):
    """Runs the stream."""
    y = np.random.default_rng(options.seed).gamma(SHAPE, size=options.observations)
    chunks = np.split(y, np.arange(options.chunk, len(y), options.chunk))
    total, found, costs, memory = nd.inference.StatisticsSum.zeros(2), [], [], []
    jax.block_until_ready(advance(total, jnp.asarray(chunks[0])))  # not counted
    for chunk in chunks:
        clock = time.process_time()
        total, moments = jax.block_until_ready(advance(total, jnp.asarray(chunk)))
        costs.append(1e6 * (time.process_time() - clock) / len(chunk))
        memory.append(peak_memory())
        found.append(np.asarray(moments))
    means, variances = np.concatenate(found, 1)

    tenth = max(len(chunks) // 10, 1)
    for name, part in (("first", slice(tenth)), ("last", slice(-tenth, None))):
        print(
            f"{name} tenth: {np.mean(costs[part]):.1f} µs of processor time per observation, "
            f"peak memory {np.mean(memory[part]):.0f} MB"
        )
    log_sums = np.cumsum(np.log(y))
    for n in (10**k for k in range(int(np.log10(len(y))) + 1)):
        mean, variance = grid(log_sums[n - 1], n)
        print(
            f"n = {n:>8}: predicted {means[n - 1]:.8f}, off by "
            f"{abs(means[n - 1] - mean) / np.sqrt(variance):.1e} sd, variance of a by "
            f"{abs(variances[n - 1] / variance - 1):.1e}"
        )
    z = (y[1:] - means[:-1]) / np.sqrt(means[:-1] + variances[:-1])
    print(f"errors of predictions: mean {z.mean():.4f}, rms {np.sqrt(np.mean(z**2)):.4f} sd")
    running = np.cumsum(y) / np.arange(1, len(y) + 1)
    half = len(y) // 2
    ratio = np.sqrt(running[half] / (half + 1) / variances[half])
    print(f"the running mean's standard error is {ratio:.2f} times the posterior sd")
    return draw(costs, memory, options.chunk, y, means, variances)


def main():
    """Parses the options, and saves the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observations", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, default=10_000, help="observations in one call")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/stream"))
    options = cells.parse(parser)
    with jax.enable_x64(True):
        figure = run(options)
    cells.save(figure, options.out / "stream.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
