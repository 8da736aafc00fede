"""Training of posterior heads, shared by the examples of posterior estimation.

The members of an ensemble are trained together, as one program over stacked weights. Each member
keeps the weights with the lowest loss on validation simulations. The average over members is the
most effective regularization if there are few simulations.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import nnef_dists as nd


def fit_posterior(
    make,
    data,
    key,
    *,
    members=6,
    steps=2000,
    batch_size=128,
    learning_rate=5e-3,
    validation=0.1,
    every=50,
):
    """Fits heads `make(key)` by maximum likelihood with early stopping (stage 1, MAP).

    Returns:
        An `nd.posterior.EnsemblePosterior`, and the losses on training and validation simulations
        of each member, `(members, steps / every)`, in nats.
    """
    k_split, k_heads, k_run = jax.random.split(key, 3)
    train, held = data.split(1 - validation, k_split)
    heads = eqx.filter_vmap(make)(jax.random.split(k_heads, members))
    loss = eqx.Partial(_likelihood)
    trained, history = _descend(
        nd.freeze_stdvs(heads),
        loss,
        (batch_of(train), batch_of(held)),
        jax.random.split(k_run, members),
        (steps, every, batch_size, learning_rate),
    )
    return nd.posterior.EnsemblePosterior(trained), history


def fit_widths(
    ensemble, data, key, *, steps=500, batch_size=128, learning_rate=1e-2, temperature=0.1
):
    """Fits the standard deviations of all weights by the tempered ELBO (stage 2, VI).

    Returns:
        The ensemble, and the losses, in nats.
    """
    batch = batch_of(data)
    loss = eqx.Partial(_bound, total=len(data), temperature=temperature)
    keys = jax.random.split(key, ensemble.n_members)
    trained, history = _descend(
        nd.freeze_means(ensemble.members),
        loss,
        (batch, batch),
        keys,
        (steps, 50, batch_size, learning_rate),
        keep_best=False,
    )
    return nd.posterior.EnsemblePosterior(trained), history


def batch_of(data):
    """Returns all simulations as JAX arrays."""
    return jax.tree.map(jnp.asarray, data.arrays())


@eqx.filter_jit
def mean_nll(head, batch):
    """Returns the mean negative log-likelihood, in nats, in batches of 1,000 pairs."""
    each = jax.lax.map(lambda pair: head.log_prob(*pair), tuple(batch), batch_size=1000)
    return -jnp.mean(each)


def _likelihood(head, batch, key):
    return nd.nll_loss(head, batch)


def _bound(head, batch, key, *, total, temperature):
    return nd.posterior.nll_elbo_loss(head, batch, key, total=total, temperature=temperature)


@eqx.filter_jit
def _descend(parts, loss, batches, keys, how, keep_best=True):
    """Runs Adam with cosine decay on all members, as one vectorized program."""
    dynamic, static = parts
    train, held = batches
    steps, every, batch_size, learning_rate = how
    optimizer = optax.flatten(
        optax.chain(
            optax.clip_by_global_norm(5.0),
            optax.adam(optax.cosine_decay_schedule(learning_rate, steps)),
        )
    )
    arrays, rest = eqx.partition(static, eqx.is_array)

    def member(dynamic, arrays, key):
        def join(dynamic):
            return nd.unfreeze_all(dynamic, eqx.combine(arrays, rest))

        def step(carry, pair):
            dynamic, state = carry
            rows, k_loss = pair
            batch = jax.tree.map(lambda leaf: leaf[rows], train)
            value, gradient = jax.value_and_grad(lambda d: loss(join(d), batch, k_loss))(dynamic)
            updates, state = optimizer.update(gradient, state, dynamic)
            return (optax.apply_updates(dynamic, updates), state), value

        def epoch(carry, key):
            inner, best, lowest = carry
            k_rows, k_steps, k_held = jax.random.split(key, 3)
            rows = jax.random.randint(k_rows, (every, batch_size), 0, len(train.theta))
            inner, values = jax.lax.scan(step, inner, (rows, jax.random.split(k_steps, every)))
            now = loss(join(inner[0]), held, k_held)
            better = (now < lowest) | (not keep_best)
            best = jax.tree.map(lambda new, old: jnp.where(better, new, old), inner[0], best)
            return (inner, best, jnp.minimum(now, lowest)), (jnp.mean(values), now)

        start = (dynamic, optimizer.init(dynamic)), dynamic, jnp.asarray(jnp.inf)
        (_, best, _), history = jax.lax.scan(epoch, start, jax.random.split(key, steps // every))
        return best, history

    best, history = jax.vmap(member)(dynamic, arrays, keys)
    return nd.unfreeze_all(best, static), history


def smooth(history):
    """Returns training and validation losses, averaged over members."""
    return [np.asarray(values).mean(0) for values in history]
