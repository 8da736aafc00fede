"""Ensembles of posterior heads, trained by Adam with early stopping on cross-validation folds."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import nnef_dists as nd

CHECKS = 40


def fit_ensemble(
    make, data, key, *, members=5, steps=4000, batch_size=128, rate=1e-3, weight_decay=1e-3
):
    """Trains one head on all folds but one, for each fold; keeps the best weights of each.

    Args:
        make: `make(data, key)` gives a head.
        data: Simulations.
        key: PRNG key.
        members: How many heads, and folds.
        steps: Steps of AdamW for each; the learning rate falls to zero along a cosine.
        batch_size: Pairs of a step.
        rate: The learning rate at the start.
        weight_decay: Of AdamW.

    Returns:
        The ensemble, and the mean negative log-likelihood of each fold under the head that has not
        seen it, at its best, in nats: a cross-validation score.
    """
    key_order, key_heads, key_steps = jax.random.split(key, 3)
    heads = eqx.filter_vmap(lambda key: make(data, key))(jax.random.split(key_heads, members))
    dynamic, static = nd.freeze_stdvs(heads)
    fixed, rest = eqx.partition(static, eqx.is_array)
    batch = jax.tree.map(jnp.asarray, data.arrays())
    folds = np.array_split(np.asarray(jax.random.permutation(key_order, len(data))), members)
    size = len(data) - len(folds[0])
    seen = jnp.asarray([np.setdiff1d(np.arange(len(data)), fold)[:size] for fold in folds])
    unseen = jnp.asarray([fold[: len(folds[-1])] for fold in folds])
    optimiser = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.adamw(optax.cosine_decay_schedule(rate, steps), weight_decay=weight_decay),
    )

    def nll(dynamic, fixed, batch):
        head = nd.unfreeze_all(dynamic, eqx.combine(fixed, rest))
        return nd.nll_loss(head, batch)

    @functools.partial(jax.vmap, in_axes=(0, 0, 0, 0, None, 0))
    def run(dynamic, state, fixed, seen, batch, key):
        def step(carry, key):
            dynamic, state = carry
            rows = seen[jax.random.randint(key, (batch_size,), 0, size)]
            picked = jax.tree.map(lambda leaf: leaf[rows], batch)
            updates, state = optimiser.update(jax.grad(nll)(dynamic, fixed, picked), state, dynamic)
            return (optax.apply_updates(dynamic, updates), state), None

        return jax.lax.scan(step, (dynamic, state), jax.random.split(key, steps // CHECKS))[0]

    @functools.partial(jax.vmap, in_axes=(0, 0, 0, None))
    def validate(dynamic, fixed, unseen, batch):
        return nll(dynamic, fixed, jax.tree.map(lambda leaf: leaf[unseen], batch))

    def choose(better, new, old):
        return jax.tree.map(
            lambda a, b: jnp.where(better.reshape(-1, *[1] * (a.ndim - 1)), a, b), new, old
        )

    run, validate = jax.jit(run), jax.jit(validate)
    state = jax.vmap(optimiser.init)(dynamic)
    best, scores = dynamic, np.full(members, np.inf)
    for key in jax.random.split(key_steps, CHECKS):
        dynamic, state = run(dynamic, state, fixed, seen, batch, jax.random.split(key, members))
        score = np.asarray(validate(dynamic, fixed, unseen, batch))
        best = choose(jnp.asarray(score < scores), dynamic, best)
        scores = np.minimum(scores, score)
    heads = nd.unfreeze_all(best, eqx.combine(fixed, rest))
    return nd.EnsemblePosterior(heads), float(np.mean(scores))
