# %% [markdown]
"""The posterior of an exponential random graph by a learned log-partition.

    python examples/florentine_posterior.py [--labels 512] [--steps 12000]

    p(eta | graph) proportional to exp(eta . T(graph) - A(eta)) p(eta)

Such posteriors are called doubly intractable, because A is a sum over 2^120 graphs. Here a network
learns A once, from labels of E[T]. Each posterior then takes only evaluations of the network, for
data and priors with etas in the training region.

The etas of the labels are drawn below a line. Beyond this line the complete graph has more weight
than all graphs of independent edges together. The model is degenerate there, and the likelihood of
sparse data is almost zero. No label is excluded by hand. Below the line the network learns A of
sparse graphs. The posterior adds the weight of nearly complete graphs, and so ends at the line.
"""

# %%
import argparse
import time
from pathlib import Path

import cells
import jax
import jax.numpy as jnp
import numpy as np
import training
from florentine_marriages import FAMILY, NODES, QUICK, observed_graph
from matplotlib.figure import Figure

import nnef_dists as nd

# %% [markdown]
# ## Training region and prior
#
# Labels end at a line, because the model is degenerate beyond it.

# %%
PAIRS, TRIPLES = NODES * (NODES - 1) // 2, NODES * (NODES - 1) * (NODES - 2) // 6
PRIOR_SD = 2.0


def degenerate_triangles(edges):
    """Returns the eta of triangles with equal weights of complete and independent graphs.

    120 eta1 + 560 eta2 = 120 log(1 + exp(eta1))
    """
    return jax.nn.softplus(-edges) * PAIRS / TRIPLES


def below_degeneracy(key):
    """Draws one eta below the line, often close to the line."""
    key_edges, key_gap = jax.random.split(key)
    edges = jax.random.uniform(key_edges, minval=-3.3, maxval=-0.2)
    # With a smaller gap the complete graph has some mass, which short runs do not estimate.
    gap = 0.015 + 3 * jax.random.uniform(key_gap) ** 1.5
    return jnp.stack([edges, degenerate_triangles(edges) - gap])


def log_prior(eta):
    """Returns the log-density of independent normal distributions, up to a constant."""
    return -jnp.sum(eta**2) / (2 * PRIOR_SD**2)


# %% [markdown]
# ## Posterior


# %%
def log_share_of_others(q, eta):
    """Returns the log-probability of graphs that are not nearly complete.

    At the etas of the labels, only these graphs matter. Nearly complete graphs lack some edges of
    the complete graph, independently of each other.
    """
    each_edge = eta[0] + (NODES - 2) * eta[1]
    nearly_complete = PAIRS * eta[0] + TRIPLES * eta[1] + PAIRS * jax.nn.softplus(-each_edge)
    # If edges are not likely, the graph is not nearly complete. Such etas are far below.
    nearly_complete = jnp.where(each_edge > 1, nearly_complete, -jnp.inf)
    return -jax.nn.softplus(nearly_complete - q.log_partition(eta))


def sample_posterior(q, total, estimate, key, **options):
    """Draws eta. The learned A is for sparse graphs, and the weights account for the others."""

    def log_weight(eta):
        return log_prior(eta) + log_share_of_others(q, eta)

    return nd.inference.sample_natural_posterior(key, q, total, 1, log_weight, estimate, **options)


# %% [markdown]
# ## Learned log-partition


# %%
def learn(labels, steps, seed):
    """Returns the family with A learned from labels below the line."""
    etas = FAMILY.sample_eta(jax.random.key(seed), labels, below_degeneracy)
    data = nd.estimate_moments(FAMILY, etas, jax.random.key(seed + 1), QUICK, progress=True)
    print(data)
    network = nd.LogPartitionNetwork(FAMILY, data, width=64, key=jax.random.key(seed + 2))
    network, _ = training.fit_means(network, data, jax.random.key(seed + 3), steps=steps)
    return anchored(network)


def anchored(network):
    """Returns the family, anchored at A(eta1, 0) = 120 log(1 + exp(eta1)) for independent edges."""
    eta = jnp.array([-1.6, 0.0])
    anchor = nd.moments.LogPartitionEstimate(
        eta, PAIRS * jax.nn.softplus(eta[0]), jnp.zeros(()), "closed form"
    )
    return nd.AmortizedFamily(FAMILY, network, anchor=anchor)


# %% [markdown]
# ## Figure


# %%
def draw(eta, estimate, covariance):
    """Plots posterior draws, the estimate with an ellipse of two standard errors, and the line."""
    figure = Figure(figsize=(5.2, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(*eta[:3000].T, ".", markersize=2, color="#0072B2", alpha=0.4, label="posterior")
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    ellipse = estimate[:, None] + 2 * np.linalg.cholesky(covariance) @ circle
    axes.plot(*ellipse, color="#D55E00", label="maximum likelihood, 2 standard errors")
    axes.plot(*estimate, "+", color="#D55E00")
    edges = np.linspace(-3, -0.3, 100)
    axes.plot(edges, degenerate_triangles(edges), "k--", label="nearly complete graphs above")
    axes.set(xlabel="eta of edges", ylabel="eta of triangles", xlim=(-3, -0.3), ylim=(-2.6, 2.4))
    axes.legend(frameon=False, loc="upper right", markerscale=4)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


# %% [markdown]
# ## Main program


# %%
def main():
    """Learns A and samples the posterior of the marriages."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--labels", type=int, default=512)
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/florentine_posterior"))
    options = cells.parse(parser)
    clock = time.perf_counter()
    q = learn(options.labels, options.steps, options.seed)
    print(f"labels and training: {time.perf_counter() - clock:.0f} s")
    total = FAMILY.sufficient_statistics(observed_graph())
    estimate = q.natural_parameters(total)
    covariance = np.linalg.inv(q.covariance(estimate))
    clock = time.perf_counter()
    posterior = sample_posterior(q, total, estimate, jax.random.key(options.seed + 10), draws=5000)
    eta = np.asarray(posterior.eta).reshape(-1, 2)
    print(f"{len(eta)} independent draws: {time.perf_counter() - clock:.1f} s, with compilation")
    errors = np.sqrt(np.diagonal(covariance))
    rows = zip(FAMILY.stat_names, estimate, errors, eta.mean(0), eta.std(0), strict=True)
    for name, value, error, mean, sd in rows:
        print(f"{name:10s} maximum likelihood {value:.3f} +/- {error:.3f}, "
              f"posterior {mean:.3f} +/- {sd:.3f}")  # fmt: skip
    cells.save(
        draw(eta, np.asarray(estimate), covariance), options.out / "florentine_posterior.png"
    )


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
