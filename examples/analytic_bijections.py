# %% [markdown]
"""Densities from stacks of analytic bijections: a comb on the line, a spiral in the plane.

    python examples/analytic_bijections.py [--bijection cubic] [--seed 0] [--steps 1.0] [--out DIR]

On the line, 64 scanned layers are fitted to an unnormalized density by reverse KL, without data.
The normalizer is known, so the loss measures the remaining KL divergence. In the plane, a radial
flow moves points along rays, depending on the direction. It is fitted to a spiral by maximum
likelihood.
`--bijection` is `cubic`, `sinh` or `rational`.
"""

# %%
import json
import math

import cells
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import training
from flowjax.bijections import Affine, Chain, Invert, Scan
from flowjax.distributions import Normal, StandardNormal, Transformed

import nnef_dists as nd

# %% [markdown]
# ## Target densities

# %%
BIJECTIONS = {
    "cubic": nd.flows.CubicConjugation,
    "sinh": nd.flows.SinhConjugation,
    "rational": nd.flows.CubicRational,
}
DEPTH = 64
TURNS, SPIRAL_NOISE = 2.5, 0.02


def comb(x):
    """Returns an unnormalized log-density on the line, a quartic well with many modes."""
    wave = jnp.sin(5 * x) * jnp.exp(-5 * x**2)
    return wave + 2 * jnp.cos(10 * x) - 0.2 * x**4


def comb_log_partition():
    """Returns the log of the comb's integral, by a trapezoidal rule that is converged here."""
    x = np.linspace(-8, 8, 100_001)
    wave = np.sin(5 * x) * np.exp(-5 * x**2)
    density = np.exp(wave + 2 * np.cos(10 * x) - 0.2 * x**4)
    return math.log(np.sum(density) * (x[1] - x[0]))


def spiral(key, n):
    """Returns points of a noisy spiral, `(n, 2)`."""
    along_key, noise_key = jax.random.split(key)
    t = jax.random.uniform(along_key, (n,)) * TURNS * 2 * jnp.pi
    points = jnp.stack([t * jnp.cos(t), t * jnp.sin(t)], 1) / 20
    return points + SPIRAL_NOISE * jax.random.normal(noise_key, (n, 2))


# %% [markdown]
# ## Flows


# %%
def stack(make, key, depth=DEPTH, spread=1.0):
    """Returns a scan over many layers of a scalar bijection."""
    layers = eqx.filter_vmap(lambda key: make.random(key, depth=depth, spread=spread))
    return Scan(layers(jax.random.split(key, depth)))


def line_flow(make, key):
    """Returns a normal distribution, transformed by a stack that acts near the modes."""
    return Transformed(Normal(), stack(make, key, spread=1.5))


def spiral_flow(make, key, center=(0.0, 0.0), features=7):
    """Returns a normal distribution, moved along rays by a stack conditioned on the direction.

    Both directions have closed forms. Likelihoods use the faster one, from data to normal samples.
    """
    stack_key, conditioner_key = jax.random.split(key)
    layers = stack(make, stack_key)
    conditioner = nd.flows.DirectionConditioner(
        nd.flows.FourierFeatures(features), nd.flows.conditioner_size(layers), key=conditioner_key
    )
    radial = nd.flows.RadialConditional(layers, conditioner, center=jnp.array(center))
    bijection = Chain([radial, Affine(jnp.zeros(2), jnp.ones(2))])
    return Transformed(StandardNormal((2,)), Invert(bijection))


# %% [markdown]
# ## Losses and training


# %%
def free_energy(flow, key, batch=256):
    """Returns KL(q || p) - log Z of the comb, in nats."""
    x, log_q = flow.sample_and_log_prob(key, (batch,))
    return jnp.mean(log_q - comb(x))


def negative_log_likelihood(flow, points):
    """Returns the negative log-likelihood, in nats per point."""
    return -jnp.mean(flow.log_prob(points))


def fit(flow, loss, key, *, steps, learning_rate, description):
    """Minimizes `loss(flow, key)`. Returns the flow and the losses."""
    dynamic, static = nd.partition_trainable(flow)
    run = training.minimizer(
        lambda dynamic, rest, key: loss(nd.unfreeze_all(dynamic, static), key),
        steps=steps,
        learning_rate=learning_rate,
    )
    dynamic, losses = run(dynamic, (), key, description)
    return nd.unfreeze_all(dynamic, static), losses


# %% [markdown]
# ## Main program


# %%
def main():
    options = training.parser(__doc__, "artifacts/analytic_bijections")
    options.add_argument("--bijection", choices=list(BIJECTIONS), default="cubic")
    args = cells.parse(options)
    make, seconds = BIJECTIONS[args.bijection], {}
    line_key, spiral_key, fit_key, test_key, draw_key = jax.random.split(
        jax.random.key(args.seed), 5
    )
    args.out.mkdir(parents=True, exist_ok=True)

    start = line_flow(make, line_key)
    with training.phase(seconds, "line"):
        line, losses = fit(
            start, free_energy, fit_key, steps=round(2000 * args.steps), learning_rate=1e-2,
            description="comb",
        )  # fmt: skip
    exact = comb_log_partition()
    gap = float(eqx.filter_jit(free_energy)(line, test_key, 100_000)) + exact
    print(f"comb: {gap:.4f} nats above the exact -log Z = {-exact:.4f}")

    with training.phase(seconds, "spiral"):
        plane, nll = fit(
            spiral_flow(make, spiral_key),
            lambda flow, key: negative_log_likelihood(flow, spiral(key, 512)),
            fit_key,
            steps=round(5000 * args.steps),
            learning_rate=1e-2,
            description="spiral",
        )
    held_out = float(eqx.filter_jit(negative_log_likelihood)(plane, spiral(test_key, 20_000)))
    print(f"spiral: {held_out:.4f} nats a point on 20,000 fresh ones")
    print("seconds  ", "   ".join(f"{name} {value:.1f}" for name, value in seconds.items()))

    summary = {"bijection": args.bijection, "gap": gap, "held_out": held_out, "seconds": seconds}
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    training.save_figures(
        args.out,
        {
            "comb": draw_comb(start, line, losses, exact),
            "spiral": draw_spiral(plane, nll, draw_key),
        },
    )


# %% [markdown]
# ## Figures


# %%
def draw_comb(start, flow, losses, exact):
    """Plots the learned and exact densities, and the loss."""
    x = jnp.linspace(-3.5, 3.5, 1501)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 3.4), width_ratios=(2, 1), layout="constrained"
    )
    left.fill_between(x, jnp.exp(comb(x) - exact), color="#D9D9D9", label="target")
    left.plot(x, jnp.exp(start.log_prob(x)), color="#767676", lw=1, ls=":", label="at the start")
    left.plot(x, jnp.exp(flow.log_prob(x)), color="#D55E00", lw=1.3, label="64 layers")
    left.set(xlabel="x", ylabel="density", xlim=(-3.5, 3.5))
    left.legend(frameon=False)
    right.plot(losses, color="#0072B2", lw=0.6)
    right.axhline(-exact, color="#222222", lw=1, ls="--")
    right.text(len(losses), -exact, "exact  ", ha="right", va="bottom", fontsize=8)
    right.set(xlabel="step", ylabel="KL - log Z, nats", ylim=(-exact - 0.2, -exact + 2.0))
    return figure


def draw_spiral(flow, nll, key):
    """Plots data, the learned density and samples from it."""
    data_key, draw_key = jax.random.split(key)
    side = jnp.linspace(-1.0, 1.0, 300)
    grid = jnp.stack(jnp.meshgrid(side, side), -1).reshape(-1, 2)
    density = jnp.exp(eqx.filter_jit(lambda flow, x: flow.log_prob(x))(flow, grid))
    figure, axes = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained")
    dots = {"s": 1.2, "lw": 0, "alpha": 0.6}
    axes[0].scatter(*spiral(data_key, 4000).T, color="#222222", **dots)
    axes[0].set_title("data")
    extent = (-1.0, 1.0, -1.0, 1.0)
    axes[1].imshow(density.reshape(300, 300), origin="lower", extent=extent, cmap="magma", vmax=4.0)
    axes[1].set_title("learned density")
    axes[2].scatter(*flow.sample(draw_key, (4000,)).T, color="#D55E00", **dots)
    axes[2].set_title("draws")
    for axis in axes[:3]:
        axis.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", xticks=(-1, 0, 1), yticks=(-1, 0, 1))
    axes[3].plot(nll, color="#0072B2", lw=0.6)
    axes[3].set(xlabel="step", ylabel="negative log-likelihood, nats", ylim=(-1.0, 1.0))
    return figure


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
