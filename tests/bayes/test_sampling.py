import equinox as eqx
import flowjax.bijections
import flowjax.distributions
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

from nnef_dists.bayes import (
    BayesianLinear,
    BayesianMLP,
    GaussianParameter,
    bayesianize,
    flatten_means,
    flatten_stdvs,
    freeze_means,
    get_parameters,
    make_parameter,
    predictive_draws,
    predictive_moments,
    sample_all_parameters,
)
from tests.bayes.laws import Mixed, SeedMLP, UniformParameter

KEY = jax.random.key(0)
X = jnp.ones(3)


ORDER = "Check the order of the arguments: "
MISTAKES = {
    "seed of a call": (lambda layer: layer(X, key=0), "Expected one jax.random.key; got 0"),
    "seed of the means": (lambda layer: layer(X, key=0, sample=False), "key; got 0. Use"),
    "seed to realize": (lambda layer: bayesianize({"b": X}).realize(key=1), "got 1. Use"),
    "seed of a parameter": (lambda layer: layer.W.sample(2), "got 2. Use jax.random.key(seed)"),
    "seed of a layer": (lambda _: BayesianLinear(3, 2, key=3), "got 3. Use jax.random.key(seed)"),
    "seed of a model": (lambda _: BayesianMLP(3, 2, 4, 1, key=4), "got 4. Use jax.random.key(seed"),
    "seed to draw": (lambda layer: sample_all_parameters(layer, 5), "got 5. Use jax.random.key("),
    "keys to draw": (lambda layer: sample_all_parameters(layer, jax.random.split(KEY)), "one of"),
    "model to draw with": (lambda layer: sample_all_parameters({}, layer), "got BayesianLinear. "
                           "Check the order of the arguments. Use jax.random.key(seed)"),
    "key and model": (lambda layer: sample_all_parameters(KEY, layer), "got a PRNG key. " + ORDER +
                      "sample_all_parameters(model, key)."),
    "seed of moments": (lambda layer: predictive_moments(layer, predict, 6, 3), "got 6. Use"),
    "samples and key": (lambda layer: predictive_draws(layer, predict, 7, KEY), "got 7. Use"),
    "function and model": (lambda layer: predictive_draws(predict, layer, KEY, 3), "got predict. " +
                           ORDER + "predictive_draws(model, predict, key, samples)."),
}  # fmt: skip


def predict(model):
    return model(X)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", MISTAKES)
def test_likely_mistakes(name):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call(BayesianLinear(3, 2, key=KEY))
    assert message in str(error.value)


def wide(shape=(2,)):
    return make_parameter(jnp.zeros(shape), init_raw_stdv=1.0)


class Plain(eqx.Module):
    weight: GaussianParameter
    label: str = eqx.field(static=True)


def stacked_layers():
    return eqx.filter_vmap(lambda key: BayesianLinear(3, 2, key=key))(jax.random.split(KEY, 4))


def flow_with_parameter():
    affine = flowjax.bijections.Affine(jnp.zeros(2), jnp.ones(2))
    flow = flowjax.distributions.Transformed(flowjax.distributions.Normal(jnp.zeros(2)), affine)
    return eqx.tree_at(lambda f: f.bijection.loc, flow, wide())


PLACES = {
    "list": lambda: ([wide()], ["[0]"]),
    "tuple": lambda: ((1, (wide(),)), ["[1][0]"]),
    "dict": lambda: ({"a": {"b": wide()}}, ["['a']['b']"]),
    "plain module": lambda: (Plain(wide(), "x"), ["weight"]),
    "stack": lambda: (stacked_layers(), ["W", "b"]),
    "closure": lambda: (eqx.Partial(lambda w, x: w.mean @ x, wide()), ["args[0]"]),
    "paramax": lambda: (paramax.Parameterize(jnp.exp, wide()), ["args[0]"]),
    "flowjax": lambda: (flow_with_parameter(), ["bijection.loc"]),
}


@pytest.mark.parametrize("place", PLACES)
def test_parameters_are_found_sampled_and_frozen_anywhere(place):
    model, names = PLACES[place]()
    assert list(get_parameters(model)) == names
    drawn = sample_all_parameters(model, KEY)
    assert jax.tree.structure(drawn) == jax.tree.structure(model)
    assert (flatten_means(drawn) != flatten_means(model)).all()
    dynamic, _ = freeze_means(model)
    assert len(jax.tree.leaves(dynamic)) == len(names)


def test_flowjax_uses_the_mean_and_then_the_draw():
    flow = flow_with_parameter()
    x = jnp.ones(2)
    log_prob = flow.log_prob(x)
    np.testing.assert_allclose(log_prob, -1 - np.log(2 * np.pi), rtol=1e-5)
    drawn = sample_all_parameters(flow, KEY)
    center = drawn.bijection.loc.mean
    expected = -0.5 * ((x - center) ** 2).sum() - np.log(2 * np.pi)
    np.testing.assert_allclose(drawn.log_prob(x), expected, rtol=1e-5)


def test_a_layer_inside_a_flowjax_structure_is_called_with_its_means():
    layer = BayesianLinear(3, 2, key=KEY)
    x = jnp.ones((4, 3))
    assert jnp.array_equal(paramax.unwrap(layer)(x), layer(x))


def test_a_stack_draws_every_layer_apart():
    model = stacked_layers()
    noise = sample_all_parameters(model, KEY).W.mean - model.W.mean
    assert len(np.unique(noise)) == noise.size
    out = eqx.filter_vmap(lambda m, x: m(x), in_axes=(0, None))(model, jnp.ones(3))
    assert out.shape == (4, 2)


def test_draws_have_the_laws_moments_and_are_independent():
    model = {"m": Mixed(), "l": BayesianLinear(3, 2, init_raw_stdv=1.0, key=KEY)}
    n = 20_000
    draw = jax.jit(jax.vmap(lambda k: flatten_means(sample_all_parameters(model, k))))
    draws = np.asarray(draw(jax.random.split(KEY, n)), np.float64)
    stdvs = np.asarray(flatten_stdvs(model), np.float64)
    random = stdvs > 0
    z = (draws - np.asarray(flatten_means(model)))[:, random] / stdvs[random]
    assert np.abs(z.mean(axis=0)).max() < 4.5 / np.sqrt(n)
    # The fourth moment of Laplace noise is 6: its square has variance 5.
    assert np.abs((z**2).mean(axis=0) - 1).max() < 4.5 * np.sqrt(5 / n)
    correlation = z.T @ z / n - np.diag((z**2).mean(axis=0))
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
    assert (draws[:, ~random] == np.asarray(flatten_means(model))[~random]).all()


def test_vmapped_draws_are_those_of_a_loop():
    model = Mixed()
    keys = jax.random.split(KEY, 3)
    together = jax.vmap(lambda k: flatten_means(sample_all_parameters(model, k)))(keys)
    apart = jnp.stack([flatten_means(sample_all_parameters(model, k)) for k in keys])
    np.testing.assert_allclose(together, apart, rtol=1e-5, atol=1e-6)


def test_gradients_reach_means_and_widths():
    model = SeedMLP([3, 4, 1], key=KEY, init_raw_stdv=0.4)

    def total(m):
        return flatten_means(sample_all_parameters(m, KEY)).sum()

    grads = jax.jit(jax.grad(total))(model)
    np.testing.assert_allclose(flatten_means(grads), 1.0, rtol=1e-6)
    drawn = sample_all_parameters(model, KEY)
    noise = (flatten_means(drawn) - flatten_means(model)) / flatten_stdvs(model)
    raw = [law.raw_stdv.ravel() for law in get_parameters(grads).values()]
    np.testing.assert_allclose(jnp.concatenate(raw), 2 * 0.4 * noise, rtol=1e-4, atol=1e-5)


def test_widths_and_everything_else_are_kept():
    model = Mixed()
    drawn = sample_all_parameters(model, KEY)
    assert jnp.array_equal(drawn.flatten_stdvs(), model.flatten_stdvs())
    assert jnp.array_equal(drawn.plain, model.plain)
    assert drawn.name == model.name


@pytest.mark.parametrize("law", ["gaussian", "own"])
def test_the_traced_program_grows_linearly(law):
    def equations(n):
        if law == "own":
            model = [UniformParameter(jnp.zeros(3), jnp.zeros(3)) for _ in range(n)]
        else:
            model = BayesianMLP(4, 4, 4, n - 1, key=KEY)
        jaxpr = jax.make_jaxpr(sample_all_parameters)(model, KEY)
        return sum(1 for _ in jaxpr.eqns), str(jaxpr).count("random_bits")

    (small, few), (medium, _), (large, many) = equations(10), equations(20), equations(40)
    assert large - medium == 2 * (medium - small)
    # The hash is traced once, however many parameters there are.
    assert few == many


def test_equal_structures_of_a_users_law_share_one_draw():
    laws = [UniformParameter(jnp.full(2, float(i)), jnp.zeros(2)) for i in range(3)]
    odd = UniformParameter(jnp.zeros(5), jnp.zeros(5))
    drawn = sample_all_parameters([*laws, odd], KEY)
    offsets = [np.asarray(d.mean - p.mean) for d, p in zip(drawn, [*laws, odd], strict=True)]
    assert all(np.abs(offset).max() < 1 for offset in offsets)
    assert len(np.unique(np.concatenate(offsets))) == 11
