"""Quadrature against closed forms and against SciPy's adaptive integration."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.special

import nnef_dists as nd
from nnef_dists.moments._quadrature import double_quadrature
from nnef_dists.sampling._breaks import find_breaks
from tests.moments.user_families import GammaPair, MatrixNormal
from tests.numerics import assert_close, epsilon
from tests.registry import FAMILIES
from tests.strangers import DECLARED, Stranger, etas_of


class Hyperbolic(nd.ExponentialFamily):
    x_shape = ()
    natural_domain = nd.half_space([[1, 1], [-1, 1]], [0, 0])

    def compute_stats(self, x):
        return {"x": x, "s": jnp.sqrt(1 + x * x)}


class FarKink(nd.ExponentialFamily):
    """A statistic whose kink is small beside its values."""

    x_shape = ()
    natural_domain = nd.domain(far=nd.negative)

    def compute_stats(self, x):
        return {"far": 1e9 + jnp.abs(x - 0.3)}


class Comb(nd.ExponentialFamily):
    """Teeth of equal distance under a normal density."""

    x_shape = ()
    natural_domain = nd.domain(x2=nd.negative)

    def compute_stats(self, x):
        return {"cos": jnp.cos(12 * x), "x2": x**2}


QUARTIC = nd.Polynomial1D((1, 2, 4))
GAUSSIAN = nd.GaussianNatural1D()


def array(eta):
    return jnp.asarray(eta, jnp.result_type(float))


def z_error(found, mean):
    """The largest error of a mean in z units."""
    sd = np.sqrt(np.diagonal(np.asarray(found.covariance, np.float64)))
    return np.max(np.abs(np.asarray(found.mean, np.float64) - mean) / sd)


@functools.cache
def quartic_by_scipy(eta):
    """E[T] and A by adaptive integration around the highest mode."""
    grid = np.linspace(-10, 10, 4_001)
    powers = np.array([1, 2, 4])

    def exponent(x):
        return eta[0] * x + eta[1] * x**2 + eta[2] * x**4

    highest = np.max(exponent(grid))
    # The stationary points, so that no mode is missed.
    stationary = np.roots([4 * eta[2], 0, 2 * eta[1], eta[0]])
    breaks = sorted(stationary[np.abs(stationary.imag) < 1e-9].real)

    def integral(power):
        return scipy.integrate.quad(
            lambda x: x**power * np.exp(exponent(x) - highest),
            -10,
            10,
            points=breaks,
            limit=400,
            epsabs=1e-13,
            epsrel=1e-12,
        )[0]

    normalizer = integral(0)
    return np.array([integral(k) for k in powers]) / normalizer, highest + np.log(normalizer)


@pytest.mark.parametrize(
    "eta",
    [
        (0.0, -1.0, -1.0),
        (1.0, 2.0, -0.1),
        (-2.0, -2.0, -2.0),
        (0.0, 2.0, -0.1),
        (0.3, 8.0, -1.0),
        (0.01, 20.0, -1.0),
    ],
    ids=["single", "skewed", "narrow", "wells", "deep-wells", "100-nats"],
)
def test_quartics_and_double_wells(eta):
    mean, log_partition = quartic_by_scipy(eta)
    found = nd.quadrature_moments(QUARTIC, array(eta))
    # The log-density is known to epsilon times its size, and so are weights and moments.
    size = 1 + abs(log_partition)
    assert z_error(found, mean) < 8 * epsilon(found.mean) * size
    assert_close(found.log_partition, log_partition, scale=size)
    # The bound counts what rounding may add, too.
    assert found.error < 16 * epsilon(found.mean) * size


@pytest.mark.parametrize(
    "eta",
    [(0.0, -0.5), (20.0, -1.0), (-3.0, -0.01), (2_000.0, -100.0), (0.0, -1e4), (0.02, -1e-4)],
    ids=str,
)
def test_gaussians_wherever_they_are(eta):
    """Means up to 141 standard deviations off the origin, widths from 0.007 to 70."""
    eta = array(eta)
    found = nd.quadrature_moments(GAUSSIAN, eta)
    size = 1 + float(jnp.max(jnp.abs(eta * found.mean)))
    tolerance = 16 * epsilon(eta) * size
    assert z_error(found, np.asarray(GAUSSIAN.mean(eta), np.float64)) < tolerance
    assert_close(found.log_partition, float(GAUSSIAN.log_partition(eta)), scale=size)
    # An error of the mean of z sds and one of the density of z nats change a variance by as much.
    correlations = np.sqrt(np.diag(np.asarray(GAUSSIAN.covariance(eta), np.float64)))
    error = np.asarray(found.covariance) - np.asarray(GAUSSIAN.covariance(eta))
    assert np.max(np.abs(error) / np.outer(correlations, correlations)) < tolerance


QUADRATURE = [case for case in FAMILIES if case.has_quadrature and case.has_closed_form]
QUADRATURE_IDS = [case.name for case in QUADRATURE]


@pytest.mark.parametrize("case", QUADRATURE, ids=str)
def test_closed_forms_of_all_registered_families(case):
    family = case.make()
    etas = jax.jit(lambda key: family.sample_eta(key, 6, case.ranges))(jax.random.key(1))

    def both(eta):
        found = nd.quadrature_moments(family, eta)
        return found, family.mean(eta), family.covariance(eta), family.log_partition(eta)

    found, mean, covariance, log_partition = jax.jit(lambda e: jax.lax.map(both, e))(etas)
    size = float(1 + jnp.max(jnp.abs(etas * mean)))
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    # Weights are exponentials of up to 45 nats, each rounded.
    tolerance = 45 * epsilon(etas) * size
    assert np.max(np.abs(found.mean - mean) / sd) < tolerance
    # Formulas with polygamma functions are themselves known to some tens of roundings.
    covariance_error = np.abs(found.covariance - covariance) / (sd[:, :, None] * sd[:, None, :])
    assert np.max(covariance_error) < 8 * tolerance
    assert_close(found.log_partition, log_partition, scale=size)


def test_a_normal_of_two_dimensions():
    family = nd.MultivariateNormal(2)
    mean = array([4.0, -3.0])
    covariance = array([[1.0, 0.9], [0.9, 1.0]])
    eta = family.to_natural(mean, covariance)
    found = nd.quadrature_moments(family, eta, points=15)
    size = 1 + float(jnp.max(jnp.abs(eta * found.mean)))
    tolerance = 16 * epsilon(eta) * size
    assert z_error(found, np.asarray(family.mean(eta), np.float64)) < tolerance
    assert found.error < tolerance
    assert_close(found.log_partition, float(family.log_partition(eta)), scale=size)


def test_a_support_with_a_boundary():
    """Gamma(a + 1, b): E[log x] = digamma(a + 1) - log b, E[x] = (a + 1) / b."""
    family = GammaPair()
    a, b = np.array([0.5, 4.0]), np.array([2.0, 0.7])
    found = nd.quadrature_moments(family, array([*a, *-b]))
    mean = np.concatenate([scipy.special.digamma(a + 1) - np.log(b), (a + 1) / b])
    log_partition = np.sum(scipy.special.gammaln(a + 1) - (a + 1) * np.log(b))
    tolerance = 1_000 * epsilon(found.mean)
    assert z_error(found, mean) < tolerance
    assert_close(found.log_partition, log_partition, ulps=1_000, scale=1 + abs(log_partition))
    variances = np.concatenate([scipy.special.polygamma(1, a + 1), (a + 1) / b**2])
    assert np.allclose(np.diag(found.covariance), variances, rtol=tolerance)
    # Cov[log x, x] = 1 / b, and the two variables are independent.
    assert np.allclose(np.diag(found.covariance[:2, 2:]), 1 / b, rtol=tolerance)
    assert abs(found.covariance[0, 1]) < tolerance


def test_points_that_are_matrices():
    family = MatrixNormal()
    found = nd.quadrature_moments(family, array([1.0, -2.0, -0.5]))
    # Unit variances around (1, -2): E|x|^2 = 2 + 1 + 4.
    assert z_error(found, np.array([1.0, -2.0, 7.0])) < 1_000 * epsilon(found.mean)


class TestErrorEstimate:
    @pytest.mark.parametrize(
        ("name", "points"), [("steep walls", 21), ("student", 17), ("minor modes", 13)]
    )
    def test_it_bounds_the_error_of_a_coarse_rule(self, name, points):
        etas = np.asarray(etas_of(name, jax.random.key(2), 32), np.float64)
        coarse, fine = (double_quadrature(Stranger(name), etas, points) for points in (points, 65))
        sd = np.sqrt(np.diagonal(fine.covariance, axis1=1, axis2=2))
        z = np.max(np.abs(coarse.mean - fine.mean) / sd, 1)
        known = np.isfinite(coarse.error)
        assert np.isfinite(fine.error).all()
        assert known.sum() >= 8
        assert np.max(z[known]) > 1e-10
        assert (z <= coarse.error)[known].all()

    @pytest.mark.parametrize("name", ["kinks, undeclared", "a jump", "a wall in the base measure"])
    def test_kinks_and_jumps_are_found(self, name):
        etas = np.asarray(etas_of(name, jax.random.key(2), 8), np.float64)
        found = double_quadrature(Stranger(name), etas)
        for eta, mean, covariance in zip(etas, found.mean, found.covariance, strict=True):
            exact, exact_covariance = DECLARED[name].exact(eta)
            sd = np.sqrt(np.diag(exact_covariance))
            assert np.max(np.abs(mean - exact) / sd) < 1e-7
            assert np.max(np.abs(covariance - exact_covariance) / np.outer(sd, sd)) < 1e-7

    def test_a_step_between_two_nodes_is_in_the_error(self):
        """All nodes lie on one side of it, and fit a smooth density."""
        etas = np.asarray([[1.0, -0.5], [-3.0, -0.5], [1.5, -2.0], [1e-3, -0.5]])
        found = double_quadrature(Stranger("a narrow step"), etas)
        for eta, mean, error in zip(etas, found.mean, found.error, strict=True):
            exact, covariance = DECLARED["a narrow step"].exact(eta)
            z = np.max(np.abs(mean - exact) / np.sqrt(np.diag(covariance)))
            assert not z > error

    def test_a_corner_before_the_first_node_is_in_the_error(self):
        """A hyperbolic density that is a thousand times wider than its round top."""
        etas = np.asarray([[0.0, -1e-3], [0.999, -1.0]])
        found = double_quadrature(Hyperbolic(), etas)
        for (a, b), mean, covariance, error in zip(etas, *found[:2], found.error, strict=True):
            gamma = np.sqrt(b**2 - a**2)
            k0, k1 = scipy.special.k0e(gamma), scipy.special.k1e(gamma)
            slope = -(k0 / k1 + 2 / gamma) / gamma
            exact = np.array([-a * slope, 1 / b + b * slope])
            z = np.max(np.abs(mean - exact) / np.sqrt(np.diag(covariance)))
            assert 1e-7 < z <= error < 1e-4

    def test_rounding_of_a_statistic_that_levels_off_is_no_kink(self):
        assert find_breaks(Stranger("a narrow step")) == ()
        assert len(find_breaks(Stranger("kinks, undeclared"))) == 1
        assert len(find_breaks(FarKink())) == 1

    def test_more_modes_than_are_integrated(self):
        """A comb of some 30 modes within 40 nats."""
        found = nd.quadrature_moments(Comb(), array([20.0, -0.5]))
        assert np.isnan(found.mean).all()
        assert np.isinf(found.error)

    def test_what_has_not_converged_is_nan(self):
        found = nd.quadrature_moments(QUARTIC, array((0.0, -1.0, -1.0)), points=9)
        assert np.isnan(found.mean).all()
        assert np.isinf(found.error)

    @pytest.mark.parametrize(
        ("family", "eta", "mean"),
        [
            (GAUSSIAN, (0.3, -1e-6), 150_000.0),
            (GAUSSIAN, (3e4, -0.5), 30_000.0),
            (nd.GammaShapePrior(), (4.824858, -0.5049439), 14_119.915),
            (nd.Gamma(), (1e6, -3e-4), 1_000_001 / 3e-4),
        ],
        ids=["wide", "narrow", "shape", "gamma"],
    )
    def test_a_mode_far_away_is_found(self, family, eta, mean):
        found = nd.quadrature_moments(family, array(eta))
        which = family.stat_names.index({"alpha": "alpha"}.get(family.stat_names[0], "x"))
        assert abs(float(found.mean[which]) / mean - 1) < 1e-5

    @pytest.mark.parametrize("eta", [-3.0, -1.0, -0.75, -0.6])
    def test_heavy_tails(self, eta):
        found = nd.quadrature_moments(Stranger("student"), array([eta]))
        eta = float(array(eta))
        exact = scipy.special.digamma(-eta) - scipy.special.digamma(-eta - 0.5)
        assert z_error(found, np.array([exact])) < 2 * found.error < 1e-3

    def test_what_is_not_integrable_is_nan(self):
        declared = Stranger("student, of too wide a domain")
        for eta in (-0.5, -0.4, -0.1):
            found = nd.quadrature_moments(declared, array([eta]))
            assert np.isnan(found.mean).all()
            assert np.isinf(found.error)

    @pytest.mark.parametrize("n", [1e2, 1e4, 1e6])
    def test_large_exponents_in_single_precision(self, n):
        """Posteriors of n observations: eta . T is of order n, sd(T) of order 1 / sqrt(n)."""
        family = nd.GammaShapePrior()
        eta = np.asarray([1.1 * n, -n], np.float32)
        exact = double_quadrature(family, eta[None].astype(np.float64))
        found = jax.jit(lambda eta: nd.quadrature_moments(family, eta))(eta)
        sd = np.sqrt(np.diagonal(exact.covariance[0]))
        assert np.max(np.abs(found.mean - exact.mean[0]) / sd) < 3e-3
        scale = max(1, abs(float(exact.log_partition[0])))
        assert abs(found.log_partition - exact.log_partition[0]) < 2e-6 * scale

    def test_derivatives_are_moments(self):
        """The gradient of A is E[T], its derivative Cov[T], and so on."""

        @jax.jit
        def derivatives(eta):
            def log_partition(eta):
                return nd.quadrature_moments(QUARTIC, eta).log_partition

            def covariance(eta):
                return nd.quadrature_moments(QUARTIC, eta).covariance

            found = nd.quadrature_moments(QUARTIC, eta)
            third = jax.jacfwd(jax.hessian(log_partition))(eta), jax.jacrev(covariance)(eta)
            forward = jax.jvp(jax.grad(log_partition), (eta,), (jnp.ones_like(eta),))[1]
            return (
                found,
                jax.grad(log_partition)(eta),
                jax.hessian(log_partition)(eta),
                third,
                (forward),
            )

        found, gradient, hessian, third, forward = derivatives(array((0.3, 2.0, -0.5)))
        assert_close(gradient, np.asarray(found.mean), scale=10.0)
        assert_close(hessian, np.asarray(found.covariance), scale=100.0)
        assert_close(forward, np.asarray(found.covariance.sum(1)), scale=100.0)
        assert_close(third[0], np.asarray(third[1]), scale=1000.0)

    def test_wells_of_any_depth(self):
        """Two narrow wells, 10,000 nats deep: their distance is known."""
        found = nd.quadrature_moments(QUARTIC, array((0.0, 200.0, -1.0)))
        assert abs(float(found.mean[1]) - 99.9975) < 1e-3


@pytest.mark.parametrize("transform", ["vmap", "map"])
def test_batches(transform):
    etas = array([[0.0, -1.0, -1.0], [0.3, 8.0, -1.0], [1.0, 2.0, -0.1]])
    one = functools.partial(nd.quadrature_moments, QUARTIC)
    batched = jax.vmap(one) if transform == "vmap" else functools.partial(jax.lax.map, one)
    means = jax.jit(batched)(etas).mean
    for mean, eta in zip(means, etas, strict=True):
        assert_close(mean, quartic_by_scipy(tuple(np.asarray(eta, float).tolist()))[0], ulps=1_000)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_is_carried(dtype):
    with jax.enable_x64(True):
        for family in (QUARTIC, GammaPair()):
            eta = jax.ShapeDtypeStruct((family.eta_dim,), dtype)
            found = jax.eval_shape(
                lambda eta, family=family: nd.quadrature_moments(family, eta), eta
            )
            assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}


def test_no_dtypes_are_mixed():
    with jax.numpy_dtype_promotion("strict"):
        eta = jax.ShapeDtypeStruct((3,), jnp.result_type(float))
        jax.eval_shape(lambda eta: nd.quadrature_moments(QUARTIC, eta, points=9), eta)


class TestRefusals:
    def test_three_dimensions(self):
        family = nd.families.MinimalMultivariateNormal(3)
        with pytest.raises(ValueError, match=r"one or two dimensions.*has 3"):
            nd.quadrature_moments(family, jnp.zeros(family.eta_dim))

    @pytest.mark.parametrize("points", [8, 7, 100])
    def test_even_or_few_points(self, points):
        with pytest.raises(ValueError, match=f"odd number of points >= 9; got {points}"):
            nd.quadrature_moments(QUARTIC, array((0.0, 0.0, -1.0)), points=points)

    @pytest.mark.parametrize("value", [0.5, 0.0, np.nan])
    def test_an_eta_outside_the_domain_by_name_and_value(self, value):
        with pytest.raises(ValueError, match=f"'x4' of .* to be negative; got {value}"):
            nd.quadrature_moments(QUARTIC, array((0.0, 0.0, value)))

    def test_an_eta_outside_the_domain_under_jit_is_nan(self):
        found = jax.jit(lambda eta: nd.quadrature_moments(QUARTIC, eta))(array((0.0, 0.0, 0.5)))
        assert all(np.isnan(leaf).all() for leaf in found[:3])
        assert not np.isfinite(found.error)
