"""Supports with another shape than their coordinates: circle, sphere, simplex."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.families.checks import array
from tests.numerics import assert_close

SUPPORTS = [
    nd.families.CircleProjection(),
    nd.families.SphereProjection(2),
    nd.families.SphereProjection(5),
    nd.families.AdditiveLogRatio(2),
    nd.families.AdditiveLogRatio(4),
]

pytestmark = pytest.mark.usefixtures("strict_promotion")


transformed = jax.jit(lambda support, u: support.transform_and_log_det(u), static_argnums=0)
all_transformed = jax.jit(
    lambda support, us: jax.vmap(support.transform_and_log_det)(us), static_argnums=0
)


@pytest.mark.parametrize("support", SUPPORTS, ids=repr)
class TestEverySupport:
    def points(self, support, n=20, scale=1.0):
        return scale * jax.random.normal(jax.random.key(1), (n, *support.shape))

    def test_transform_is_the_first_of_the_pair(self, support):
        transform = jax.jit(support.transform)
        for u in self.points(support, 3):
            x, log_det = transformed(support, u)
            assert np.array_equal(transform(u), x)
            assert log_det.shape == ()

    def test_dtype_is_carried(self, support):
        with jax.enable_x64(True):
            for dtype in (jnp.float32, jnp.float64):
                u = jax.ShapeDtypeStruct(support.shape, dtype)
                x, log_det = jax.eval_shape(support.transform_and_log_det, u)
                assert x.dtype == log_det.dtype == dtype

    def test_gradients_are_finite_far_out(self, support):
        gradient = jax.jit(jax.vmap(jax.grad(lambda u: support.transform_and_log_det(u)[1])))
        assert np.isfinite(gradient(self.points(support, scale=100.0))).all()

    def test_it_is_a_static_value(self, support):
        assert not [leaf for leaf in jax.tree.leaves(support) if hasattr(leaf, "dtype")]
        hash(support)


@pytest.mark.parametrize(
    "support", [s for s in SUPPORTS if not isinstance(s, nd.families.AdditiveLogRatio)], ids=repr
)
class TestProjections:
    def test_the_auxiliary_radius_is_normalized(self, support):
        """The integral of the weight times r^(n-1) dr is 1 on every ray."""
        n = support.shape[0]
        log_r = np.linspace(-4, 4, 2001)
        rays = array(np.eye(n)[0] * np.exp(log_r)[:, None])
        log_weights = np.asarray(all_transformed(support, rays)[1], np.float64)
        integral = np.sum(np.exp(log_weights + n * log_r)) * (log_r[1] - log_r[0])
        assert_close(array(integral), 1.0, ulps=512)

    def test_only_the_radius_matters_to_the_weight(self, support):
        u = array(np.linspace(-1.0, 2.0, support.shape[0]))
        log_weights = [transformed(support, v)[1] for v in (u, -u, u[::-1])]
        np.testing.assert_allclose(log_weights, log_weights[0], rtol=1e-5)

    def test_the_origin_is_finite(self, support):
        """A grid may hold it; its weight is nothing."""
        x, log_weight = transformed(support, jnp.zeros(support.shape))
        assert np.isfinite(x).all()
        assert np.isfinite(log_weight)
        assert log_weight < -1e3


def test_points_of_the_sphere_have_unit_length():
    u = jax.random.normal(jax.random.key(2), (50, 4))
    x, _ = all_transformed(nd.families.SphereProjection(4), u)
    assert_close(jnp.sum(x**2, 1), np.ones(50))
    assert_close(x, np.asarray(u / jnp.linalg.norm(u, axis=1, keepdims=True)))


def test_angles_of_the_circle():
    angles = np.linspace(-3.1, 3.1, 9)
    u = array(0.7 * np.stack([np.cos(angles), np.sin(angles)], -1))
    assert_close(all_transformed(nd.families.CircleProjection(), u)[0], angles)


class TestSimplex:
    def test_points_are_positive_and_sum_to_one(self):
        u = 3 * jax.random.normal(jax.random.key(3), (50, 3))
        x, _ = all_transformed(nd.families.AdditiveLogRatio(4), u)
        assert (x > 0).all()
        assert_close(jnp.sum(x, 1), np.ones(50))

    def test_log_det_is_that_of_the_first_entries(self):
        support = nd.families.AdditiveLogRatio(4)
        jacobian = jax.jit(jax.jacfwd(lambda u: support.transform(u)[:-1]))
        for u in jax.random.normal(jax.random.key(4), (5, 3)):
            exact = np.linalg.slogdet(np.asarray(jacobian(u), np.float64))[1]
            assert_close(transformed(support, u)[1], exact, ulps=512)

    def test_small_entries_are_exact(self):
        x, _ = transformed(nd.families.AdditiveLogRatio(3), array([-60.0, -30.0]))
        expected = np.exp([-60.0, -30.0, 0.0])
        np.testing.assert_allclose(x, expected / expected.sum(), rtol=2e-5)


@pytest.mark.parametrize("cls", [nd.families.SphereProjection, nd.families.AdditiveLogRatio])
def test_fewer_than_two_dimensions_are_refused(cls):
    with pytest.raises(ValueError, match=">= 2; got 1"):
        cls(1)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_coordinates_of_the_sphere(n):
    """The log-weight of quadrature's coordinates is the surface element's."""
    support = nd.families.SphereProjection(n)
    assert support.coordinates == n - 1
    at_angle = jax.jit(support.at_angle)
    jacobian = jax.jit(jax.jacfwd(lambda coordinates: support.at_angle(coordinates)[0]))
    for coordinates in 2 * jax.random.normal(jax.random.key(5), (5, n - 1)):
        x, log_weight = at_angle(coordinates)
        assert_close(jnp.sum(x**2), 1.0)
        gram = np.asarray(jacobian(coordinates), np.float64)
        exact = np.linalg.slogdet(gram.T @ gram)[1] / 2
        np.testing.assert_allclose(log_weight, exact, atol=2e-4)
        turned = at_angle(coordinates.at[-1].add(2 * np.pi))[0]
        np.testing.assert_allclose(turned, x, atol=1e-5)


def test_coordinate_of_the_circle():
    support = nd.families.CircleProjection()
    for angle in (-2.0, 0.5, 3.0):
        for turns in (-1, 0, 2):
            x, log_weight = support.at_angle(array([angle + 2 * np.pi * turns]))
            np.testing.assert_allclose(x, angle, atol=1e-5)
            assert log_weight == 0
