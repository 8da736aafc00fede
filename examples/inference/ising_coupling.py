# %% [markdown]
"""A noisy picture of spins with unknown coupling: two nodes without closed form.

    python examples/inference/ising_coupling.py

    J ~ Normal(0.3, 0.2),  x | J ~ exp(J bonds(x) - A(J)) on a 4 x 4 grid,  y_i ~ Normal(x_i, 1)

Given J and y, the spins are an Ising model with a field at each site. This family has 17 statistics
and takes an enumeration of 2^16 points. The log joint density is linear in J and A(J), so the
factor of J is a family with these statistics and J^2. It takes quadrature in one dimension. Its
statistic A(J) is the log-partition of the Ising model, which is a sum.

The reference is a grid of J, with a sum over the spins at each J. The script also compares a mean
field of the spins.
"""

# %%
import argparse
import sys
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import nnef_dists as nd

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells

# %% [markdown]
# ## Families
#
# The log-partition of the spins is a statistic of the coupling.

# %%
SIZE, NOISE = 4, 1.0
PRIOR_MEAN, PRIOR_SD = 0.3, 0.2
GRID = nd.Enumeration(nd.families.Ising((SIZE, SIZE)))


def log_normalizer(coupling):
    """Returns A(J) of the grid without a field."""
    return GRID.log_partition(jnp.stack([jnp.zeros_like(coupling), coupling]))


class Coupling(nd.ExponentialFamily):
    """exp(eta1 J + eta2 J^2 + eta3 A(J)), the conjugate prior of the coupling of an Ising model."""

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[nd.families.ProductDomain] = nd.domain(square=nd.negative)

    def compute_stats(self, x):
        """Returns J, J^2 and A(J)."""
        return {"x": x, "square": x**2, "log_normalizer": log_normalizer(x)}


class FieldAtEachSite(nd.ExponentialFamily):
    """exp(sum_i h_i x_i + J bonds(x))."""

    x_shape: ClassVar[tuple[int, ...]] = (SIZE, SIZE)
    natural_domain: ClassVar[nd.families.ProductDomain] = nd.domain()

    @property
    def support(self):
        """Spins on the grid."""
        return nd.Spins(self.x_shape)

    def compute_stats(self, x):
        """Returns the spins and the sum over bonds."""
        return {"x": x, "bonds": GRID.family.compute_stats(x)["neighbors"]}


# %% [markdown]
# ## Energies


# %%
def energy(t, y):
    """Returns the log joint density in statistics, up to constants of normal distributions."""
    coupling, spins = t["coupling"], t["spins"]
    model = coupling["x"] * spins["bonds"] - coupling["log_normalizer"]
    prior = (PRIOR_MEAN * coupling["x"] - coupling["square"] / 2) / PRIOR_SD**2
    return model + prior + jnp.sum(spins["x"] * y) / NOISE**2


def mean_field_energy(t, y):
    """Returns the energy for independent spins, in which a bond is a product of means."""
    x = t["spins"]["is"].reshape(SIZE, SIZE) * -2 + 1
    bonds = jnp.sum(x[1:] * x[:-1]) + jnp.sum(x[:, 1:] * x[:, :-1])
    coupling = t["coupling"]
    model = coupling["x"] * bonds - coupling["log_normalizer"]
    prior = (PRIOR_MEAN * coupling["x"] - coupling["square"] / 2) / PRIOR_SD**2
    return model + prior + jnp.sum(x * y) / NOISE**2


# %% [markdown]
# ## Coordinate ascent


# %%
def coordinate_ascent(energy, nodes, eta, y, order, sweeps):
    """Returns expected statistics after all sweeps, and the ELBO after each sweep."""

    @jax.jit
    def run(eta):
        def sweep(eta, _):
            for name in order:
                eta = nd.inference.step(energy, nodes, eta, name, y)
            return eta, nd.inference.elbo(energy, nodes, eta, y)

        eta, bounds = jax.lax.scan(sweep, eta, length=sweeps)
        return nd.inference.expected_statistics(nodes, eta), bounds

    return run(eta)


def infer(y, sweeps=25):
    """Returns mean and standard deviation of J, E[x] and the ELBO, by structured factors."""
    nodes = {
        "coupling": nd.inference.Node(nd.Quadrature(Coupling())),
        "spins": nd.inference.Node(nd.Enumeration(FieldAtEachSite())),
    }
    start = jnp.array([PRIOR_MEAN / PRIOR_SD**2, -0.5 / PRIOR_SD**2, 0.0])
    eta = {"coupling": start, "spins": jnp.zeros(SIZE**2 + 1)}
    stats, bounds = coordinate_ascent(energy, nodes, eta, y, ("spins", "coupling"), sweeps)
    return summarize(stats, stats["spins"]["x"], bounds)


def infer_mean_field(y, sweeps=25):
    """Returns these results for independent spins, updated by colors of a checkerboard."""
    nodes = {
        "coupling": nd.inference.Node(nd.Quadrature(Coupling())),
        "spins": nd.inference.Node(nd.ClosedForm(nd.families.Categorical(2)), (SIZE**2,)),
    }
    rows, columns = np.divmod(np.arange(SIZE**2), SIZE)
    is_even = jnp.asarray((rows + columns) % 2 == 0)[:, None]
    start = jnp.array([PRIOR_MEAN / PRIOR_SD**2, -0.5 / PRIOR_SD**2, 0.0])

    @jax.jit
    def run(eta):
        def sweep(eta, _):
            for color in (is_even, ~is_even):
                new = nd.inference.step(mean_field_energy, nodes, eta, "spins", y)
                eta = eta | {"spins": jnp.where(color, new["spins"], eta["spins"])}
            eta = nd.inference.step(mean_field_energy, nodes, eta, "coupling", y)
            return eta, nd.inference.elbo(mean_field_energy, nodes, eta, y)

        eta, bounds = jax.lax.scan(sweep, eta, length=sweeps)
        return nd.inference.expected_statistics(nodes, eta), bounds

    stats, bounds = run({"coupling": start, "spins": jnp.zeros((SIZE**2, 1))})
    return summarize(stats, 1 - 2 * stats["spins"]["is"].reshape(SIZE, SIZE), bounds)


# %% [markdown]
# ## Reference by a grid


# %%
def summarize(stats, spins, bounds):
    mean, square = (np.asarray(stats["coupling"][name]) for name in ("x", "square"))
    return mean, np.sqrt(square - mean**2), np.asarray(spins), float(bounds[-1])


def integrate(y):
    """Returns reference results by a grid of J and sums over spins, with the evidence."""
    sites = nd.Enumeration(FieldAtEachSite())
    couplings = jnp.linspace(PRIOR_MEAN - 8 * PRIOR_SD, PRIOR_MEAN + 8 * PRIOR_SD, 401)
    field = jnp.ravel(y) / NOISE**2

    @jax.jit
    def at(coupling):
        eta = jnp.append(field, coupling)
        log_prior = (PRIOR_MEAN * coupling - coupling**2 / 2) / PRIOR_SD**2
        value = sites.log_partition(eta) - log_normalizer(coupling) + log_prior
        return value, sites.mean(eta)[:-1]

    logs, spins = jax.lax.map(at, couplings)
    p = jax.nn.softmax(logs)
    mean = p @ couplings
    step = couplings[1] - couplings[0]
    evidence = jax.nn.logsumexp(logs) + jnp.log(step)
    sd = jnp.sqrt(p @ (couplings - mean) ** 2)
    return float(mean), float(sd), np.asarray(p @ spins).reshape(SIZE, SIZE), float(evidence)


# %% [markdown]
# ## Simulated spins and figure


# %%
def simulate(seed, coupling=0.45):
    """Draws a picture of spins and its noisy observation."""
    eta = jnp.array([0.0, coupling])
    x = GRID.sample(jax.random.key(seed), eta, 1)[0]
    noise = np.random.default_rng(seed).normal(0, NOISE, x.shape)
    return np.asarray(x), np.asarray(x) + noise


def draw(x, y, results):
    """Plots the picture, its observation, and E[x] by all methods."""
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    pictures = {"spins": x, "observed": y} | {name: found[2] for name, found in results.items()}
    panels = figure.subplots(1, len(pictures))
    for axes, (name, picture) in zip(panels, pictures.items(), strict=True):
        axes.imshow(picture, cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_title(name, fontsize=9)
        axes.set(xticks=[], yticks=[])
    figure.colorbar(panels[0].images[0], ax=figure.axes, shrink=0.8, label="E[x]")
    return figure


# %% [markdown]
# ## Main program


# %%
def main():
    """Compares both factorizations with the reference."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/ising_coupling"))
    options = cells.parse(parser)
    with jax.enable_x64(True):
        x, y = simulate(options.seed)
        y = jnp.asarray(y)
        methods = {"exact": integrate, "structured": infer, "mean field": infer_mean_field}
        results = {name: method(y) for name, method in methods.items()}
    mean, sd, spins, evidence = results["exact"]
    for name, (m, s, found, bound) in results.items():
        print(
            f"{name:>10}: J = {m:.4f} +/- {s:.4f}, off by {(m - mean) / sd:.3f} sd, sd ratio "
            f"{s / sd:.3f}; E[x] off by at most {np.abs(found - spins).max():.4f}; evidence or "
            f"bound {bound:.4f}, {bound - evidence:.4f} from the evidence"
        )

    cells.save(draw(x, y, results), options.out / "ising_coupling.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
