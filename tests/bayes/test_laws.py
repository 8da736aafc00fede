import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from nnef_dists import bayes
from nnef_dists.bayes import (
    DeterministicParameter,
    ExponentialPositivity,
    GaussianParameter,
    LaplacianParameter,
    SoftplusPositivity,
    SquaredPositivity,
    make_parameter,
)
from tests.bayes.laws import LAWS, UniformParameter

RANDOM = [name for name in LAWS if name != "deterministic"]
DRAWS = 40_000


def draws_of(law, n=DRAWS, seed=1):
    return jax.vmap(law.sample)(jax.random.split(jax.random.key(seed), n))


def scipy_law(name, i):
    law = LAWS[name]()
    mean = float(law.mean[i])
    if name == "gaussian":
        return scipy.stats.norm(mean, float(law.stdv[i]))
    if name == "laplacian":
        return scipy.stats.laplace(mean, float(law.scale[i]))
    half = math.exp(float(law.raw_half_width[i]))
    return scipy.stats.uniform(mean - half, 2 * half)


@pytest.mark.parametrize("name", RANDOM)
def test_draws_follow_the_law(name):
    draws = np.asarray(draws_of(LAWS[name]()), np.float64)
    for i in range(2):
        # At a pinned key; the bound is passed by 99.9 % of keys.
        assert scipy.stats.kstest(draws[:, i], scipy_law(name, i).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", RANDOM)
def test_stdv_is_the_standard_deviation(name):
    law = LAWS[name]()
    for i in range(2):
        np.testing.assert_allclose(law.stdv[i], scipy_law(name, i).std(), rtol=1e-5)


@pytest.mark.parametrize("name", RANDOM)
def test_entropy_is_in_nats(name):
    expected = sum(scipy_law(name, i).entropy() for i in range(2))
    np.testing.assert_allclose(LAWS[name]().entropy(), expected, rtol=1e-5)


def test_laplace_variance_is_twice_the_scale_squared():
    law = LAWS["laplacian"]()
    squares = np.asarray((draws_of(law) - law.mean) ** 2, np.float64)
    standard_error = squares.std(axis=0) / math.sqrt(DRAWS)
    z = (squares.mean(axis=0) - 2 * np.asarray(law.scale) ** 2) / standard_error
    assert np.abs(z).max() < 4


@pytest.mark.parametrize("name", LAWS)
def test_gradient_of_a_draw(name):
    law = LAWS[name]()
    key = jax.random.key(3)
    grads = jax.grad(lambda p: p.sample(key).sum())(law)
    np.testing.assert_allclose(grads.mean, 1.0)
    draw = law.sample(key)
    if name in ("gaussian", "laplacian"):
        raw, slope = {
            "gaussian": lambda: (law.raw_stdv, grads.raw_stdv),
            "laplacian": lambda: (law.raw_scale, grads.raw_scale),
        }[name]()
        noise = (draw - law.mean) / (raw**2 + 1e-4)
        np.testing.assert_allclose(slope, 2 * raw * noise, rtol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("param_type", [GaussianParameter, LaplacianParameter])
@pytest.mark.usefixtures("strict_promotion")
def test_dtype_is_carried(dtype, param_type):
    law = make_parameter(jnp.zeros(3, dtype), param_type=param_type, init_raw_stdv=1.0)
    results = (law.sample(jax.random.key(0)), law.stdv, law.entropy())
    assert [r.dtype for r in results] == [dtype] * 3


def test_deterministic_law_has_no_spread():
    law = LAWS["deterministic"]()
    assert jnp.array_equal(law.sample(jax.random.key(0)), law.mean)
    assert not law.stdv.any()
    assert law.entropy() == 0


def test_make_parameter_defaults():
    law = make_parameter(jnp.ones((2, 3)))
    assert isinstance(law, GaussianParameter)
    assert law.shape == (2, 3)
    np.testing.assert_allclose(law.raw_stdv, 0.01)
    np.testing.assert_allclose(law.stdv, 0.01**2 + 1e-4, rtol=1e-6)
    assert jnp.array_equal(law.scale, law.stdv)


def test_make_parameter_of_each_kind():
    assert isinstance(make_parameter(1.0, bayesian=False), DeterministicParameter)
    laplacian = make_parameter(jnp.eye(3), param_type=LaplacianParameter, init_raw_stdv=0.5)
    np.testing.assert_allclose(laplacian.scale, 0.5**2 + 1e-4, rtol=1e-6)
    np.testing.assert_allclose(laplacian.stdv, math.sqrt(2) * (0.5**2 + 1e-4), rtol=1e-6)
    own = make_parameter(jnp.zeros(2), param_type=UniformParameter, init_raw_stdv=-1.0)
    assert isinstance(own, UniformParameter)
    np.testing.assert_allclose(own.raw_half_width, -1.0)


@pytest.mark.parametrize("value", [jnp.arange(3), jnp.ones(2, jnp.complex64), True])
def test_make_parameter_refuses_what_is_not_real_floating(value):
    with pytest.raises(ValueError, match="real floating dtype"):
        make_parameter(value)


@pytest.mark.parametrize(
    "transform", [SquaredPositivity(), SoftplusPositivity(0.1), ExponentialPositivity()], ids=repr
)
def test_positivity_transforms_invert(transform):
    widths = jnp.array([2e-1, 1.0, 30.0])
    np.testing.assert_allclose(transform.forward(transform.inverse(widths)), widths, rtol=1e-5)
    raw = jnp.linspace(-5.0, 5.0, 11)
    assert (transform.forward(raw) > 0).all()
    law = make_parameter(jnp.zeros(11), positivity=transform, init_raw_stdv=transform.inverse(0.7))
    np.testing.assert_allclose(law.stdv, 0.7, rtol=1e-5)


def test_laws_from_widths():
    np.testing.assert_allclose(GaussianParameter.from_stdv(0.0, 2.0).stdv, 2.0, rtol=1e-6)
    laplacian = LaplacianParameter.from_scale(jnp.zeros(3), 2.0)
    np.testing.assert_allclose(laplacian.scale, np.full(3, 2.0), rtol=1e-6)


@pytest.mark.parametrize("param_type", [GaussianParameter, LaplacianParameter])
@pytest.mark.usefixtures("without_type_checks")
def test_misaligned_widths_are_refused(param_type):
    with pytest.raises(ValueError, match=r"Expected raw_\w+ of shape \(3,\)"):
        param_type(jnp.zeros(3), jnp.zeros(2))


def test_laws_name_their_group():
    assert bayes.GaussianParameter.law_name() == "gaussian"
    assert UniformParameter.law_name() == "uniform"
