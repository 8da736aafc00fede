import typing

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import paramax
import pytest

from nnef_dists.bayes import (
    GaussianParameter,
    freeze_means,
    freeze_params,
    freeze_stdvs,
    partition_trainable,
    unfreeze_all,
)
from nnef_dists.bayes._introspection import path_name
from nnef_dists.bayes._partition import check_whole
from tests.bayes.laws import MODELS, Mixed, UniformParameter

MEANS = {"gaussian.mean", "laplacian.mean", "deterministic.mean", "uniform.mean"}
WIDTHS = {"gaussian.raw_stdv", "laplacian.raw_scale", "uniform.raw_half_width"}
FIXED = {"buffer.tree", "counts"}
ALL = MEANS | WIDTHS | FIXED | {"plain"}

SPLITS = {
    "freeze_stdvs": (freeze_stdvs, MEANS | {"plain"}),
    "freeze_means": (freeze_means, WIDTHS),
    "partition_trainable": (partition_trainable, MEANS | WIDTHS | {"plain"}),
    "freeze_params": (
        lambda model: freeze_params(model, ["gaussian", "deterministic"]),
        (MEANS | WIDTHS | {"plain"}) - {"gaussian.mean", "gaussian.raw_stdv", "deterministic.mean"},
    ),
}


def names(tree):
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {path_name(path) for path, _ in pairs}


@pytest.mark.parametrize("split", SPLITS)
def test_each_part_holds_what_it_should(split):
    function, expected = SPLITS[split]
    model = Mixed()
    dynamic, static = function(model)
    assert names(dynamic) == expected
    assert names(static) == ALL - expected
    assert eqx.tree_equal(unfreeze_all(dynamic, static), model)


@pytest.mark.parametrize("split", SPLITS)
def test_parts_are_found_below_containers(split):
    function, expected = SPLITS[split]
    model = {"a": (Mixed(), "text", None)}
    if split == "freeze_params":
        dynamic, _ = freeze_params(model, ["['a'][0].gaussian", "['a'][0].deterministic"])
    else:
        dynamic, _ = function(model)
    assert names(dynamic) == {f"['a'][0].{name}" for name in expected}


def test_buffers_inside_laws_are_never_dynamic():
    law = GaussianParameter(jnp.zeros(2), jnp.ones(2))
    frozen = eqx.tree_at(lambda p: p.raw_stdv, law, paramax.NonTrainable(law.raw_stdv))
    for model in (frozen, paramax.NonTrainable(law)):
        assert not jax.tree.leaves(freeze_means(model)[0])
        assert len(jax.tree.leaves(partition_trainable(model)[0])) == (model is frozen)


def test_parts_of_two_splits_are_refused():
    model = Mixed()
    means, without_means = freeze_stdvs(model)
    scales, without_scales = freeze_means(model)
    with pytest.raises(ValueError, match=r"two parts of one split; got \S+ in both"):
        unfreeze_all(means, without_scales)
    with pytest.raises(ValueError, match=r"two parts of one split; got gaussian.raw_stdv in both"):
        unfreeze_all(scales, without_means)
    with pytest.raises(ValueError, match="Expected a whole model"):
        unfreeze_all(means, scales)


@pytest.mark.parametrize("wrong", [["plain"], ["gaussian.mean"], ["gauss"], "gaussian"])
def test_unknown_names_are_refused(wrong):
    with pytest.raises(ValueError, match="Expected a sequence of names among"):
        freeze_params(Mixed(), wrong)


def test_names_match_whole_not_in_part():
    model = {"W": Mixed(), "W2": Mixed()}
    dynamic, _ = freeze_params(model, ["['W'].gaussian"])
    assert "['W2'].gaussian.mean" in names(dynamic)
    assert "['W'].gaussian.mean" not in names(dynamic)


class WithOptional(UniformParameter):
    """A law with an optional field, without a default, in the older notation."""

    shift: typing.Optional[jax.Array]  # noqa: UP045


def test_none_is_a_value_of_an_optional_field():
    model = {"a": WithOptional(jnp.zeros(2), jnp.zeros(2), None)}
    check_whole(model)
    dynamic, static = freeze_means(model)
    check_whole(unfreeze_all(dynamic, static))
    with pytest.raises(ValueError, match=r"there is no \['a'\].mean"):
        check_whole(dynamic)


@pytest.mark.parametrize(
    ("name", "split"),
    [(name, None) for name in MODELS]
    + [("BayesianMLP", split) for split in (freeze_stdvs, freeze_means, partition_trainable)],
)
def test_plain_jax_and_optax_train_models_and_their_parts(name, split):
    model = MODELS[name]()
    x, y, key = jnp.ones((4, 3)), jnp.zeros((4, 2)), jax.random.key(0)
    dynamic, static = split(model) if split else (model, None)
    optimizer = optax.adam(1e-2)

    @jax.jit
    def step(dynamic, state):
        def loss(dynamic):
            whole = unfreeze_all(dynamic, static) if split else dynamic
            return jnp.mean((whole(x, key=key) - y) ** 2)

        value, grads = jax.value_and_grad(loss)(dynamic)
        updates, state = optimizer.update(grads, state, dynamic)
        return optax.apply_updates(dynamic, updates), state, value

    trained, _, value = step(dynamic, optimizer.init(dynamic))
    assert jnp.allclose(value, jnp.mean((model(x, key=key) - y) ** 2), rtol=1e-5)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), dynamic, trained)
    assert jax.tree.leaves(changed)
    assert all(jax.tree.leaves(changed))
