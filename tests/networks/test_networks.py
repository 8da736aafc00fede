"""What holds for every registered moment network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
import pytest

import nnef_dists as nd
from tests.networks.data import GAMMA, GAUSSIAN, OTHER, gamma_data, gaussian_data
from tests.numerics import assert_close
from tests.registry import NETWORKS

pytestmark = [
    pytest.mark.usefixtures("strict_promotion"),
    pytest.mark.parametrize("case", NETWORKS, ids=str),
]

SPLITS = {
    "whole": lambda net: (net, None),
    "freeze_stdvs": nd.freeze_stdvs,
    "freeze_means": nd.freeze_means,
    "freeze_params": lambda net: nd.freeze_params(net, list(net.get_parameters())[:1]),
    "partition_trainable": nd.partition_trainable,
}


@functools.cache
def network(case):
    return case.make(GAMMA, gamma_data(), jax.random.key(1))


@functools.cache
def called(case):
    """Calls in every mode, compiled together."""
    # Wide enough for draws to differ from the means by more than rounding.
    dynamic, static = nd.freeze_means(network(case))
    net = nd.unfreeze_all(jax.tree.map(lambda raw: raw + 0.2, dynamic), static)
    etas = jnp.asarray(gamma_data().eta)
    key, other = jax.random.split(jax.random.key(2))

    def run(net, eta):
        return {
            "means": net(eta),
            "not sampled": net(eta, key=key, sample=False),
            "drawn": net(eta, key=key),
            "sampled": net(eta, key=key, sample=True),
            "other": net(eta, key=other),
            "all parameters": nd.sample_all_parameters(net, key)(eta),
        }

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(run, (None, 0)))(net, etas))


def buffers_of(net):
    """The arrays that are never trained."""
    nodes = jax.tree.leaves(net, is_leaf=lambda node: isinstance(node, paramax.NonTrainable))
    return [node.tree for node in nodes if isinstance(node, paramax.NonTrainable)]


def descend(optimizer, gradient, state, dynamic):
    """One step of optax, which does not promote strictly."""
    with jax.numpy_dtype_promotion("standard"):
        updates, state = optimizer.update(gradient, state, dynamic)
        return optax.apply_updates(dynamic, updates), state


def test_call_protocol(case):
    found = called(case)
    assert np.array_equal(found["means"], found["not sampled"])
    assert np.array_equal(found["drawn"], found["sampled"])
    assert np.array_equal(found["drawn"], found["all parameters"])
    assert not np.isin(found["drawn"], found["means"]).any()
    assert not np.isin(found["drawn"], found["other"]).any()


def test_a_sample_needs_a_key(case):
    with pytest.raises(ValueError, match=r"^key is required when sample=True$"):
        network(case)(jnp.asarray(gamma_data().eta[0]), sample=True)


def test_shape_and_dtype(case):
    assert called(case)["means"].shape == gamma_data().eta.shape
    assert called(case)["means"].dtype == gamma_data().eta.dtype
    with pytest.raises((ValueError, TypeError), match=r"eta|\(2,\)"):
        network(case)(jnp.zeros(3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_carried_from_the_data(case, dtype):
    with jax.enable_x64(True):
        net = case.make(GAUSSIAN, gaussian_data(dtype=dtype), jax.random.key(1))
        assert {leaf.dtype for leaf in jax.tree.leaves(net)} == {jnp.dtype(dtype)}
        eta = jax.ShapeDtypeStruct((2,), dtype)
        key = jax.random.key(0)
        for call in (net, lambda eta: net(eta, key=key)):
            assert jax.eval_shape(call, eta).dtype == dtype
        batch = gaussian_data(dtype=dtype).batch()
        assert jax.eval_shape(nd.moment_loss, net, batch).dtype == dtype
        elbo = functools.partial(nd.negative_elbo, total=64, samples=2, misfit=0.01)
        assert jax.eval_shape(elbo, net, batch, key).dtype == dtype


def test_all_leaves_are_inexact_arrays(case):
    assert all(
        isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)
        for leaf in jax.tree.leaves(network(case))
    )


@pytest.mark.parametrize("split", SPLITS)
def test_plain_jax_and_optax_train_every_part(case, split):
    """jax.jit, jax.value_and_grad and optax on the model and on each of its partitions."""
    net, batch = network(case), gamma_data().batch()
    dynamic, static = SPLITS[split](net)
    optimizer = optax.adam(0.003)

    def loss(dynamic, static, key):
        whole = dynamic if static is None else nd.unfreeze_all(dynamic, static)
        return nd.moment_loss(whole, batch, key)

    @jax.jit
    def step(dynamic, static, state, key):
        value, gradient = jax.value_and_grad(loss)(dynamic, static, key)
        dynamic, state = descend(optimizer, gradient, state, dynamic)
        return dynamic, state, value, gradient

    state = optimizer.init(dynamic)
    trained, _, value, gradient = step(dynamic, static, state, jax.random.key(3))
    # The loss of the whole network, which the parts make.
    assert_close(value, nd.moment_loss(net, batch, jax.random.key(3)), ulps=256)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    assert jax.tree.structure(trained) == jax.tree.structure(dynamic)
    moved = [
        np.any(new != old)
        for new, old in zip(jax.tree.leaves(trained), jax.tree.leaves(dynamic), strict=True)
    ]
    assert any(moved)
    whole = trained if static is None else nd.unfreeze_all(trained, static)
    assert buffers_of(net)
    for new, old in zip(buffers_of(whole), buffers_of(net), strict=True):
        assert np.array_equal(new, old)
    names = {"freeze_stdvs": "raw_stdvs", "freeze_means": "means"}
    if split in names:
        read = getattr(nd.bayes, f"flatten_{names[split]}")
        assert np.array_equal(read(whole), read(net))
    if split == "freeze_params":
        name = next(iter(net.get_parameters()))
        old, new = net.get_parameters()[name], whole.get_parameters()[name]
        assert np.array_equal(old.mean, new.mean)


@pytest.mark.parametrize("split", [name for name in SPLITS if name != "whole"])
def test_the_standardization_is_on_the_static_side(case, split):
    dynamic, static = SPLITS[split](network(case))
    assert all(leaf is None for leaf in buffers_of(dynamic))
    assert len(buffers_of(static)) == len(buffers_of(network(case)))
    assert all(leaf is not None for leaf in buffers_of(static))


def test_the_standardization_has_no_gradient(case):
    gradient = jax.jit(jax.grad(nd.moment_loss))(network(case), gamma_data().batch())
    assert all(np.all(leaf == 0) for leaf in buffers_of(gradient))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))


def test_data_of_another_family_are_refused(case):
    with pytest.raises(ValueError, match=r"Polynomial1D\(powers=\(2, 4\)\).*Gamma"):
        case.make(OTHER, gamma_data(), jax.random.key(0))
    with pytest.raises(ValueError, match=r"Expected data of Gamma\(.*GaussianNatural1D"):
        network(case).batch(gaussian_data())


def test_keys_decide_the_weights(case):
    one, same, other = (
        nd.flatten_means(case.make(GAMMA, gamma_data(), jax.random.key(k))) for k in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    # Biases start at zero, whatever the key.
    assert not np.isin(other[other != 0], one).any()


def test_ensembles_by_vmap(case):
    keys = jax.random.split(jax.random.key(4), 3)
    nets = jax.vmap(lambda key: case.make(GAMMA, gamma_data(), key))(keys)
    eta = jnp.asarray(gamma_data().eta[0])
    call = jax.jit(lambda net: net(eta))
    together = jax.vmap(call)(nets)
    assert together.shape == (3, 2)
    for i in range(3):
        alone = jax.tree.map(lambda leaf, i=i: leaf[i], nets)
        assert_close(call(alone), together[i])
    assert len(np.unique(together[:, 0])) == 3


def test_invalid_etas_are_not_answered_silently(case):
    """Outside of the domain the coordinates of eta do not exist: NaN, or a refusal by name."""
    try:
        answer = network(case)(jnp.asarray([1.0, 0.5], gamma_data().eta.dtype))
    except ValueError as error:
        assert "'x'" in str(error)  # noqa: PT017
    else:
        assert np.isnan(answer).all()


def test_training_reaches_the_truth(case):
    """1,500 steps on 512 exact labels: rms z error below 0.04 on new etas."""
    data = gamma_data(512, 5)
    batch, held_out = data.batch(), gamma_data(200, 6).batch()
    net = case.make(data.family, data, jax.random.key(7))
    dynamic, static = nd.freeze_stdvs(net)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.02, 1_500))

    def step(carry, _):
        dynamic, state = carry
        value, gradient = jax.value_and_grad(
            lambda d: nd.moment_loss(nd.unfreeze_all(d, static), batch)
        )(dynamic)
        return descend(optimizer, gradient, state, dynamic), value

    @jax.jit
    def train(dynamic):
        start = (dynamic, optimizer.init(dynamic))
        (dynamic, _), losses = jax.lax.scan(step, start, length=1_500)
        trained = nd.unfreeze_all(dynamic, static)
        return losses, nd.moment_loss(net, held_out), nd.moment_loss(trained, held_out)

    losses, before, after = train(dynamic)
    assert jnp.sqrt(before) > 0.3
    assert losses[-1] < losses[0] / 100
    assert jnp.sqrt(after) < 0.04
