"""Constraints and natural domains: membership, coordinates, random values, refusals."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnef_dists as nd
from tests.numerics import assert_close
from tests.registry import CONSTRAINTS, DOMAINS

pytestmark = pytest.mark.usefixtures("strict_promotion")

DOMAIN_IDS = {case.name: case for case in DOMAINS}


def quadratic_form(value):
    """The symmetric matrix of a definite constraint's parameter, in float64."""
    value = np.asarray(value, np.float64)
    if value.ndim == 1:
        d = (math.isqrt(8 * len(value) + 1) - 1) // 2
        lower = np.zeros((d, d))
        lower[np.tril_indices(d)] = value
        value = lower
    return (value + value.T) / 2


@functools.cache
def values_of(case):
    """Fifty random values of a constraint, and what the constraint says of them."""
    constraint = case.constraint

    def draw(key):
        value = constraint.sample(key, "x", case.shape, case.range, jnp.result_type(float))
        u = constraint.unconstrain(value)
        return value, constraint.contains(value), u, constraint.constrain(u, case.shape)

    keys = jax.random.split(jax.random.key(1), 50)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys))


@pytest.mark.parametrize("case", CONSTRAINTS, ids=str)
class TestConstraint:
    def test_draws_belong_and_lie_in_the_range(self, case):
        values, belongs, _, _ = values_of(case)
        assert values.shape == (50, *case.shape)
        assert belongs.all()
        measured = values
        if isinstance(case.constraint, nd.families.DefiniteConstraint):
            measured = np.stack([np.linalg.eigvalsh(quadratic_form(v)) for v in values])
        low, high = case.range[:2]
        slack = 1e-5 * (high - low)
        assert measured.min() >= low - slack
        assert measured.max() <= high + slack
        assert measured.max() - measured.min() > 0.5 * (high - low)

    def test_coordinates_give_the_value_back(self, case):
        values, _, u, back = values_of(case)
        assert u.shape == (50, case.constraint.unconstrained_dim(case.shape))
        assert_close(back, values)

    def test_what_is_outside_does_not_belong(self, case):
        for outside in case.outside:
            value = jnp.broadcast_to(jnp.asarray(outside, float), case.shape)
            assert not case.constraint.contains(value), outside

    def test_nan_in_any_entry_does_not_belong(self, case):
        inside = np.array(values_of(case)[0][0])
        for index in np.ndindex(case.shape):
            broken = inside.copy()
            broken[index] = np.nan
            assert not case.constraint.contains(jnp.asarray(broken)), index

    def test_it_says_what_it_expects(self, case):
        assert case.constraint.description


@given(
    lower=st.floats(-100, 100, width=32),
    width=st.floats(0.125, 100, width=32),
    u=st.floats(-5, 5, width=32),
)
def test_interval_coordinates(lower, width, u):
    interval = nd.interval(lower, lower + width)
    value = interval.constrain(jnp.asarray([u], float), ())
    assert interval.contains(value)
    again = interval.constrain(interval.unconstrain(value), ())
    assert_close(again, value, scale=abs(lower) + width)


def test_half_open_intervals():
    above, below = nd.interval(2.0, math.inf), nd.interval(-math.inf, -3.0)
    u = jnp.asarray([0.5], float)
    assert_close(above.constrain(u, ()), 2 + np.exp(0.5))
    assert_close(below.constrain(u, ()), -3 - np.exp(0.5))
    assert not above.contains(jnp.asarray(2.0))
    assert not below.contains(jnp.asarray(-3.0))


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, 1.0), (math.nan, 1.0)])
def test_an_empty_interval_is_refused(bounds):
    with pytest.raises(ValueError, match=r"Expected lower (< upper|that is not NaN)"):
        nd.interval(*bounds)


def test_asymmetric_matrices_count_by_their_symmetric_part():
    skew = jnp.asarray([[0.0, 5.0], [-5.0, 0.0]], float)
    assert nd.negative_definite.contains(-jnp.eye(2) + skew)
    assert not nd.negative_definite.contains(jnp.eye(2) + skew)


def test_packed_pairs_are_counted_once():
    """x.H.x with H = [[-2, 0.5], [0.5, -1]] is -2 x0^2 + 1 x0 x1 - x1^2."""
    packed = jnp.asarray([-2.0, 1.0, -1.0], float)
    assert_close(nd.families.DefiniteConstraint.matrix(packed), np.array([[-2, 0.5], [0.5, -1]]))
    # -x0^2 + c x0 x1 - x1^2 is definite for |c| < 2: it would be for |c| < 1 with pairs twice.
    assert nd.negative_definite.contains(jnp.asarray([-1.0, 1.9, -1.0], float))
    assert not nd.negative_definite.contains(jnp.asarray([-1.0, 2.1, -1.0], float))


@functools.cache
def draws_of(case):
    """Twenty random members of a domain, and what the domain says of them."""
    domain = case.make()

    def draw(key):
        parts = domain.sample(key, case.shapes, case.ranges, jnp.result_type(float))
        u = domain.unconstrain(parts)
        return parts, domain.contains(parts), u, domain.constrain(u, case.shapes)

    keys = jax.random.split(jax.random.key(2), 20)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(draw))(keys))


@pytest.mark.parametrize("case", DOMAINS, ids=str)
class TestDomain:
    # CoupledDomain passes through flowjax, which does not promote strictly.
    @pytest.fixture(autouse=True)
    def standard_promotion(self, strict_promotion):
        with jax.numpy_dtype_promotion("standard"):
            yield

    def test_draws_are_inside_and_within_the_ranges(self, case):
        parts, inside, _, _ = draws_of(case)
        assert {n: p.shape[1:] for n, p in parts.items()} == dict(case.shapes)
        assert all(np.all(valid) for valid in inside.values())
        for name, values in parts.items():
            low, high = case.ranges[name]
            if values.ndim == 3:
                values = np.linalg.eigvalsh(np.asarray(values, np.float64))
                low, high = low - 1e-5, high + 1e-5
            assert np.all((values >= low) & (values <= high))

    def test_coordinates_give_the_parts_back(self, case):
        parts, _, u, back = draws_of(case)
        assert u.shape == (20, case.make().unconstrained_dim(case.shapes))
        for name in parts:
            assert_close(back[name], parts[name])

    def test_every_point_of_coordinate_space_is_inside(self, case):
        domain = case.make()
        u = jax.random.normal(jax.random.key(3), (20, domain.unconstrained_dim(case.shapes)))

        def inside(u):
            return domain.contains(domain.constrain(u, case.shapes))

        valid = jax.jit(jax.vmap(inside))(u)
        assert valid
        assert all(np.all(part) for part in valid.values())

    def test_it_says_what_it_expects_of_every_part(self, case):
        domain = case.make()
        assert all(domain.expectation(name) for name in draws_of(case)[1])


class OrderedPair(nd.ExponentialFamily):
    """p(x) proportional to exp(-eta_a x^2 - eta_b x^4) with 0 < eta_a < eta_b."""

    x_shape = ()
    natural_domain = DOMAIN_IDS["CoupledDomain"].make()

    def compute_stats(self, x):
        return {"a": -(x**2), "b": -(x**4)}


class TestCoupledDomain:
    @pytest.fixture(autouse=True)
    def standard_promotion(self, strict_promotion):
        with jax.numpy_dtype_promotion("standard"):
            yield

    @pytest.mark.parametrize(
        ("eta", "valid"),
        [
            ((1.0, 2.0), True),
            ((2.0, 1.0), False),
            ((-1.0, 1.0), False),
            ((1.0, math.nan), False),
            ((1.0, math.inf), False),
        ],
    )
    def test_membership(self, eta, valid):
        assert bool(OrderedPair().is_valid_eta(jnp.asarray(eta, float))) is valid

    def test_refusal_names_the_condition_and_the_value(self):
        with pytest.raises(ValueError, match=r"'eta'.*0 < eta1 < eta2; got \[2. 1.\]"):
            OrderedPair().check_eta(jnp.asarray([2.0, 1.0], float))

    def test_random_etas_are_the_valid_ones_of_the_box(self):
        family, box = OrderedPair(), {"a": (0.1, 2.0), "b": (0.1, 2.0)}
        draw = jax.jit(lambda key: family.sample_eta(key, 400, box))
        etas = np.asarray(draw(jax.random.key(4)))
        assert (etas[:, 0] < etas[:, 1]).all()
        assert etas.min() >= 0.1
        assert etas.max() <= 2.0
        # Uniform on the triangle: means at thirds, each known to sd / sqrt(400).
        expected, sd = np.array([0.1 + 1.9 / 3, 0.1 + 3.8 / 3]), 1.9 / np.sqrt(18)
        assert np.max(np.abs(etas.mean(0) - expected)) < 5 * sd / np.sqrt(400)
        first = jax.jit(lambda key: family.sample_eta(key, 3, box))(jax.random.key(4))
        assert_close(first, etas[:3], ulps=4)

    def test_ranges_that_miss_the_domain_are_refused(self):
        with pytest.raises(Exception, match="0 < eta1 < eta2"):
            OrderedPair().sample_eta(jax.random.key(5), 2, {"a": (1.0, 2.0), "b": (0.1, 0.5)})

    def test_a_bijection_of_another_shape_is_refused(self):
        class ThreeStatistics(OrderedPair):
            def compute_stats(self, x):
                return {"a": -(x**2), "b": -(x**4), "c": x}

        with pytest.raises(ValueError, match=r"shape \(3,\); got \(2,\)"):
            ThreeStatistics()


def test_domain_takes_constraints_only(without_type_checks):
    with pytest.raises(ValueError, match=r"'x4'.*-1"):
        nd.domain(x4=-1.0)


class TestDefinitions:
    """A family that cannot work is refused when it is made, not when it is used."""

    def test_a_domain_that_names_an_unknown_statistic(self):
        class Misnamed(nd.ExponentialFamily):
            x_shape = ()
            natural_domain = nd.domain(x3=nd.negative)

            def compute_stats(self, x):
                return {"x": x, "x2": x**2}

        with pytest.raises(ValueError, match=r"\['x', 'x2'\]; got 'x3'"):
            Misnamed()

    @pytest.mark.parametrize("shape", [(), (2, 3), (4,)])
    def test_a_definite_constraint_on_what_is_no_matrix(self, shape):
        class Shapeless(nd.ExponentialFamily):
            x_shape = ()
            natural_domain = nd.domain(form=nd.negative_definite)

            def compute_stats(self, x):
                return {"form": jnp.broadcast_to(x, shape)}

        with pytest.raises(ValueError, match="form"):
            Shapeless()

    @pytest.mark.parametrize("stats", [lambda x: x, lambda x: (x, x**2), lambda x: {}])
    def test_statistics_that_are_no_dict(self, stats):
        class Nameless(nd.ExponentialFamily):
            x_shape = ()
            natural_domain = nd.domain()

            def compute_stats(self, x):
                return stats(x)

        with pytest.raises((ValueError, TypeError), match=r"Nameless[\s\S]*dict"):
            Nameless()

    def test_statistics_that_are_no_dict_without_type_checks(self, without_type_checks):
        class Nameless(nd.ExponentialFamily):
            x_shape = ()
            natural_domain = nd.domain()

            def compute_stats(self, x):
                return x

        with pytest.raises(ValueError, match="compute_stats of Nameless"):
            Nameless()

    def test_integer_statistics(self):
        class Counting(nd.ExponentialFamily):
            x_shape = ()
            natural_domain = nd.domain()

            def compute_stats(self, x):
                return {"sign": (x > 0).astype(jnp.int32)}

        with pytest.raises(ValueError, match=r"'sign' of Counting .* int32"):
            Counting()

    @pytest.mark.parametrize("array", [np.ones(2), jnp.ones(2)], ids=["numpy", "jax"])
    def test_array_fields(self, array):
        class Scaled(nd.ExponentialFamily):
            scale: jax.Array | np.ndarray
            x_shape = ()
            natural_domain = nd.domain()

            def compute_stats(self, x):
                return {"x": x * jnp.sum(jnp.asarray(self.scale))}

        with pytest.raises(ValueError, match=r"Scaled.*'scale'"):
            Scaled(array)

    @pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
    @pytest.mark.parametrize("array", [np.ones(2), jnp.ones(2)], ids=["numpy", "jax"])
    def test_static_array_fields(self, array):
        class Scaled(nd.ExponentialFamily):
            scale: jax.Array | np.ndarray = eqx.field(static=True)
            x_shape = ()
            natural_domain = nd.domain()

            def compute_stats(self, x):
                return {"x": x * jnp.sum(jnp.asarray(self.scale))}

        with pytest.raises(ValueError, match=r"Scaled.*'scale'"):
            Scaled(array)

    def test_a_family_without_statistics_is_abstract(self):
        class Unfinished(nd.ExponentialFamily):
            x_shape = ()
            natural_domain = nd.domain()

        with pytest.raises(TypeError, match="compute_stats"):
            Unfinished()
