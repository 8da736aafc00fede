# %% [markdown]
"""A chain of 64 double wells: messages are log-partitions, projected back onto the family.

    python examples/inference/double_well_chain.py [--quick]

    log p(x) = sum_i (h_i x_i + 2 a x_i^2 - a x_i^4) + J sum_i x_i x_(i+1) + constant

with a = 1, J = 0.8 and a random field h. A site is in the quartic family (x, x^2, x^3, x^4). With
eta the sum of the natural parameters of site i and of the messages into it, the sum-product message
to the next site y is

    log m(y) = log integral exp(eta . T(x) + J x y) dx = A(eta + J y e_1)

the log-partition of the family along one coordinate. Expectation propagation projects the product
of this message and the other factors of y back onto the family (`project`), forwards and backwards,
until convergence. Mean field is coordinate ascent by `step` on even and odd sites in turn. The
reference is a transfer matrix, which sums over a grid of each site.
"""

# %%
import argparse
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.special import logsumexp

import nnef_dists as nd

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells

# %% [markdown]
# ## Chain

# %%
WELL, COUPLING = 1.0, 0.8
GRID = np.linspace(-3.5, 3.5, 201)
Q = nd.Quadrature(nd.Polynomial1D((1, 2, 3, 4)))


def make_sites(n, seed):
    """Returns natural parameters of the sites, `(n, 4)`."""
    field = np.random.default_rng(seed).normal(0, 0.3, n)
    one = np.ones(n)
    return np.stack([field, 2 * WELL * one, 0 * one, -WELL * one], 1)


# %% [markdown]
# ## Expectation propagation
#
# A message is a log-partition, projected back onto the quartic family.


# %%
def log_message(eta, y):
    """Returns A(eta + J y e_1), by a sum over the grid."""
    x = jnp.asarray(GRID)
    logs = jnp.stack([x, x**2, x**3, x**4], 1) @ eta + COUPLING * x * y
    return jax.nn.logsumexp(logs) + jnp.log(x[1] - x[0])


def pass_messages(log_message, sites, onward, back):
    """Updates the messages from each site to the next, given the messages in the other direction.

    Returns the natural parameters that each site receives from the site before it, `(n, 4)`, and
    the log-integrals over pairs of sites, `(n - 1,)`.
    """

    def one(message, pair):
        site, known = pair

        def log_tilted(y):
            return log_message(site + message, y) + Q.family.sufficient_statistics(y) @ known

        found = nd.inference.project(Q, log_tilted)
        return found.eta - known, (found.eta - known, found.log_integral)

    pairs = sites[:-1], sites[1:] + back[1:]
    _, (messages, log_integrals) = jax.lax.scan(one, onward[0], pairs)
    return onward.at[1:].set(messages), log_integrals


@functools.partial(jax.jit, static_argnums=(1, 2))
def propagate(sites, sweeps, log_message=log_message):
    """Runs expectation propagation. Returns marginals, the evidence, and changes by sweep."""

    def half_sweep(messages, _):
        """Updates the messages in one direction, and reverses the chain."""
        sites, onward, back = messages
        renewed, log_pairs = pass_messages(log_message, sites, onward, back)
        change = jnp.max(jnp.abs(renewed - onward))
        return (sites[::-1], back[::-1], renewed[::-1]), (change, log_pairs)

    flat = jnp.zeros_like(sites)
    (turned, onward, back), (changes, log_pairs) = jax.lax.scan(
        half_sweep, (sites, flat, flat), length=2 * sweeps + 1
    )
    eta = (turned + onward + back)[::-1]
    evidence = jnp.sum(log_pairs[-1]) - jnp.sum(jax.vmap(Q.log_partition)(eta)[1:-1])
    return eta, evidence, jnp.max(changes[:-1].reshape(sweeps, 2), 1)


# %% [markdown]
# ## Mean field


# %%
def mean_field(sites, sweeps):
    """Runs coordinate ascent on even and odd sites in turn. Returns marginals and the ELBO."""
    node = nd.inference.Node(Q, (len(sites) // 2,))
    nodes = {"even": node, "odd": node}
    sites = jnp.asarray(sites)

    def energy(t):
        even, odd = t["even"], t["odd"]
        own = jnp.sum(even.flat * sites[::2]) + jnp.sum(odd.flat * sites[1::2])
        pairs = jnp.sum(even["x"] * odd["x"]) + jnp.sum(odd["x"][:-1] * even["x"][1:])
        return own + COUPLING * pairs

    def sweep(eta, _):
        for name in nodes:
            eta = nd.inference.step(energy, nodes, eta, name)
        return eta, None

    @jax.jit
    def run(eta):
        eta, _ = jax.lax.scan(sweep, eta, length=sweeps)
        return eta, nd.inference.elbo(energy, nodes, eta)

    eta, bound = run({"even": sites[::2], "odd": sites[1::2]})
    return jnp.stack([eta["even"], eta["odd"]], 1).reshape(sites.shape), float(bound)


# %% [markdown]
# ## Reference by a transfer matrix


# %%
def transfer(sites):
    """Returns exact marginals on the grid, `(n, points)`, and the evidence."""
    log_dx = np.log(GRID[1] - GRID[0])
    logs = sites @ np.stack([GRID**k for k in range(1, 5)])
    bond = COUPLING * GRID[:, None] * GRID
    right, left = np.zeros_like(logs), np.zeros_like(logs)
    for i in range(len(sites) - 1):
        right[i + 1] = logsumexp(logs[i] + right[i] + bond, axis=1) + log_dx
        left[-i - 2] = logsumexp(logs[-i - 1] + left[-i - 1] + bond, axis=1) + log_dx
    total = logs + right + left
    log_evidence = logsumexp(total[0]) + log_dx
    return np.exp(total - log_evidence), log_evidence


def moments(density):
    """Returns means and standard deviations of densities on the grid."""
    weights = density / density.sum(1, keepdims=True)
    mean = weights @ GRID
    return mean, np.sqrt(weights @ GRID**2 - mean**2)


def density_of(eta):
    """Returns densities of the family on the grid."""
    logs = np.asarray(eta) @ np.stack([GRID**k for k in range(1, 5)])
    density = np.exp(logs - logs.max(1, keepdims=True))
    return density / (density.sum(1, keepdims=True) * (GRID[1] - GRID[0]))


# %% [markdown]
# ## Figure


# %%
def draw(densities):
    """Plots the means of all sites, and the density of one site."""
    figure = Figure(figsize=(9, 3.4), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    site = len(densities["exact"]) // 2
    for (name, density), style in zip(densities.items(), ("k-", "C0--", "C1:"), strict=True):
        left.plot(moments(density)[0], style, label=name)
        right.plot(GRID, density[site], style, label=name)
    left.set(title="Means", xlabel="site", ylabel="E[x]")
    right.set(title=f"Site {site}", xlabel="x", ylabel="density")
    left.legend(frameon=False)
    return figure


# %% [markdown]
# ## Main program


# %%
def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 sites")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/double_well_chain"))
    options = cells.parse(parser)
    sites = make_sites(16 if options.quick else 64, options.seed)
    exact, log_evidence = transfer(sites)
    densities = {"exact": exact}
    mean, sd = moments(exact)
    with jax.enable_x64(True):
        eta, found, changes = jax.device_get(propagate(jnp.asarray(sites), 4))
        eta_field, bound = mean_field(sites, 100)
    print("largest change of a message by sweep: " + ", ".join(f"{c:.0e}" for c in changes))
    print(f"evidence by transfer matrix: {log_evidence:.4f} nats")
    for name, value, etas in (("projection", found, eta), ("mean field", bound, eta_field)):
        densities[name] = density_of(etas)
        means, sds = moments(densities[name])
        print(
            f"{name}: means within {np.max(np.abs(means - mean) / sd):.1e} sd, variance ratios "
            f"{np.min(sds**2 / sd**2):.6f} to {np.max(sds**2 / sd**2):.6f}, "
            f"evidence off by {value - log_evidence:.1e} nats"
        )
    cells.save(draw(densities), options.out / "double_well_chain.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
