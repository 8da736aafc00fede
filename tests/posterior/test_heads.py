"""What holds for every registered posterior head."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
import pytest

import nnef_dists as nd
from tests.networks.exact import ExactPotential
from tests.numerics import assert_close
from tests.posterior.cases import HEADS

# These take long to compile, and are the flow beside it and a part of the mixed head.
SLOW = {"FlowPosterior(coupling)", "CategoricalPosterior"}

pytestmark = pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case.name in SLOW else [], id=str(case))
        for case in HEADS
    ],
)


@functools.cache
def data_of(case, uniform=True):
    return case.data(uniform=uniform)


@functools.cache
def maker(case, bounded=True):
    """What makes a head from a key, in one program but for modules that keep what they trace."""
    data, support = data_of(case, bounded), case.box() if bounded else None
    make = functools.partial(case.make, data, support)
    return make if case.is_foreign or "Exponential" in case.name else jax.jit(make)


@functools.cache
def head_of(case, bounded=True):
    """A head away from its start, where many laws are alike."""
    dynamic, static = nd.freeze_stdvs(maker(case, bounded)(jax.random.key(1)))

    @jax.jit
    def move(dynamic):
        leaves, treedef = jax.tree.flatten(dynamic)
        keys = jax.random.split(jax.random.key(2), len(leaves))
        moved = [
            leaf + 0.1 * jax.random.normal(k, leaf.shape, leaf.dtype)
            for leaf, k in zip(leaves, keys, strict=True)
        ]
        return jax.tree.unflatten(treedef, moved)

    return nd.unfreeze_all(move(dynamic), static)


@eqx.filter_jit
def log_probs(head, theta, x):
    return jax.vmap(head.log_prob, (0, None))(theta, x)


@eqx.filter_jit
def draws(head, key, x, n):
    return head.sample(key, x, n)


def observation(case):
    return jnp.asarray(data_of(case).x[0])


def grid(case, low, high, n=200):
    """Points and weights of a midpoint rule, dense at the edges, where densities may be steep.

    Those of discrete entries are their values, with weights of one.
    """
    angle = np.pi * (np.arange(n) + 0.5) / n
    axis = low + (high - low) * (1 - np.cos(angle)) / 2
    weight = np.pi / n * (high - low) * np.sin(angle) / 2
    d, discrete = case.theta_dim, case.discrete
    axes = discrete * [np.arange(3)] + (d - discrete) * [axis]
    each = discrete * [np.ones(3)] + (d - discrete) * [weight]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, d)
    weights = np.stack(np.meshgrid(*each, indexing="ij"), -1).reshape(-1, d).prod(1)
    return jnp.asarray(points, float), weights


@pytest.mark.parametrize("bounded", [True, False])
def test_integrates_to_one(case, bounded):
    n = 400 if case.is_foreign else 200  # splines are not smooth at their knots
    points, weights = grid(case, *((-1.0, 2.0) if bounded else (-12.0, 12.0)), n)
    density = np.exp(np.asarray(log_probs(head_of(case, bounded), points, observation(case))))
    assert abs(weights @ density - 1) < 3e-3


def test_has_no_mass_outside(case):
    head, x = head_of(case), observation(case)
    outside = jnp.asarray([[-1.1] * case.theta_dim, [0.5] * (case.theta_dim - 1) + [2.1]])
    assert np.array_equal(log_probs(head, outside, x), [-np.inf, -np.inf])
    theta = draws(head, jax.random.key(3), x, 1000)
    assert theta.shape == (1000, case.theta_dim)
    assert theta.dtype == x.dtype
    assert np.all((theta >= -1) & (theta <= 2))


def test_draws_have_the_density(case):
    """Means and squares of draws against integrals over the density, within 4.5 standard errors."""
    head, x, n = head_of(case), observation(case), 4000
    points, weights = grid(case, -1.0, 2.0)
    weights = weights * np.exp(np.asarray(log_probs(head, points, x), np.float64))
    theta = np.asarray(draws(head, jax.random.key(4), x, n), np.float64)
    for power in (1, 2):
        exact = weights @ np.asarray(points, np.float64) ** power
        found = theta**power
        assert np.all(np.abs(found.mean(0) - exact) < 4.5 * found.std(0) / n**0.5 + 1e-3)


def test_call_protocol(case):
    dynamic, static = nd.freeze_means(head_of(case))
    head = nd.unfreeze_all(jax.tree.map(lambda raw: raw + 0.2, dynamic), static)
    theta, x = jnp.asarray(data_of(case).theta[0]), observation(case)
    key, other = jax.random.split(jax.random.key(5))

    @eqx.filter_jit
    def call(head):
        return {
            "means": head.log_prob(theta, x),
            "not sampled": head.log_prob(theta, x, key=key, sample=False),
            "drawn": head.log_prob(theta, x, key=key),
            "sampled": head.log_prob(theta, x, key=key, sample=True),
            "other": head.log_prob(theta, x, key=other),
            "all parameters": nd.sample_all_parameters(head, key).log_prob(theta, x),
        }

    found = {name: float(value) for name, value in call(head).items()}
    assert found["means"] == found["not sampled"]
    assert found["drawn"] == found["sampled"] == found["all parameters"]
    assert len({found["means"], found["drawn"], found["other"]}) == 3
    with pytest.raises(ValueError, match=r"^key is required when sample=True$"):
        head.log_prob(theta, x, sample=True)
    with pytest.raises(ValueError, match=r"^key is required when sample=True$"):
        head.parameters(x, sample=True)


def test_parameters_are_arrays(case):
    leaves = jax.tree.leaves(head_of(case).parameters(observation(case)))
    assert leaves
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_dtype_is_carried_from_the_data(case):
    if "Exponential" in case.name:
        pytest.skip("its family has a dtype of its own")
    with jax.enable_x64(True):
        for dtype in ("float32", "float64"):
            if case.is_foreign and dtype == "float32":
                continue  # flowjax makes weights of JAX's default dtype
            data = case.data(dtype=dtype, uniform=True)
            key = jax.random.key(1)
            make = functools.partial(case.make, data, case.box(dtype))
            head = make(key) if case.is_foreign else jax.eval_shape(make, key)
            theta, x = (jax.ShapeDtypeStruct(a.shape[1:], dtype) for a in data.arrays())
            log_prob = eqx.filter_eval_shape(lambda head, *a: head.log_prob(*a), head, theta, x)
            assert log_prob.dtype == dtype
            draws = eqx.filter_eval_shape(lambda head, *a: head.sample(*a, 3), head, key, x)
            assert draws.dtype == dtype


def test_leaves_are_inexact_arrays(case):
    leaves = jax.tree.leaves(head_of(case))
    if case.is_foreign:
        leaves = jax.tree.leaves(eqx.tree_at(lambda head: head.flow, head_of(case), None))
    assert all(
        isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves
    )


@pytest.mark.parametrize(
    "split",
    [
        "freeze_stdvs",
        pytest.param("freeze_means", marks=pytest.mark.slow),
        "partition_trainable",
    ],
)
def test_every_part_trains(case, split):
    """One step of optax with each loss; buffers stay."""
    head, batch = head_of(case), data_of(case).arrays()
    dynamic, static = getattr(nd, split)(head)
    optimizer = optax.adam(0.01)
    compiled = eqx.filter_jit if case.is_foreign else jax.jit

    def loss(dynamic, static, key):
        whole = nd.unfreeze_all(dynamic, static)
        if split == "freeze_stdvs":
            return nd.nll_loss(whole, batch)
        return nd.posterior.nll_elbo_loss(whole, batch, key, total=64, samples=2)

    @compiled
    def step(dynamic, static, state, key):
        value, gradient = jax.value_and_grad(loss)(dynamic, static, key)
        updates, state = optimizer.update(gradient, state, dynamic)
        return optax.apply_updates(dynamic, updates), value, gradient

    trained, value, gradient = step(dynamic, static, optimizer.init(dynamic), jax.random.key(6))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    whole = nd.unfreeze_all(trained, static)
    old, new = (nd.flatten_means(h) for h in (head, whole))
    assert np.array_equal(old, new) == (split == "freeze_means")
    for one, two in zip(buffers_of(head), buffers_of(whole), strict=True):
        assert np.array_equal(one, two)


def buffers_of(head):
    """All arrays that are never trained."""
    nodes = jax.tree.leaves(head, is_leaf=lambda node: isinstance(node, paramax.NonTrainable))
    buffers = [node for node in nodes if isinstance(node, paramax.NonTrainable)]
    return [leaf for node in buffers for leaf in jax.tree.leaves(node)]


def test_loss_is_the_mean_of_densities(case):
    head, batch = head_of(case), data_of(case)[:5].arrays()
    theta, x = (jnp.asarray(leaf) for leaf in batch)
    each = [log_probs(head, theta[i : i + 1], x[i]) for i in range(5)]
    assert_close(eqx.filter_jit(nd.nll_loss)(head, batch), -np.mean(each), ulps=256)


def test_other_shapes_are_refused(case, without_type_checks):
    head, x = head_of(case), observation(case)
    with pytest.raises(ValueError, match=r"Expected theta of shape .* got \(3,\)"):
        head.log_prob(jnp.zeros(3), x)
    with pytest.raises(ValueError, match=r"Expected x of shape .* got \(5,\)"):
        head.parameters(jnp.zeros(5))
    with pytest.raises(ValueError, match=r"Expected n >= 1; got 0"):
        head.sample(jax.random.key(0), x, 0)


def test_saves_and_loads(case, tmp_path):
    head, path = head_of(case), tmp_path / "head"
    nd.save(path, head)
    classes = (ExactPotential,) if "Exponential" in case.name else ()
    theta, x = jnp.asarray(data_of(case).theta[:4]), observation(case)
    assert np.array_equal(
        log_probs(nd.load(path, classes=classes), theta, x), log_probs(head, theta, x)
    )


def test_keys_decide_the_weights(case):
    one, same, other = (nd.flatten_means(maker(case)(jax.random.key(k))) for k in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_an_observation_that_is_not_finite(case):
    """An error of eager calls, NaN under a transformation, without a callback of the head's own."""
    head, x = head_of(case), observation(case)
    theta, key = jnp.asarray(data_of(case).theta[0]), jax.random.key(0)
    for value in (np.nan, np.inf):
        for call in (
            lambda bad: head.log_prob(theta, bad),
            lambda bad: head.sample(key, bad, 3),
            head.parameters,
        ):
            with pytest.raises(ValueError, match=rf"Expected a finite observation x; got {value}"):
                call(x.at[0].set(value))

    @eqx.filter_jit
    def evaluate(x):
        outside = jnp.full_like(theta, 5.0)
        return head.log_prob(theta, x), head.log_prob(outside, x), head.sample(key, x, 3)

    assert np.isfinite(evaluate(x)[2]).all()
    for value in (np.nan, np.inf):
        bad = x.at[-1].set(value)
        assert all(np.isnan(found).all() for found in evaluate(bad))
        parameters = eqx.filter_jit(head.parameters)(bad)
        assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(parameters))


def test_an_observation_unlike_the_simulated_ones_warns(case):
    head, x = head_of(case), observation(case)
    theta, far = jnp.asarray(data_of(case).theta[0]), x + 50
    with pytest.warns(
        nd.distributions.ExtrapolationWarning, match="like the simulated ones"
    ) as caught:
        head.log_prob(theta, far)
    assert caught[0].filename == __file__
    assert bool(head.is_inside(x))
    assert not bool(eqx.filter_jit(head.is_inside)(far))
