# %% [markdown]
"""Neural posterior estimation, one step at a time, with the exact posterior beside every answer.

    python examples/npe_from_scratch.py [--seed 0] [--out FOLDER] [--simulations 1000] [--steps 1.0]

The simulator is x = theta + 0.3 sin(2 pi theta) + 0.05 noise, with theta uniform on [0, 1]. A
network that predicts x from theta learns the mean of x. The inverse is ambiguous: three thetas give
x = 0.5. A network therefore predicts the parameters of a distribution: a normal distribution, a
mixture, a flow, or a custom exponential family with a learned log-partition.

`--steps` scales the number of training steps.
"""

# %%
import json

import cells
import equinox as eqx
import jax
import jax.numpy as jnp
import npe
import numpy as np
import training
from flowjax.distributions import Uniform
from matplotlib.figure import Figure

import nnef_dists as nd

# %% [markdown]
# ## Simulator and exact posterior

# %%
NOISE = 0.05
PRIOR = Uniform(jnp.zeros(1), jnp.ones(1))
SUPPORT = nd.BoxSupport(jnp.zeros(1), jnp.ones(1))
FAMILY = nd.Polynomial1D((1, 2, 4))
RANGES = {"x": (-6, 6), "x2": (-8, 5), "x4": (-1.2, -0.8, "log")}
SHOWN = (0.3, 0.5, 0.8)
COLORS = {
    "Gaussian": "#0072B2",
    "mixture": "#D55E00",
    "flow": "#009E73",
    "exponential family": "#CC79A7",
}


def mean_of_x(theta):
    """Returns the output of the simulator without noise."""
    return theta + 0.3 * jnp.sin(2 * jnp.pi * theta)


def simulator(key, theta):
    return mean_of_x(theta) + NOISE * jax.random.normal(key, theta.shape)


@jax.jit
def exact_log_prob(theta, x):
    """Returns the exact posterior log-density of many pairs, by quadrature of the evidence."""
    nodes = (jnp.arange(4096) + 0.5) / 4096

    def one(pair):
        theta, x = pair
        fits = -(((x[0] - mean_of_x(nodes)) / NOISE) ** 2) / 2
        fit = -(((x[0] - mean_of_x(theta[0])) / NOISE) ** 2) / 2
        return fit - jax.nn.logsumexp(fits) + jnp.log(len(nodes) * 1.0)

    return jax.lax.map(one, (theta, x), batch_size=500)


@eqx.filter_jit
def mass(posterior, x):
    """Returns the integrals of q(theta | x) over theta, for many x."""
    theta = (jnp.arange(4000)[:, None] + 0.5) / 4000

    def one(x):
        return jnp.mean(jnp.exp(jax.vmap(posterior.log_prob, (0, None))(theta, x)))

    return jax.lax.map(one, x, batch_size=8)


# %% [markdown]
# ## Main program
#
# The steps lead from regression to posterior heads.


# %%
def main():
    options = training.parser(__doc__, "artifacts/npe_from_scratch")
    options.add_argument("--simulations", type=int, default=1000, help="to train on")
    options.add_argument("--members", type=int, default=6, help="heads in an ensemble")
    args = cells.parse(options)
    seconds = {}
    keys = dict(
        zip(
            ("simulate", "held_out", "forward", "inverse", "family", *COLORS),
            jax.random.split(jax.random.key(args.seed), 5 + len(COLORS)),
            strict=True,
        )
    )

    # 1. Training simulations, and held-out simulations.
    data = nd.simulate(simulator, PRIOR, keys["simulate"], args.simulations)
    held_out = npe.batch_of(nd.simulate(simulator, PRIOR, keys["held_out"], 20_000, progress=False))
    exact = -float(jnp.mean(exact_log_prob(*held_out)))

    # 2. Regression learns means: of x given theta, and of theta given x, which may be unlikely.
    with training.phase(seconds, "regression"):
        steps = round(2000 * args.steps)
        forward, losses = regress(data.theta, data.x, keys["forward"], steps)
        inverse, _ = regress(data.x, data.theta, keys["inverse"], steps)

    # 3. Posterior heads, each an ensemble. The log-partition of the family is learned first, and
    #    is independent of the simulator.
    with training.phase(seconds, "family"):
        q = learn_family(args.etas or 1024, args.steps, keys["family"])
    heads = {
        "Gaussian": lambda key: nd.GaussianPosterior(data, support=SUPPORT, key=key),
        "mixture": lambda key: nd.MixturePosterior(data, 8, support=SUPPORT, key=key),
        "flow": lambda key: nd.FlowPosterior.autoregressive(
            data, layers=1, flow_width=64, depth=2, support=SUPPORT, key=key
        ),
        "exponential family": lambda key: nd.ExponentialFamilyPosterior(
            q, data, support=SUPPORT, key=key
        ),
    }
    posteriors, curves, nll = {}, {}, {}
    for name, make in heads.items():
        with training.phase(seconds, name):
            posteriors[name], history = npe.fit_posterior(
                make,
                data,
                keys[name],
                members=args.members,
                steps=max(50, round(2000 * args.steps / 50) * 50),
            )
        curves[name] = npe.smooth(history)
        # A learned log-partition has an error, so the density is divided by its integral.
        total = np.asarray(mass(posteriors[name], held_out.x[:500]))
        nll[name] = float(npe.mean_nll(posteriors[name], held_out) + np.mean(np.log(total)))
        print(f"{name}: integrates to {total.min():.4f} ... {total.max():.4f}")

    # 4. Comparison with the exact posterior.
    print(f"\n{'negative log-likelihood, nats':<34}{'held out':>9}{'excess':>9}")
    print(f"  {'exact posterior':<32}{exact:9.3f}")
    for name, value in nll.items():
        print(f"  {name:<32}{value:9.3f}{value - exact:9.3f}")
    print_parameters(posteriors["Gaussian"])
    args.out.mkdir(parents=True, exist_ok=True)
    figures = {
        "simulations": draw_simulations(data),
        "regression": draw_regression(data, forward, losses),
        "inverse": draw_inverse(data, inverse),
        "training": draw_training(curves, exact),
        "posteriors": draw_posteriors(posteriors),
        "overlay": draw_overlay(data, posteriors),
    }
    training.save_figures(args.out, figures)
    nd.save(args.out / "mixture.safetensors", posteriors["mixture"])
    summary = {"exact": exact, "nll": nll, "seconds": {k: round(v, 2) for k, v in seconds.items()}}
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print("seconds  ", "   ".join(f"{name} {value:.1f}" for name, value in seconds.items()))


# %% [markdown]
# ## Regression and learned family


# %%
def regress(inputs, targets, key, steps):
    """Fits a network of the mean of targets given inputs, by least squares."""
    k_net, k_run = jax.random.split(key)
    inputs, targets = jnp.asarray(inputs), jnp.asarray(targets)
    net = nd.BayesianMLP(1, 1, 32, 2, bayesian=False, bayesian_bias=False, key=k_net)

    def loss(net, rest, key):
        rows = jax.random.randint(key, (64,), 0, len(inputs))
        return jnp.mean((net(inputs[rows]) - targets[rows]) ** 2)

    return training.minimizer(loss, steps=steps, learning_rate=1e-2)(net, (), k_run, "MSE")


def learn_family(n, steps, key):
    """Learns the log-partition of the quartic family, with one or two modes, from HMC labels."""
    k_etas, k_labels, k_net, k_fit = jax.random.split(key, 4)
    etas = FAMILY.sample_eta(k_etas, n, RANGES)
    data = nd.estimate_moments(FAMILY, etas, k_labels, progress=True)
    network = nd.LogPartitionNetwork(FAMILY, data, key=k_net)
    network, _ = training.fit_means(network, data, k_fit, steps=round(6000 * steps))
    q = nd.AmortizedFamily(FAMILY, network, sampler=nd.distributions.QuadratureSampler())
    fresh = FAMILY.sample_eta(jax.random.fold_in(k_etas, 1), min(n, 128), RANGES)
    q = nd.validate(q, nd.estimate_moments(FAMILY, fresh, jax.random.fold_in(k_labels, 1)))
    print(q)
    return q


def print_parameters(posterior):
    """Prints the mean and standard deviation of u at some observations, by the first member."""
    print("\nthe Gaussian head's parameters, in coordinates u with theta = Phi(u)")
    for x in (0.2, 0.5, 0.8, 1.1):
        law = posterior.parameters(jnp.array([x]))
        mu, sigma = float(law.mean[0, 0]), float(jnp.exp(law.log_variance[0, 0] / 2))
        print(f"  x = {x:.1f}: mu = {mu:6.3f}, sigma = {sigma:.3f}")


# %% [markdown]
# ## Figures


# %%
def panels(*shape, size=(3.4, 2.9)):
    figure = Figure(figsize=(size[0] * shape[1], size[1] * shape[0]), dpi=160, layout="constrained")
    return figure, figure.subplots(*shape, squeeze=False)


def draw_simulations(data):
    """Plots the pairs, with theta on the horizontal axis."""
    figure, ((axes,),) = panels(1, 1, size=(5, 3.6))
    axes.scatter(data.theta, data.x, s=5, color="#555555", alpha=0.5, linewidths=0)
    axes.set(xlabel="θ (parameter)", ylabel="x (observation)", title=f"{len(data)} simulations")
    return figure


def draw_regression(data, forward, losses):
    """Plots the regression of x on theta, and its losses."""
    figure, ((left, right),) = panels(1, 2, size=(4.2, 3.4))
    theta = jnp.linspace(0, 1, 200)
    left.plot(losses, color="#0072B2", linewidth=0.7)
    left.set(yscale="log", xlabel="training step", ylabel="mean squared error")
    left.axhline(NOISE**2, color="black", linestyle=":", label="the noise's variance")
    right.scatter(data.theta, data.x, s=5, color="#999999", alpha=0.4, linewidths=0)
    right.plot(theta, forward(theta[:, None])[:, 0], color="#D55E00", label="network")
    right.plot(theta, mean_of_x(theta), color="black", linestyle=":", label="mean of x")
    right.set(xlabel="θ (parameter)", ylabel="x (observation)", title="regression learns the mean")
    for axes in (left, right):
        axes.legend(frameon=False)
    return figure


def draw_inverse(data, inverse):
    """Plots the simulations, and the least-squares fit of the ambiguous inverse."""
    figure, ((left, right),) = panels(1, 2, size=(4.2, 3.4))
    left.scatter(data.theta, data.x, s=5, color="#999999", alpha=0.4, linewidths=0)
    left.set(xlabel="θ (parameter)", ylabel="x (observation)", title="forward: what is x?")
    x = jnp.linspace(float(data.x.min()), float(data.x.max()), 200)
    right.scatter(data.x, data.theta, s=5, color="#999999", alpha=0.4, linewidths=0)
    right.plot(x, inverse(x[:, None])[:, 0], color="#D55E00", label="least squares")
    right.axvline(0.5, color="black", linestyle="--", linewidth=1, label="x = 0.5")
    right.set(xlabel="x (observation)", ylabel="θ (parameter)", title="inverse: what is θ?")
    right.legend(frameon=False)
    return figure


def draw_training(curves, exact):
    """Plots training and validation losses, averaged over members."""
    figure, ((axes,),) = panels(1, 1, size=(5.6, 3.4))
    for name, (train, held) in curves.items():
        steps = 50 * (1 + np.arange(len(held)))
        axes.plot(steps, train, color=COLORS[name], linewidth=0.8, alpha=0.5)
        axes.plot(steps, held, color=COLORS[name], label=name)
    axes.axhline(exact, color="black", linestyle=":", label="exact posterior")
    top = max(held[-1] for _, held in curves.values())
    axes.set(xlabel="training step", ylabel="negative log-likelihood  [nats]")
    axes.set_ylim(exact - 0.25, top + 1)
    axes.legend(frameon=False, title="unseen simulations (thin: seen)")
    return figure


@eqx.filter_jit
def densities(posterior, theta, x):
    """Returns q(theta | x) on a grid of theta, for several x."""
    by_theta = jax.vmap(posterior.log_prob, (0, None))
    return jnp.exp(jax.vmap(by_theta, (None, 0))(theta, x))


def exact_densities(theta, x):
    """Returns the exact posterior on a grid of theta, for several x."""
    pairs = jnp.tile(theta, (len(x), 1)), jnp.repeat(x, len(theta), 0)
    return np.exp(np.asarray(exact_log_prob(*pairs))).reshape(len(x), -1)


def draw_posteriors(posteriors):
    """Plots the posteriors of all heads at three observations, and the exact posterior."""
    figure, rows = panels(len(posteriors), len(SHOWN), size=(3.1, 1.9))
    theta = (jnp.arange(500)[:, None] + 0.5) / 500
    x = jnp.array(SHOWN)[:, None]
    exact = exact_densities(theta, x)
    for row, (name, posterior) in zip(rows, posteriors.items(), strict=True):
        for axes, truth, learned, at in zip(
            row, exact, densities(posterior, theta, x), SHOWN, strict=True
        ):
            axes.fill_between(theta[:, 0], learned, color=COLORS[name], alpha=0.3, linewidth=0)
            axes.plot(theta[:, 0], learned, color=COLORS[name], label=name)
            axes.plot(theta[:, 0], truth, color="black", linestyle=":", label="exact")
            axes.set(xlim=(0, 1), ylim=(0, 1.25 * truth.max()), title=f"x = {at}")
            axes.set_yticks([])
        row[0].set_ylabel("q(θ | x)")
        row[-1].legend(frameon=False, fontsize=7, loc="upper left")
    for axes in rows[-1]:
        axes.set_xlabel("θ")
    for axes in rows[:-1].ravel():
        axes.set_xticklabels([])
    for axes in rows[1:].ravel():
        axes.set_title("")
    return figure


def draw_overlay(data, posteriors):
    """Plots the posteriors of all heads at five observations over the simulations."""
    figure, (row,) = panels(1, len(posteriors), size=(3.1, 3.4))
    theta = (jnp.arange(400)[:, None] + 0.5) / 400
    at = np.array([0.2, 0.4, 0.6, 0.8, 1.0])
    exact = exact_densities(theta, jnp.asarray(at)[:, None])
    for axes, (name, posterior) in zip(row, posteriors.items(), strict=True):
        axes.scatter(data.x, data.theta, s=4, color="#BBBBBB", alpha=0.4, linewidths=0)
        learned = densities(posterior, theta, jnp.asarray(at)[:, None])
        for x, truth, curve in zip(at, exact, learned, strict=True):
            height = 0.16 / truth.max()
            axes.plot(x + height * truth, theta[:, 0], color="black", linestyle=":", linewidth=1)
            axes.plot(x + height * curve, theta[:, 0], color=COLORS[name], linewidth=1.2)
        axes.set(xlabel="x (observation)", title=name, xlim=(-0.15, 1.25))
    row[0].set_ylabel("θ (parameter)")
    return figure


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
