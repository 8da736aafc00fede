# %% [markdown]
"""An exponential random graph of the marriages of Florentine families.

    python examples/florentine_marriages.py [--quick]

    p(graph | eta) proportional to exp(eta1 edges + eta2 triangles)

Sixteen families, 20 marriages and 3 triangles (Padgett and Ansell, *Robust action and the rise of
the Medici*, Am. J. Sociol. 98 (1993)). The normalizer is a sum over 2^120 graphs.

The initial guess is the maximum of the pseudolikelihood, a logistic regression of edges on their
changes of T. At the maximum of the likelihood, E[T] is the observed T. Newton's method finds it,
with E[T] and Cov[T] from labels of many independent runs. The inverse covariance gives the standard
errors, and the scatter of the runs gives the sampling error. Finally, the degrees and shared
partners of graphs at the estimate are compared with the data.
"""

# %%
import argparse
import time
from pathlib import Path

import cells
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import nnef_dists as nd

# %% [markdown]
# ## Data and family

# %%
# Acciaiuoli, Albizzi, Barbadori, Bischeri, Castellani, Ginori, Guadagni, Lamberteschi, Medici,
# Pazzi, Peruzzi, Pucci, Ridolfi, Salviati, Strozzi, Tornabuoni
NODES = 16
MARRIAGES = (
    (0, 8), (1, 5), (1, 6), (1, 8), (2, 4), (2, 8), (3, 6), (3, 10), (3, 14), (4, 10),
    (4, 14), (6, 7), (6, 15), (8, 12), (8, 13), (8, 15), (9, 13), (10, 14), (12, 14), (12, 15),
)  # fmt: skip
FAMILY = nd.families.ExponentialRandomGraph(NODES, ("edges", "triangles"))
# One sweep over all pairs per iteration.
CONFIG = nd.HMCConfig(leapfrog_steps=1)
QUICK = nd.HMCConfig(leapfrog_steps=1, chains=8, warmup=60, draws=120, tile=16, min_ess=100.0)


def observed_graph():
    """Returns the marriages as a point x of the family."""
    adjacency = np.zeros((NODES, NODES))
    for i, j in MARRIAGES:
        adjacency[i, j] = adjacency[j, i] = 1
    return FAMILY.from_adjacency(adjacency)


# %% [markdown]
# ## Estimation
#
# Newton's method starts at the maximum of the pseudolikelihood.


# %%
def pseudolikelihood(x):
    """Returns the eta that maximizes the pseudolikelihood."""
    stats = FAMILY.sufficient_statistics

    def change(pair):
        return stats(x.at[pair].set(1)) - stats(x.at[pair].set(0))

    changes = jax.vmap(change)(jnp.arange(len(x)))

    def loss(eta):
        return -jnp.sum(jax.nn.log_sigmoid((2 * x - 1) * (changes @ eta)))

    eta = jnp.zeros(FAMILY.eta_dim)
    for _ in range(20):
        eta = eta - jnp.linalg.solve(jax.hessian(loss)(eta), jax.grad(loss)(eta))
    return eta


def correct(eta, target, config, runs, seed):
    """Returns eta after a Newton step, standard errors, and the sampling errors of the runs."""
    found = nd.estimate_moments(
        FAMILY, jnp.tile(eta, (runs, 1)), jax.random.key(seed), config
    ).only_ok()
    mean, covariance = found.mean.mean(0), found.covariance.mean(0)
    scatter = np.cov(found.mean.T) / len(found)
    inverse = np.linalg.inv(covariance)
    sampling = np.sqrt(np.diagonal(inverse @ scatter @ inverse))
    return eta + inverse @ (target - mean), np.sqrt(np.diagonal(inverse)), sampling


# %% [markdown]
# ## Goodness of fit


# %%
def graph_counts(x):
    """Returns the numbers of nodes by degree, and of edges by number of shared partners."""
    adjacency = FAMILY.adjacency(x.astype(float))
    degree = jnp.sum(adjacency, 0)
    partners = (adjacency @ adjacency)[np.triu_indices(FAMILY.nodes, 1)]
    bins = jnp.arange(9)
    degrees = jnp.sum(degree[:, None] == bins, 0)
    return degrees, jnp.sum((partners[:, None] == bins[:5]) & (x[:, None] == 1), 0)


def draw(x, drawn):
    """Plots the goodness of fit of graphs drawn at the estimate."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels = figure.subplots(1, 2)
    observed = [np.asarray(part) for part in graph_counts(x)]
    titles = ("degree", "nodes"), ("shared partners", "edges")
    for axes, counts, seen, (name, unit) in zip(panels, drawn, observed, titles, strict=True):
        axes.boxplot(np.asarray(counts), positions=np.arange(len(seen)), showfliers=False)
        axes.plot(seen, "o-", color="#D55E00", label="marriages")
        axes.set(xlabel=name, ylabel=f"number of {unit}")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


# %% [markdown]
# ## Main program


# %%
def main():
    """Fits the model and checks the fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="short runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/florentine_marriages"))
    options = cells.parse(parser)
    config, runs, rounds = (QUICK, 16, 3) if options.quick else (CONFIG, 64, 6)
    x = observed_graph()
    target = FAMILY.sufficient_statistics(x)
    print(f"{target[0]:.0f} edges, {target[1]:.0f} triangles")
    eta = pseudolikelihood(x)
    print(f"pseudolikelihood: edges {eta[0]:.3f}, triangles {eta[1]:.3f}")
    for number in range(rounds):
        clock = time.perf_counter()
        eta, errors, sampling = correct(eta, target, config, runs, options.seed + number)
        rows = zip(FAMILY.stat_names, eta, errors, sampling, strict=True)
        parts = [f"{name} {value:.4f} +/- {error:.3f} (sampling {noise:.4f})"
                 for name, value, error, noise in rows]  # fmt: skip
        print(f"Newton step {number + 1}: {', '.join(parts)}, {time.perf_counter() - clock:.0f} s")
    graphs, label = nd.moments.sample_gibbs(
        jax.random.key(options.seed + 100), FAMILY, jnp.asarray(eta, float), 1000, config
    )
    print(f"1,000 graphs drawn: {nd.Status(int(label.status)).reason}")
    drawn = jax.vmap(graph_counts)(graphs)

    cells.save(draw(x, drawn), options.out / "florentine_marriages.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
