# %% [markdown]
"""A mixture of two normal distributions, whose indicators are discrete nodes.

    python examples/inference/mixture.py [--observations 12]

    weights ~ Dirichlet(1, 1),  mean_k ~ Normal(-1 or 1, 1)
    z_n ~ weights,  y_n ~ Normal(mean_z, 1)

The energy is linear in the statistics of each node, so messages are its gradients. This includes
the messages to the indicators z_n, a plate of `Categorical(2)`. With few observations, the
reference is a sum over all 2^n assignments. Given an assignment, means and weights are conjugate.
"""

# %%
import argparse
import functools
import itertools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.special import gammaln, logsumexp

import nnef_dists as nd

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells

# %% [markdown]
# ## Observations and nodes

# %%
PRIOR = np.array([-1.0, 1.0])
SWEEPS = 200


def simulate(n, seed):
    """Draws observations."""
    rng = np.random.default_rng(seed)
    return rng.normal(np.where(rng.random(n) < 0.35, -1.2, 1.4), 1.0)


def make_nodes(n):
    """Returns the nodes of indicators, means and weights."""
    return {
        "z": nd.inference.Node(nd.ClosedForm(nd.families.Categorical(2)), (n,)),
        "mean": nd.inference.Node(nd.ClosedForm(nd.GaussianNatural1D()), (2,)),
        "weights": nd.inference.Node(nd.ClosedForm(nd.Dirichlet(2))),
    }


# %% [markdown]
# ## Energy
#
# The gradient with respect to the mean parameters of a node is the message to the node.


# %%
def energy(t, y):
    """Returns the log joint density in statistics, up to constants of normal distributions."""
    first = t["z"]["is"]
    z = jnp.concatenate([first, 1 - first], 1)
    mean, square, log_weights = t["mean"]["x"], t["mean"]["x2"], t["weights"]["log_x"]
    likelihood = mean * y[:, None] - (square + y[:, None] ** 2) / 2
    return jnp.sum(z * (log_weights + likelihood)) + jnp.sum(PRIOR * mean - square / 2)


def log_joint(x, y):
    """Returns the log joint density in values, for `check_energy`."""
    z, mean, weights = x["z"], x["mean"], x["weights"]
    return (
        jnp.sum(jnp.log(weights)[z] - (y - mean[z]) ** 2 / 2)
        - jnp.sum((mean - PRIOR) ** 2) / 2
        + jnp.sum(PRIOR**2) / 2
    )


# %% [markdown]
# ## Coordinate ascent


# %%
@functools.partial(jax.jit, static_argnums=0)
def infer(n, y):
    """Returns expected statistics, and the ELBO after each sweep."""
    nodes = make_nodes(n)
    eta = {
        "z": jnp.zeros((n, 1)),
        "mean": jnp.stack([jnp.asarray(PRIOR), jnp.full(2, -0.5)], 1),
        "weights": jnp.zeros(2),
    }

    def sweep(eta, _):
        for name in ("z", "mean", "weights"):
            eta = nd.inference.step(energy, nodes, eta, name, y)
        return eta, nd.inference.elbo(energy, nodes, eta, y)

    eta, bounds = jax.lax.scan(sweep, eta, length=SWEEPS)
    return nd.inference.expected_statistics(nodes, eta), bounds


# %% [markdown]
# ## Reference by enumeration


# %%
def enumerate_assignments(y):
    """Returns E[z], E[mean], E[mean^2] and the evidence, up to the constants of the energy."""
    z = np.array(list(itertools.product((0, 1), repeat=len(y))))
    counts = np.stack([(z == k).sum(1) for k in (0, 1)], 1)
    sums = np.stack([(z == k) @ y for k in (0, 1)], 1)
    variance = 1 / (1 + counts)
    mean = variance * (PRIOR + sums)
    # Integrals over both means, and over the weights (a ratio of beta functions).
    logs = np.sum(mean**2 / variance / 2 + np.log(2 * np.pi * variance) / 2, 1) - y @ y / 2
    logs = logs + gammaln(counts + 1.0).sum(1) - gammaln(len(y) + 2.0)
    p = np.exp(logs - logsumexp(logs))
    return p @ (z == 0), p @ mean, p @ (mean**2 + variance), logsumexp(logs)


# %% [markdown]
# ## Figure


# %%
def draw(y, found, truth):
    """Plots probabilities of the first component, by observation."""
    figure = Figure(figsize=(5.5, 3.4), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(y)
    axes.plot(y[order], truth[order], "o", color="black", label="sum over assignments")
    axes.plot(y[order], found[order], "x", color="#D55E00", label="message passing")
    axes.set(xlabel="observation", ylabel="probability of the first component", ylim=(-0.02, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


# %% [markdown]
# ## Main program


# %%
def main():
    """Compares message passing with the reference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--observations", type=int, default=12, help="at most 20")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/mixture"))
    options = cells.parse(parser)
    with jax.enable_x64(True):
        y = simulate(options.observations, options.seed)
        nodes = make_nodes(len(y))
        report = nd.inference.check_energy(
            energy, log_joint, nodes, jax.random.key(0), jnp.asarray(y)
        )
        print(f"energy less log joint: {report.constant:.1e}; coupled: {report.coupled or 'none'}")
        stats, bounds = infer(len(y), jnp.asarray(y))
        first, mean, square, evidence = enumerate_assignments(y)
        sd = np.sqrt(square - mean**2)
        found = np.asarray(stats["mean"]["x"])
        found_sd = np.sqrt(np.asarray(stats["mean"]["x2"]) - found**2)
        z = np.asarray(stats["z"]["is"])[:, 0]
    print("exact means   ", *(f"{m:.3f} +/- {s:.3f}" for m, s in zip(mean, sd, strict=True)))
    print(
        "message passing", *(f"{m:.3f} +/- {s:.3f}" for m, s in zip(found, found_sd, strict=True))
    )
    print(f"probabilities of the first component off by at most {np.abs(z - first).max():.3f}")
    print(f"evidence {evidence:.4f}, lower bound {bounds[-1]:.4f}")
    print(f"bound of the last sweep minus that before: {bounds[-1] - bounds[-2]:.1e}")

    cells.save(draw(y, z, first), options.out / "mixture.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
