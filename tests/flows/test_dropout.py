"""Dropout in conditioners: training mode, inference mode and what stays exact in both."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flowjax.bijections import Affine, Chain, Flip, Invert, MaskedAutoregressive, Scan
from flowjax.distributions import StandardNormal, Transformed

import nnef_dists as nd
from tests.numerics import assert_close

KEY = jax.random.key(0)
X = jnp.array([0.4, -0.9])
CONDITION = jnp.array([0.7])


def mlp(in_size=3, out_size=2, depth=2, key=KEY):
    return eqx.nn.MLP(in_size, out_size, 32, depth, key=key)


def masked(key, p=0.3):
    layer = MaskedAutoregressive(
        key, transformer=Affine(), dim=2, cond_dim=1, nn_width=32, nn_depth=2
    )
    return eqx.tree_at(
        lambda layer: layer.masked_autoregressive_mlp,
        layer,
        replace_fn=lambda mlp: nd.flows.DropoutConditioner(mlp, p),
    )


def flow():
    layers = Chain([masked(jax.random.key(1)), Flip((2,)), masked(jax.random.key(2))])
    return Transformed(StandardNormal((2,)), Invert(layers))


def test_without_dropout_it_is_the_perceptron():
    x = jnp.array([0.3, 0.1, -0.5])
    plain = mlp()
    for depth in (0, 1, 2):
        plain = mlp(depth=depth)
        for same in (
            nd.flows.DropoutConditioner(plain, 0.9, inference=True),
            eqx.nn.inference_mode(nd.flows.DropoutConditioner(plain, 0.9)),
            nd.flows.draw_dropout(nd.flows.DropoutConditioner(plain, 0.0), KEY),
        ):
            assert jnp.array_equal(same(x), plain(x))


def test_it_drops_units_and_keeps_their_mean():
    """With one hidden layer the output is linear in the mask: its mean is that of no dropout."""
    x = jnp.array([0.3, 0.1, -0.5])
    plain = mlp(depth=1)
    conditioner = nd.flows.DropoutConditioner(plain, 0.4)
    outputs = jax.vmap(lambda key: nd.flows.draw_dropout(conditioner, key)(x))(
        jax.random.split(KEY, 4000)
    )
    z = (outputs.mean(0) - plain(x)) / (outputs.std(0) / 4000**0.5)
    assert (jnp.abs(z) < 4).all()
    # Var = sum of (weight * unit)^2 p / (1 - p).
    units = jax.nn.relu(plain.layers[0](x))
    variance = (plain.layers[1].weight ** 2 @ units**2) * 0.4 / 0.6
    squares = (outputs - plain(x)) ** 2
    z = (squares.mean(0) - variance) / (squares.std(0) / 4000**0.5)
    assert (jnp.abs(z) < 4).all()


def test_training_mode_needs_a_draw_and_is_fixed_by_its_key():
    made = flow()
    with pytest.raises(RuntimeError, match="Dropout requires a key"):
        made.log_prob(X, CONDITION)
    drawn = nd.flows.draw_dropout(made, KEY)
    value = drawn.log_prob(X, CONDITION)
    assert jnp.array_equal(value, nd.flows.draw_dropout(made, KEY).log_prob(X, CONDITION))
    assert not jnp.allclose(
        value, nd.flows.draw_dropout(made, jax.random.key(5)).log_prob(X, CONDITION)
    )
    tested = eqx.nn.inference_mode(drawn)
    assert not jnp.allclose(value, tested.log_prob(X, CONDITION))
    assert jnp.array_equal(
        tested.log_prob(X, CONDITION), eqx.nn.inference_mode(made).log_prob(X, CONDITION)
    )


def test_layers_drop_different_units():
    drawn = nd.flows.draw_dropout([nd.flows.DropoutConditioner(mlp())] * 2, KEY)
    x = jnp.ones(3)
    assert not jnp.allclose(drawn[0](x), drawn[1](x))


def test_a_drawn_flow_is_autoregressive_and_invertible():
    layer = nd.flows.draw_dropout(masked(KEY), jax.random.key(3))

    def checked(layer):
        layer = nd.bayesianize(layer).realize()  # arrays in place of masked weights
        y, log_det = layer.transform_and_log_det(X, CONDITION)
        slopes = jax.jacfwd(lambda x: layer.transform(x, CONDITION))(X)
        return layer.inverse(y, CONDITION), log_det, slopes

    x, log_det, slopes = eqx.filter_jit(checked)(layer)
    assert_close(x, X)
    assert slopes[0, 1] == 0
    assert_close(log_det, np.linalg.slogdet(np.asarray(slopes))[1], scale=1.0)


def test_stacked_layers_drop_units_of_their_own():
    stacked = eqx.filter_vmap(lambda key: masked(key, 0.5))(jax.random.split(KEY, 4))
    drawn = nd.flows.draw_dropout(Scan(stacked), jax.random.key(3))
    keys = drawn.bijection.masked_autoregressive_mlp.key
    assert keys.shape == (4,)
    assert len({tuple(data) for data in np.asarray(jax.random.key_data(keys)).tolist()}) == 4
    y = eqx.filter_jit(lambda b: b.transform(X, CONDITION))(drawn)
    expected = X
    for number in range(4):
        layer = jax.tree.map(
            lambda leaf: leaf[number] if eqx.is_array(leaf) else leaf,  # noqa: B023
            drawn.bijection,
        )
        expected = layer.transform(expected, CONDITION)
    assert_close(y, expected)


def test_conditioned_and_conditional_flows_train_with_dropout():
    family = nd.GaussianNatural1D()
    etas = family.sample_eta(KEY, 32, {"x": (-1, 1), "x2": (-2, -0.5)})
    net = nd.flows.DropoutConditioner(mlp(2, nd.flows.conditioner_size(Affine())), 0.2)
    made = nd.flows.ConditionalFlow(
        family, nd.flows.ConditionedBijection(Affine(), net, cond_dim=2), etas
    )
    dynamic, static = nd.partition_trainable(made)

    @jax.jit
    def loss(dynamic, key):
        drop_key, draw_key = jax.random.split(key)
        drawn = nd.flows.draw_dropout(nd.unfreeze_all(dynamic, static), drop_key)
        return nd.flows.free_energy(drawn, etas, draw_key)

    value, grads = jax.value_and_grad(loss)(dynamic, KEY)
    drop_key, draw_key = jax.random.split(KEY)
    assert_close(value, nd.flows.free_energy(nd.flows.draw_dropout(made, drop_key), etas, draw_key))
    assert all(jnp.any(g != 0) for g in jax.tree.leaves(grads))
    assert value != loss(dynamic, jax.random.key(8))


def test_refusals():
    with pytest.raises(ValueError, match=r"Expected p in \[0, 1\); got 1.0"):
        nd.flows.DropoutConditioner(mlp(), 1.0)
    with pytest.raises(ValueError, match="scan=False"):
        nd.flows.DropoutConditioner(eqx.nn.MLP(3, 2, 8, 2, scan=True, key=KEY))
    with pytest.raises(ValueError, match="Expected a flow with a DropoutConditioner"):
        nd.flows.draw_dropout(mlp(), KEY)
