"""Equinox layers with keys, states and calls of their own, and modules that users write."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnef_dists.bayes import (
    BayesianLinear,
    bayesianize,
    freeze_stdvs,
    get_parameters,
    partition_trainable,
    sample_all_parameters,
    unfreeze_all,
)
from nnef_dists.saving import load, save

KEY = jax.random.key(0)
WEIGHT_KEY, LAYER_KEY = jax.random.split(KEY)
X = jnp.array([0.3, -1.2, 0.8])


def with_dropout(width=64):
    first, last = jax.random.split(jax.random.key(1))
    return eqx.nn.Sequential(
        [
            eqx.nn.Linear(3, width, key=first),
            eqx.nn.Lambda(jax.nn.silu),
            eqx.nn.Dropout(0.5),
            eqx.nn.Linear(width, 2, key=last),
        ]
    )


class Noisy(eqx.Module):
    """A user's layer that is random itself."""

    scale: jax.Array

    def __call__(self, x, key):
        return x + self.scale * jax.random.normal(key, x.shape)


class Scaled(eqx.Module):
    """A user's layer without a key."""

    scale: jax.Array

    def __call__(self, x):
        return self.scale * x


class Attention(eqx.Module):
    """A user's attention, whose argument `key` is no PRNG key."""

    scale: jax.Array

    def __call__(self, query, key, value):
        return jax.nn.softmax(self.scale * query @ key.T) @ value


class Counter(eqx.Module):
    """A user's layer with a floating state."""

    weight: jax.Array
    total: eqx.nn.StateIndex

    def __init__(self):
        self.weight = jnp.array(2.0)
        self.total = eqx.nn.StateIndex(jnp.array(0.5))

    def __call__(self, x, state):
        total = state.get(self.total) + x
        return self.weight * total, state.set(self.total, total)


def test_dropout_gets_its_own_half_of_the_key():
    net = bayesianize(with_dropout(), init_raw_stdv=0.5)
    y = net(X, key=KEY)
    assert jnp.array_equal(y, net(X, key=KEY))
    assert not jnp.allclose(y, net(X, key=jax.random.key(7)))
    assert jnp.array_equal(y, net.realize(key=WEIGHT_KEY)(X, key=LAYER_KEY))
    assert jnp.array_equal(y, sample_all_parameters(net, WEIGHT_KEY).realize()(X, key=LAYER_KEY))


def test_dropout_is_that_of_equinox_when_the_weights_are_at_their_means():
    module = with_dropout()
    net = bayesianize(module)
    assert jnp.array_equal(net(X, key=KEY, sample=False), module(X, key=LAYER_KEY))
    with pytest.raises(RuntimeError, match="Dropout requires a key"):
        net(X)
    with pytest.raises(ValueError, match="key is required"):
        net(X, sample=True)


def test_inference_mode_switches_dropout_off():
    module = with_dropout()
    net = eqx.nn.inference_mode(bayesianize(module, init_raw_stdv=0.5))
    plain = eqx.nn.inference_mode(module)
    assert jnp.array_equal(net(X), plain(X))
    assert jnp.array_equal(net(X, key=KEY), net.realize(key=WEIGHT_KEY)(X))
    trained_again = eqx.nn.inference_mode(net, value=False)
    assert not jnp.array_equal(trained_again(X, key=KEY), net(X, key=KEY))


def test_dropout_keeps_its_mean_and_trains():
    net = bayesianize(with_dropout())
    outputs = jax.vmap(lambda key: net(X, key=key, sample=False))(jax.random.split(KEY, 4000))
    z = (outputs.mean(0) - eqx.nn.inference_mode(net)(X)) / (outputs.std(0) / 4000**0.5)
    assert (jnp.abs(z) < 4).all()

    dynamic, static = freeze_stdvs(net)
    loss = jax.jit(jax.grad(lambda d: jnp.sum(unfreeze_all(d, static)(X, key=KEY) ** 2)))
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(loss(dynamic)))


def test_one_draw_of_the_weights_serves_a_batch_of_masks():
    drawn = bayesianize(with_dropout(), init_raw_stdv=0.5).realize(key=KEY)
    outputs = jax.vmap(lambda key: drawn(X, key=key))(jax.random.split(KEY, 3))
    assert not jnp.allclose(outputs[0], outputs[1])


@pytest.mark.parametrize("mode", ["batch", "ema"])
def test_batch_norm_updates_its_state_as_without_parameters(mode):
    def make():
        return eqx.nn.Sequential(
            [
                eqx.nn.Linear(3, 4, key=KEY),
                eqx.nn.BatchNorm(4, "batch", mode=mode, momentum=0.9),
                eqx.nn.Dropout(0.5),
            ]
        )

    module, state = eqx.nn.make_with_state(make)()
    plain_state = state.update(state)  # an old state must not be used again
    state = eqx.nn.make_with_state(make)()[1]
    net = bayesianize(module, init_raw_stdv=0.5)
    assert len(get_parameters(net)) == 4
    xs = jax.random.normal(jax.random.key(3), (8, 3))

    def run(call, state, key):
        def one(x, state):
            return call(x, state, key)

        return jax.vmap(one, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(xs, state)

    def drawn_call(drawn):
        return lambda x, state, key: drawn(x, state, key=key)

    for number in range(3):
        key = jax.random.fold_in(KEY, number)
        weight_key, layer_key = jax.random.split(key)
        drawn = net.realize(key=weight_key)
        y, state = run(lambda x, s, k: net(x, s, key=k), state, key)
        expected, plain_state = run(drawn_call(drawn), plain_state, layer_key)
        np.testing.assert_allclose(y, expected, rtol=1e-6)
    for mine, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(plain_state), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)

    tested = eqx.nn.inference_mode(net)
    y, after = run(lambda x, s, k: tested(x, s), plain_state, None)
    assert bool(eqx.tree_equal(after, state))
    # The means of the weights are those of the module, as made.
    module, _ = eqx.nn.make_with_state(make)()
    plain = eqx.nn.inference_mode(module)
    expected, _ = run(lambda x, s, k: plain(x, s), plain_state, None)
    np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_initial_states_are_neither_random_nor_trained():
    net = bayesianize(Counter())
    assert list(get_parameters(net)) == ["module.weight"]
    state = eqx.nn.State(net)
    y, state = net(jnp.array(1.0), state)
    assert (float(y), float(state.get(net.module.total))) == (3.0, 1.5)
    dynamic, _ = partition_trainable(net)
    assert not jax.tree.leaves(dynamic.module.total)
    assert not jax.tree.leaves(freeze_stdvs(Counter())[0].total)


def test_spectral_norm_iterates_on_drawn_weights():
    def make():
        return eqx.nn.SpectralNorm(eqx.nn.Linear(3, 3, key=KEY), "weight", key=KEY)

    module, state = eqx.nn.make_with_state(make)()
    net = bayesianize(module, init_raw_stdv=0.5)
    for _ in range(60):
        y, state = net(X, state, key=KEY)
    weight = net.realize(key=WEIGHT_KEY).layer.weight
    bias = net.realize(key=WEIGHT_KEY).layer.bias
    expected = weight @ X / jnp.linalg.norm(weight, 2) + bias
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_attention_with_dropout():
    module = eqx.nn.MultiheadAttention(2, 4, dropout_p=0.5, key=KEY)
    net = bayesianize(module, init_raw_stdv=0.5)
    tokens = jax.random.normal(KEY, (5, 4))
    expected = net.realize(key=WEIGHT_KEY)(tokens, tokens, tokens, key=LAYER_KEY)
    assert jnp.array_equal(net(tokens, tokens, tokens, key=KEY), expected)
    tested = eqx.nn.inference_mode(net)
    plain = eqx.nn.inference_mode(module)
    assert jnp.array_equal(tested(tokens, tokens, tokens), plain(tokens, tokens, tokens))


def test_an_argument_called_key_that_is_no_prng_key_stays_the_users():
    net = bayesianize(Attention(jnp.array(0.7)), init_raw_stdv=0.5)
    q, k, v = jax.random.normal(KEY, (3, 5, 4))
    expected = net.realize(key=KEY)(q, k, v)
    assert jnp.array_equal(net(q, k, v, key=KEY), expected)


@pytest.mark.parametrize("module", [Scaled(jnp.array(0.3)), eqx.nn.PReLU(0.3)])
def test_a_layer_without_a_key_leaves_it_to_the_weights(module):
    net = bayesianize(module, init_raw_stdv=0.5)
    assert jnp.array_equal(net(X, key=KEY), net.realize(key=KEY)(X))


def test_a_users_random_layer():
    noisy = bayesianize(Noisy(jnp.array(0.3)), init_raw_stdv=0.5)
    drawn = noisy.realize(key=WEIGHT_KEY)
    assert jnp.array_equal(noisy(X, key=KEY), drawn(X, LAYER_KEY))
    partial = bayesianize(eqx.Partial(Noisy(jnp.array(0.3)), X), init_raw_stdv=0.5)
    assert partial(key=KEY).shape == X.shape


def test_wrapped_modules():
    checkpointed = bayesianize(eqx.filter_checkpoint(with_dropout()))
    plain = bayesianize(with_dropout())
    np.testing.assert_allclose(checkpointed(X, key=KEY), plain(X, key=KEY), rtol=1e-6)
    # A mapped module accepts no keyword: the key is for the weights alone.
    mapped = bayesianize(eqx.filter_vmap(eqx.nn.Linear(3, 2, key=KEY)), init_raw_stdv=0.5)
    xs = jnp.stack([X, 2 * X])
    assert jnp.array_equal(mapped(xs, key=KEY), mapped.realize(key=KEY)(xs))


IMAGE = jnp.ones((1, 6, 6))
LAYERS = {
    "LayerNorm": (lambda: eqx.nn.LayerNorm(3), (X,)),
    "GroupNorm": (lambda: eqx.nn.GroupNorm(1, 3), (X,)),
    "RMSNorm": (lambda: eqx.nn.RMSNorm(3), (X,)),
    "Embedding": (lambda: eqx.nn.Embedding(5, 3, key=KEY), (jnp.array(2),)),
    "GRUCell": (lambda: eqx.nn.GRUCell(3, 4, key=KEY), (X, jnp.ones(4))),
    "LSTMCell": (lambda: eqx.nn.LSTMCell(3, 4, key=KEY), (X, (jnp.ones(4), jnp.ones(4)))),
    "Conv2d": (lambda: eqx.nn.Conv2d(1, 2, 3, key=KEY), (IMAGE,)),
    "ConvTranspose2d": (lambda: eqx.nn.ConvTranspose2d(1, 2, 3, key=KEY), (IMAGE,)),
    "WeightNorm": (lambda: eqx.nn.WeightNorm(eqx.nn.Linear(3, 2, key=KEY)), (X,)),
    "MLP": (lambda: eqx.nn.MLP(3, 2, 4, 1, key=KEY), (X,)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_called_as_it_is(name):
    make, args = LAYERS[name]
    module = make()
    net = bayesianize(module, init_raw_stdv=0.5)

    def same(a, b):
        return jax.tree.all(jax.tree.map(jnp.array_equal, a, b))

    expected = net.realize(key=WEIGHT_KEY)(*args)
    assert same(net(*args), module(*args))
    assert same(net(*args, key=KEY), expected)
    assert not same(expected, module(*args))


def test_our_layers_inside_equinox_containers_share_the_call():
    layer = BayesianLinear(3, 8, init_raw_stdv=0.5, key=KEY)
    net = eqx.nn.Sequential([layer, eqx.nn.Dropout(0.5), eqx.nn.Lambda(jnp.tanh)])
    assert not jnp.allclose(net(X, key=KEY), net(X, key=jax.random.key(3)))
    tested = eqx.nn.inference_mode(net)
    assert jnp.array_equal(tested(X), jnp.tanh(layer(X)))


def test_a_net_with_dropout_and_a_state_is_saved(tmp_path):
    module, _ = eqx.nn.make_with_state(
        lambda: eqx.nn.Sequential(
            [with_dropout(4), eqx.nn.BatchNorm(2, "batch", mode="batch"), eqx.nn.Dropout(0.25)]
        )
    )()
    net = bayesianize(module)
    save(tmp_path / "net.safetensors", net)
    again = load(tmp_path / "net.safetensors", like=net)
    assert bool(eqx.tree_equal(again, net))
