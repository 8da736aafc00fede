import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

from nnef_dists.bayes import (
    AbstractParameter,
    Module,
    draw_or_mean,
    drawing_key,
    flatten_raw_stdvs,
    get_parameter_count,
    get_parameter_groups,
    get_parameters,
    make_parameter,
    sample_all_parameters,
)
from tests.bayes.laws import MODELS, Mixed, SeedMLP, UniformParameter


def seed_mlp(**options):
    return SeedMLP([4, 32, 1], key=jax.random.key(0), **options)


def test_forward_pass_of_the_guide():
    model = seed_mlp(init_raw_stdv=0.3)
    x = jnp.ones((5, 4))
    drawn = model(x, key=jax.random.key(1), sample=True)
    mean = model(x, key=None, sample=False)
    assert drawn.shape == mean.shape == (5, 1)
    assert not jnp.allclose(drawn, mean)
    assert jnp.array_equal(drawn, model(x, key=jax.random.key(1), sample=True))


def test_parameters_have_their_path_as_name():
    names = ["layers[0].W", "layers[0].b", "layers[1].W", "layers[1].b"]
    assert list(seed_mlp().get_parameters()) == names
    nested = {"a": (seed_mlp(), None), "b": make_parameter(1.0)}
    assert list(get_parameters(nested)) == [f"['a'][0].{name}" for name in names] + ["['b']"]
    assert list(get_parameters(make_parameter(1.0))) == [""]


def test_flat_vectors_are_aligned():
    model = Mixed()
    means, stdvs = model.flatten_means(), model.flatten_stdvs()
    laws = list(model.get_parameters().values())
    assert means.shape == stdvs.shape == model.flatten_raw_stdvs().shape == (17,)
    np.testing.assert_array_equal(means, np.concatenate([np.ravel(law.mean) for law in laws]))
    np.testing.assert_array_equal(stdvs[10:12], 0)
    np.testing.assert_allclose(stdvs[6:10], np.sqrt(2) * (0.3**2 + 1e-4), rtol=1e-6)
    expected = [0.5] * 6 + [0.3] * 4 + [0.0] * 2 + [-1.0] * 5
    np.testing.assert_allclose(model.flatten_raw_stdvs(), expected, rtol=1e-6)


class Shifted(AbstractParameter):
    """A uniform distribution with a fixed array."""

    mean: jax.Array
    raw_half_width: jax.Array
    shift: paramax.NonTrainable

    stdv = UniformParameter.stdv
    sample = UniformParameter.sample
    entropy = UniformParameter.entropy


def test_fixed_arrays_of_a_parameter_are_no_scales():
    parameter = Shifted(jnp.zeros(2), jnp.full(2, -1.0), paramax.NonTrainable(jnp.ones(2)))
    assert len(parameter.raw_scales()) == 1
    np.testing.assert_array_equal(flatten_raw_stdvs([parameter]), [-1.0, -1.0])


def test_a_model_without_parameters_is_empty():
    class Empty(Module):
        pass

    assert Empty().flatten_means().shape == (0,)
    assert Empty().compute_prior() == 0
    assert get_parameter_count(Empty()) == {"total": 0, "bayesian": 0, "deterministic": 0}


def test_counts_and_groups():
    assert get_parameter_count(Mixed()) == {"total": 17, "bayesian": 15, "deterministic": 2}
    assert get_parameter_groups(Mixed()) == {
        "gaussian": ["gaussian"],
        "laplacian": ["laplacian"],
        "deterministic": ["deterministic"],
        "uniform": ["uniform"],
    }
    groups = get_parameter_groups(seed_mlp(bayesian_bias=False))
    assert groups["deterministic"] == ["layers[0].b", "layers[1].b"]
    assert groups["laplacian"] == []


def test_prior_is_the_sum_of_squared_means():
    model = Mixed()
    np.testing.assert_allclose(model.compute_prior(), (model.flatten_means() ** 2).sum())
    drawn = sample_all_parameters(model, jax.random.key(0))
    np.testing.assert_allclose(drawn.compute_prior(), (drawn.flatten_means() ** 2).sum(), rtol=1e-6)


def test_prior_can_be_overridden():
    class Lasso(Module):
        w: AbstractParameter

        def compute_prior(self):
            return jnp.abs(self.w.mean).sum()

    assert Lasso(make_parameter(jnp.array([-1.0, 2.0]))).compute_prior() == 3.0


def test_models_are_immutable():
    model = seed_mlp()
    with pytest.raises(AttributeError):
        model.layers = []
    with pytest.raises(AttributeError):
        model.layers[0].W.mean = jnp.zeros(3)


@pytest.mark.parametrize("holder", [np.array, jnp.array])
@pytest.mark.parametrize("wrap", [lambda a: a, lambda a: ("x", (1, [a]))])
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
def test_an_array_in_a_static_field_is_refused(holder, wrap):
    class Model(Module):
        constant: object = eqx.field(static=True)

    with pytest.raises(ValueError, match=r"static field 'constant' of Model.*NonTrainable"):
        Model(wrap(holder([1.0])))


def test_static_fields_are_constants():
    class Model(Module):
        w: AbstractParameter
        nested: tuple = eqx.field(static=True)
        name: str = eqx.field(static=True)

    model = Model(make_parameter(jnp.ones(2), init_raw_stdv=1.0), (1, ("a", 2.5)), "n")
    drawn = jax.jit(sample_all_parameters)(model, jax.random.key(0))
    assert (drawn.nested, drawn.name) == (model.nested, model.name)
    assert list(model.get_parameters()) == ["w"]
    assert len(jax.tree.leaves(model)) == 2


@pytest.mark.parametrize("name", MODELS)
def test_call_protocol(name):
    model = MODELS[name]()
    x = jnp.ones((7, 3))
    key = jax.random.key(4)
    mean = model(x)
    assert mean.shape == (7, 2)
    for same in (model(x, sample=False), model(x, key=key, sample=False)):
        assert jnp.array_equal(same, mean)
    drawn = model(x, key=key)
    assert jnp.array_equal(drawn, model(x, key=key, sample=True))
    assert not jnp.array_equal(drawn, mean)
    with pytest.raises(ValueError, match=r"^key is required when sample=True$"):
        model(x, sample=True)


def test_protocol_helpers():
    key = jax.random.key(0)
    assert drawing_key(None, None) is None
    assert drawing_key(None, False) is None
    assert drawing_key(key, False) is None
    assert drawing_key(key, None) is key
    assert drawing_key(key, True) is key
    model = seed_mlp()
    assert draw_or_mean(model) is model
    assert eqx.tree_equal(draw_or_mean(model, key=key), sample_all_parameters(model, key))
    with pytest.raises(ValueError, match=r"^key is required when sample=True$"):
        draw_or_mean(model, sample=True)


@pytest.mark.parametrize("name", MODELS)
def test_dynamic_leaves_are_inexact_arrays(name):
    leaves = jax.tree.leaves(MODELS[name]())
    assert leaves
    assert all(eqx.is_inexact_array(leaf) for leaf in leaves)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.usefixtures("strict_promotion")
def test_float32_models_stay_float32(name):
    model = jax.tree.map(lambda a: a.astype(jnp.float32), MODELS[name]())
    x = jnp.ones((2, 3), jnp.float32)

    def outputs(model, key):
        grads = jax.grad(lambda m: m(x, key=key).sum())(model)
        return model(x), model(x, key=key), grads

    shapes = jax.eval_shape(outputs, model, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
