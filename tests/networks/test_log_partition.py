"""Networks of the log-partition, and the loss that trains their Jacobian."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.moment_data import data_of_arrays
from tests.networks.data import GAUSSIAN, gaussian_data, labeled
from tests.numerics import assert_close
from tests.registry import NETWORKS, class_of

pytestmark = pytest.mark.usefixtures("strict_promotion")

POTENTIALS = [
    case
    for case in NETWORKS
    if issubclass(class_of(case.name), nd.networks.AbstractLogPartitionNetwork)
]


@functools.cache
def network(case):
    return case.make(GAUSSIAN, gaussian_data(), jax.random.key(1))


@pytest.mark.parametrize("case", POTENTIALS, ids=str)
class TestPotentials:
    def test_moments_are_the_gradient_of_one_function(self, case):
        """At the means and for the weights of a key: line integrals of mu are differences of A."""
        etas = jnp.asarray(gaussian_data().eta)
        start, end = etas[:8], etas[8:16]
        nodes, weights = np.polynomial.legendre.leggauss(24)

        @jax.jit
        def both(net, key):
            def along(start, end):
                points = start + (jnp.asarray(nodes, etas.dtype)[:, None] + 1) / 2 * (end - start)
                mu = jax.vmap(lambda eta: net(eta, key=key))(points)
                integral = jnp.asarray(weights, etas.dtype) @ (mu @ (end - start)) / 2
                return integral, net.log_partition(end, key=key) - net.log_partition(start, key=key)

            return jax.vmap(along)(start, end)

        for key in (None, jax.random.key(3)):
            integral, difference = both(network(case), key)
            assert np.ptp(difference) > 0.1
            assert np.max(np.abs(integral - difference)) < 1e-3 * np.max(np.abs(difference))

    def test_the_jacobian_is_symmetric_for_all_weights(self, case):
        etas = jnp.asarray(gaussian_data().eta)
        jacobian = jax.jit(
            jax.vmap(jax.jacfwd(lambda eta: network(case)(eta, key=jax.random.key(4))))
        )(etas)
        scale = np.abs(np.asarray(jacobian)).max((1, 2))
        assert np.max(np.abs(jacobian - jnp.swapaxes(jacobian, 1, 2)).max((1, 2)) / scale) < 1e-4

    def test_sampling_needs_a_key(self, case):
        with pytest.raises(ValueError, match="key is required"):
            network(case).log_partition(jnp.asarray(gaussian_data().eta[0]), sample=True)

    def test_saving(self, case, tmp_path):
        net = network(case)
        nd.save(tmp_path / "net.safetensors", net)
        again = nd.load(tmp_path / "net.safetensors")
        eta = jnp.asarray(gaussian_data().eta[0])
        assert np.array_equal(again.log_partition(eta), net.log_partition(eta))


def quadratic_errors(change):
    """Errors of the fit, in z units, to labels that are a quadratic's before a change of them."""
    data = gaussian_data(n=128, seed=3)
    standardization = nd.networks.Standardization.fit(data)
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=2), data.eta.dtype) for _ in range(2))
    c = jnp.asarray([[0.7, -0.4], [-0.4, 1.3]], data.eta.dtype)

    def truth(eta):
        x = standardization.inputs(eta)
        return a @ eta + b @ x + x @ c @ x / 2

    etas = jnp.asarray(data.eta)
    mean = np.asarray(jax.jit(jax.vmap(jax.grad(truth)))(etas))
    names = ("eta", *nd.moments.MomentLabel._fields)
    arrays = {name: getattr(data, name) for name in names} | {"mean": mean}
    found = nd.networks.QuadraticPotential.fit(
        data_of_arrays(GAUSSIAN, None, **arrays | change(arrays)), standardization
    )

    def fitted(eta):
        return found(eta, standardization.inputs(eta), GAUSSIAN.convex_features(eta))

    errors = np.asarray(jax.jit(jax.vmap(jax.grad(fitted)))(etas) - mean) / data.batch().sd
    return np.abs(errors), float(found.residual_scale.tree)


def test_a_quadratic_is_found_exactly():
    """Moments that are the gradient of a quadratic leave nothing to learn."""
    errors, scale = quadratic_errors(lambda arrays: {})
    assert np.max(errors) < 2e-3
    assert scale < 1e-3


def test_a_few_labels_with_a_tiny_sd_do_not_decide_the_start():
    def change(arrays):
        mean, covariance = arrays["mean"].copy(), arrays["covariance"].copy()
        mean[:6] += 0.5
        covariance[:6] *= 1e-10
        return {"mean": mean, "covariance": covariance}

    errors, scale = quadratic_errors(change)
    # Least squares has 0.49 and 1.3, and a perceptron of size 2e-5, which hardly learns.
    assert np.median(errors) < 0.1
    assert np.max(errors) < 0.25
    assert scale > 0.1


class TestSobolevLoss:
    def test_without_weight_it_is_the_moment_loss(self):
        net, batch = network(NETWORKS[0]), gaussian_data().batch()
        loss = nd.sobolev_loss(net, batch, jax.random.key(0), weight=0.0)
        assert_close(loss, nd.moment_loss(net, batch))

    def test_over_all_directions_it_is_the_error_of_the_jacobian(self):
        """Signs of two statistics have two directions, each for half of the labels on average."""
        net, batch = network(NETWORKS[0]), gaussian_data().batch()
        sd = np.asarray(batch.sd)
        jacobian = np.asarray(jax.jit(jax.vmap(jax.jacfwd(net)))(jnp.asarray(batch.eta)))
        error = (jacobian - np.asarray(batch.covariance)) / (sd[:, :, None] * sd[:, None])
        signs = np.array(list(itertools.product([-1, 1], repeat=2)))
        by_direction = np.mean(np.log1p((error @ signs.T) ** 2), 1)
        expected = np.mean(by_direction)

        keys = jax.random.split(jax.random.key(5), 400)
        loss = jax.jit(jax.vmap(lambda key: nd.sobolev_loss(net, batch, key, weight=2.0)))(keys)
        found = (np.asarray(loss, np.float64) - float(nd.moment_loss(net, batch))) / 2
        deviation = by_direction.std(1)
        scatter = np.sqrt(np.sum(deviation**2)) / len(deviation) / np.sqrt(len(keys))
        assert abs(found.mean() - expected) < 4.5 * scatter
        # The relative standard error of a standard deviation of n normals is 1 / sqrt(2 n).
        spread = scatter * np.sqrt(len(keys))
        assert abs(found.std(ddof=1) / spread - 1) < 4.5 / np.sqrt(2 * len(keys))


def test_features_that_are_not_used_are_reported():
    data, options = gaussian_data(), {"width": 8, "depth": 1, "key": jax.random.key(0)}
    used = nd.LogPartitionNetwork(GAUSSIAN, data, **options)
    assert used.unused_features() == 0
    assert "not used" not in repr(nd.AmortizedFamily(GAUSSIAN, used))
    direct = nd.MLPMomentNetwork(GAUSSIAN, data, **options)
    assert direct.unused_features() == GAUSSIAN.convex_features(jnp.asarray(data.eta[0])).size == 2
    q = nd.AmortizedFamily(GAUSSIAN, direct)
    assert "2 convex features of the domain are left out" in repr(q)
    assert "not used" not in repr(jax.eval_shape(lambda: q))


def test_declared_features_that_the_fit_leaves_out_are_reported():
    """Labels that no function of the edge explains: the features enter with zeros."""
    data = gaussian_data()
    noise = np.random.default_rng(0).normal(size=data.mean.shape).astype(data.mean.dtype)
    other = labeled(GAUSSIAN, data.eta, noise, data.covariance)
    network = nd.LogPartitionNetwork(GAUSSIAN, other, width=8, depth=1, key=jax.random.key(0))
    assert network.unused_features() == 2
    assert "2 convex features" in repr(nd.AmortizedFamily(GAUSSIAN, network))
