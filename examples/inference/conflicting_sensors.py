# %% [markdown]
"""Two sensors in conflict: a bimodal posterior of a position, and its projections.

    python examples/inference/conflicting_sensors.py

The sensors report the positions -3 and 3.5, with Student's t noise of four degrees of freedom and
scale 0.3. The prior is Normal(0, 5^2). With Gaussian noise the posterior would lie between the
sensors. With t noise it has one mode at each sensor. The script fits a member q of each of three
families to it in two ways:

- `project` matches moments and so minimizes KL(p to q), as in expectation propagation.
- `cvi_message` minimizes KL(q to p), by damped natural-gradient steps.

Both divergences of each q are computed on a grid in double precision.
"""

# %%
import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import nnef_dists as nd

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells

# %% [markdown]
# ## Posterior and families

# %%
SENSORS, SCALE, DEGREES, PRIOR_SD = (-3.0, 3.5), 0.3, 4.0, 5.0
STYLES = {"Gaussian": "C1--", "quartic": "C0-", "sextic": "C2:"}
TITLES = {"project": "Least KL(p to q)", "cvi_message": "Least KL(q to p)"}
GRID = np.linspace(-15, 15, 6001)
LEVELS = (np.arange(256) + 0.5) / 256
FAMILIES = {
    "Gaussian": nd.ClosedForm(nd.GaussianNatural1D()),
    "quartic": nd.Quadrature(nd.Polynomial1D((1, 2, 3, 4))),
    "sextic": nd.Quadrature(nd.Polynomial1D((1, 2, 3, 4, 5, 6))),
}


def log_posterior(x):
    """Returns the log-density of the position, up to a constant."""
    logs = [jax.scipy.stats.t.logpdf(x, DEGREES, sensor, SCALE) for sensor in SENSORS]
    return sum(logs) - x**2 / (2 * PRIOR_SD**2)


# %% [markdown]
# ## Reverse KL
#
# Natural-gradient descent uses draws at equal distances in probability.


# %%
def minimize_reverse(q, eta, steps=400, rho=0.05):
    """Minimizes KL(q to p) by natural-gradient descent from eta."""
    grid, levels = jnp.asarray(GRID, eta.dtype), jnp.asarray(LEVELS, eta.dtype)

    def step(eta, _):
        logs = jax.vmap(q.family.sufficient_statistics)(grid) @ eta
        draws = jnp.interp(levels, jnp.cumsum(jax.nn.softmax(logs)), grid)
        message = nd.inference.cvi_message(log_posterior, q, draws)
        return (1 - rho) * eta + rho * message, None

    return jax.jit(lambda eta: jax.lax.scan(step, eta, length=steps)[0])(eta)


# %% [markdown]
# ## Divergences and figure


# %%
def on_grid(logs):
    """Returns the logarithm of the normalized density on the grid."""
    logs = np.asarray(logs, np.float64)
    logs = logs - logs.max()
    return logs - np.log(np.exp(logs).sum() * (GRID[1] - GRID[0]))


def divergence(log_p, log_q):
    """Returns KL(p to q) in nats."""
    return np.sum(np.exp(log_p) * (log_p - log_q)) * (GRID[1] - GRID[0])


def draw(log_p, found):
    """Plots the posterior and the fitted members, for both directions of KL."""
    figure = Figure(figsize=(9, 3.4), dpi=160, layout="constrained")
    for axes, (title, log_qs) in zip(
        figure.subplots(1, 2, sharey=True), found.items(), strict=True
    ):
        axes.fill_between(GRID, np.exp(log_p), color="0.85", label="posterior")
        for name, log_q in log_qs.items():
            axes.plot(GRID, np.exp(log_q), STYLES[name], label=name)
        axes.set(
            title=TITLES[title],
            xlabel="position",
            xlim=(-7, 7),
            ylim=(0, 1.15 * np.exp(log_p.max())),
        )
        axes.legend(frameon=False)
    return figure


# %% [markdown]
# ## Main program


# %%
def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the sextic")
    parser.add_argument("--out", type=Path, default=Path("results/conflicting_sensors"))
    options = cells.parse(parser)
    families = dict(list(FAMILIES.items())[: 2 if options.quick else None])
    log_p = on_grid(log_posterior(jnp.asarray(GRID)))
    found = {"project": {}, "cvi_message": {}}
    for name, q in families.items():
        projection = nd.inference.project(q, log_posterior)
        # For the Gaussian, KL(q to p) has a minimum at each sensor. The first is the lowest.
        at_sensor = jnp.asarray([SENSORS[0], -0.5]) / SCALE**2
        start = at_sensor if name == "Gaussian" else projection.eta
        etas = {"project": projection.eta, "cvi_message": minimize_reverse(q, start)}
        for method, eta in etas.items():
            stats = np.stack([GRID**k for k in range(1, len(eta) + 1)])
            log_q = np.asarray(eta, np.float64) @ stats - float(q.log_partition(eta))
            found[method][name] = log_q
            print(
                f"{name:>8} by {method:>11}: KL(p to q) {divergence(log_p, log_q):.4f}, "
                f"KL(q to p) {divergence(log_q, log_p):.4f} nats"
            )
        print(f"{name:>8}: the projection's error is at most {projection.error:.1e} z")
    cells.save(draw(log_p, found), options.out / "conflicting_sensors.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
