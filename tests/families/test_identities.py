"""What holds for every registered family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nnef_dists as nd
from tests.numerics import assert_close, epsilon
from tests.registry import FAMILIES

CLOSED = [case for case in FAMILIES if case.has_closed_form]
N = 12

pytestmark = pytest.mark.usefixtures("strict_promotion")


@functools.cache
def etas_of(case):
    family = case.make()
    return jax.jit(lambda key: family.sample_eta(key, N, case.ranges))(jax.random.key(7))


@functools.cache
def points_of(case):
    """Points in the support."""
    support = case.make().support
    u = jax.random.normal(jax.random.key(8), (5, *support.shape))
    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(jax.vmap(support.transform))(u)


@functools.cache
def evaluated(case):
    """What the family says of its etas and points, compiled once for all tests."""
    family = case.make()

    def of_eta(eta, xs):
        found = {
            "valid": family.is_valid_eta(eta),
            "parts": family.unflatten_stats_or_eta(eta),
            "back": family.flatten_stats_or_eta(family.unflatten_stats_or_eta(eta)),
            "checked": family.check_eta(eta),
            "u": family.unconstrain_eta(eta),
            "constrained": family.constrain_eta(family.unconstrain_eta(eta)),
            "logdensity": jax.vmap(family.logdensity_fn(eta))(xs),
        }
        if case.has_closed_form:
            found |= {
                "log_partition": family.log_partition(eta),
                "mean": family.mean(eta),
                "covariance": family.covariance(eta),
                "gradient": jax.grad(family.log_partition)(eta),
                "hessian": jax.hessian(family.log_partition)(eta),
            }
        return found

    def of_point(x):
        return family.sufficient_statistics(x), family.log_base_measure(x), family.compute_stats(x)

    def everything(etas, xs):
        return jax.vmap(of_eta, (0, None))(etas, xs), jax.vmap(of_point)(xs)

    return jax.tree.map(np.asarray, jax.jit(everything)(etas_of(case), points_of(case)))


@functools.cache
def coordinate_functions(case):
    family = case.make()

    def there_and_back(u):
        eta = family.constrain_eta(u)
        back = family.constrain_eta(family.unconstrain_eta(eta))
        return eta, family.is_valid_eta(eta), back

    return jax.jit(there_and_back)


def reference_of(case, i):
    parts = {name: values[i] for name, values in evaluated(case)[0]["parts"].items()}
    return case.reference({name: np.asarray(v, np.float64) for name, v in parts.items()})


@pytest.mark.parametrize("case", FAMILIES, ids=str)
class TestEveryFamily:
    def test_equal_families_are_one_static_argument(self, case):
        one, two = case.make(), case.make()
        assert one == two
        assert hash(one) == hash(two)
        traces = []

        @functools.partial(jax.jit, static_argnums=0)
        def double(family, eta):
            traces.append(family)
            return 2 * eta

        for family in (one, two):
            double(family, etas_of(case)[0])
        assert len(traces) == 1

    def test_a_family_has_no_leaves_but_numbers(self, case):
        assert not [leaf for leaf in jax.tree.leaves(case.make()) if hasattr(leaf, "dtype")]

    def test_sizes_and_names(self, case):
        family = case.make()
        sizes = [int(np.prod(shape, dtype=int)) for shape in family.stat_shapes.values()]
        assert family.eta_dim == sum(sizes) == len(family.stat_names)
        assert len(set(family.stat_names)) == family.eta_dim
        expected = [n for n, k in zip(family.stat_shapes, sizes, strict=True) for _ in range(k)]
        assert [name.split("[")[0] for name in family.stat_names] == expected

    def test_flat_order_is_that_of_compute_stats(self, case):
        family = case.make()
        flat, _, stats = evaluated(case)[1]
        assert list(family.compute_stats(points_of(case)[0])) == list(family.stat_shapes)
        parts = [stats[name].reshape(len(flat), -1) for name in family.stat_shapes]
        assert np.array_equal(flat, np.concatenate(parts, axis=1))

    def test_flatten_inverts_unflatten(self, case):
        family, found = case.make(), evaluated(case)[0]
        shapes = {name: parts.shape[1:] for name, parts in found["parts"].items()}
        assert shapes == family.stat_shapes
        assert np.array_equal(found["back"], etas_of(case))
        assert list(family.unflatten_stats_or_eta(etas_of(case)[0])) == list(family.stat_shapes)

    def test_the_dict_form_survives_sorting(self, case):
        """A compiled function returns its dicts sorted by name."""
        family, eta = case.make(), etas_of(case)[0]
        parts = family.unflatten_stats_or_eta(eta)
        for order in (sorted(parts), sorted(parts, reverse=True)):
            resorted = {name: parts[name] for name in order}
            assert np.array_equal(family.flatten_stats_or_eta(resorted), eta)

    def test_sampled_etas_are_valid_and_distinct(self, case):
        family, etas = case.make(), etas_of(case)
        assert etas.shape == (N, family.eta_dim)
        assert etas.dtype == jnp.result_type(float)
        assert evaluated(case)[0]["valid"].all()
        assert np.array_equal(evaluated(case)[0]["checked"], etas)
        assert len(np.unique(np.asarray(etas), axis=0)) == N

    def test_eta_number_i_does_not_depend_on_n(self, case):
        family = case.make()
        fewer = jax.jit(lambda key: family.sample_eta(key, 5, case.ranges))(jax.random.key(7))
        assert_close(fewer, etas_of(case)[:5], ulps=4)

    def test_unconstrained_coordinates_give_eta_back(self, case):
        found = evaluated(case)[0]
        assert found["u"].shape == (N, case.make().unconstrained_dim)
        assert_close(found["constrained"], etas_of(case))

    @given(seed=st.integers(0, 2**31 - 1), scale=st.sampled_from([0.1, 1.0, 2.0]))
    def test_every_unconstrained_point_is_valid(self, case, seed, scale):
        draws = np.random.default_rng(seed).normal(size=case.make().unconstrained_dim)
        eta, valid, back = coordinate_functions(case)(jnp.asarray(scale * draws, float))
        assert valid
        assert_close(back, eta)

    def test_logdensity_is_linear_in_eta(self, case):
        stats, base, _ = evaluated(case)[1]
        products = np.asarray(etas_of(case), np.float64) @ np.asarray(stats, np.float64).T
        assert_close(evaluated(case)[0]["logdensity"], products + base)

    def test_an_eager_logdensity_is_the_compiled_one(self, case):
        family, eta, x = case.make(), etas_of(case)[0], points_of(case)[0]
        expected = evaluated(case)[0]["logdensity"][0, 0]
        assert_close(family.logdensity_fn(eta)(x), expected, scale=1 + abs(expected))

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    def test_dtype_is_carried(self, case, dtype):
        with jax.enable_x64(True):
            family = case.make()
            eta = jax.ShapeDtypeStruct((family.eta_dim,), dtype)
            u = jax.ShapeDtypeStruct((family.unconstrained_dim,), dtype)
            x = jax.ShapeDtypeStruct(family.x_shape, dtype)
            calls = [
                (family.check_eta, eta),
                (family.unconstrain_eta, eta),
                (family.constrain_eta, u),
                (family.sufficient_statistics, x),
                (family.log_base_measure, x),
                (lambda eta, x: family.logdensity_fn(eta)(x), eta, x),
                (lambda: family.sample_eta(jax.random.key(0), 2, case.ranges, dtype=dtype),),
            ]
            if case.has_closed_form:
                calls += [(f, eta) for f in (family.log_partition, family.mean, family.covariance)]
            for fn, *arguments in calls:
                assert jax.eval_shape(fn, *arguments).dtype == dtype


@pytest.mark.parametrize("case", CLOSED, ids=str)
class TestClosedForms:
    def test_log_density_is_that_of_scipy(self, case):
        found, xs = evaluated(case)[0], np.asarray(points_of(case), np.float64)
        for i in range(N):
            log_partition, logs = found["log_partition"][i], found["logdensity"][i]
            scale = 1 + np.max(np.abs(logs)) + abs(log_partition)
            expected = reference_of(case, i).logpdf(xs)
            assert_close(logs - log_partition, expected, scale=scale)

    def test_mean_is_the_gradient_of_the_log_partition(self, case):
        found = evaluated(case)[0]
        assert_close(found["gradient"], found["mean"], ulps=256)

    def test_covariance_is_the_hessian_of_the_log_partition(self, case):
        found = evaluated(case)[0]
        covariance = found["covariance"]
        assert_close(found["hessian"], covariance, ulps=1024)
        assert_close(np.swapaxes(covariance, 1, 2), covariance, ulps=1024)
        lowest = np.linalg.eigvalsh(np.asarray(covariance, np.float64))[:, 0]
        assert np.all(lowest > -1024 * epsilon(covariance) * covariance.max((1, 2)))

    def test_moments_are_those_of_scipys_draws(self, case):
        """Monte Carlo with SciPy's sampler: mean and covariance of T, in standard errors."""
        family, n = case.make(), 20_000
        draws = reference_of(case, 0).rvs(n, random_state=np.random.default_rng(11))
        xs = jnp.asarray(draws.reshape(n, *family.x_shape), float)
        stats = np.asarray(jax.jit(jax.vmap(family.sufficient_statistics))(xs), np.float64)
        mean = np.asarray(evaluated(case)[0]["mean"][0], np.float64)
        z = (stats.mean(0) - mean) / (stats.std(0) / np.sqrt(n))
        assert np.max(np.abs(z)) < 5
        products = (stats - mean)[:, :, None] * (stats - mean)[:, None, :]
        error = products.mean(0) - evaluated(case)[0]["covariance"][0]
        assert np.max(np.abs(error) / (products.std(0) / np.sqrt(n))) < 5

    def test_eager_calls_and_compiled_batches_agree(self, case):
        family, eta = case.make(), etas_of(case)[0]
        for name in ("log_partition", "mean"):
            assert_close(getattr(family, name)(eta), evaluated(case)[0][name][0])


def test_closed_form_families_are_families():
    assert CLOSED
    assert all(isinstance(case.make(), nd.ExponentialFamily) for case in CLOSED)
