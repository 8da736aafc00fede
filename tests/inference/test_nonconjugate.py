"""Messages of factors that are not conjugate, against integrals on a grid."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.inference import cvi_message, project

GAUSSIAN, QUARTIC = nd.GaussianNatural1D(), nd.Polynomial1D((1, 2, 3, 4))
NORMAL2 = nd.families.MinimalMultivariateNormal(2)
GRID = np.linspace(-30, 30, 600_001)


def sensors(x, apart=3.0):
    """Two sensors in conflict: Student's t of 3 degrees of freedom, and a wide normal prior."""
    logs = -2 * jnp.log1p((x - apart) ** 2 / 3) - 2 * jnp.log1p((x + apart) ** 2 / 3)
    return logs - x**2 / 200


def on_grid(log_density, powers):
    logs = np.asarray(jax.vmap(log_density)(jnp.asarray(GRID)), np.float64)
    weights = np.exp(logs - logs.max())
    total = weights.sum()
    means = np.array([np.sum(weights * GRID**k) / total for k in powers])
    return means, logs.max() + np.log(total * (GRID[1] - GRID[0]))


@pytest.mark.parametrize(
    ("family", "log_density", "powers"),
    [
        (GAUSSIAN, lambda x: -(x**2) / 2 - jnp.log1p(jnp.exp(-4 * x)), (1, 2)),
        (GAUSSIAN, sensors, (1, 2)),
        (QUARTIC, lambda x: sensors(x) - x**4 / 400, (1, 2, 3, 4)),
        (QUARTIC, lambda x: -(x**4) / 4 - 5 * jnp.cos(2 * x), (1, 2, 3, 4)),
    ],
    ids=["logistic", "conflict", "conflict, four moments", "wells"],
)
def test_projections_have_the_moments_of_the_density(family, log_density, powers):
    with jax.enable_x64(True):
        found = project(nd.Quadrature(family), log_density)
        mean, log_integral = on_grid(log_density, powers)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-7, atol=1e-9)
        assert abs(found.log_integral - log_integral) < 1e-7
        assert found.error < 1e-6
        again = nd.Quadrature(family).mean(found.eta)
        np.testing.assert_allclose(again, mean, rtol=1e-5, atol=1e-7)


def test_projections_compile_and_have_derivatives():
    """The derivative of the log-integral is the mean of that of the log-density."""
    q = nd.ClosedForm(GAUSSIAN)

    def log_integral(apart):
        return project(q, functools.partial(sensors, apart=apart)).log_integral

    with jax.enable_x64(True):
        apart = jnp.array([1.0, 2.5])
        found = jax.jit(jax.vmap(jax.grad(log_integral)))(apart)
        for value, at in zip(found, apart, strict=True):
            higher, lower = (
                on_grid(functools.partial(sensors, apart=float(at) + d), (1,))[1]
                for d in (1e-4, -1e-4)
            )
            assert abs(value - (higher - lower) / 2e-4) < 1e-6


def test_a_density_without_an_integral_has_no_projection():
    found = project(nd.ClosedForm(GAUSSIAN), lambda x: -0.4 * jnp.log1p(x**2))
    assert all(np.isnan(part).all() for part in found[:3])
    assert np.isinf(found.error)


def test_moments_that_no_member_has():
    """A kurtosis above 3 without skewness: no quartic on its open domain has it."""
    with jax.enable_x64(True):
        found = project(nd.Quadrature(QUARTIC), lambda x: -(x**4) / 4 + 5 * jnp.cos(2 * x))
        assert found.mean[3] > 3 * found.mean[1] ** 2
        assert np.isnan(found.eta).all()
        assert found.error < 1e-6


def test_draws_project_in_more_dimensions():
    q, init = nd.ClosedForm(NORMAL2), NORMAL2.to_natural(jnp.zeros(2), 2 * jnp.eye(2))

    def log_tilted(x):
        return -jnp.sum(x**2) / 2 - jnp.logaddexp(0.0, -3 * (x[0] + x[1]))

    with pytest.raises(ValueError, match="Expected draws"):
        project(q, log_tilted)
    draws = q.sample(jax.random.key(0), init, 40_000)
    with pytest.raises(ValueError, match="Expected init"):
        project(q, log_tilted, draws=draws)
    found = project(q, log_tilted, init, draws)
    side = np.linspace(-8, 8, 801)
    x = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    logs = np.asarray(jax.vmap(log_tilted)(jnp.asarray(x)), np.float64)
    weights = np.exp(logs - logs.max())
    stats = np.asarray(jax.vmap(NORMAL2.sufficient_statistics)(jnp.asarray(x)), np.float64)
    exact = weights @ stats / weights.sum()
    sd = np.sqrt(weights @ (stats - exact) ** 2 / weights.sum())
    assert (np.abs(found.mean - exact) / sd < 5 * found.error).all()
    log_integral = logs.max() + np.log(weights.sum() * (side[1] - side[0]) ** 2)
    assert abs(found.log_integral - log_integral) < 5 * found.error
    np.testing.assert_allclose(NORMAL2.mean(found.eta), found.mean, rtol=1e-3, atol=1e-4)


def test_what_is_conjugate_gives_its_own_parameters_from_few_draws():
    q, eta = nd.Quadrature(QUARTIC), jnp.array([0.3, 1.0, 0.1, -0.5])
    own = jnp.array([1.0, -2.0, 0.5, -0.1])
    draws = q.sample(jax.random.key(0), eta, 32)
    found = cvi_message(lambda x: own @ QUARTIC.sufficient_statistics(x) + 3.0, q, draws)
    np.testing.assert_allclose(found, own, rtol=1e-3, atol=1e-3)


def test_messages_of_poisson_counts_are_natural_gradients():
    """For a Gaussian: E f' - m E f'' and E f'' / 2, by Bonnet's and Price's theorems."""
    q, mean, variance = nd.ClosedForm(GAUSSIAN), 0.4, 0.25
    eta = GAUSSIAN.to_natural(jnp.array(mean), jnp.array(variance))
    draws = q.sample(jax.random.key(0), eta, 100_000)
    found = cvi_message(lambda x: 3 * x - jnp.exp(x), q, draws)
    rate = np.exp(mean + variance / 2)
    exact = [3 - rate + mean * rate, -rate / 2]
    np.testing.assert_allclose(found, exact, atol=0.03)


def test_over_complete_families_get_the_smallest_message():
    family = nd.MultivariateNormal(2)
    q = nd.ClosedForm(family)
    eta = family.to_natural(jnp.zeros(2), jnp.eye(2))
    draws = q.sample(jax.random.key(0), eta, 200)
    found = cvi_message(lambda x: x[0] * x[1], q, draws)
    np.testing.assert_allclose(found, [0, 0, 0, 0.5, 0.5, 0], atol=1e-4)


def test_nearly_collinear_statistics_in_single_precision():
    """Far from 0, x and x^2 are the same function but for one part in a thousand."""
    q, own = nd.ClosedForm(GAUSSIAN), jnp.array([100.0, -0.125], jnp.float32)
    x = 300 + np.random.default_rng(0).normal(size=20_000)
    found = cvi_message(lambda x: own[0] * x + own[1] * x**2, q, jnp.asarray(x, jnp.float32))
    # The slope of the message at the mean, and its curvature.
    assert abs(found[0] + 600 * found[1] - 25) < 0.01
    np.testing.assert_allclose(found[1], -0.125, rtol=0.02)


class Tenths(nd.ExponentialFamily):
    x_shape, support, natural_domain = (2,), nd.families.Spins((2,)), nd.domain()

    def compute_stats(self, x):
        return {"first": 0.3 * x[0], "second": 0.7 * x[1]}


def test_equal_draws_tell_nothing():
    q = nd.ClosedForm(GAUSSIAN)
    assert np.isnan(cvi_message(lambda x: 3 * x, q, jnp.ones(10))).all()
    # The mean of 1,000 equal numbers is not exactly this number.
    draws = jnp.stack([jnp.ones(1000), jnp.where(jnp.arange(1000) < 400, -1.0, 1.0)], 1)
    assert np.isnan(cvi_message(lambda x: x[1] + x[0] * x[1], nd.Enumeration(Tenths()), draws)[0])


def test_init_may_be_integers(without_type_checks):
    found = project(nd.ClosedForm(GAUSSIAN), lambda x: -(x**2), init=jnp.array([0, -1]))
    np.testing.assert_allclose(found.eta, [0, -1], atol=1e-5)


def test_wrong_arguments_are_refused(without_type_checks):
    q = nd.ClosedForm(GAUSSIAN)
    with pytest.raises(ValueError, match=r"n > 2 .* 2 statistics; got \(2,\)"):
        cvi_message(lambda x: x, q, jnp.zeros(2))
    with pytest.raises(ValueError, match=r"draws of shape \('n', 2\).*got \(9, 3\)"):
        cvi_message(jnp.sum, nd.ClosedForm(NORMAL2), jnp.zeros((9, 3)))
    init = jnp.array([0.0, -0.5])
    with pytest.raises(ValueError, match=r"log_tilted\(x\) to return a scalar.*\(2,\)"):
        project(q, lambda x: jnp.stack([x, x]), init, jnp.zeros(10))
    with pytest.raises(ValueError, match=r"log_tilted\(x\) to return a scalar.*\(2,\)"):
        project(q, lambda x: jnp.stack([x, x]))
    with pytest.raises(ValueError, match=r"scalar, in nats; got shape \(2,\)"):
        cvi_message(lambda x: jnp.stack([x, x]), q, jnp.zeros(10))
    with pytest.raises(ValueError, match="q to be an instance"):
        project(GAUSSIAN, lambda x: -(x**2))
