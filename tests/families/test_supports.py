"""Supports with a shape of their own: where they lead, and what weight they give."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.registry import SUPPORTS

pytestmark = pytest.mark.usefixtures("strict_promotion")

ON_SUPPORT = {
    nd.CircleProjection: lambda x: np.abs(x) <= np.pi + 1e-6,
    nd.SphereProjection: lambda x: np.abs(np.linalg.norm(x, axis=-1) - 1) < 1e-5,
    nd.AdditiveLogRatio: lambda x: (np.abs(x.sum(-1) - 1) < 1e-5) & (x > 0).all(-1),
}


@functools.cache
def grid_of(case):
    """Points and weights exp(log_det) on a grid of unconstrained coordinates, and its cell."""
    support, (low, high, n) = case.make(), case.grid
    axis = jnp.linspace(low, high, n)
    (dim,) = support.shape
    u = jnp.stack(jnp.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)
    x, log_det = jax.jit(jax.vmap(support.transform_and_log_det))(u)
    weights = np.exp(np.asarray(log_det, np.float64))
    return np.asarray(x, np.float64), weights, ((high - low) / (n - 1)) ** dim


@pytest.mark.parametrize("case", SUPPORTS, ids=str)
class TestSupport:
    def test_points_are_on_it(self, case):
        x, weights, _ = grid_of(case)
        inside = x[weights > 1e-6 * weights.max()]
        assert ON_SUPPORT[type(case.make())](inside).all()

    def test_weights_integrate_to_its_size(self, case):
        _, weights, cell = grid_of(case)
        assert abs(weights.sum() * cell / case.volume - 1) < 1e-3

    def test_the_uniform_density_has_uniform_moments(self, case):
        """Means of the coordinates: 0 on circle and sphere, 1/k on the simplex."""
        x, weights, _ = grid_of(case)
        x = x.reshape(len(x), -1)
        mean = weights @ x / weights.sum()
        expected = 1 / 3 if isinstance(case.make(), nd.AdditiveLogRatio) else 0
        assert np.max(np.abs(mean - expected)) < 0.02


@pytest.mark.parametrize("cls", [nd.SphereProjection, nd.AdditiveLogRatio])
def test_too_few_dimensions_are_refused(cls):
    with pytest.raises(ValueError, match=">= 2; got 1"):
        cls(1)
