"""The variational normal base, beside closed forms, quadrature and Laplace's approximation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.networks import LaplaceBase, VariationalBase, choose_base
from nnef_dists.networks._sphere_rule import sphere_rule
from nnef_dists.networks._variational import find_normal
from tests.networks.data import labeled
from tests.networks.test_base import Plateau
from tests.networks.test_steep_families import PositivePowers

NORMAL, GAMMA, DIRICHLET = nd.MultivariateNormal(2), nd.Gamma(), nd.Dirichlet(3)
STEEP = PositivePowers((1, -2))
# log x is nearly uniform between two steep sides.
FLAT = np.array([[-0.7, -0.21, -0.12], [-0.72, -0.11, -1.23]], np.float32)


def test_gaussians_are_exact():
    precision = jnp.array([[2.0, 0.6], [0.6, 0.5]])
    eta = jnp.concatenate([precision @ jnp.array([0.3, -2.0]), -precision.ravel() / 2])
    terms = jax.jit(VariationalBase(NORMAL))(eta)
    np.testing.assert_allclose(terms.value, NORMAL.log_partition(eta), rtol=1e-5)
    assert terms.scale < 1e-8


@pytest.mark.parametrize("n", [1, 1e3, 1e6])
def test_closed_forms_of_many_observations(n):
    etas = n * jnp.array([[1.0, -1.0], [5.0, -0.02]])
    base = VariationalBase(GAMMA)
    means = jax.jit(jax.vmap(jax.grad(lambda eta: base(eta).value)))(etas)
    sd = jnp.sqrt(jax.vmap(lambda eta: jnp.diagonal(jax.hessian(GAMMA.log_partition)(eta)))(etas))
    z = (means - jax.vmap(GAMMA.mean)(etas)) / sd
    assert np.abs(z).max() < (0.03 if n == 1 else 2e-3)


def test_the_bound_is_stationary():
    """E[grad l] = 0 and E[grad l (u - m)^T] = -1, over the nodes."""

    def slope(eta, u):
        log, x, inverse_square = eta
        return log + 1 + x * jnp.exp(u) - 2 * inverse_square * jnp.exp(-2 * u)

    nodes, weight = sphere_rule(1)
    for eta in jnp.asarray(FLAT):
        mean, factor = jax.jit(lambda eta: find_normal(STEEP, eta))(eta)
        u = mean + nodes @ factor
        slopes = jax.vmap(lambda u, eta=eta: slope(eta, u[0]))(u)
        at_mean = (1 - weight * len(nodes)) * slope(eta, mean[0])
        np.testing.assert_allclose((weight * slopes.sum() + at_mean) * factor[0, 0], 0, atol=1e-4)
        np.testing.assert_allclose(weight * slopes @ (u - mean)[:, 0], -1, rtol=1e-3)


def test_flat_densities_between_steep_sides():
    """Laplace's approximation is off by more than two standard deviations."""
    etas = jnp.asarray(FLAT)
    q = nd.Quadrature(STEEP)
    exact, covariance = jax.vmap(q.mean)(etas), jax.vmap(q.covariance)(etas)
    sd = jnp.sqrt(jnp.diagonal(covariance, axis1=1, axis2=2))

    def error(base):
        means = jax.jit(jax.vmap(jax.grad(lambda eta: base(eta).value)))(etas)
        return np.abs((means - exact) / sd).max(1)

    assert (error(LaplaceBase(STEEP)) > 2).all()
    assert (error(VariationalBase(STEEP)) < 0.04).all()


def test_estimates_of_the_level_and_their_errors():
    """In four dimensions, the most in which this base is chosen."""
    family = nd.Dirichlet(5)
    base = VariationalBase(family)
    etas = jnp.array([[-0.6, -0.5, 2.0, 0.1, 0.0], [0.0] * 5, [50.0, 3.0, 0.5, 0.0, 9.0]])

    def both(eta):
        return base.estimate_gap(eta), base(eta).value

    gap, value = jax.jit(lambda etas: jax.lax.map(both, etas))(etas)
    exact = jax.vmap(family.log_partition)(etas)
    assert (np.abs(gap.value + value - exact) < 4 * gap.error + 1e-5).all()
    assert (gap.error < 0.05).all()


def test_a_base_is_chosen_under_a_transformation():
    family = PositivePowers((1, -1))
    ranges = {"log": (-3, 3), "x1": (-2, -1), "x-1": (-2, -1)}
    etas = family.sample_eta(jax.random.key(0), 64, ranges)
    found = jax.jit(jax.vmap(lambda eta: nd.quadrature_moments(family, eta)))(etas)
    data = labeled(family, etas, found.mean, found.covariance)
    chosen = []
    jax.jit(lambda x: (chosen.append(choose_base(family, data)), x)[1])(0.0)
    assert chosen == [choose_base(family, data)]


def test_derivatives_agree_with_finite_differences():
    """All terms, to second order, in two dimensions."""
    with jax.enable_x64(True):
        base, eta = VariationalBase(DIRICHLET), jnp.array([0.5, 2.0, -0.3])

        def terms(eta):
            found = base(eta)
            return jnp.concatenate([found.value[None], found.scale[None], found.inputs])

        slopes, jitted = jax.jit(jax.jacfwd(terms)), jax.jit(terms)
        curvatures = jax.jit(jax.jacfwd(jax.jacfwd(terms)))(eta)
        steps = 1e-5 * np.eye(len(eta))
        first = [(jitted(eta + h) - jitted(eta - h)) / 2e-5 for h in steps]
        second = [(slopes(eta + h) - slopes(eta - h)) / 2e-5 for h in steps]
        np.testing.assert_allclose(slopes(eta), np.stack(first, -1), atol=1e-8, rtol=1e-6)
        np.testing.assert_allclose(curvatures, np.stack(second, -1), atol=1e-7, rtol=1e-6)


def test_no_maximum_is_nan():
    base, eta = VariationalBase(Plateau()), jnp.array([0.5])
    assert jnp.isnan(base(eta).value)
    assert jnp.isnan(jax.grad(lambda eta: base(eta).value)(eta)).all()


def test_kinks_are_rejected():
    with pytest.raises(ValueError, match="Expected a family with a smooth log-density"):
        VariationalBase(nd.LaplaceProduct(1))


def test_gradients_of_batches_in_loops_of_batches():
    """As in an ensemble that is trained as one program."""
    base = VariationalBase(GAMMA)

    def train(shapes):
        def loss(shapes):
            return jnp.sum(jax.vmap(jax.jit(lambda s: base(jnp.stack([s, -s])).value))(shapes))

        return jax.lax.scan(lambda s, _: (s - 0.1 * jax.grad(loss)(s), None), shapes, length=2)[0]

    shapes = jnp.linspace(1.0, 2.0, 6).reshape(3, 2)
    together = jax.jit(jax.vmap(train))(shapes)
    np.testing.assert_allclose(together[1], jax.jit(train)(shapes[1]), rtol=1e-5)
