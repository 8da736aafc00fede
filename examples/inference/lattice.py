"""A lattice field of 12 x 12 sites: loopy expectation propagation beside mean field.

    python examples/inference/lattice.py [--quick]

    log p(x) = sum_i (h_i x_i - x_i^4 / 4) + J sum over neighbors of x_i x_j + constant

with J = 0.25, a random field h and open edges. Messages between neighbors are as in
`double_well_chain.py`, and run along all edges at once, in both directions and damped, from flat
ones. On a graph with loops the fixed point is an approximation. The truth is a long run of
Metropolis' algorithm on even and odd sites in turn, with its standard error.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import nnef_dists as nd

COUPLING = 0.25
GRID = np.linspace(-5, 5, 121)
Q = nd.Quadrature(nd.Polynomial1D((1, 2, 3, 4)))


def make_sites(size, seed):
    """Natural parameters of the sites, `(size^2, 4)`."""
    field = np.random.default_rng(seed).normal(0.1, 0.3, size**2)
    return np.stack([field, 0 * field, 0 * field, 0 * field - 0.25], 1)


def make_edges(size):
    """Directed edges: source, target and the number of the reverse edge."""
    site = np.arange(size**2).reshape(size, size)
    first = np.concatenate([site[:, :-1].ravel(), site[:-1].ravel()])
    second = np.concatenate([site[:, 1:].ravel(), site[1:].ravel()])
    edge = np.arange(len(first))
    ends = np.concatenate([first, second]), np.concatenate([second, first])
    return *ends, np.concatenate([edge + len(edge), edge])


def log_message(eta, y):
    """A(eta + J y e_1), by a sum over the grid."""
    x = jnp.asarray(GRID, eta.dtype)
    return jax.nn.logsumexp(jnp.stack([x, x**2, x**3, x**4], 1) @ eta + COUPLING * x * y)


def propagate(sites, edges, sweeps, rho=0.9):
    """Natural parameters of marginals, both cavities of each edge, and changes by sweep."""
    sites = jnp.asarray(sites, float)
    source, target, reverse = edges

    def cavities(messages):
        eta = sites.at[target].add(messages)
        return eta, eta[source] - messages[reverse], eta[target] - messages

    def renew(sending, receiving):
        def log_tilted(y):
            return log_message(sending, y) + Q.family.sufficient_statistics(y) @ receiving

        return nd.inference.project(Q, log_tilted).eta - receiving

    def sweep(messages, _):
        _, sending, receiving = cavities(messages)
        step = rho * (jax.vmap(renew)(sending, receiving) - messages)
        return messages + step, jnp.max(jnp.abs(step))

    @jax.jit
    def run(messages):
        messages, changes = jax.lax.scan(sweep, messages, length=sweeps)
        return *cavities(messages), changes

    return run(jnp.zeros((len(source), 4), sites.dtype))


def powers(x):
    """T(x) of the family."""
    return np.stack([x**k for k in range(1, 5)])


def normalized(logs):
    """Probabilities on the grid."""
    p = np.exp(logs - logs.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def summarize(eta, sending, receiving):
    """E[x], E[x^2] by site and E[x y] by edge."""
    p = normalized(np.asarray(eta, np.float64) @ powers(GRID))
    pairs = []
    for one, other in zip(np.asarray(sending), np.asarray(receiving), strict=True):
        logs = (one @ powers(GRID))[:, None] + other @ powers(GRID)
        pair = normalized((logs + COUPLING * np.outer(GRID, GRID)).ravel()).reshape(logs.shape)
        pairs.append(GRID @ pair @ GRID)
    return p @ GRID, p @ GRID**2, np.array(pairs)


def mean_field(sites, edges, sweeps=300):
    """The same by coordinate ascent, with exact moments on the grid."""
    source, target, _ = edges
    size = int(np.sqrt(len(sites)))
    even = np.indices((size, size)).sum(0).ravel() % 2 == 0
    mean = np.zeros(len(sites))

    def probabilities(mean):
        force = COUPLING * np.bincount(target, mean[source], len(sites))
        return normalized(sites @ powers(GRID) + force[:, None] * GRID)

    for _ in range(sweeps):
        for color in (even, ~even):
            mean = np.where(color, probabilities(mean) @ GRID, mean)
    return mean, probabilities(mean) @ GRID**2, mean[source] * mean[target]


def sample(sites, edges, key, chains=256, sweeps=6_000):
    """The same by Metropolis' algorithm: means over chains, and their standard errors."""
    source, target, _ = edges
    size = int(np.sqrt(len(sites)))
    even = jnp.asarray(np.indices((size, size)).sum(0).ravel() % 2 == 0)
    sites = jnp.asarray(sites, float)

    def one_chain(key):
        def sweep(carry, key):
            x, total = carry
            keys = jax.random.split(key, 4)
            for color, moves, accepts in ((even, *keys[:2]), (~even, *keys[2:])):
                new = x + 1.5 * jax.random.normal(moves, x.shape)
                force = jnp.zeros_like(x).at[target].add(COUPLING * x[source])

                def log_p(x, force=force):
                    stats = jnp.stack([x, x**2, x**3, x**4], 1)
                    return jnp.sum(stats * sites, 1) + force * x

                log_u = jnp.log(jax.random.uniform(accepts, x.shape))
                x = jnp.where(color & (log_u < log_p(new) - log_p(x)), new, x)
            found = x, x**2, x[source] * x[target]
            return (x, jax.tree.map(jnp.add, total, found)), None

        zeros = jnp.zeros(len(sites)), jnp.zeros(len(sites)), jnp.zeros(len(source))
        keys = jax.random.split(key, sweeps)
        (x, _), _ = jax.lax.scan(sweep, (zeros[0], zeros), keys[: sweeps // 10])
        (_, total), _ = jax.lax.scan(sweep, (x, zeros), keys[sweeps // 10 :])
        return jax.tree.map(lambda part: part / (sweeps - sweeps // 10), total)

    means = jax.jit(jax.vmap(one_chain))(jax.random.split(key, chains))
    means = [np.asarray(part, np.float64) for part in means]
    return [m.mean(0) for m in means], [m.std(0) / np.sqrt(chains) for m in means]


def draw(truth, found):
    """Moments by both approximations beside the sampled ones."""
    figure = Figure(figsize=(10, 3.4), dpi=160, layout="constrained")
    names = ("E[x]", "E[x^2]", "E[x y] of neighbors")
    panels = figure.subplots(1, 3)
    for i, (axes, name) in enumerate(zip(panels, names, strict=True)):
        axes.plot(truth[i], truth[i], color="0.7", linewidth=0.8)
        for method, color in (("mean field", "C1"), ("projection", "C0")):
            axes.plot(truth[i], found[method][i], ".", color=color, markersize=3, label=method)
        axes.set(title=name, xlabel="sampled")
    panels[-1].legend(frameon=False)
    return figure


def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 x 4 sites")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/lattice"))
    options = parser.parse_args()
    size = 4 if options.quick else 12
    sites, edges = make_sites(size, options.seed), make_edges(size)
    clock = [time.perf_counter()]
    truth, errors = sample(sites, edges, jax.random.key(options.seed))
    clock.append(time.perf_counter())
    *parts, changes = jax.block_until_ready(propagate(sites, edges, 12))
    clock.append(time.perf_counter())
    print(f"largest change of a message in the last sweep: {changes[-1]:.1e}")
    print(
        f"seconds: {clock[1] - clock[0]:.0f} of sampling, {clock[2] - clock[1]:.0f} of projection"
    )
    found = {"mean field": mean_field(sites, edges), "projection": summarize(*parts)}
    for i, name in enumerate(("x", "x^2", "x y")):
        rms = {m: np.sqrt(np.mean((part[i] - truth[i]) ** 2)) for m, part in found.items()}
        noise = np.sqrt(np.mean(errors[i] ** 2))
        print(
            f"E[{name}]: RMS distance to samples {rms['mean field']:.4f} by mean field, "
            f"{rms['projection']:.4f} by projection; standard error of samples {noise:.4f}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    picture = options.out / "lattice.png"
    draw(truth, found).savefig(picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
