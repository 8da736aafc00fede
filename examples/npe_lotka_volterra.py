# %% [markdown]
"""Rates of predator and prey from noisy counts: posterior estimation with diffrax.

    python examples/npe_lotka_volterra.py [--seed 0] [--out FOLDER] [--simulations 2000]

The simulator solves the Lotka-Volterra equations

    d prey / dt = a prey - b prey predator,    d predator / dt = -c predator + d prey predator

and observes both populations at 20 times, with log-normal noise. Rates have a log-uniform prior. A
mixture head with a convolutional embedding of the series learns all posteriors. One truncated round
refines the posterior of the observation. The likelihood is known here, so importance weights
correct and measure the remaining error.
"""

# %%
import json

import cells
import diffrax
import jax
import jax.numpy as jnp
import npe
import numpy as np
import training
from flowjax.distributions import Uniform
from jax.scipy.stats import norm
from matplotlib.figure import Figure

import nnef_dists as nd

# %% [markdown]
# ## Prior and simulator

# %%
NAMES = ("log a", "log b", "log c", "log d")
LOW, HIGH = jnp.log(jnp.array([0.5, 0.02, 0.5, 0.01])), jnp.log(jnp.array([2.0, 0.15, 2.0, 0.1]))
PRIOR = Uniform(LOW, HIGH)
TRUTH = jnp.log(jnp.array([1.0, 0.05, 1.0, 0.04]))
TIMES = jnp.linspace(0.5, 10.0, 20)
NOISE = 0.15


def log_populations(theta):
    """Returns log prey and log predators at all times, `(20, 2)`. Logarithms avoid overflow."""

    def slope(t, y, rates):
        a, b, c, d = rates
        return jnp.array([a - b * jnp.exp(y[1]), d * jnp.exp(y[0]) - c])

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Tsit5(),
        0.0,
        10.0,
        None,
        jnp.log(jnp.array([30.0, 10.0])),
        args=jnp.exp(theta),
        saveat=diffrax.SaveAt(ts=TIMES),
        stepsize_controller=diffrax.PIDController(rtol=1e-4, atol=1e-4),
        max_steps=1000,
        throw=False,
    )
    return jnp.asarray(solution.ys)


def simulator(key, theta):
    noise = jax.random.normal(key, (len(TIMES), 2))
    return log_populations(theta) + NOISE * noise


def log_target(theta, x):
    """Returns log-prior plus log-likelihood."""
    return PRIOR.log_prob(theta) + jnp.sum(norm.logpdf(x, log_populations(theta), NOISE))


# %% [markdown]
# ## Main program


# %%
def main():
    options = training.parser(__doc__, "artifacts/npe_lotka_volterra")
    options.add_argument("--simulations", type=int, default=2000, help="in each of two rounds")
    options.add_argument("--draws", type=int, default=4000, help="of the posterior")
    args = cells.parse(options)
    seconds = {}
    k_x, k_first, k_fit, k_cut, k_more, k_again, k_draw = jax.random.split(
        jax.random.key(args.seed), 7
    )
    observed = simulator(k_x, TRUTH)

    # 1. All posteriors at once.
    with training.phase(seconds, "simulations"):
        data = nd.simulate(simulator, PRIOR, k_first, args.simulations)
    print(data)
    with training.phase(seconds, "training"):
        posterior = learn(data, k_fit, args.steps)

    # 2. One more round, in the region with the mass of this posterior. The loss needs no
    #    correction if all simulations are from this region.
    truncated = nd.posterior.truncate_prior(PRIOR, posterior, observed, k_cut, n=2000)
    print(f"the truncated prior keeps {float(truncated.acceptance):.2%} of the prior")
    with training.phase(seconds, "simulations"):
        more = nd.simulate(simulator, truncated, k_more, args.simulations)
    with training.phase(seconds, "training"):
        sharper = learn(more, k_again, args.steps)

    # 3. The distance of both from the exact posterior, by importance weights.
    report, draws = {}, {}
    for name, head in (("first round", posterior), ("truncated round", sharper)):
        with training.phase(seconds, "draws"):
            theta, weights = corrected(head, observed, k_draw, args.draws)
        draws[name] = np.asarray(theta)
        report[name] = {"ess": float(weights.ess), "pareto_k": float(weights.pareto_k)}
        print(
            f"{name}: {weights.ess:.0f} effective of {args.draws} draws, Pareto k "
            f"{weights.pareto_k:.2f}"
        )
    exact = np.exp(np.asarray(weights.log_weights))
    args.out.mkdir(parents=True, exist_ok=True)
    figures = {
        "marginals": draw_marginals(draws, exact),
        "predictions": draw_predictions(draws["truncated round"], exact, observed),
    }
    training.save_figures(args.out, figures)
    nd.save(args.out / "posterior.safetensors", sharper)
    report["seconds"] = {name: round(value, 2) for name, value in seconds.items()}
    (args.out / "summary.json").write_text(json.dumps(report, indent=2) + "\n")
    print("seconds  ", "   ".join(f"{name} {value:.1f}" for name, value in seconds.items()))


# %% [markdown]
# ## Training and importance weights


# %%
def learn(data, key, steps):
    """Returns an ensemble of mixture heads, with an embedding of the series."""

    def make(key):
        k_embedding, k_head = jax.random.split(key)
        embedding = nd.posterior.SeriesEmbedding(data.x_shape, 32, key=k_embedding)
        support = nd.BoxSupport(LOW, HIGH)
        return nd.MixturePosterior(
            data, 4, support=support, embedding=embedding, width=64, depth=2, key=k_head
        )

    steps = max(50, round(1500 * steps / 50) * 50)
    return npe.fit_posterior(make, data, key, members=3, steps=steps, learning_rate=3e-3)[0]


def corrected(head, observed, key, n):
    """Returns draws of the head, and their importance weights for the exact posterior."""

    @jax.jit
    def run(head):
        theta = head.sample(key, observed, n)
        log_q = jax.lax.map(lambda t: head.log_prob(t, observed), theta, batch_size=500)
        target = jax.lax.map(lambda t: log_target(t, observed), theta, batch_size=500)
        return theta, nd.posterior.importance_weights(theta, log_q, target)

    return run(head)


# %% [markdown]
# ## Figures


# %%
def draw_marginals(draws, exact):
    """Plots the marginals of each rate in both rounds, and corrected by weights."""
    figure = Figure(figsize=(10, 2.8), dpi=160, layout="constrained")
    colors = {"first round": "#0072B2", "truncated round": "#D55E00"}
    panels = figure.subplots(1, 4)
    for i, axes in enumerate(panels):
        last = draws["truncated round"][:, i]
        low, high = np.quantile(np.concatenate([d[:, i] for d in draws.values()]), [0.001, 0.999])
        bins = np.linspace(low, high, 40)
        for name, theta in draws.items():
            axes.hist(theta[:, i], bins, density=True, histtype="step", color=colors[name],
                      label=name)  # fmt: skip
        axes.hist(last, bins, weights=exact, density=True, histtype="stepfilled", color="#BBBBBB",
                  alpha=0.6, label="corrected by weights")  # fmt: skip
        axes.axvline(float(TRUTH[i]), color="black", linestyle=":", label="true parameter")
        axes.set(xlabel=NAMES[i], yticks=[])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4,
                  frameon=False)  # fmt: skip
    return figure


def draw_predictions(theta, exact, observed):
    """Plots the populations predicted by posterior draws, and the observation."""
    rows = np.random.default_rng(0).choice(len(theta), 200, p=exact / exact.sum())
    curves = np.exp(np.asarray(jax.jit(jax.vmap(log_populations))(jnp.asarray(theta[rows]))))
    figure = Figure(figsize=(7, 3.2), dpi=160, layout="constrained")
    axes = figure.subplots()
    for i, (name, color) in enumerate((("prey", "#0072B2"), ("predator", "#D55E00"))):
        low, high = np.quantile(curves[..., i], [0.05, 0.95], axis=0)
        axes.fill_between(TIMES, low, high, color=color, alpha=0.3, linewidth=0)
        axes.plot(TIMES, np.exp(observed[:, i]), "o", color=color, markersize=4, label=name)
    axes.set(xlabel="time", ylabel="population", title="90 % of the posterior's trajectories")
    axes.legend(frameon=False)
    return figure


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
