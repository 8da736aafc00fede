import diffrax
import equinox as eqx
import flowjax.bijections
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

from nnef_dists.bayes import (
    BayesianLinear,
    LaplacianParameter,
    SoftplusPositivity,
    bayesianize,
    flatten_stdvs,
    freeze_stdvs,
    get_parameters,
    sample_all_parameters,
    unfreeze_all,
)

KEY = jax.random.key(0)
X = jnp.array([0.3, -1.2])


def trained():
    return eqx.nn.MLP(2, 2, 4, 1, key=KEY)


def test_means_are_the_modules_weights():
    module = trained()
    bayesian = bayesianize(module, init_raw_stdv=0.5)
    assert jnp.array_equal(bayesian(X), module(X))
    assert not jnp.allclose(bayesian(X, key=KEY), module(X))
    assert eqx.tree_equal(bayesian.realize(), module)
    assert len(get_parameters(bayesian)) == 4
    with pytest.raises(ValueError, match=r"^key is required when sample=True$"):
        bayesian(X, sample=True)


def test_sampling_the_whole_is_calling_with_the_key():
    bayesian = bayesianize(trained(), init_raw_stdv=0.5)
    # The other half of the key is for layers that are random themselves.
    weight_key, _ = jax.random.split(KEY)
    drawn = sample_all_parameters(bayesian, weight_key)
    assert jnp.array_equal(drawn(X), drawn(X, sample=False))
    assert jnp.allclose(drawn(X), bayesian(X, key=KEY))


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (lambda m: m.layers[-1], ["layers[1].weight", "layers[1].bias"]),
        (lambda m: m.layers[0].weight, ["layers[0].weight"]),
        (lambda m: [m.layers[0].bias, m.layers[1].bias], ["layers[0].bias", "layers[1].bias"]),
    ],
)
def test_where_chooses(where, names):
    bayesian = bayesianize(trained(), where)
    assert list(get_parameters(bayesian)) == [f"module.{name}" for name in names]


def test_options_reach_the_laws():
    bayesian = bayesianize(
        trained(),
        param_type=LaplacianParameter,
        init_raw_stdv=-2.0,
        positivity=SoftplusPositivity(),
    )
    expected = np.sqrt(2) * np.log1p(np.exp(-2.0))
    np.testing.assert_allclose(flatten_stdvs(bayesian), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "where", "message"),
    [
        (trained, lambda m: m.activation, "Expected `where` to select a real floating array"),
        (trained, "layers", "Expected where as a function of the module; got 'layers'. Use"),
        (lambda: paramax.NonTrainable(trained()), None, "array; got NonTrainable without one. Buf"),
        (lambda: {"n": 1}, None, "Expected a module with a real floating array; got dict without"),
        (lambda: bayesianize(trained()), None, "got Bayesianized, Bayesian already. Use it as it "
         "is, or pass module.realize()"),
        (lambda: BayesianLinear(2, 1, key=KEY), None, "got BayesianLinear, Bayesian already. Use"),
        (lambda: BayesianLinear(2, 1, key=KEY), lambda m: [m.W, m.b], "got parameters from `where`"
         ", Bayesian already. Use it as it is."),
    ],
    ids=["function", "name", "buffer", "integer", "bayesianized", "layer", "selected"],
)  # fmt: skip
@pytest.mark.usefixtures("without_type_checks")
def test_nothing_to_convert_is_refused(make, where, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        bayesianize(make(), where)
    assert message in str(error.value)


def test_a_second_call_leaves_parameters_as_they_are():
    first = bayesianize(trained(), lambda m: m.layers[0])
    both = bayesianize(first.module, lambda m: m.layers[1], init_raw_stdv=0.7)
    raw = [float(law.raw_stdv.ravel()[0]) for law in get_parameters(both).values()]
    np.testing.assert_allclose(raw, [0.01, 0.01, 0.7, 0.7], rtol=1e-6)


def test_a_flowjax_bijection_becomes_bayesian_in_one_line():
    coupling = flowjax.bijections.MaskedAutoregressive(
        KEY, transformer=flowjax.bijections.Affine(), dim=2, nn_width=4, nn_depth=1
    )
    bayesian = bayesianize(coupling, init_raw_stdv=0.5)

    @eqx.filter_jit
    def outputs(bayesian, coupling):
        drawn = bayesian.realize(key=KEY)
        exact = jnp.linalg.slogdet(jax.jacfwd(drawn.transform)(X))[1]
        both = bayesian.realize().transform(X), coupling.transform(X)
        return both, drawn.transform_and_log_det(X), exact

    (y, expected), (z, log_det), exact = outputs(bayesian, coupling)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert not jnp.allclose(z, y)
    np.testing.assert_allclose(log_det, exact, atol=1e-5)


class Field(eqx.Module):
    rate: jax.Array

    def __call__(self, t, y, args):
        return -self.rate * y


def solve(field, y0):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=0.0,
        t1=1.0,
        dt0=0.1,
        y0=y0,
        max_steps=32,
    ).ys[-1]


def test_a_diffrax_vector_field_becomes_bayesian_in_one_line():
    field = bayesianize(Field(jnp.array(0.8)), init_raw_stdv=0.4)
    y0 = jnp.ones(1)

    def end(model, key):
        drawn = sample_all_parameters(model, key)
        return solve(drawn, y0)[0], drawn.module.rate.mean

    (value, rate), grads = jax.jit(jax.value_and_grad(end, has_aux=True))(field, KEY)
    np.testing.assert_allclose(value, np.exp(-rate), rtol=1e-4)
    noise = (rate - 0.8) / (0.4**2 + 1e-4)
    slope = -np.exp(-rate)
    np.testing.assert_allclose(grads.module.rate.mean, slope, rtol=1e-3)
    np.testing.assert_allclose(grads.module.rate.raw_stdv, slope * 0.8 * noise, rtol=1e-3)


def test_parts_of_a_converted_module_train_under_plain_jit():
    dynamic, static = freeze_stdvs(bayesianize(trained()))
    loss = jax.jit(jax.value_and_grad(lambda d: (unfreeze_all(d, static)(X) ** 2).sum()))
    value, grads = loss(dynamic)
    plain = eqx.filter_value_and_grad(lambda module: (module(X) ** 2).sum())(trained())
    np.testing.assert_allclose(value, plain[0], rtol=1e-5)
    leaves = jax.tree.leaves(eqx.filter(plain[1], eqx.is_array))
    for mine, theirs in zip(jax.tree.leaves(grads), leaves, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
