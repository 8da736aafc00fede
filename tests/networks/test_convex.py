"""The convex network: positive semi-definite Jacobians, its start, and what it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
import pytest

import nnef_dists as nd
from nnef_dists.networks._component_start import find_components
from nnef_dists.networks._convex import log_sum_exp
from tests.moments.exact import polynomial_moments
from tests.networks.data import GAUSSIAN, exact_data, gaussian_data, labeled
from tests.numerics import assert_close, epsilon
from tests.registry import FAMILIES

pytestmark = pytest.mark.usefixtures("strict_promotion")

# Rounding of a Jacobian, relative to its largest eigenvalue; the promise is 1e-5 in float32.
ROUNDING = 64


def arbitrary_data(family, n=64):
    """Etas around the unit of the coordinates, with random numbers for moments."""
    rng = np.random.default_rng(1)
    u = rng.normal(size=(n, family.unconstrained_dim))
    etas = jax.jit(jax.vmap(family.constrain_eta))(jnp.asarray(u, float))
    factor = rng.normal(size=(n, family.eta_dim, family.eta_dim))
    covariance = factor @ factor.transpose(0, 2, 1)
    return labeled(family, etas, rng.normal(size=(n, family.eta_dim)), covariance)


def with_means(net, change):
    """The network with other means of its weights."""

    def of_node(node):
        return node.with_mean(change(node.mean)) if nd.bayes.is_parameter(node) else node

    return jax.tree.map(of_node, net, is_leaf=nd.bayes.is_parameter)


def assert_positive_semidefinite(jacobians):
    """Up to rounding relative to the largest eigenvalue, and up to underflow."""
    eps, tiny = epsilon(jacobians), float(jnp.finfo(jacobians.dtype).tiny)
    jacobians = np.asarray(jacobians, np.float64)
    assert np.isfinite(jacobians).all()
    values = np.linalg.eigvalsh((jacobians + jacobians.swapaxes(-1, -2)) / 2)
    assert np.mean(values[..., -1] > tiny / eps) > 0.5
    assert np.all(values[..., 0] >= -ROUNDING * (eps * values[..., -1] + tiny / eps))


@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_jacobians_are_positive_semidefinite_for_all_weights(case):
    """Twenty draws of wide weights, at etas of the data and at others three times as far out.

    Whatever the labels are: here they are the moments of nothing.
    """
    family = case.make()
    data = arbitrary_data(family)
    net = nd.ConvexLogPartitionNetwork(family, data, width=8, key=jax.random.key(2))
    rng = np.random.default_rng(3)
    far = jnp.asarray(3 * rng.normal(size=(64, family.unconstrained_dim)), data.eta.dtype)

    def spread(mean):
        return mean + jnp.asarray(0.3 * rng.normal(size=(20, *mean.shape)), mean.dtype)

    @jax.jit
    def jacobians(means, etas):
        def of_draw(means):
            rest = iter(means)
            drawn = with_means(net, lambda _: next(rest))
            return jax.vmap(jax.jacfwd(drawn.__call__))(etas)

        return jax.lax.map(of_draw, means)

    means = tuple(spread(law.mean) for law in net.get_parameters().values())
    outside, valid = jax.jit(jax.vmap(lambda u: eta_and_validity(family, u)))(far)
    # Rounding puts a few of the furthest on the edge.
    assert np.mean(valid) > 0.9
    etas = jnp.concatenate([jnp.asarray(data.eta), jnp.where(valid[:, None], outside, data.eta)])
    assert_positive_semidefinite(jacobians(means, etas))


def eta_and_validity(family, u):
    eta = family.constrain_eta(u)
    return eta, family.is_valid_eta(eta)


class TestLogSumExp:
    def test_it_is_the_log_sum_exp(self):
        values = jax.random.normal(jax.random.key(0), (9,))
        assert_close(log_sum_exp(values), jax.nn.logsumexp(values))
        assert_close(jax.grad(log_sum_exp)(values), jax.nn.softmax(values))

    @pytest.mark.parametrize("lead", [0.0, 10.0, 60.0])
    def test_curvature_along_a_line_keeps_its_relative_precision(self, lead):
        """The variance of slopes, where one value leads and where the slopes have a large mean."""
        values = np.array([0.3 + lead, 0.1, -0.4, 0.2])
        slopes = np.array([3.0, 3.5, 1.0, 4.0])
        weights = np.exp(values - values[0])
        weights /= weights.sum()
        others = slopes - slopes[0]
        expected = weights @ others**2 - (weights @ others) ** 2
        start, direction = jnp.asarray(values, float), jnp.asarray(slopes, float)
        along = jax.jit(jax.jacfwd(jax.jacfwd(lambda t: log_sum_exp(start + t * direction))))
        found = along(jnp.zeros((), float))
        # Rounding of the values themselves enters the weights.
        np.testing.assert_allclose(found, expected, rtol=(64 + lead) * epsilon(start))


class TestStart:
    def test_gaussians_are_exact_without_training(self):
        """Also far outside of the etas of the data."""
        data = gaussian_data(n=200)
        net = nd.ConvexLogPartitionNetwork(GAUSSIAN, data, width=8, key=jax.random.key(1))
        tests = np.concatenate([data.eta / 10, data.eta, data.eta * 10])
        exact = exact_data(GAUSSIAN, jnp.asarray(tests))
        sd = np.sqrt(np.diagonal(exact.covariance, axis1=1, axis2=2))
        z = (np.asarray(jax.jit(lambda etas: jax.vmap(net)(etas))(tests)) - exact.mean) / sd
        assert np.sqrt(np.mean(z**2)) < 0.01

    def test_the_features_coefficients_are_found(self):
        """A = x^2 / (4 n) - log(n) / 2 with n = -eta2: coefficients 1 / 2 and 1 / 4."""
        start = paramax.unwrap(find_components(gaussian_data(n=200), 8))
        weights = start.units * jax.nn.softplus(start.raw_weights)
        np.testing.assert_allclose(weights, [0.5, 0.25], rtol=1e-3)

    def test_masses_are_those_of_the_draws(self):
        """One point was drawn at each eta: the etas' densities at any point add up to one draw."""
        data = arbitrary_data(GAUSSIAN)
        start = paramax.unwrap(find_components(data, 64))
        # All of the labels were used, so that the order in which they were does not matter.
        eta, center, points, logits = (
            np.asarray(leaf, np.float64)
            for leaf in (data.eta, start.center, start.points, start.logits)
        )
        joint = (eta - center) @ points.T + logits
        densities = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
        np.testing.assert_allclose(densities.sum(0), 1, rtol=1e-3)

    def test_more_components_than_labels(self):
        data = gaussian_data(n=8)
        net = nd.ConvexLogPartitionNetwork(GAUSSIAN, data, width=20, key=jax.random.key(0))
        assert net.start.points.tree.shape == (20, 2)
        call = jax.jit(lambda etas: jax.vmap(net)(etas))
        assert np.isfinite(call(jnp.asarray(data.eta))).all()

    def test_a_width_below_one_is_refused(self):
        with pytest.raises(ValueError, match="width >= 1"):
            nd.ConvexLogPartitionNetwork(GAUSSIAN, gaussian_data(), width=0, key=jax.random.key(0))


def test_without_an_edge_there_are_points_alone():
    """Far out the moments are those of the point that is furthest."""
    family = nd.VonMisesHarmonic(1)
    data = arbitrary_data(family)
    net = nd.ConvexLogPartitionNetwork(family, data, width=8, key=jax.random.key(0))
    assert net.raw_weight.shape == (8, 0)
    points = net.start.slope.tree + net.start.points.tree
    still = with_means(net, jnp.zeros_like)
    far = jax.jit(lambda eta: still(eta))(jnp.asarray([1e4, 0.0], points.dtype))
    assert_close(far, points[jnp.argmax(points[:, 0])])


@functools.cache
def quartic_data(n, seed):
    family = nd.Polynomial1D((1, 2, 4))
    box = {"x": (-2.0, 2.0), "x2": (-2.0, 2.0), "x4": (-2.0, -0.2, "log")}
    etas = jax.jit(lambda key: family.sample_eta(key, n, box))(jax.random.key(seed))
    return labeled(family, etas, *polynomial_moments(etas))


def test_it_learns_densities_with_two_wells():
    data, held_out = quartic_data(512, 0), quartic_data(256, 1).batch()
    net = nd.ConvexLogPartitionNetwork(data.family, data, width=64, key=jax.random.key(0))
    batch = data.batch()
    dynamic, static = nd.freeze_stdvs(net)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.003, 2_000))

    def step(carry, _):
        dynamic, state = carry
        gradient = jax.grad(lambda d: nd.moment_loss(nd.unfreeze_all(d, static), batch))(dynamic)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, dynamic)
            return (optax.apply_updates(dynamic, updates), state), None

    @jax.jit
    def train(dynamic):
        (dynamic, _), _ = jax.lax.scan(step, (dynamic, optimizer.init(dynamic)), length=2_000)
        return nd.moment_loss(nd.unfreeze_all(dynamic, static), held_out)

    assert jnp.sqrt(train(dynamic)) < 0.05
