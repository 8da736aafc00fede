"""An exponential random graph of the marriages of Florentine families, with its posterior.

    python examples/florentine_marriages.py [--quick]

    p(graph | eta) proportional to exp(eta1 edges + eta2 triangles)

Sixteen families, 20 marriages and 3 triangles (Padgett and Ansell, *Robust action and the rise of
the Medici*, Am. J. Sociol. 98 (1993)). The normalizer is a sum over 2^120 graphs.

The maximum of the pseudolikelihood, a logistic regression of edges on what they change, gives a
first guess. Labels are made in an ellipse around it, and a network learns A from them. Maximum
likelihood is then the inverse of the moment map, and the posterior an ordinary one. A long run at
the estimate corrects it by one Newton step, and its standard error is the one printed. At the end
graphs are drawn at the estimate, and their degrees and shared partners compared with the data.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import training
from matplotlib.figure import Figure

import nnef_dists as nd

# Acciaiuoli, Albizzi, Barbadori, Bischeri, Castellani, Ginori, Guadagni, Lamberteschi, Medici,
# Pazzi, Peruzzi, Pucci, Ridolfi, Salviati, Strozzi, Tornabuoni
NODES = 16
MARRIAGES = (
    (0, 8), (1, 5), (1, 6), (1, 8), (2, 4), (2, 8), (3, 6), (3, 10), (3, 14), (4, 10),
    (4, 14), (6, 7), (6, 15), (8, 12), (8, 13), (8, 15), (9, 13), (10, 14), (12, 14), (12, 15),
)  # fmt: skip
FAMILY = nd.families.ExponentialRandomGraph(NODES, ("edges", "triangles"))
PRIOR_SD = 5.0
# One sweep over all pairs an iteration.
CONFIG = nd.HMCConfig(leapfrog_steps=1)


def observed_graph():
    """The marriages as a point x of the family."""
    adjacency = np.zeros((NODES, NODES))
    for i, j in MARRIAGES:
        adjacency[i, j] = adjacency[j, i] = 1
    return FAMILY.from_adjacency(adjacency)


def pseudolikelihood(x):
    """Its maximum, and the inverse of its curvature there."""
    stats = FAMILY.sufficient_statistics

    def change(pair):
        return stats(x.at[pair].set(1)) - stats(x.at[pair].set(0))

    changes = jax.vmap(change)(jnp.arange(len(x)))

    def loss(eta):
        return -jnp.sum(jax.nn.log_sigmoid((2 * x - 1) * (changes @ eta)))

    eta = jnp.zeros(FAMILY.eta_dim)
    for _ in range(20):
        eta = eta - jnp.linalg.solve(jax.hessian(loss)(eta), jax.grad(loss)(eta))
    return eta, jnp.linalg.inv(jax.hessian(loss)(eta))


def learn(law, labels, steps, seed):
    """A network of A, from labels at etas of some distribution."""
    keys = jax.random.split(jax.random.key(seed), 6)
    etas = FAMILY.sample_eta(keys[0], labels + labels // 4, law)
    data = nd.estimate_moments(FAMILY, etas, keys[1], CONFIG, progress=True)
    print(data)
    data, unseen = data[:labels], data[labels:]
    network = nd.LogPartitionNetwork(FAMILY, data.only_ok(), width=32, depth=2, key=keys[2])
    network, _ = training.fit_means(
        network, data.only_ok(), keys[3], loss=nd.sobolev_loss, steps=steps
    )
    return nd.validate(nd.AmortizedFamily(FAMILY, network), unseen, tolerance=0.05)


def correct(eta, target, runs, seed):
    """One Newton step from long runs at eta, and the standard error that sampling leaves."""
    config = dataclasses.replace(CONFIG, tile=runs)
    found = nd.estimate_moments(
        FAMILY, jnp.tile(eta, (runs, 1)), jax.random.key(seed), config
    ).only_ok()
    mean, covariance = found.mean.mean(0), found.covariance.mean(0)
    scatter = np.cov(found.mean.T) / len(found)
    inverse = np.linalg.inv(covariance)
    sampling = np.sqrt(np.diagonal(inverse @ scatter @ inverse))
    return eta + inverse @ (target - mean), np.sqrt(np.diagonal(inverse)), sampling


def graph_counts(x):
    """Numbers of nodes by degree, and of edges by the number of shared partners."""
    adjacency = FAMILY.adjacency(x.astype(float))
    degree = jnp.sum(adjacency, 0)
    partners = (adjacency @ adjacency)[np.triu_indices(FAMILY.nodes, 1)]
    bins = jnp.arange(9)
    degrees = jnp.sum(degree[:, None] == bins, 0)
    return degrees, jnp.sum((partners[:, None] == bins[:5]) & (x[:, None] == 1), 0)


def draw(x, posterior, estimate, drawn):
    """The posterior, and goodness of fit by graphs drawn at the estimate."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    eta = np.asarray(posterior.eta).reshape(-1, 2)
    left.scatter(*eta[::4].T, s=2, alpha=0.3, color="#0072B2", label="posterior")
    left.plot(*estimate, "o", color="black", label="maximum likelihood")
    left.set(xlabel="eta of edges", ylabel="eta of triangles")
    left.legend(frameon=False, loc="upper right")
    observed = [np.asarray(part) for part in graph_counts(x)]
    titles = ("degree", "nodes"), ("shared partners", "edges")
    for axes, counts, seen, (name, unit) in zip(
        (middle, right), drawn, observed, titles, strict=True
    ):
        axes.boxplot(np.asarray(counts), positions=np.arange(len(seen)), showfliers=False)
        axes.plot(seen, "o-", color="#D55E00", label="marriages")
        axes.set(xlabel=name, ylabel=f"number of {unit}")
        axes.legend(frameon=False)
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main():
    """Fits the network, and checks the fit."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--labels", type=int, default=512)
    parser.add_argument("--quick", action="store_true", help="128 labels and short runs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/florentine_marriages"))
    options = parser.parse_args()
    labels, steps, runs = (128, 800, 8) if options.quick else (options.labels, 4000, 64)
    x = observed_graph()
    target = FAMILY.sufficient_statistics(x)
    print(f"{target[0]:.0f} edges, {target[1]:.0f} triangles")
    guess, spread = pseudolikelihood(x)
    print(f"pseudolikelihood: edges {guess[0]:.3f}, triangles {guess[1]:.3f}")

    clock = time.perf_counter()
    law = nd.families.ellipsoid_etas(guess, 9 * spread)
    q = learn(law, labels, steps, options.seed)
    print(q)
    learned = q.natural_parameters(target)
    print(f"maximum likelihood by the network: edges {learned[0]:.3f}, triangles {learned[1]:.3f}")
    estimate, errors, sampling = correct(learned, target, runs, options.seed + 1)
    for name, value, error, noise in zip(
        FAMILY.stat_names, estimate, errors, sampling, strict=True
    ):
        print(f"corrected by long runs: {name} {value:.4f}, standard error {error:.3f}, "
              f"of sampling {noise:.4f}")  # fmt: skip

    posterior = nd.inference.sample_natural_posterior(
        jax.random.key(options.seed + 2),
        q,
        target,
        1,
        lambda eta: -jnp.sum(eta**2) / (2 * PRIOR_SD**2),
        learned,
        draws=200 if options.quick else 2000,
    )
    eta = posterior.eta.reshape(-1, 2)
    inside = np.asarray(jax.vmap(q.is_inside)(eta)).mean()
    print(
        f"posterior: edges {eta[:, 0].mean():.3f} +/- {eta[:, 0].std():.3f}, triangles "
        f"{eta[:, 1].mean():.3f} +/- {eta[:, 1].std():.3f}; R-hat {posterior.rhat.max():.3f}, "
        f"{posterior.divergences:.1%} divergent, {inside:.0%} inside; "
        f"{time.perf_counter() - clock:.0f} s in all"
    )
    graphs = q.sample(jax.random.key(options.seed + 3), jnp.asarray(estimate, float), 1000)
    drawn = jax.vmap(graph_counts)(graphs)

    options.out.mkdir(parents=True, exist_ok=True)
    picture = options.out / "florentine_marriages.png"
    draw(x, posterior, estimate, drawn).savefig(picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
