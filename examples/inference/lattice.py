# %% [markdown]
"""A lattice field of 12 x 12 sites: expectation propagation of sites and of rows.

    python examples/inference/lattice.py [--quick]

    log p(x) = sum_i (h_i x_i - x_i^4 / 4) + J sum over neighbors of x_i x_j + constant

with J = 0.25, a random field h and open edges. Four approximations:

- mean field: one factor per site.
- rows: one factor per row of sites, including the bonds in the row (`lattice_rows.py`).
- EP of rows: the same rows, with a Gaussian message to each site from the neighboring rows.
- loopy EP: messages between neighbors as in `double_well_chain.py`, damped, along all edges at once
  in both directions, from flat initial messages. Its evidence is the Bethe approximation.

Mean field and rows give a lower bound of the evidence, but EP does not. E[x y] by EP lacks the
paths around a plaquette of four sites, the main part of its error. Linear response includes them.

With independent factors E[x y] is a product of means. Linear response takes covariances, and so
E[x^2] and E[x y], from the derivatives of the means in the fields. The reference is Hamiltonian
Monte Carlo with its standard error (`lattice_truth.py`).

Reference: Minka, *Expectation propagation for approximate Bayesian inference*, UAI 2001. Yedidia,
Freeman and Weiss, *Constructing free-energy approximations and generalized belief propagation
algorithms*, IEEE Trans. Inf. Theory 51 (2005).
"""

# %%
import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import nnef_dists as nd

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells
import lattice_rows as rows
import lattice_truth as truth_of
from lattice_rows import COUPLING, GRID

# %% [markdown]
# ## Field and edges

# %%
Q = nd.Quadrature(nd.Polynomial1D((1, 2, 3, 4)))
NAMES = ("E[x]", "E[x^2]", "E[x y] across", "E[x y] down")
COLORS = {
    "mean field": "C1",
    "mean field + response": "C3",
    "rows": "C2",
    "rows + response": "C4",
    "EP of rows": "0.5",
    "EP of rows + response": "k",
    "loopy EP": "C0",
}


class Found(NamedTuple):
    """Moments of an approximation, the arrays of `NAMES`, and its evidence in nats."""

    parts: list[np.ndarray]
    log_evidence: float


def make_field(size, seed):
    """Draws the field, `(size, size)`."""
    return np.random.default_rng(seed).normal(0.1, 0.3, (size, size))


def make_edges(size):
    """Returns source, target and reverse edge of all directed edges, across and then down."""
    site = np.arange(size**2).reshape(size, size)
    first = np.concatenate([site[:, :-1].ravel(), site[:-1].ravel()])
    second = np.concatenate([site[:, 1:].ravel(), site[1:].ravel()])
    edge = np.arange(len(first))
    ends = np.concatenate([first, second]), np.concatenate([second, first])
    return *ends, np.concatenate([edge + len(edge), edge])


def by_direction(pairs):
    """Splits E[x y] of all edges into across and down."""
    return [pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]]


# %% [markdown]
# ## Loopy expectation propagation


# %%
def log_message(eta, y):
    """Returns A(eta + J y e_1), by a sum over the grid."""
    x = jnp.asarray(GRID, eta.dtype)
    return jax.nn.logsumexp(jnp.stack([x, x**2, x**3, x**4], 1) @ eta + COUPLING * x * y)


def propagate(field, edges, sweeps, rho=0.9):
    """Returns eta of the marginals, both cavities of each edge, and changes by sweep."""
    zero = np.zeros(field.size)
    sites = jnp.asarray(np.stack([field.ravel(), zero, zero, zero - 0.25], 1), float)
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


# %% [markdown]
# ## Moments and evidence


# %%
def normalized(logs):
    """Returns probabilities on the grid, and the logarithm of the sum."""
    top = logs.max(-1, keepdims=True)
    p = np.exp(logs - top)
    total = p.sum(-1, keepdims=True)
    return p / total, (top + np.log(total))[..., 0]


def summarize(edges, eta, sending, receiving):
    """Returns moments from marginals and pairs, and the Bethe evidence."""
    powers, log_step = np.stack([GRID**k for k in range(1, 5)]), np.log(GRID[1] - GRID[0])
    p, log_sites = normalized(np.asarray(eta, np.float64) @ powers)
    pairs, evidence = [], np.sum(log_sites + log_step)
    half = len(edges[0]) // 2
    sides = (np.asarray(side[:half], np.float64) @ powers for side in (sending, receiving))
    for i, j, one, other in zip(edges[0][:half], edges[1][:half], *sides, strict=True):
        logs = one[:, None] + other + COUPLING * np.outer(GRID, GRID)
        pair, log_pair = normalized(logs.ravel())
        evidence += log_pair - log_sites[i] - log_sites[j]
        pairs.append(GRID @ pair.reshape(logs.shape) @ GRID)
    return Found([p @ GRID, p @ GRID**2, *by_direction(np.array(pairs))], float(evidence))


# %% [markdown]
# ## Mean field


# %%
def mean_field(field, edges, sweeps=300):
    """Runs coordinate ascent on the grid. Returns moments with and without linear response."""
    source, target, _ = edges
    even = np.indices(field.shape).sum(0).ravel() % 2 == 0
    mean = np.zeros(field.size)

    def factors(mean):
        force = COUPLING * np.bincount(target, mean[source], field.size)
        return normalized((field.ravel() + force)[:, None] * GRID - GRID**4 / 4)

    for _ in range(sweeps):
        for color in (even, ~even):
            mean = np.where(color, factors(mean)[0] @ GRID, mean)
    p, log_sums = factors(mean)
    square = p @ GRID**2
    half = len(source) // 2
    products = (mean[source] * mean[target])[:half]
    bound = np.sum(log_sums + np.log(GRID[1] - GRID[0])) - COUPLING * np.sum(products)
    couplings = np.zeros((field.size, field.size))
    couplings[source, target] = COUPLING
    response = rows.linear_response(np.diag(square - mean**2), couplings)
    return {
        "mean field": Found([mean, square, *by_direction(products)], bound),
        "mean field + response": Found(
            rows.with_response(mean.reshape(field.shape), response), bound
        ),
    }


# %% [markdown]
# ## Rows of sites


# %%
def structured(field):
    """Returns moments by rows, the last increase of the ELBO and the last change by EP."""
    size = len(field)
    eta, bounds = rows.infer(field)
    mean, covariance, _ = rows.moments(eta)
    x, square, _, bonds = np.split(mean, [size, 2 * size, 3 * size], 1)
    couplings = rows.make_couplings(size)
    response = rows.linear_response(rows.of_all_sites(covariance), couplings)
    parts = [part.ravel() for part in (x, square, bonds, x[1:] * x[:-1])]
    bound = float(bounds[-1])
    ep, (_, precision) = rows.propagate(field)
    mean, covariance, _ = rows.moments(ep.eta)
    x_ep, square, _, bonds = np.split(mean, [size, 2 * size, 3 * size], 1)
    down = rows.with_response(x_ep, ep.covariance)[-1]
    full = rows.linear_response(rows.of_all_sites(covariance), couplings + np.diag(precision))
    return {
        "rows": Found(parts, bound),
        "rows + response": Found(rows.with_response(x, response), bound),
        "EP of rows": Found([x_ep.ravel(), square.ravel(), bonds.ravel(), down], ep.log_evidence),
        "EP of rows + response": Found(rows.with_response(x_ep, full), ep.log_evidence),
    }, (bounds[-1] - bounds[-2], np.max(np.abs(ep.change)))


# %% [markdown]
# ## Figure and report


# %%
def draw(truth, found):
    """Plots errors of moments by sampled moment."""
    figure = Figure(figsize=(14, 3.8), dpi=160, layout="constrained")
    panels = figure.subplots(1, 4)
    for i, (axes, name) in enumerate(zip(panels, NAMES, strict=True)):
        axes.axhline(0, color="0.7", linewidth=0.8)
        for method, color in COLORS.items():
            error = found[method].parts[i] - truth.mean[i]
            axes.plot(truth.mean[i], error, ".", color=color, markersize=3, label=method)
        axes.set(title=name, xlabel="sampled", ylabel="error" if i == 0 else None)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=7, frameon=False, markerscale=3
    )
    return figure


def report(truth, evidence, found):
    """Prints the table of errors."""
    print(f"{'RMS error':<22}" + "".join(f"{name:>18}" for name in NAMES) + f"{'log Z':>18}")
    base = [
        np.sqrt(np.mean((a - b) ** 2))
        for a, b in zip(found["mean field"].parts, truth.mean, strict=True)
    ]
    for method, one in found.items():
        rms = [np.sqrt(np.mean((a - b) ** 2)) for a, b in zip(one.parts, truth.mean, strict=True)]
        cells = [f"{r:.5f} (/{b / r:.1f})" for r, b in zip(rms, base, strict=True)]
        off = one.log_evidence - evidence[0]
        print(f"{method:<22}" + "".join(f"{cell:>18}" for cell in cells) + f"{off:>+18.3f}")
    noise = [np.sqrt(np.mean(error**2)) for error in truth.error]
    print(
        f"{'standard error of HMC':<22}"
        + "".join(f"{n:>18.5f}" for n in noise)
        + f"{evidence[1]:>18.3f}"
    )


# %% [markdown]
# ## Main program


# %%
def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="4 x 4 sites")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=16, help="runs of 64 chains")
    parser.add_argument("--draws", type=int, default=1_000, help="of each chain")
    parser.add_argument("--out", type=Path, default=Path("results/lattice"))
    options = cells.parse(parser)
    size = 4 if options.quick else 12
    field, edges = make_field(size, options.seed), make_edges(size)
    clock = [time.process_time()]
    *parts, changes = jax.block_until_ready(propagate(field, edges, 12))
    clock.append(time.process_time())
    by_rows, (rise, change) = structured(field)
    clock.append(time.process_time())
    keys = jax.random.split(jax.random.key(options.seed))
    truth = truth_of.sample(field, COUPLING, keys[0], options.runs, options.draws)
    alone = float(np.sum(rows.moments(rows.uncoupled(field))[2]))
    evidence = truth_of.log_evidence(field, alone, keys[1], options.draws)
    clock.append(time.process_time())
    found = {**mean_field(field, edges), **by_rows, "loopy EP": summarize(edges, *parts)}
    print(f"largest change of a message in the last sweep: {changes[-1]:.1e}, rows {change:.1e}")
    print(f"rise of the ELBO by rows in the last sweep: {rise:.1e} nats")
    print(f"largest split R-hat: {truth.rhat:.4f}; log Z = {evidence[0]:.3f}")
    seconds = np.diff(clock)
    print("seconds of processor time: loopy EP {:.0f}, rows {:.0f}, HMC {:.0f}".format(*seconds))
    report(truth, evidence, found)
    cells.save(draw(truth, found), options.out / "lattice.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
