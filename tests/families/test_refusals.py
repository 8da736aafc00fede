"""Etas that are outside the natural domain, or no etas at all, are refused by name."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd

pytestmark = pytest.mark.usefixtures("strict_promotion")

NORMAL = nd.MultivariateNormal(2)
INDEFINITE = (0.0, 0.0, -1.0, 0.0, 0.0, 0.5)
PACKED = (0.0, 0.0, -1.0, 3.0, -1.0)

# family, eta, offending natural parameter, its value as printed
INVALID = [
    pytest.param(nd.GaussianNatural1D(), (1.0, 0.5), "x2", "0.5", id="gaussian"),
    pytest.param(nd.GaussianNatural1D(), (1.0, 0.0), "x2", "0.0", id="boundary"),
    pytest.param(nd.GaussianNatural1D(), (1.0, np.nan), "x2", "nan", id="nan"),
    pytest.param(nd.GaussianNatural1D(), (np.nan, -1.0), "x", "nan", id="nan-real"),
    pytest.param(nd.GaussianNatural1D(), (np.inf, -1.0), "x", "inf", id="inf"),
    pytest.param(nd.Polynomial1D(), (1.0, 2.0, 0.1), "x4", "0.1", id="quartic"),
    pytest.param(nd.Polynomial1D(), (1.0, 2.0, 0.0), "x4", "0.0", id="quartic-boundary"),
    pytest.param(NORMAL, INDEFINITE, "xxT", "0.5", id="indefinite"),
    pytest.param(NORMAL, (0.0, 0.0, -1.0, 0.0, np.nan, -1.0), "xxT", "nan", id="nan-matrix"),
    pytest.param(nd.families.MinimalMultivariateNormal(2), PACKED, "xxT_lower", "3.", id="packed"),
]


def array(eta):
    return jnp.asarray(eta, jnp.result_type(float))


@pytest.mark.parametrize(("family", "eta", "name", "value"), INVALID)
class TestInvalidEta:
    def test_is_not_valid(self, family, eta, name, value):
        assert not family.is_valid_eta(array(eta))

    def test_eager_calls_name_parameter_and_value(self, family, eta, name, value):
        calls = [family.check_eta, family.logdensity_fn]
        if isinstance(family, nd.families.AbstractNamedFamily):
            calls += [family.mean, family.log_partition]
        for call in calls:
            with pytest.raises(ValueError, match=rf"'{name}' of .* to be .*; got [\s\S]*{value}"):
                call(array(eta))

    def test_compiled_calls_are_nan(self, family, eta, name, value):
        def logdensity_at_origin(eta):
            return family.logdensity_fn(eta)(jnp.zeros(family.x_shape, eta.dtype))

        assert np.isnan(jax.jit(logdensity_at_origin)(array(eta)))

    def test_strict_compiled_calls_name_the_parameter(self, family, eta, name, value):
        compiled = eqx.filter_jit(lambda eta: family.check_eta(eta, strict=True))
        with pytest.raises(eqx.EquinoxRuntimeError, match=f"Expected natural parameter '{name}'"):
            jax.block_until_ready(compiled(array(eta)))


def test_gradients_of_a_concrete_invalid_eta_are_refused():
    message = r"'x2' of .* to be negative; got 2.0\."
    for gradient in (jax.grad, jax.hessian):
        with pytest.raises(ValueError, match=message):
            gradient(nd.GaussianNatural1D().log_partition)(array([1.0, 2.0]))


class TestNoEtaAtAll:
    """Shapes and dtypes, as seen without runtime type checks."""

    @pytest.fixture(autouse=True)
    def plain(self, without_type_checks):
        pass

    @pytest.mark.parametrize(
        "call",
        [
            NORMAL.check_eta,
            NORMAL.is_valid_eta,
            NORMAL.logdensity_fn,
            NORMAL.unflatten_stats_or_eta,
            NORMAL.unconstrain_eta,
            NORMAL.mean,
            NORMAL.log_partition,
            NORMAL.to_mean_covariance,
        ],
        ids=lambda call: call.__name__,
    )
    def test_wrong_shapes_and_dtypes(self, call):
        with pytest.raises(ValueError, match=r"Expected .*\(6,\).*; got \(5,\)"):
            call(array(np.zeros(5)))
        with pytest.raises(ValueError, match=r"got \(3, 6\).*vmap"):
            call(array(np.zeros((3, 6))))
        with pytest.raises(ValueError, match=r"floating-point.*int32"):
            call(jnp.asarray((0, 0, -1, 0, 0, -1), jnp.int32))

    @pytest.mark.parametrize("x", [np.zeros(3), np.zeros(()), np.zeros((4, 2))], ids=np.shape)
    def test_points_of_another_shape(self, x):
        eta = array((0.0, 0.0, -1.0, 0.0, 0.0, -1.0))
        for call in (NORMAL.sufficient_statistics, NORMAL.logdensity_fn(eta)):
            with pytest.raises(ValueError, match=r"Expected x of shape \(2,\)"):
                call(array(x))

    @pytest.mark.parametrize(
        "parts",
        [
            {"x": np.zeros(2)},
            {"x": np.zeros(2), "xxT": np.zeros((2, 2)), "more": np.zeros(1)},
            {"x": np.zeros(3), "xxT": np.zeros((2, 2))},
            {"x": np.zeros(2), "xxT": np.zeros((5, 2, 2))},
        ],
        ids=["missing", "unknown", "shape", "batch"],
    )
    def test_dicts_of_other_names_or_shapes(self, parts):
        with pytest.raises(ValueError, match=r"Expected parts of shapes .*'xxT': \(2, 2\).*; got"):
            NORMAL.flatten_stats_or_eta({name: array(value) for name, value in parts.items()})
