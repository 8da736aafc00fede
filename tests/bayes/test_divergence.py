import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nnef_dists.bayes import (
    BayesianLinear,
    DeterministicParameter,
    GaussianParameter,
    LaplacianParameter,
    Module,
    entropy,
    gaussian_entropy,
    kl_divergence,
    laplacian_entropy,
    log_prior,
    sample_all_parameters,
)
from tests.bayes.laws import LAWS, Mixed

PRIORS = {
    "gaussian": lambda: GaussianParameter.from_stdv(0.2, 1.5),
    "laplacian": lambda: LaplacianParameter.from_scale(0.2, 1.5),
}
CLOSED = [pair for pair in itertools.product(LAWS, PRIORS) if pair != ("uniform", "laplacian")]


def test_entropies_of_the_guide():
    model = Mixed()
    np.testing.assert_allclose(gaussian_entropy(model), 6 * np.log(0.5**2 + 1e-4), rtol=1e-5)
    np.testing.assert_allclose(laplacian_entropy(model), 4 * np.log(0.3**2 + 1e-4), rtol=1e-5)
    parts = sum(float(law.entropy()) for law in model.get_parameters().values())
    np.testing.assert_allclose(entropy(model), parts, rtol=1e-6)


@pytest.mark.parametrize(("q", "p"), CLOSED)
def test_divergence_is_that_of_monte_carlo(q, p):
    law, prior = LAWS[q](), PRIORS[p]()
    n = 20_000
    draw = jax.jit(jax.vmap(lambda k: log_prior(sample_all_parameters(law, k), prior)))
    values = np.asarray(draw(jax.random.split(jax.random.key(1), n)), np.float64)
    estimate = -float(entropy(law)) - values.mean()
    tolerance = 4 * values.std() / np.sqrt(n) + 1e-5
    assert abs(float(kl_divergence(law, prior)) - estimate) < tolerance


def test_log_prior_is_the_density():
    law = LAWS["deterministic"]()
    for name, prior in PRIORS.items():
        z = (np.asarray(law.mean) - 0.2) / 1.5
        expected = {
            "gaussian": np.sum(-(z**2) / 2 - np.log(1.5 * np.sqrt(2 * np.pi))),
            "laplacian": np.sum(-np.abs(z) - np.log(3.0)),
        }[name]
        np.testing.assert_allclose(log_prior(law, prior()), expected, rtol=1e-5)


@pytest.mark.parametrize("param_type", [GaussianParameter, LaplacianParameter])
def test_divergence_from_a_model_shaped_prior(param_type):
    model = BayesianLinear(3, 2, param_type=param_type, init_raw_stdv=0.3, key=jax.random.key(0))
    same = kl_divergence(model, model)
    np.testing.assert_allclose(same, 0.0, atol=1e-5)
    other = BayesianLinear(3, 2, param_type=param_type, init_raw_stdv=0.8, key=jax.random.key(1))
    apart = sum(
        kl_divergence(q, p)
        for q, p in zip(
            model.get_parameters().values(), other.get_parameters().values(), strict=True
        )
    )
    np.testing.assert_allclose(kl_divergence(model, other), apart, rtol=1e-5)
    assert apart > 1


def test_a_point_mass_prior_states_no_preference_over_a_point_mass():
    point = DeterministicParameter(jnp.ones(2))
    assert kl_divergence({"a": point}, {"a": point}) == 0
    assert log_prior({"a": point}, {"a": point}) == 0


def test_priors_that_do_not_fit_are_refused():
    model = {"a": LAWS["gaussian"]()}
    with pytest.raises(ValueError, match=r"differences in .*'b'"):
        kl_divergence(model, {"a": LAWS["gaussian"](), "b": LAWS["gaussian"]()})
    with pytest.raises(ValueError, match=r"for shape \(2,\); got \(3,\)"):
        kl_divergence(model, GaussianParameter.from_stdv(jnp.zeros(3), 1.0))
    with pytest.raises(ValueError, match=r"a distribution with a density.*DeterministicParam"):
        kl_divergence(model, {"a": LAWS["deterministic"]()})
    with pytest.raises(ValueError, match=r"known mean distance.*UniformParameter"):
        kl_divergence({"a": LAWS["uniform"]()}, PRIORS["laplacian"]())


PRIOR = "Expected a prior parameter or a model of prior parameters; got {}, without any. Use for"
NORMAL = GaussianParameter.from_stdv(0.2, 1.5)
MISTAKES = {
    "number": (lambda model: kl_divergence(model, 1.0), PRIOR.format("float")),
    "class": (
        lambda model: kl_divergence(model, GaussianParameter),
        PRIOR.format("GaussianParameter"),
    ),
    "nothing": (lambda model: log_prior(model, None), PRIOR.format("NoneType")),
    "swapped": (lambda model: kl_divergence(NORMAL, model), "The model is the first argument."),
    "key": (lambda _: log_prior(jax.random.key(0), NORMAL), "got a PRNG key. Check the order of"),
    "stdv": (lambda _: GaussianParameter.from_stdv(0, -1), "Expected 0.0001 <= stdv < inf; got -1"),
    "scale": (
        lambda _: LaplacianParameter.from_scale(0, -2.0),
        "Expected 0.0001 <= scale < inf; got -2.0",
    ),
    "floor": (
        lambda _: GaussianParameter.from_stdv(0.0, 1e-5),
        "Expected 0.0001 <= stdv < inf; got",
    ),
    "shape": (lambda _: GaussianParameter.from_stdv(0.0, jnp.ones(3)), "broadcasts to (), the"),
}


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", MISTAKES)
def test_likely_mistakes(name):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call({"a": LAWS["gaussian"]()})
    assert message in str(error.value)


def test_integers_are_numbers_of_a_prior():
    prior = GaussianParameter.from_stdv(0, 1)
    assert prior.dtype == jnp.result_type(float)
    assert prior.stdv == GaussianParameter.from_stdv(0.0, 1.0).stdv


def test_divergence_is_differentiable_where_laplace_means_meet():
    law = LaplacianParameter(jnp.zeros(2), jnp.ones(2))
    grads = jax.grad(lambda q: kl_divergence(q, law))(law)
    np.testing.assert_allclose(grads.mean, 0.0, atol=1e-6)
    np.testing.assert_allclose(grads.raw_scale, 0.0, atol=1e-5)


@pytest.mark.usefixtures("strict_promotion")
def test_divergence_keeps_the_models_dtype():
    model = {"a": GaussianParameter(jnp.zeros(2, jnp.float32), jnp.ones(2, jnp.float32))}
    for prior in PRIORS.values():
        assert kl_divergence(model, prior()).dtype == jnp.float32
        assert log_prior(model, prior()).dtype == jnp.float32


class Weights(Module):
    w: GaussianParameter


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_sums_over_narrow_parameters_are_wide(dtype):
    mean, prior = jnp.full(70_000, 2.0, dtype), GaussianParameter.from_stdv(0.0, 1.0)
    narrow = GaussianParameter.from_stdv(mean, jnp.ones((), dtype))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), narrow)
    np.testing.assert_allclose(kl_divergence(narrow, prior), 140_000, rtol=1e-2)
    for value in (entropy, gaussian_entropy, lambda q: kl_divergence(q, prior)):
        np.testing.assert_allclose(value(narrow), value(wide), rtol=1e-5)
    np.testing.assert_allclose(log_prior(narrow, prior), log_prior(wide, prior), rtol=1e-5)
    assert Weights(narrow).compute_prior() == 280_000
