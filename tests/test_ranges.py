"""Range checks: concrete values out of range raise by name, traced ones are NaN, no callbacks."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
import pytest

import nnef_dists as nd
from nnef_dists._ranges import check_integer, check_number, check_range
from tests.posterior.simulators import simulations

# The forms in which users hold one number.
FORMS = {
    "number": float,
    "NumPy scalar": np.float32,
    "NumPy array": np.asarray,
    "jax array": jnp.asarray,
    "half precision": lambda value: jnp.asarray(value, jnp.bfloat16),
}


class TestHelper:
    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.parametrize("value", [-1.0, 0.0, 3.0, 4.0, math.nan, math.inf])
    def test_refuses_every_form(self, form, value):
        with pytest.raises(ValueError, match=r"^Expected 0 < slope < 3; got"):
            check_range("slope", FORMS[form](value), 0, 3)

    @pytest.mark.parametrize("form", FORMS)
    def test_returns_a_value_inside_unchanged(self, form):
        value = FORMS[form](0.5)
        assert check_range("slope", value, 0, 3) is value
        assert check_range("slope", value, 0.5, 3, closed="low") is value
        assert check_range("slope", value, 0, 0.5, closed="high") is value

    def test_ends_are_rounded_as_the_value_is(self):
        assert float(np.float32(1e-4)) < 1e-4
        check_range("width", np.float32(1e-4), 1e-4, closed="low")
        check_range("width", jnp.float32(0.7), 0.0, 0.7, closed="high")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((math.nan,), "Expected finite loc; got nan"),
            (([0.0, math.inf],), "Expected finite loc; got inf at loc[1]"),
            ((np.eye(2), 0.0, 1.0), "Expected 0 < loc < 1; got 1.0 at loc[0, 0]"),
            ((-2, 0), "Expected 0 < loc < inf; got -2"),
            ((2, -math.inf, 0), "Expected loc < 0; got 2"),
            (("wide",), "Expected loc as a number or an array; got 'wide'"),
        ],
    )
    def test_names_parameter_range_and_value(self, arguments, message):
        with pytest.raises(ValueError, match="^" + message.replace("[", r"\[") + "$"):
            check_range("loc", *arguments)

    def test_traced_values_are_nan_without_a_callback(self):
        def check(value):
            return check_range("slope", value, 0, 3)

        values = jnp.array([-1.0, 0.5, 3.0, jnp.nan])
        found = jax.jit(check)(values)
        assert np.array_equal(found, [np.nan, 0.5, np.nan, np.nan], equal_nan=True)
        assert jax.jit(jax.grad(check))(0.5) == 1
        assert found.dtype == values.dtype
        assert "callback" not in str(jax.make_jaxpr(check)(values))

    def test_concrete_values_raise_in_a_compiled_program(self):
        slope = jnp.array(4.0)
        with pytest.raises(ValueError, match="slope"):
            jax.jit(lambda x: x * check_range("slope", slope, 0, 3))(1.0)
        with pytest.raises(ValueError, match="slope"):
            jax.vmap(lambda x: x * check_range("slope", 4.0, 0, 3))(jnp.ones(2))

    @pytest.mark.parametrize("value", [3, np.int64(3), np.array(3), jnp.array(3)])
    def test_integers_of_every_form(self, value):
        found = check_integer("n", value, 1, 3)
        assert type(found) is int
        assert found == 3
        with pytest.raises(ValueError, match=r"^Expected n >= 4; got 3$"):
            check_integer("n", value, 4)
        with pytest.raises(ValueError, match=r"^Expected 0 <= n <= 2; got 3$"):
            check_integer("n", value, 0, 2)

    @pytest.mark.parametrize("value", [2.0, math.nan, True, jnp.array(2.0), "2", None, np.ones(2)])
    def test_no_integers(self, value):
        with pytest.raises(ValueError, match=r"^Expected an integer n >= 1; got"):
            check_integer("n", value, 1)

    def test_traced_integers(self):
        with pytest.raises(ValueError, match="Expected n as a static integer; got a traced one"):
            jax.jit(lambda n: jnp.zeros(check_integer("n", n, 1)))(3)

    def test_numbers_are_pythons(self):
        found = check_number("tolerance", jnp.array(0.5), 0, 1)
        assert type(found) is float
        for value in (np.ones(2), True):
            with pytest.raises(ValueError, match="Expected tolerance as"):
                check_number("tolerance", value, 0, 2)
        with pytest.raises(ValueError, match="one concrete number"):
            jax.jit(lambda value: check_number("tolerance", value))(0.5)


ARRAYS = {
    "CubicRational slope": (
        lambda v: nd.flows.CubicRational(0.0, 1.0, v),
        0.1,
        "0.111111 < slope < 9",
    ),
    "CubicRational scale": (lambda v: nd.flows.CubicRational(0.0, v), 0.01, "0.05 < scale < 20"),
    "CubicConjugation scale": (
        lambda v: nd.flows.CubicConjugation(0.0, v),
        25.0,
        "0.05 < scale < 20",
    ),
    "CubicConjugation loc": (nd.flows.CubicConjugation, math.nan, "finite loc"),
    "CubicConjugation shift": (
        lambda v: nd.flows.CubicConjugation(shift=v),
        math.inf,
        "finite shift",
    ),
    "SinhConjugation inner": (lambda v: nd.flows.SinhConjugation(inner=v), 3.0, "0.5 < inner < 2"),
    "SinhConjugation outer": (lambda v: nd.flows.SinhConjugation(outer=v), 0.4, "0.5 < outer < 2"),
    "Radial scale": (
        lambda v: nd.flows.Radial(nd.flows.CubicRational(), jnp.zeros(2), v),
        30.0,
        "0.05 < scale < 20",
    ),
    "Radial center": (
        lambda v: nd.flows.Radial(nd.flows.CubicRational(), jnp.zeros(2) + v),
        math.nan,
        "finite center",
    ),
    "RadialConditional scale": (
        lambda v: nd.flows.RadialConditional(
            nd.flows.CubicConjugation(), lambda u: jnp.zeros(3), [0.0, 0], v
        ),
        0.0,
        "0.05 < scale < 20",
    ),
    "random's spread": (
        lambda v: nd.flows.CubicConjugation.random(jax.random.key(0), spread=v),
        -1.0,
        "0 <= spread < inf",
    ),
    "standard deviation": (
        lambda v: nd.GaussianParameter.from_stdv(jnp.zeros(2), v),
        1e-5,
        "0.0001 <= stdv < inf",
    ),
    "Laplace scale": (
        lambda v: nd.LaplacianParameter.from_scale(0.0, v),
        -1.0,
        "0.0001 <= scale < inf",
    ),
    "exponential scale": (nd.bayes.ExponentialPositivity().inverse, -1.0, "0 < scale < inf"),
    "softplus scale": (nd.bayes.SoftplusPositivity().inverse, 0.0, "0 < scale < inf"),
    "initial raw scale": (
        lambda v: nd.make_parameter(jnp.ones(2), init_raw_stdv=v),
        math.nan,
        "finite init_raw_stdv",
    ),
    "level": (lambda v: nd.bayes.central_interval(jnp.ones((3, 2)), v), 1.0, "0 < level < 1"),
    "predictive stdv": (
        lambda v: nd.bayes.gaussian_crps(jnp.ones(()), v, jnp.ones(())),
        0.0,
        "0 < stdv < inf",
    ),
    "BoxSupport low": (
        lambda v: nd.BoxSupport(jnp.zeros(1) + v, jnp.ones(1)),
        math.nan,
        "finite low",
    ),
    "BoxSupport high": (
        lambda v: nd.BoxSupport(jnp.zeros(1), jnp.ones(1) * v),
        math.inf,
        "finite high",
    ),
}


@pytest.mark.parametrize("form", ["number", "NumPy scalar", "jax array"])
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_out_of_range(name, form, without_type_checks):
    make, value, requirement = ARRAYS[name]
    with pytest.raises(ValueError, match=f"^Expected {requirement}; got"):
        make(FORMS[form](value))


@pytest.mark.parametrize("name", ARRAYS)
def test_traced_arrays_give_nan(name, without_type_checks):
    make, value, _ = ARRAYS[name]

    def leaves(value):
        made = make(value)
        leaves = jax.tree.leaves((made, paramax.unwrap(made)))
        return [leaf for leaf in leaves if eqx.is_inexact_array(leaf)]

    assert "callback" not in str(jax.make_jaxpr(leaves)(value))
    assert any(np.isnan(leaf).any() for leaf in jax.jit(leaves)(value))


NUMBERS = {
    "step size": (lambda v: nd.HMCConfig(initial_step_size=v), -0.1),
    "dispersion": (lambda v: nd.HMCConfig(dispersion=v), math.nan),
    "acceptance": (lambda v: nd.HMCConfig(target_acceptance=v), 1.0),
    "jitter": (lambda v: nd.HMCConfig(step_size_jitter=v), 1.5),
    "R-hat": (lambda v: nd.HMCConfig(max_rhat=v), 1.0),
    "divergences": (lambda v: nd.HMCConfig(max_divergences=v), -0.5),
    "lower bound": (lambda v: nd.interval(v, 1.0), math.nan),
    "upper bound": (lambda v: nd.interval(0.0, v), math.nan),
    "bound of a scale": (lambda v: nd.flows.BoundedScale(1.0, v), 0.5),
}


@pytest.mark.parametrize("form", ["number", "NumPy scalar", "jax array"])
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_out_of_range(name, form, without_type_checks):
    make, value = NUMBERS[name]
    with pytest.raises(ValueError, match=r"^Expected .* (<|>|not NaN).*; got"):
        make(FORMS[form](value))
    with pytest.raises(ValueError, match="as one concrete number"):
        make(np.full(2, 0.5))


def test_floors_are_not_negative():
    for positivity in (nd.bayes.SquaredPositivity, nd.bayes.SoftplusPositivity):
        with pytest.raises(ValueError, match="Expected 0 <= floor < inf; got -1"):
            positivity(-1.0)


SIZES = {
    "chains": lambda v: nd.HMCConfig(chains=v),
    "d": nd.MultivariateNormal,
    "order": nd.VonMisesHarmonic,
    "k": nd.Dirichlet,
    "n": nd.families.SphereProjection,
    "points": lambda v: nd.distributions.QuadratureSampler(v),
    "components": lambda v: nd.MixturePosterior(simulations(), v, key=jax.random.key(0)),
    "in_features": lambda v: nd.BayesianLinear(v, 2, key=jax.random.key(0)),
    "width": lambda v: nd.BayesianMLP(1, 1, v, 1, key=jax.random.key(0)),
    "count": nd.flows.FourierFeatures,
    "out_size": lambda v: nd.flows.DirectionConditioner(
        nd.flows.FourierFeatures(3), v, key=jax.random.key(0)
    ),
    "cond_dim": lambda v: nd.flows.ConditionedBijection(
        nd.flows.CubicConjugation(), lambda c: jnp.zeros(3), v
    ),
    "depth": lambda v: nd.flows.SinhConjugation.random(jax.random.key(0), depth=v),
}


@pytest.mark.parametrize("value", [0, np.int64(-1), 1.5, math.nan, True], ids=str)
@pytest.mark.parametrize("name", SIZES)
def test_sizes_out_of_range(name, value, without_type_checks):
    with pytest.raises(ValueError, match=f"^Expected (an integer )?{name} >= .*; got"):
        SIZES[name](value)


def test_configurations_hold_python_numbers(without_type_checks):
    """A configuration is hashed, compared and stored."""
    config = nd.HMCConfig(
        chains=np.int64(16), dispersion=np.float64(2.0), max_rhat=jnp.array(1.5), min_ess=10
    )
    kinds = [
        type(getattr(config, name)) for name in ("chains", "dispersion", "max_rhat", "min_ess")
    ]
    assert kinds == [int, float, float, int]
    assert hash(config) == hash(nd.HMCConfig(max_rhat=1.5, min_ess=10))
    assert nd.MultivariateNormal(np.int64(2)) == nd.MultivariateNormal(2)
    assert nd.Polynomial1D((np.int64(2),)) == nd.Polynomial1D((2,))


def test_random_layers_are_within_bounds():
    """Logs of slopes are drawn from a normal distribution; one in 36 would be out of bounds."""
    keys = jax.random.split(jax.random.key(0), 500)
    layers = eqx.filter_vmap(nd.flows.CubicRational.random)(keys)
    slopes = paramax.unwrap(layers).slope
    assert np.isfinite(slopes).all()
    assert slopes.max() > 7
