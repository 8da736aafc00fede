# %% [markdown]
"""Shapes and means of 100,000 groups from minibatches of 200, in the hierarchical gamma model.

    python examples/inference/stochastic_groups.py [--groups 100000] [--minibatch 200] [--steps 300]

The model is from `examples/hierarchical_gamma.py`. One node `pair` is for the shape and the inverse
mean of each group, and all groups share two nodes, a and u. A full sweep integrates over each
group. A stochastic step updates a minibatch of B of the N groups, with `scale=1`. The shared nodes
then take a step with `scale=N / B` and

    rho_t = (t + tau)^-kappa,

so that the noise of the minibatches averages out. A few full sweeps end the run. The reference and
baseline is coordinate ascent with full sweeps only. Distances are between the means of a and u, in
standard deviations of the reference. In this unit the noise of one minibatch is about sqrt(N / B).
"""

# %%
import argparse
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import nnef_dists as nd

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells
from hierarchical_gamma import make_pair_nodes, pair_energy, simulate, start_pairs

# %% [markdown]
# ## Full sweeps and stochastic steps

# %%
OBSERVATIONS = 20
TAU, KAPPA = 1.0, 0.8
SHARED = {"a": 0, "u": 1}  # index of the statistic of each shared node


def make_full_sweep(groups, data):
    """Returns a sweep over all groups, and then over the shared nodes."""
    nodes = make_pair_nodes(groups)

    def sweep(eta, total, total_log):
        for name in nodes:
            eta = nd.inference.step(pair_energy, nodes, eta, name, total, total_log, data[2])
        return eta

    compiled = jax.jit(sweep).lower(start_pairs(groups), *data[:2]).compile()
    return lambda eta: compiled(eta, *data[:2])


def make_stochastic_steps(groups, minibatch, data):
    """Returns a program of several steps, from `(shared, t)` and the groups of each step."""
    nodes, n, first = make_pair_nodes(minibatch), data[2], start_pairs(minibatch)

    def one(carry, rows):
        shared, t = carry
        sums = data[0][rows], data[1][rows], n
        eta = {"pair": first["pair"], **shared}
        eta = nd.inference.step(pair_energy, nodes, eta, "pair", *sums)
        rho, scale = (t + TAU) ** -KAPPA, groups / minibatch
        for name in SHARED:
            eta = nd.inference.step(pair_energy, nodes, eta, name, *sums, scale, rho=rho)
        shared = {name: eta[name] for name in SHARED}
        return (shared, t + 1), shared

    shared = {name: first[name] for name in SHARED}
    return (shared, jnp.zeros(())), jax.jit(lambda carry, rows: jax.lax.scan(one, carry, rows))


# %% [markdown]
# ## Means of the shared nodes


# %%
def shared_means(etas):
    """Returns means and standard deviations of a and u, `(n, 2)`, for stacked etas."""
    nodes = make_pair_nodes(1)

    def both(eta, name):
        def mean(eta):
            found = nodes[name].q.mean(eta)
            return found, found

        covariance, found = jax.jacfwd(mean, has_aux=True)(eta)
        return found[SHARED[name]], jnp.sqrt(covariance[SHARED[name], SHARED[name]])

    run = jax.jit(lambda etas: [jax.lax.map(lambda e, k=k: both(e, k), etas[k]) for k in SHARED])
    return [np.stack(part, 1) for part in zip(*run(etas), strict=True)]


def stack(etas):
    """Stacks the shared natural parameters of a list of etas."""
    return {name: jnp.stack([eta[name] for eta in etas]) for name in SHARED}


# %% [markdown]
# ## Figure


# %%
def draw(curves, minibatch, groups):
    """Plots distances to the reference by the number of integrals."""
    figure = Figure(figsize=(6, 3.6), dpi=160, layout="constrained")
    axes = figure.subplots()
    for (name, (work, distance)), style in zip(curves.items(), ("o-", "-", "o--"), strict=True):
        axes.loglog(work, np.maximum(distance, 1e-6), style, markersize=3, label=name)
    axes.axhline(0.1, color="gray", linewidth=0.8)
    axes.set(
        title=f"{groups:,} groups, minibatches of {minibatch}",
        xlabel="integrals per group",
        ylabel="distance of a and u [posterior sd]",
    )
    axes.legend(frameon=False, fontsize=8)
    return figure


# %% [markdown]
# ## Main program


# %%
def run(options):
    """Runs both methods, and returns the figure."""
    groups, minibatch = options.groups, options.minibatch
    data = simulate(groups, OBSERVATIONS, options.seed)
    sweep = make_full_sweep(groups, data)
    eta, reference = start_pairs(groups), []
    clock = time.process_time()
    for _ in range(options.sweeps):
        eta = jax.block_until_ready(sweep(eta))
        reference.append(eta)
    cost = (time.process_time() - clock) / options.sweeps
    print(f"a full sweep: {cost:.2f} s of processor time")

    carry, steps = make_stochastic_steps(groups, minibatch, data)
    rng = np.random.default_rng(options.seed)
    rows = jnp.asarray(rng.integers(groups, size=(options.steps, minibatch)))
    steps = steps.lower(carry, rows).compile()
    clock = time.process_time()
    (shared, _), trace = jax.block_until_ready(steps(carry, rows))
    step_cost = (time.process_time() - clock) / options.steps
    print(f"a stochastic step: {1e3 * step_cost:.1f} ms, {cost / step_cost:.0f} in a full sweep")

    eta, final = {**start_pairs(groups), **shared}, []
    for _ in range(options.final):
        eta = sweep(eta)
        final.append(eta)
    parts = stack(reference), trace, stack(final)
    means, sds = shared_means(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts))
    last = len(reference) - 1
    distance = np.max(np.abs(means - means[last]) / sds[last], 1)
    full, noisy, end = np.split(distance, [len(reference), len(reference) + options.steps])
    print(f"the reference: {full[-2]:.1e} sd in its last sweep")
    print(f"after {options.steps} stochastic steps: {noisy[-1]:.2f} sd from the reference")
    print("by final sweep: " + ", ".join(f"{one:.4f}" for one in end) + " sd")
    print("full sweeps alone: " + ", ".join(f"{one:.4f}" for one in full[:10]) + " sd")
    used = options.steps * minibatch / groups
    curves = {
        "full sweeps": (np.arange(1, len(full)), full[:-1]),
        "stochastic steps": (used * np.arange(1, len(noisy) + 1) / len(noisy), noisy),
        "final full sweeps": (used + np.arange(len(end) + 1), [noisy[-1], *end]),
    }
    return draw(curves, minibatch, groups)


def main():
    """Parses the options, and saves the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=100_000)
    parser.add_argument("--minibatch", type=int, default=200)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--sweeps", type=int, default=12, help="of the reference")
    parser.add_argument("--final", type=int, default=4, help="full sweeps at the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/stochastic_groups"))
    options = cells.parse(parser)
    with jax.enable_x64(True):  # the statistics of many groups lose digits in single precision
        figure = run(options)
    cells.save(figure, options.out / "stochastic_groups.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
