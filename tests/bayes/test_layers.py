import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnef_dists.bayes import (
    BayesianLinear,
    BayesianMLP,
    DeterministicParameter,
    LaplacianParameter,
    SoftplusPositivity,
    get_parameter_count,
)
from tests.bayes.laws import UniformParameter

KEY = jax.random.key(0)


def test_initial_values():
    layer = BayesianLinear(30, 50, key=KEY)
    limit = np.sqrt(6 / 80)
    assert layer.W.shape == (50, 30)
    assert layer.b.shape == (50,)
    assert not layer.b.mean.any()
    weights = np.abs(np.asarray(layer.W.mean))
    assert 0.99 * limit < weights.max() <= limit
    np.testing.assert_allclose(layer.W.raw_stdv, 0.01)


def test_constructor_options():
    layer = BayesianLinear(3, 2, bayesian=False, param_type=LaplacianParameter, key=KEY)
    assert isinstance(layer.W, DeterministicParameter)
    assert isinstance(layer.b, LaplacianParameter)
    layer = BayesianLinear(
        3, 2, bayesian_bias=False, init_raw_stdv=-1.0, positivity=SoftplusPositivity(), key=KEY
    )
    assert isinstance(layer.b, DeterministicParameter)
    np.testing.assert_allclose(layer.W.stdv, np.log1p(np.exp(-1.0)), rtol=1e-6)
    assert BayesianLinear(3, 2, use_bias=False, key=KEY).b is None


@pytest.mark.parametrize("leading", [(), (5,), (2, 0), (2, 5)])
def test_leading_axes(leading):
    layer = BayesianLinear(3, 2, key=KEY)
    x = jax.random.normal(jax.random.key(1), (*leading, 3))
    y = layer(x, key=KEY)
    assert y.shape == (*leading, 2)
    rows = [layer(row, key=KEY) for row in x.reshape(-1, 3)]
    expected = np.reshape(rows, y.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("without_type_checks")
def test_a_wrong_input_size_is_refused():
    with pytest.raises(ValueError, match=r"Expected x of shape \(..., 3\); got \(5, 4\)"):
        BayesianLinear(3, 2, key=KEY)(jnp.ones((5, 4)))


def layer_pair(**options):
    options = {"init_raw_stdv": 0.5, "key": KEY, **options}
    return [
        BayesianLinear(3, 2, local_reparameterization=local, **options) for local in (False, True)
    ]


def test_local_reparameterization_has_the_same_output_distribution():
    x = jax.random.normal(jax.random.key(1), (4, 3))
    n = 20_000
    keys = jax.random.split(KEY, n)
    plain, local = (
        np.asarray(jax.jit(jax.vmap(lambda k, m=layer: m(x, key=k)))(keys), np.float64)
        for layer in layer_pair()
    )
    stdv = plain.std(axis=0)
    assert (np.abs(plain.mean(axis=0) - local.mean(axis=0)) / stdv).max() < 4.5 * np.sqrt(2 / n)
    # Both are Gaussian: a variance over n draws has relative variance 2 / n.
    assert np.abs(local.var(axis=0) / plain.var(axis=0) - 1).max() < 4.5 * np.sqrt(4 / n)


def test_local_reparameterization_lowers_the_gradients_variance():
    x = jax.random.normal(jax.random.key(1), (64, 3))
    keys = jax.random.split(KEY, 500)

    def variance(layer):
        grad = jax.grad(lambda m, k: jnp.mean((m(x, key=k) - 1.0) ** 2))
        grads = jax.jit(jax.vmap(lambda k: grad(layer, k)))(keys)
        return float(jnp.var(grads.W.raw_stdv, axis=0).sum())

    plain, local = layer_pair()
    assert variance(plain) > 5 * variance(local)


@pytest.mark.usefixtures("without_type_checks")
def test_local_reparameterization_of_small_integers():
    layer = BayesianLinear(3, 2, local_reparameterization=True, init_raw_stdv=1.0, key=KEY)
    x = jnp.asarray([100, 17, 200], jnp.uint8)
    np.testing.assert_allclose(layer(x, key=KEY), layer(x.astype(float), key=KEY), rtol=1e-5)


def test_local_reparameterization_is_differentiable_where_nothing_is_random():
    layer = BayesianLinear(3, 2, bayesian_bias=False, local_reparameterization=True, key=KEY)
    grads = jax.grad(lambda m: m(jnp.zeros((2, 3)), key=KEY).sum())(layer)
    # The output is W x + b at x = 0, for two points. The slope of the square root does not matter.
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(grads.W))
    assert (grads.b.mean == 2).all()


@pytest.mark.parametrize("law", [LaplacianParameter, UniformParameter])
def test_local_reparameterization_is_for_gaussians(law):
    with pytest.raises(ValueError, match="Expected Gaussian or deterministic"):
        BayesianLinear(3, 2, param_type=law, local_reparameterization=True, key=KEY)


def test_mlp_is_the_composition_of_its_layers():
    mlp = BayesianMLP(3, 2, 5, 2, activation=jnp.tanh, key=KEY)
    x = jnp.ones((4, 3))
    first, second, last = mlp.layers
    hidden = jnp.tanh(first(x))
    np.testing.assert_allclose(mlp(x), last(jnp.tanh(second(hidden))), rtol=1e-6)
    residual = BayesianMLP(3, 2, 5, 2, activation=jnp.tanh, residual=True, key=KEY)
    expected = last(hidden + jnp.tanh(second(hidden)))
    np.testing.assert_allclose(residual(x), expected, rtol=1e-6)


def test_mlp_flags_and_depth():
    mlp = BayesianMLP(3, 2, 5, 1, bayesian=False, use_bias=True, key=KEY)
    assert get_parameter_count(mlp) == {"total": 32, "bayesian": 7, "deterministic": 25}
    linear = BayesianMLP(3, 2, 5, 0, bayesian_bias=False, key=KEY)
    assert get_parameter_count(linear) == {"total": 8, "bayesian": 6, "deterministic": 2}
