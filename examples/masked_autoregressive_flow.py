# %% [markdown]
"""A masked autoregressive flow with a condition, with dropout or with random weights.

    python examples/masked_autoregressive_flow.py [--seed 0] [--steps 1.0] [--out DIR]

The flow consists of flowjax's masked autoregressive layers, with the order of the variables
reversed between them, a standard normal base and a condition c. The layers are affine or take an
analytic bijection of nnef_dists as transformer. Two flows learn from few points:

- With dropout in the conditioners. `draw_dropout` is the training mode. It drops hidden units,
  here independently for each point and step. `equinox.nn.inference_mode` disables dropout.
- With random weights. `bayesianize` makes the weights of a trained flow random. A training step
  draws them. A test takes their means or averages over draws.
"""

# %%
import json

import cells
import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import training
from flowjax.bijections import Affine, Chain, Flip, Invert, MaskedAutoregressive, Scan
from flowjax.distributions import StandardNormal, Transformed

import nnef_dists as nd

# %% [markdown]
# ## Data

# %%
LAYERS = 4
PRIOR = nd.GaussianParameter.from_stdv(0.0, 1.0)


def pinwheel(key, n, arms=5):
    """Returns points of a pinwheel, `(n, 2)`, and the bend of its arms, `(n, 1)`, the condition."""
    arm_key, bend_key, noise_key = jax.random.split(key, 3)
    bend = jax.random.uniform(bend_key, (n,), minval=-1.0, maxval=1.0)
    noise = jax.random.normal(noise_key, (n, 2)) * jnp.array([0.3, 0.08])
    radius, side = 1.0 + noise[:, 0], noise[:, 1]
    arm = jax.random.randint(arm_key, (n,), 0, arms)
    angle = 2 * jnp.pi * arm / arms + bend * radius
    points = jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1) * radius[:, None]
    across = jnp.stack([-jnp.sin(angle), jnp.cos(angle)], 1) * side[:, None]
    return points + across, bend[:, None]


# %% [markdown]
# ## Flow


# %%
def make_flow(transformer, key, dropout=None):
    """Returns autoregressive layers with reversals between them, on a standard normal base."""
    layers = []
    for layer_key in jax.random.split(key, LAYERS):
        layer = MaskedAutoregressive(
            layer_key,
            transformer=transformer,
            dim=2,
            cond_dim=1,
            nn_width=64,
            nn_depth=2,
            nn_activation=jax.nn.silu,
        )
        if dropout is not None:
            layer = eqx.tree_at(
                lambda layer: layer.masked_autoregressive_mlp,
                layer,
                replace_fn=lambda mlp: nd.flows.DropoutConditioner(mlp, dropout),
            )
        layers += [layer, Flip((2,))]
    # A likelihood takes one pass through each layer, and a draw one pass per variable.
    return Transformed(StandardNormal((2,)), Invert(Chain(layers)))


def transformers(key):
    """Returns the affine map, and a stack of analytic bijections between two affine maps."""
    make = eqx.filter_vmap(lambda key: nd.flows.CubicConjugation.random(key, depth=8))
    stack = make(jax.random.split(key, 8))
    return {"affine": Affine(), "analytic": Chain([Affine(), Scan(stack), Affine()])}


# %% [markdown]
# ## Training
#
# Maximum likelihood, dropout, and random weights.


# %%
def negative_log_likelihood(flow, points, condition):
    """Returns the negative log-likelihood, in nats per point."""
    return -jnp.mean(flow.log_prob(points, condition))


def fit(flow, key, *, steps):
    """Fits by maximum likelihood. Returns the flow and the losses."""
    dynamic, static = nd.partition_trainable(flow)

    def loss(dynamic, rest, key):
        return negative_log_likelihood(nd.unfreeze_all(dynamic, static), *pinwheel(key, 256))

    run = training.minimizer(loss, steps=steps, learning_rate=3e-3)
    dynamic, losses = run(dynamic, (), key, "maximum likelihood")
    return nd.unfreeze_all(dynamic, static), losses


def fit_with_dropout(flow, data, key, *, steps):
    """Fits `data` by maximum likelihood with dropout. Returns the flow without dropout."""
    dynamic, static = nd.partition_trainable(flow)
    points, condition = data

    def loss(dynamic, rest, key):
        row_key, drop_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (256,), 0, len(points))
        flow = nd.unfreeze_all(dynamic, static)

        def log_prob(key, point, condition):  # independent dropout for each point
            return nd.flows.draw_dropout(flow, key).log_prob(point, condition)

        keys = jax.random.split(drop_key, len(rows))
        return -jnp.mean(jax.vmap(log_prob)(keys, points[rows], condition[rows]))

    run = training.minimizer(loss, steps=steps, learning_rate=1e-3)
    dynamic, losses = run(dynamic, (), key, "dropout")
    return eqx.nn.inference_mode(nd.unfreeze_all(dynamic, static)), losses


def fit_uncertain(flow, data, key, *, steps):
    """Runs variational inference of all weights from `data`, started at a trained flow."""
    model = nd.bayesianize(flow, init_raw_stdv=0.1)
    dynamic, static = nd.partition_trainable(model)
    points, condition = data

    def loss(dynamic, rest, key):
        row_key, weight_key = jax.random.split(key)
        rows = jax.random.randint(row_key, (256,), 0, len(points))
        model = nd.unfreeze_all(dynamic, static)
        drawn = model.realize(key=weight_key)  # one set of weights per step
        misfit = negative_log_likelihood(drawn, points[rows], condition[rows])
        return misfit + nd.kl_divergence(model, PRIOR) / len(points)

    run = training.minimizer(loss, steps=steps, learning_rate=1e-3)
    dynamic, losses = run(dynamic, (), key, "VI")
    return nd.unfreeze_all(dynamic, static), losses


# %% [markdown]
# ## Main program


# %%
def main():
    options = training.parser(__doc__, "artifacts/masked_autoregressive_flow")
    args = cells.parse(options)
    flow_key, fit_key, vi_key, data_key, test_key, draw_key = jax.random.split(
        jax.random.key(args.seed), 6
    )
    drop_key = jax.random.fold_in(fit_key, 0)
    args.out.mkdir(parents=True, exist_ok=True)
    seconds, flows, curves, held_out = {}, {}, {}, {}
    test = pinwheel(test_key, 20_000)
    evaluate = eqx.filter_jit(negative_log_likelihood)
    for name, transformer in transformers(flow_key).items():
        with training.phase(seconds, name):
            flows[name], curves[name] = fit(
                make_flow(transformer, flow_key), fit_key, steps=round(4000 * args.steps)
            )
        held_out[name] = float(evaluate(flows[name], *test))
        print(f"{name}: {held_out[name]:.4f} nats a point on 20,000 fresh ones")

    few = pinwheel(data_key, 1000 if args.etas is None else args.etas)
    dropout = {}
    with training.phase(seconds, "dropout"):
        for p in (0.0, 0.1):
            fresh = make_flow(Affine(), flow_key, dropout=p)
            dropout[p], _ = fit_with_dropout(fresh, few, drop_key, steps=round(2000 * args.steps))
            held_out[f"few points, dropout {p}"] = float(evaluate(dropout[p], *test))
    in_training = nd.flows.draw_dropout(eqx.nn.inference_mode(dropout[0.1], value=False), drop_key)
    held_out["dropout 0.1, training mode"] = float(evaluate(in_training, *test))
    print(f"{len(few[0])} points: {held_out['few points, dropout 0.0']:.4f} without dropout, "
          f"{held_out['few points, dropout 0.1']:.4f} with; with units dropped as in training "
          f"{held_out['dropout 0.1, training mode']:.4f}")  # fmt: skip

    with training.phase(seconds, "VI"):
        uncertain, _ = fit_uncertain(flows["affine"], few, vi_key, steps=round(2000 * args.steps))
    held_out["means of the weights"] = float(evaluate(uncertain.realize(), *test))
    drawn = [
        float(evaluate(uncertain.realize(key=key), *test)) for key in jax.random.split(draw_key, 8)
    ]
    print(f"uncertain affine: {held_out['means of the weights']:.4f} with means, "
          f"{np.mean(drawn):.4f} +- {np.std(drawn):.4f} with draws")  # fmt: skip
    print("seconds  ", "   ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    summary = {"held_out": held_out, "drawn": drawn, "seconds": seconds}
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    training.save_figures(args.out, {"pinwheel": draw_pinwheel(flows["analytic"], draw_key)})


# %% [markdown]
# ## Figure


# %%
def draw_pinwheel(flow, key):
    """Plots data above and draws below, for three values of the condition."""
    figure, axes = plt.subplots(2, 3, figsize=(9, 6), layout="constrained")
    data_key, draw_key = jax.random.split(key)
    points, condition = pinwheel(data_key, 60_000)
    for column, bend in enumerate((-0.9, 0.0, 0.9)):
        near = jnp.abs(condition[:, 0] - bend) < 0.05
        drawn = flow.sample(draw_key, (int(near.sum()),), jnp.array([bend]))
        for axis, shown, color in ((axes[0, column], points[near], "#222222"),
                                   (axes[1, column], drawn, "#D55E00")):  # fmt: skip
            axis.scatter(*np.asarray(shown).T, s=1.2, lw=0, alpha=0.6, color=color)
            axis.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), aspect="equal", xticks=(), yticks=())
        axes[0, column].set_title(f"c = {bend}")
    axes[0, 0].set_ylabel("data")
    axes[1, 0].set_ylabel("flow")
    return figure


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
