# %% [markdown]
"""Counts at 10,000 sites: a quartic posterior of each log-rate, by natural gradients.

    python examples/inference/poisson_sites.py [--sites 10000] [--quick]

A site has a count y ~ Poisson(exp(x)) and a log-rate x ~ Normal(1, 1). The Gaussian prior is linear
in the statistics of a quartic family (x, x^2, x^3, x^4), and so is part of the energy. The
likelihood is not linear, and `cvi_message` regresses it on the statistics over draws. The family is
closed under shifts and scalings. Each site has a coordinate z = (x - mode) / scale, so float32 is
accurate enough. A fixed grid in z gives draws at equal distances in probability.

Another grid, in double precision, gives KL(q to p) of the quartic and of the best Gaussian. The
logarithm of a logistic likelihood has a positive fourth derivative. Messages then leave the natural
domain of the quartic, and these sites are NaN. Use a Gaussian, the edge of this domain, for them.
`retreat=True` does not help: near the edge a quartic with a cubic term has its mass far away.
"""

# %%
import argparse
import itertools
import sys
import time
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
# ## Likelihoods

# %%
MEAN, SD = 1.0, 1.0  # mean and standard deviation of the prior
# With 64 levels, KL(q to p) of the Gaussian is 3% above its minimum, and of the quartic 90%.
GRID = jnp.linspace(-9.0, 9.0, 257)
LEVELS = (jnp.arange(64) + 0.5) / 64


def log_poisson(x, y):
    """Returns the log-likelihood of a log-rate, up to a constant."""
    return y * x - jnp.exp(x)


def log_logistic(x, y):
    """Returns the log-likelihood of a log-odds."""
    return -jnp.log1p(jnp.exp(-jnp.where(y > 0, x, -x)))


# %% [markdown]
# ## Coordinates and prior of each site


# %%
def find_modes(log_likelihood, y):
    """Returns modes and scales of all sites, by Newton's method."""

    def slope(x, y):
        return jax.grad(log_likelihood)(x, y) - (x - MEAN) / SD**2

    def newton(x, _):
        value, curvature = jax.vmap(jax.value_and_grad(slope))(x, y)
        return x - jnp.clip(value / curvature, -1, 1), curvature

    modes, curvatures = jax.lax.scan(newton, jnp.full_like(y, MEAN), length=30)
    return modes, 1 / jnp.sqrt(-curvatures[-1])


def energy(t, mode, scale):
    """Returns the log prior in statistics of z, up to a constant."""
    z = t["z"]
    linear = 2 * scale * (mode - MEAN) * z["x"]
    return -jnp.sum(linear + scale**2 * z["x2"]) / (2 * SD**2)


# %% [markdown]
# ## Natural-gradient updates


# %%
def draws_of(q, eta):
    """Returns the quantiles of q at the probabilities `LEVELS`."""
    logs = jax.vmap(q.family.sufficient_statistics)(GRID) @ eta
    cumulative = jnp.cumsum(jax.nn.softmax(logs))
    return jnp.interp(LEVELS, cumulative, GRID + (GRID[1] - GRID[0]) / 2)


def make_update(q, log_likelihood, y, rho):
    """Returns a compiled update of all sites, initial eta, modes and scales."""
    nodes = {"z": nd.inference.Node(q, (len(y),))}
    mode, scale = jax.jit(lambda y: find_modes(log_likelihood, y))(y)

    def likelihood_message(eta, y, mode, scale):
        return nd.inference.cvi_message(
            lambda z: log_likelihood(mode + scale * z, y), q, draws_of(q, eta)
        )

    def update(eta):
        extra = jax.vmap(likelihood_message)(eta["z"], y, mode, scale)
        return nd.inference.step(energy, nodes, eta, "z", mode, scale, rho=rho, extra=extra)

    start = jnp.zeros((len(y), q.family.eta_dim)).at[:, 1].set(-0.5)
    if q.family.eta_dim > 2:
        start = start.at[:, -1].set(-0.01)  # inside the natural domain
    return jax.jit(update), {"z": start}, mode, scale


def fit(q, log_likelihood, y, updates=25, rho=0.5):
    """Returns eta after all updates, modes, scales and milliseconds per update."""
    update, eta, mode, scale = make_update(q, log_likelihood, y, rho)
    eta = jax.block_until_ready(update(eta))
    times = []
    for _ in range(updates - 1):
        clock = time.perf_counter()
        eta = jax.block_until_ready(update(eta))
        times.append(1e3 * (time.perf_counter() - clock))
    return np.asarray(eta["z"], float), np.asarray(mode, float), np.asarray(scale, float), times


# %% [markdown]
# ## Divergences


# %%
def log_densities(log_likelihood, eta, mode, scale, y, z):
    """Returns log q and the log posterior at z, normalized on the grid, by site."""
    x = mode[:, None] + scale[:, None] * z
    with jax.enable_x64(True):
        log_p = np.asarray(log_likelihood(jnp.asarray(x), jnp.asarray(y)[:, None]))
    log_p = log_p - (x - MEAN) ** 2 / (2 * SD**2)
    log_q = eta @ np.stack([z**k for k in range(1, eta.shape[1] + 1)])

    def normalize(logs):
        logs = logs - logs.max(1, keepdims=True)
        return logs - np.log(np.exp(logs).sum(1, keepdims=True) * (z[1] - z[0]))

    return normalize(log_q), normalize(log_p)


def divergence(log_likelihood, eta, mode, scale, y):
    """Returns KL(q to p) of each site in nats, in double precision. NaN if eta is NaN."""
    z = np.linspace(-12, 12, 1201)
    found = []
    for rows in np.array_split(np.arange(len(y)), max(len(y) // 500, 1)):
        sites = (eta[rows], mode[rows], scale[rows], y[rows])
        log_q, log_p = log_densities(log_likelihood, *sites, z)
        found.append(np.sum(np.exp(log_q) * (log_q - log_p), 1) * (z[1] - z[0]))
    return np.concatenate(found)


def compare_log_partitions(eta):
    """Returns the largest difference of log-partitions by adaptive quadrature and the grid."""
    family, z = nd.Polynomial1D((1, 2, 3, 4)), np.linspace(-12, 12, 1201)
    batch = jax.vmap(lambda eta: nd.quadrature_moments(family, eta).log_partition)
    found = np.asarray(jax.jit(batch)(jnp.asarray(eta, float)))
    logs = eta @ np.stack([z**k for k in range(1, 5)])
    on_grid = logsumexp(logs, axis=1) + np.log(z[1] - z[0])
    return np.max(np.abs(found - on_grid))


# %% [markdown]
# ## Figure


# %%
def draw(fits, kls, y):
    """Plots the posterior of a site with the smallest count, and all divergences."""
    figure = Figure(figsize=(8.5, 3.4), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2)
    site, z = int(np.argmin(y)), np.linspace(-5, 4, 400)
    for name, style in (("Gaussian", "C1--"), ("quartic", "C0-")):
        eta, mode, scale, _ = (part[site : site + 1] for part in fits[name])
        log_q, log_p = log_densities(log_poisson, eta, mode, scale, y[site : site + 1], z)
        x = mode + scale * z
        if name == "Gaussian":
            left.fill_between(x, np.exp(log_p[0]) / scale, color="0.85", label="exact")
        left.plot(x, np.exp(log_q[0]) / scale, style, label=name)
        right.hist(np.log10(kls[name]), 60, histtype="step", color=style[:2], label=name)
    left.set(title=f"A site with the count {y[site]:.0f}", xlabel="log-rate x", ylabel="density")
    right.set(title="All sites", xlabel="log10 KL(q to p) [nats]", ylabel="sites")
    left.legend(frameon=False)
    right.legend(frameon=False)
    return figure


# %% [markdown]
# ## Main program


# %%
def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=10_000)
    parser.add_argument("--quick", action="store_true", help="300 sites")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/poisson_sites"))
    options = cells.parse(parser)
    rng = np.random.default_rng(options.seed)
    sites = 300 if options.quick else options.sites
    y = rng.poisson(np.exp(rng.normal(MEAN, SD, sites))).astype(float)
    families = {
        "Gaussian": nd.ClosedForm(nd.GaussianNatural1D()),
        "quartic": nd.Quadrature(nd.Polynomial1D((1, 2, 3, 4))),
    }
    likelihoods = {"Poisson": (log_poisson, y), "logistic": (log_logistic, (y > 2).astype(float))}
    fits, kls = {}, {}
    for likelihood, name in itertools.product(likelihoods, families):
        log_likelihood, data = likelihoods[likelihood]
        found = fit(families[name], log_likelihood, jnp.asarray(data, float))
        kl = divergence(log_likelihood, *found[:3], data)
        left = np.isnan(kl).sum()
        middle = "none" if left == sites else f"{np.nanmedian(kl):.2e} nats"
        print(
            f"{likelihood:>8}, {name:>8}: median KL(q to p) {middle}, {left} of {sites} sites "
            f"left the domain, {np.median(found[3]):.0f} ms per update"
        )
        if likelihood == "Poisson":
            fits[name], kls[name] = found, kl
    ratio = np.median(kls["Gaussian"]) / np.nanmedian(kls["quartic"])
    print(f"Poisson: the Gaussian's median is {ratio:.0f} times larger")
    print(
        f"no mass beyond the grid: A within {compare_log_partitions(fits['quartic'][0]):.1e} nats"
    )

    cells.save(draw(fits, kls, y), options.out / "poisson_sites.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
