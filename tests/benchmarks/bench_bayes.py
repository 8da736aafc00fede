"""Tracing, compilation and steps of Bayesian layers, beside a loop over parameters.

    python tests/benchmarks/bench_bayes.py [trace] [step] [laplace] [local] [--slow] [--quick]

The peer is today's practice: a loop
that replaces one parameter at a time with `eqx.tree_at`, one PRNG key and one draw for each.
Times are minima over repeats, taken in turn so that a busy machine weighs on all alike.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from nnef_dists.bayes import (
    AbstractParameter,
    BayesianLinear,
    BayesianMLP,
    LaplacianParameter,
    gaussian_entropy,
    is_parameter,
    sample_all_parameters,
)

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.results import Table, main


def tree_at_loop(model: Any, key: jax.Array) -> Any:
    """Samples by today's practice: find the i-th parameter, draw it, replace it, again."""

    def parameters(tree: Any) -> list[AbstractParameter]:
        return [p for p in jax.tree.leaves(tree, is_leaf=is_parameter) if is_parameter(p)]

    for i, k in enumerate(jax.random.split(key, len(parameters(model)))):
        law = parameters(model)[i]
        draw = law.mean + law.stdv * jax.random.normal(k, law.shape)
        model = eqx.tree_at(lambda tree, i=i: parameters(tree)[i].mean, model, draw)
    return model


def trace_and_compile(sample: Callable[..., Any], depth: int) -> tuple[float, float]:
    model = BayesianMLP(16, 16, width=16, depth=depth - 1, key=jax.random.key(0))
    key = jax.random.key(1)
    jax.clear_caches()
    start = time.perf_counter()
    traced = jax.jit(sample).trace(model, key)
    traced_at = time.perf_counter()
    lowered = traced.lower()
    lowered_at = time.perf_counter()
    lowered.compile()
    return traced_at - start, time.perf_counter() - lowered_at


def bench_trace(options) -> None:
    trace_and_compile(sample_all_parameters, 2)
    trace_and_compile(tree_at_loop, 2)
    ours: dict[int, list[tuple[float, float]]] = {100: [], 200: [], 400: []}
    peer: dict[int, list[tuple[float, float]]] = {100: [], 200: []}
    slow = options.slow
    for repeat in range(options.repeats):
        for depth, times in ours.items():
            times.append(trace_and_compile(sample_all_parameters, depth))
        if repeat == 0 or slow:
            peer[100].append(trace_and_compile(tree_at_loop, 100))
        if slow and repeat == 0:
            peer[200].append(trace_and_compile(tree_at_loop, 200))
    table = Table(
        "`sample_all_parameters` on a network of width 16",
        ["program", "layers", "trace [s]", "compile [s]"],
    )
    best = {}
    for name, rows in (("ours", ours), ("tree_at loop", peer)):
        for depth, times in rows.items():
            if times:
                trace, compile_ = (min(column) for column in zip(*times, strict=True))
                best[name, depth] = trace, compile_
                table.add(name, depth, trace, compile_)
    ratios = Table(
        "Ratios of these",
        ["of seconds to", "400 layers / 100 layers", "loop / ours, 100 layers"],
        "Bounds: at most 5 to trace 400 layers, at least 4 over the loop.",
    )
    for i, what in enumerate(("trace", "compile")):
        grows = best["ours", 400][i] / best["ours", 100][i]
        faster = best["tree_at loop", 100][i] / best["ours", 100][i]
        ratios.add(what, grows, faster)


def scanned_step(model: Any, loss: Callable[..., jax.Array], steps: int) -> Callable[[], float]:
    """Returns a function that times one optimizer step inside a scanned loop, in seconds."""
    optimizer = optax.adam(1e-3)
    dynamic, static = eqx.partition(model, eqx.is_inexact_array)

    def step(carry: Any, key: jax.Array) -> Any:
        dynamic, state = carry
        value, grads = jax.value_and_grad(lambda d: loss(eqx.combine(d, static), key))(dynamic)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(dynamic, updates), state), value

    run = jax.jit(lambda carry, key: jax.lax.scan(step, carry, jax.random.split(key, steps)))
    carry = (dynamic, optimizer.init(dynamic))
    jax.block_until_ready(run(carry, jax.random.key(0)))

    def timed() -> float:
        start = time.perf_counter()
        jax.block_until_ready(run(carry, jax.random.key(1)))
        return (time.perf_counter() - start) / steps

    return timed


def bench_step(options, steps: int = 300) -> None:
    repeats = 5 * options.repeats
    x = jax.random.normal(jax.random.key(5), (64, 4))
    y = jnp.sin(x.sum(-1, keepdims=True))
    key = jax.random.key(0)
    plain = eqx.nn.MLP(4, 1, 64, 2, key=key)
    ours = BayesianMLP(4, 1, 64, 2, key=key)
    by_output = BayesianMLP(4, 1, 64, 2, local_reparameterization=True, key=key)

    def mse(prediction: jax.Array) -> jax.Array:
        return jnp.mean((prediction - y) ** 2)

    def elbo(n: int) -> Callable[..., jax.Array]:
        def loss(model: BayesianMLP, key: jax.Array) -> jax.Array:
            if n == 1:
                fit = mse(model(x, key=key))
            else:
                keys = jax.random.split(key, n)
                fit = jnp.mean(jax.vmap(lambda k: mse(model(x, key=k)))(keys))
            return fit - 1e-4 * gaussian_entropy(model)

        return loss

    def without_noise(model: BayesianMLP, key: jax.Array) -> jax.Array:
        del key
        return mse(model(x)) - 1e-4 * gaussian_entropy(model)

    def peer(model: BayesianMLP, key: jax.Array) -> jax.Array:
        return mse(tree_at_loop(model, key)(x)) - 1e-4 * gaussian_entropy(model)

    cases = {
        "plain eqx.nn.MLP": scanned_step(plain, lambda m, k: mse(jax.vmap(m)(x)), steps),
        "ours, means and widths, no draw": scanned_step(ours, without_noise, steps),
        "ours, 1 weight sample": scanned_step(ours, elbo(1), steps),
        "ours, 8 weight samples": scanned_step(ours, elbo(8), steps),
        "local reparameterization, 1": scanned_step(by_output, elbo(1), steps),
        "local reparameterization, 8": scanned_step(by_output, elbo(8), steps),
        "tree_at loop, 1 weight sample": scanned_step(ours, peer, steps),
    }
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(repeats):
        for name, timed in cases.items():
            best[name] = min(best[name], timed())
    base = best["plain eqx.nn.MLP"]
    table = Table(
        "An Adam step on [4, 64, 64, 1], batch 64, in a scanned loop",
        ["program", "us", "times plain"],
    )
    for name, seconds in best.items():
        table.add(name, 1e6 * seconds, seconds / base)
    wide = {
        flag: BayesianMLP(
            4, 1, 64, 2, init_raw_stdv=0.3, local_reparameterization=flag, key=jax.random.key(0)
        )
        for flag in (False, True)
    }
    spread = gradient_variance(wide[False], elbo(1)) / gradient_variance(wide[True], elbo(1))
    dearer = best["local reparameterization, 1"] / best["ours, 1 weight sample"]
    local = Table(
        "Local reparameterization beside one weight sample, in the same step",
        ["time / time", "gradient variance / variance", "time / time at equal variance"],
    )
    local.add(dearer, 1 / spread, dearer / spread)


def gradient_variance(model: Any, loss: Callable[..., jax.Array], draws: int = 2000) -> float:
    """Returns the variance of the loss' gradient over keys, summed over all parameters."""
    grads = jax.jit(jax.vmap(lambda key: jax.grad(loss)(model, key)))(
        jax.random.split(jax.random.key(3), draws)
    )
    return sum(float(jnp.var(leaf, axis=0).sum()) for leaf in jax.tree.leaves(grads))


def bench_laplace(options, size: int = 5_000_000) -> None:
    batches = options.batches
    law = LaplacianParameter.from_scale(0.3, 0.7)

    @jax.jit
    def summary(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def draw(scale: jax.Array) -> jax.Array:
            wide = LaplacianParameter.from_scale(jnp.full(size, 0.3), scale)
            return wide.sample(key)

        # The derivative of each draw to the scale, by one forward pass.
        draws, slopes = jax.jvp(draw, (law.scale,), (jnp.ones(()),))
        centered = draws - 0.3
        # In two stages: one float32 sum of so many terms would round visibly.
        second_moment = jnp.mean(jnp.mean((centered**2).reshape(-1, 1000), axis=1))
        return second_moment, jnp.all(jnp.isfinite(draws)), jnp.all(jnp.isfinite(slopes))

    rows = [summary(key) for key in jax.random.split(jax.random.key(0), batches)]
    variance = sum(float(row[0]) for row in rows) / batches
    exact = 2 * 0.7**2
    error = exact * (5 / (batches * size)) ** 0.5  # Var(x^2) = 20 b^4 = 5 (2 b^2)^2
    table = Table(
        "Draws of a Laplace distribution with the scale b",
        ["draws", "variance / 2 b^2", "its error / standard error", "all finite",
         "all derivatives finite"],
    )  # fmt: skip
    table.add(
        *(batches * size, variance / exact, (variance - exact) / error),
        *(all(bool(row[i]) for row in rows) for i in (1, 2)),
    )


def bench_local(options, draws: int = 2000) -> None:
    key = jax.random.key(0)
    x = jax.random.normal(jax.random.key(1), (64, 16))
    y = jax.random.normal(jax.random.key(2), (64, 4))
    total = {}
    for local in (False, True):
        layer = BayesianLinear(16, 4, init_raw_stdv=0.5, local_reparameterization=local, key=key)
        grad = jax.grad(lambda m, k: jnp.mean((m(x, key=k) - y) ** 2))
        grads = jax.jit(jax.vmap(lambda k, m=layer, g=grad: g(m, k)))(
            jax.random.split(jax.random.key(3), draws)
        )
        total[local] = [
            float(jnp.var(leaf, axis=0).sum()) for leaf in (grads.W.mean, grads.W.raw_stdv)
        ]
    table = Table(
        "Gradient variance of one layer, weight draws over local reparameterization, batch 64",
        ["gradient to", "ratio"],
    )
    for i, name in enumerate(("mean", "raw_stdv")):
        table.add(name, total[False][i] / total[True][i])


def arguments(parser) -> None:
    parser.add_argument("--slow", action="store_true", help="the loop at 200 layers, too")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=20, help="of laplace, 5e6 draws each")


PARTS = {"trace": bench_trace, "step": bench_step, "laplace": bench_laplace, "local": bench_local}


if __name__ == "__main__":
    main(__doc__, PARTS, arguments, {"repeats": 1, "batches": 2})
