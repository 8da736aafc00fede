"""Posteriors of random graphs by a learned log-partition, beside sums and the exchange algorithm.

    python tests/benchmarks/bench_graphs.py [seven] [florentine] [hundred] [--quick]

seven       edges and triangles of seven nodes: network and posterior against all 2^21 graphs
florentine  the marriages of sixteen families: labels of all etas below the line at which the
            complete graph outweighs all others, the posterior by a grid and by NUTS, and the
            exchange algorithm, whose auxiliary graphs are swept 30 or 300 times
hundred     Newton steps for edges and triangles of 100 nodes

Errors are in z units. Seconds are processor time, after compilation, unless they are stated.
"""

import dataclasses
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.diagnostics import effective_sample_size

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import florentine_marriages
import training
from florentine_posterior import (
    anchored,
    below_degeneracy,
    degenerate_triangles,
    log_prior,
    sample_posterior,
)

from tests.benchmarks.results import Table, main

GIBBS = florentine_marriages.QUICK


def timed(function, *args):
    """The result, and processor and wall-clock seconds."""
    clocks = time.process_time(), time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return result, time.process_time() - clocks[0], time.perf_counter() - clocks[1]


def new_errors(title):
    return Table(
        title,
        ["etas", "RMS error of edges [z units]", "of triangles", "median of edges",
         "of triangles", "largest"],
    )  # fmt: skip


def report(table, name, z):
    rms, median = np.sqrt(np.mean(z**2, 0)), np.median(np.abs(z), 0)
    table.add(name, *rms, *median, np.max(np.abs(z)))


def learned(family, etas, steps, seed):
    """A network of labels of these etas, and one-off seconds."""
    data, labeling, _ = timed(
        lambda: nd.estimate_moments(family, etas, jax.random.key(seed), GIBBS)
    )
    network = nd.LogPartitionNetwork(family, data, width=64, key=jax.random.key(seed + 1))
    (network, _), learning, _ = timed(
        lambda: training.fit_means(network, data, jax.random.key(seed + 2), steps=steps)
    )
    table = Table(
        f"Labels and training, {family.nodes} nodes",
        ["etas", "valid [%]", "labels [s]", "training steps", "training [s]"],
        "With compilation.",
    )
    table.add(len(data), 100 * data.ok.mean(), labeling, steps, learning)
    return network, labeling + learning


def seven(options):
    """Seven nodes, 9 edges and 2 triangles."""
    family = nd.families.ExponentialRandomGraph(7)
    exact, total = nd.Enumeration(family), jnp.array([9.0, 2.0])
    start = exact.natural_parameters(total)
    # Truth on a grid that holds all of the posterior, and its moments.
    axes = np.linalg.cholesky(np.linalg.inv(np.asarray(exact.covariance(start), np.float64)))
    line = np.linspace(-6, 6, 201)
    points = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    grid = jnp.asarray(np.asarray(start) + points @ axes.T, float)

    def posterior(potential, is_inside):
        def log_density(eta):
            value = eta @ total - potential(eta) + log_prior(eta)
            return jnp.where(is_inside(eta), value, -jnp.inf)

        values = np.asarray(jax.lax.map(log_density, grid, batch_size=1024), np.float64)
        p = np.exp(values - np.nanmax(values))
        return p / np.nansum(p)

    truth = posterior(exact.log_partition, exact.is_inside)
    mean = truth @ np.asarray(grid)
    covariance = (truth[:, None] * (np.asarray(grid) - mean)).T @ (np.asarray(grid) - mean)
    ellipse = nd.families.ellipsoid_etas(mean, options.reach**2 * covariance)
    n, steps = (128, 1000) if options.quick else (4096, 48000)
    network, _ = learned(family, family.sample_eta(jax.random.key(1), n, ellipse), steps, 2)
    q = nd.AmortizedFamily(family, network)
    table = new_errors("Seven nodes: a network beside enumeration")
    for name, etas in (
        ("in the ellipse", family.sample_eta(jax.random.key(10), 512, ellipse)),
        ("draws of the posterior", grid[np.random.default_rng(0).choice(len(truth), 512, p=truth)]),
    ):
        etas = etas[jax.vmap(q.is_inside)(etas)]
        moments = jax.vmap(exact.mean)(etas), jax.vmap(exact.covariance)(etas)
        sd = np.sqrt(np.diagonal(np.asarray(moments[1]), axis1=1, axis2=2))
        report(table, f"{len(etas)} {name}", (np.asarray(jax.vmap(q.mean)(etas)) - moments[0]) / sd)
    found = posterior(q._potential, q.is_inside)
    table = Table("Seven nodes: posterior", ["total variation", "of which outside of the ellipse"])
    table.add(np.abs(found - truth).sum() / 2, truth[found == 0].sum())


def exchange(total, start, scale, sweeps, chains, draws, key):
    """Draws eta by the exchange algorithm; graphs by Gibbs sampling, begun at the data.

    A proposal eta' is accepted with the probability
    min(1, exp((eta' - eta) . (T(x) - T(y)) + log p(eta') - log p(eta))), y ~ p(. | eta').
    Exact if y is: too few sweeps leave y close to the data.
    """
    nodes = florentine_marriages.NODES
    pairs = jnp.stack(jnp.triu_indices(nodes, 1), 1)
    family = florentine_marriages.FAMILY
    data = family.adjacency(florentine_marriages.observed_graph())

    def auxiliary(eta, key):
        def update(graph, inputs):
            (i, j), uniform = inputs
            logit = eta[0] + eta[1] * jnp.sum(graph[i] * graph[j])
            bit = (uniform < jax.nn.sigmoid(logit)).astype(graph.dtype)
            return graph.at[i, j].set(bit).at[j, i].set(bit), None

        def sweep(graph, key):
            uniforms = jax.random.uniform(key, (len(pairs),))
            return jax.lax.scan(update, graph, (pairs, uniforms))[0], None

        graph = jax.lax.scan(sweep, data, jax.random.split(key, sweeps))[0]
        return jnp.stack([jnp.sum(graph) / 2, jnp.sum((graph @ graph) * graph) / 6])

    def step(eta, key):
        key_proposal, key_graph, key_accept = jax.random.split(key, 3)
        proposal = eta + scale @ jax.random.normal(key_proposal, eta.shape)
        ratio = (proposal - eta) @ (total - auxiliary(proposal, key_graph))
        ratio = ratio + log_prior(proposal) - log_prior(eta)
        accepted = jnp.log(jax.random.uniform(key_accept)) < ratio
        eta = jnp.where(accepted, proposal, eta)
        return eta, eta

    @jax.jit
    @jax.vmap
    def run(key):
        return jax.lax.scan(step, start, jax.random.split(key, draws))[1]

    jax.block_until_ready(run(jax.random.split(key, chains)))
    eta, seconds, _ = timed(run, jax.random.split(jax.random.fold_in(key, 1), chains))
    # Chains begin at the estimate.
    return eta[:, draws // 4 :], seconds


def florentine(options):
    """Sixteen families, 20 marriages and 3 triangles."""
    family = florentine_marriages.FAMILY
    total = family.sufficient_statistics(florentine_marriages.observed_graph())
    n, steps = (64, 1000) if options.quick else (512, 12000)
    etas = family.sample_eta(jax.random.key(20), n, below_degeneracy)
    network, one_off = learned(family, etas, steps, 21)
    q = anchored(network)
    fresh = family.sample_eta(jax.random.key(24), 128, below_degeneracy)
    labels = nd.estimate_moments(family, fresh, jax.random.key(25), GIBBS).batch()
    table = new_errors("Sixteen families: a network beside fresh labels")
    z = (jax.vmap(q.mean)(labels.eta) - labels.mean) / labels.sd
    report(table, f"{len(fresh)} fresh etas", z)
    estimate = q.natural_parameters(total)
    errors = np.sqrt(np.diagonal(np.linalg.inv(q.covariance(estimate))))
    table = Table("Sixteen families: maximum likelihood", ["statistic", "eta", "standard error"])
    for row in zip(family.stat_names, estimate, errors, strict=True):
        table.add(*row)
    posterior = Table(
        "Sixteen families: posterior",
        ["method", "edges", "error of edges", "sd of edges", "triangles", "error of triangles",
         "sd of triangles", "effective draws per s", "s"],
        f"Labels and training took {one_off:.0f} s.",
    )  # fmt: skip

    def show(name, eta, ess, seconds):
        mean, sd = np.asarray(eta).reshape(-1, 2).mean(0), np.asarray(eta).reshape(-1, 2).std(0)
        error = sd / np.sqrt(np.asarray(ess))
        rate = float(np.min(ess)) / seconds
        posterior.add(name, mean[0], error[0], sd[0], mean[1], error[1], sd[1], rate, seconds)
        return rate

    rates = {}
    for method, draws in (("grid", 25000), ("nuts", 1000)):

        def sample(seed, method=method, draws=draws):
            key = jax.random.key(seed)
            return sample_posterior(q, total, estimate, key, draws=draws, method=method)

        sample(30)
        found, seconds, _ = timed(sample, 31)
        rates[method] = show(f"{method}, called again", found.eta, found.ess, seconds)
    covariance = np.linalg.inv(np.asarray(q.covariance(estimate), np.float64))
    scale = jnp.asarray(np.linalg.cholesky(covariance) * 1.2, float)
    beyond = []
    for sweeps, chains, draws in ((30, 16, 600), (300, 16, 300)):
        if options.quick:
            draws //= 4
        eta, seconds = exchange(total, estimate, scale, sweeps, chains, draws, jax.random.key(40))
        ess = effective_sample_size(eta)
        rate = show(f"exchange, {sweeps} sweeps", eta, ess, seconds)
        is_beyond = np.asarray(eta[..., 1] > degenerate_triangles(eta[..., 0]))
        mean = np.asarray(eta)[~is_beyond].mean(0)
        beyond.append((sweeps, is_beyond.mean(), *mean, rates["grid"] / rate, rates["nuts"] / rate,
                       one_off * rate))  # fmt: skip
    table = Table(
        "Sixteen families: the exchange algorithm",
        ["sweeps", "share of draws beyond the line", "edges without them", "triangles",
         "rate of the grid / its rate", "rate of NUTS / its rate",
         "effective draws after which labels and training pay off"],
    )  # fmt: skip
    for row in beyond:
        table.add(*row)


def hundred(options):
    """A simulated network of 100 nodes with few triangles, fitted again."""
    family = nd.families.ExponentialRandomGraph(40 if options.quick else 100)
    truth = jnp.array([-3.0, -0.5])
    config = dataclasses.replace(GIBBS, tile=1)
    (graphs, _), seconds, _ = timed(
        lambda: nd.moments.sample_gibbs(jax.random.key(0), family, truth, 4, config)
    )
    target = family.sufficient_statistics(graphs[0].astype(float))
    table = Table(
        f"{family.nodes} nodes: Newton steps for {target[0]:.0f} edges, {target[1]:.0f} triangles",
        ["step", "edges", "standard error", "sampling error", "triangles", "standard error",
         "sampling error", "s"],
        f"The simulation took {seconds:.0f} s.",
    )  # fmt: skip
    eta = truth
    for number in range(2 if options.quick else 3):
        data, seconds, _ = timed(
            lambda eta=eta, number=number: nd.estimate_moments(
                family, eta[None], jax.random.key(1 + number), config
            )
        )
        batch = data.batch()
        inverse = np.linalg.inv(np.asarray(batch.covariance[0], np.float64))
        eta = eta + jnp.asarray(inverse @ np.asarray(target - batch.mean[0]), float)
        errors = np.sqrt(np.diagonal(inverse))
        sampling = np.abs(inverse) @ np.asarray(data.standard_error[0])
        cells = zip(eta, errors, sampling, strict=True)
        table.add(number + 1, *(cell for each in cells for cell in each), seconds)


PARTS = {"seven": seven, "florentine": florentine, "hundred": hundred}


def arguments(parser):
    parser.add_argument("--reach", type=float, default=3.5, help="radius of the ellipse in sd")


if __name__ == "__main__":
    nd.generation.keep_compiled()
    main(__doc__, PARTS, arguments)
