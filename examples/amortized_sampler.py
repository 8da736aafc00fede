# %% [markdown]
"""One flow that samples a whole family, trained without data, beside HMC and a learned A(eta).

    python examples/amortized_sampler.py [--family quartic] [--seed 0] [--steps 1.0] [--out DIR]

A flow conditioned on eta is trained by reverse KL over a range of etas. Importance weights of its
draws give a lower bound on A(eta), an estimate of A(eta) and an effective sample size. A network
learns A(eta) independently, from labels. If both disagree, one of them is wrong. `--family` is
`quartic` or `lattice`.
"""

# %%
import json
import time

import cells
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import training
from flowjax.bijections import Affine, Chain, Flip, Scan, TriangularAffine, Vmap

import nnef_dists as nd

# %% [markdown]
# ## Families and ranges

# %%
JOBS = {
    "quartic": (
        nd.Polynomial1D((1, 2, 4)),
        {"x": (-2.0, 2.0), "x2": (-2.0, 2.0), "x4": (-2.0, -0.1, "log")},
    ),
    "lattice": (
        nd.LatticePhi4(10),
        {"x": (-0.5, 0.5), "x2": (-1.0, 1.0), "x4": (-1.0, -0.2), "neighbors": (-0.5, 0.5)},
    ),
}


# %% [markdown]
# ## Flow
#
# A network maps eta to all parameters of the bijection.


# %%
def layers(depth, key):
    """Returns a stack of bijections between two affine maps."""
    # Draws take one quotient per layer, the least of all analytic bijections.
    make = eqx.filter_vmap(lambda key: nd.flows.CubicRational.random(key, depth=depth))
    return Chain([Affine(), Scan(make(jax.random.split(key, depth))), Affine()])


def blocks(n, count, key):
    """Alternates triangular matrices, elementwise stacks and reversals of the coordinates."""
    parts = []
    for block_key in jax.random.split(key, count):
        mixing = TriangularAffine(jnp.zeros(n), jnp.eye(n))
        parts += [mixing, Vmap(layers(4, block_key), axis_size=n), Flip((n,))]
    return Chain(parts)


def make_flow(family, etas, key):
    """Returns a bijection conditioned on eta by a network, called once per eta."""
    bijection_key, net_key = jax.random.split(key)
    cond_dim, shape = family.unconstrained_dim, family.support.shape
    bijection = layers(8, bijection_key) if shape == () else blocks(shape[0], 2, bijection_key)
    net = eqx.nn.MLP(
        cond_dim, nd.flows.conditioner_size(bijection), 64, 2, activation=jax.nn.silu, key=net_key
    )
    # Small initial weights: at the start, the bijection hardly depends on eta.
    last = lambda net: (net.layers[-1].weight, net.layers[-1].bias)  # noqa: E731
    net = eqx.tree_at(last, net, replace_fn=lambda array: 0.1 * array)
    return nd.flows.ConditionalFlow(
        family, nd.flows.ConditionedBijection(bijection, net, cond_dim), etas
    )


# %% [markdown]
# ## Training by reverse KL
#
# It needs no data. Each step draws new etas and new points.


# %%
def train(family, ranges, key, *, steps=4000, batch=512, learning_rate=2e-3):
    """Minimizes reverse KL over new etas in the ranges. Returns the flow and losses, in nats."""
    eta_key, flow_key, run_key = jax.random.split(key, 3)
    flow = make_flow(family, family.sample_eta(eta_key, 4096, ranges), flow_key)
    dynamic, static = nd.partition_trainable(flow)

    def loss(dynamic, rest, key):
        eta_key, draw_key = jax.random.split(key)
        etas = family.sample_eta(eta_key, batch, ranges)
        return nd.flows.free_energy(nd.unfreeze_all(dynamic, static), etas, draw_key)

    run = training.minimizer(loss, steps=steps, learning_rate=learning_rate)
    dynamic, losses = run(dynamic, (), run_key, "reverse KL")
    return nd.unfreeze_all(dynamic, static), losses


# %% [markdown]
# ## Learned log-partition
#
# It comes from labels, so it is independent of the flow.


# %%
@eqx.filter_jit
def weigh(flow, etas, key, n):
    """Returns the importance estimates from n draws of the flow at each eta."""
    keys = jax.random.split(key, len(etas))
    return jax.lax.map(lambda both: flow.importance(*both, n), (keys, etas))


def learned_family(family, ranges, flow, key, *, labels, steps):
    """Returns the family with a learned A(eta) and the flow as sampler, validated on new labels."""
    eta_key, label_key, net_key, fit_key, anchor_key = jax.random.split(key, 5)
    etas = family.sample_eta(eta_key, labels, ranges)
    data = nd.estimate_moments(family, etas, label_key, progress=True)
    network = nd.LogPartitionNetwork(family, data, key=net_key)
    network, _ = training.fit_means(network, data, fit_key, steps=steps)
    fresh = family.sample_eta(jax.random.fold_in(eta_key, 1), min(labels, 128), ranges)
    held_out = nd.estimate_moments(family, fresh, jax.random.fold_in(label_key, 1), progress=True)
    q = nd.AmortizedFamily(family, network, sampler=nd.flows.FlowSampler(flow))
    if q.anchor is not None:  # by quadrature
        return nd.validate(q, held_out)
    found = eqx.filter_jit(flow.importance)(anchor_key, q.center, 65_536)
    anchor = nd.moments.LogPartitionEstimate(
        q.center, found.log_partition, found.log_partition_error, "importance sampling of a flow"
    )
    q = nd.AmortizedFamily(family, network, sampler=q.sampler, anchor=anchor)
    return nd.validate(q, held_out)


# %% [markdown]
# ## Main program


# %%
def main():
    options = training.parser(__doc__, "artifacts/amortized_sampler")
    options.add_argument("--family", choices=list(JOBS), default="quartic")
    args = cells.parse(options)
    family, ranges = JOBS[args.family]
    flow_key, q_key, eta_key, weigh_key, draw_key = jax.random.split(jax.random.key(args.seed), 5)
    args.out.mkdir(parents=True, exist_ok=True)
    seconds = {}

    with training.phase(seconds, "flow"):
        flow, losses = train(family, ranges, flow_key, steps=max(2, round(4000 * args.steps)))
    with training.phase(seconds, "A(eta)"):
        q = learned_family(
            family,
            ranges,
            flow,
            q_key,
            labels=2048 if args.etas is None else args.etas,
            steps=round(12000 * args.steps),
        )
    print(q)

    etas = family.sample_eta(eta_key, 256, ranges)
    found = weigh(flow, etas, weigh_key, 4096)
    learned = jax.jit(jax.vmap(q.log_partition))(etas)
    gap = np.asarray(learned - found.bound)
    apart = np.asarray(jnp.abs(learned - found.log_partition))
    above = gap < -4 * np.asarray(found.bound_error) - 0.01
    print(f"effective draws of 100: median {100 * np.median(found.efficiency):.1f}, "
          f"least {100 * found.efficiency.min():.1f}")  # fmt: skip
    print(f"learned A(eta) - the flow's bound (its KL): median {np.median(gap):.5f} nats, "
          f"largest {gap.max():.4f}")  # fmt: skip
    print(f"learned A(eta) and the flow's estimate: median {np.median(apart):.5f} nats apart, "
          f"most {apart.max():.4f}")  # fmt: skip
    print("consistent: " + ("no bound exceeds A(eta)" if not above.any() else
          f"NO, the bound exceeds A(eta) at {above.sum()} of {len(etas)} etas"))  # fmt: skip
    flow_rate, hmc_rate = rates(q, etas[0], draw_key)
    print(f"draws a second at one eta: {flow_rate:.3g}, by HMC {hmc_rate:.3g} effective ones")
    print("seconds  ", "   ".join(f"{name} {value:.1f}" for name, value in seconds.items()))

    summary = {
        "efficiency": float(np.median(found.efficiency)),
        "kl": float(np.median(gap)),
        "apart": float(np.median(apart)),
        "bounds_above": int(above.sum()),
        "draws_per_second": {"flow": flow_rate, "hmc": hmc_rate},
        "seconds": seconds,
    }
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    training.save_figures(
        args.out,
        {
            "draws": draw_samples(q, etas[:6], draw_key),
            "consistency": draw_consistency(found, learned, losses),
        },
    )


# %% [markdown]
# ## Speed


# %%
def rates(q, eta, key, n=10_000):
    """Returns draws per second of the flow, and effective draws per second of compiled HMC."""
    draw = eqx.filter_jit(lambda q, key: q.sample(key, eta, n))
    jax.block_until_ready(draw(q, key))
    start = time.perf_counter()
    jax.block_until_ready(draw(q, key))
    flow_rate = n / (time.perf_counter() - start)
    hmc = jax.jit(lambda key: nd.moments.sample_hmc(key, q.family, eta, n))
    jax.block_until_ready(hmc(key))
    start = time.perf_counter()
    _, label = jax.block_until_ready(hmc(key))
    return flow_rate, float(jnp.median(label.ess)) / (time.perf_counter() - start)


# %% [markdown]
# ## Figures


# %%
def draw_samples(q, etas, key):
    """Plots the flow's draws with the learned density, or with HMC in many dimensions."""
    figure, axes = plt.subplots(2, 3, figsize=(10, 5), layout="constrained")
    for axis, eta, eta_key in zip(axes.flat, etas, jax.random.split(key, len(etas)), strict=True):
        flow_key, hmc_key = jax.random.split(eta_key)
        x = np.asarray(q.sample(flow_key, eta, 20_000)).reshape(20_000, -1)
        low, high = np.quantile(x, (0.0005, 0.9995))
        edges = np.linspace(low, high, 80)
        axis.hist(x.ravel(), edges, density=True, color="#E69F00", alpha=0.6, label="flow")
        if x.shape[1] == 1:
            density = jnp.exp(jax.vmap(lambda x, eta=eta: q.log_prob(x, eta))(jnp.asarray(edges)))
            axis.plot(edges, density, color="#222222", lw=1.2, label="learned density")
        else:
            exact, _ = nd.moments.sample_hmc(hmc_key, q.family, eta, 20_000)
            axis.hist(np.ravel(exact), edges, density=True, histtype="step", color="#222222",
                      label="HMC")  # fmt: skip
        values = ", ".join(f"{value:.2f}" for value in eta)
        axis.set_title(f"eta = ({values})", fontsize=8)
        axis.set(yticks=[])
    axes.flat[0].legend(frameon=False, fontsize=8)
    return figure


def draw_consistency(found, learned, losses):
    """Plots the losses, the gap between A(eta) and the bound, and the efficiency of the draws."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    window = max(1, len(losses) // 40)
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    axes[0].plot(losses, color="#0072B2", lw=0.6, alpha=0.3)
    axes[0].plot(np.arange(len(smooth)) + window, smooth, color="#0072B2", label="running mean")
    axes[0].legend(frameon=False, fontsize=8)
    axes[0].set(xlabel="step", ylabel="KL - A, nats")
    low, high = np.quantile(losses, (0.0, 0.98))
    axes[0].set_ylim(low - 0.05 * (high - low), high)
    axes[1].errorbar(learned, learned - found.bound, 2 * found.bound_error, fmt=".", ms=3, lw=0.6,
                     color="#D55E00")  # fmt: skip
    axes[1].axhline(0, color="#222222", lw=0.8, ls="--")
    axes[1].set(xlabel="learned A(eta), nats", ylabel="A(eta) - bound, nats")
    axes[2].hist(found.efficiency, 40, color="#009E73")
    axes[2].set(xlabel="effective draws / draws", ylabel="etas")
    return figure


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
