"""Tractable families reduced by a symmetry, and labels that serve whole orbits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import nnef_dists as nd
from nnef_dists.families import LocationScale, Permutation, Scaling, SignFlip
from tests.families.edges import InverseGaussian
from tests.families.test_symmetry import FULL

INVERSE = InverseGaussian()


def inverse_gaussian(eta):
    """A, E[log x], E[x] and E[1/x] by Bessel functions, in double precision."""
    p, a, b = float(eta[0]) + 1, -2 * float(eta[1]), -2 * float(eta[2])
    root, scale = np.sqrt(a * b), np.sqrt(b / a)

    def log_k(order):
        return np.log(scipy.special.kve(order, root)) - root

    A = np.log(2) + log_k(p) + p * np.log(scale)
    ratio = np.exp(log_k(p + 1) - log_k(p))
    log = np.log(scale) + (log_k(p + 1e-5) - log_k(p - 1e-5)) / 2e-5
    return A, np.array([log, scale * ratio, ratio / scale - 2 * p / b])


@pytest.mark.parametrize("ratio", [1.0, 1e-3, 1e3, 1e-6, 1e6])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_inverse_gaussians_of_any_scale(ratio, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        q = nd.Symmetric(nd.Quadrature(INVERSE), Scaling(x=1, inverse=-1))
        eta = jnp.array([0.7, -1.3 / ratio, -0.8 * ratio], dtype)
        A, mu = inverse_gaussian(eta)
        sd = np.sqrt(np.diagonal(np.asarray(q.covariance(eta), np.float64)))
        tolerance = 1e-5 if dtype == jnp.float32 else 1e-7
        assert np.max(np.abs(np.asarray(q.mean(eta), np.float64) - mu) / sd) < tolerance
        assert abs(float(q.log_partition(eta)) - A) < tolerance * max(1, abs(A))


PAIRS = {
    "quartic": (FULL, LocationScale(), [3.0, 2.0, -0.4, -0.7]),
    "sign": (FULL, SignFlip("x"), [-3.0, 2.0, 0.4, -0.7]),
    "scale": (nd.Gamma(), Scaling(x=1), [2.0, -300.0]),
    "dirichlet": (nd.Dirichlet(3), Permutation("log_x", 3), [3.0, -0.5, 1.0]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_all_is_that_of_the_family_itself(name):
    family, symmetry, eta = PAIRS[name]
    with jax.enable_x64(True):
        eta, other = jnp.array(eta), jnp.array(eta) * 1.1
        plain = nd.ClosedForm(family) if name == "dirichlet" else nd.Quadrature(family)
        q = nd.Symmetric(plain, symmetry)
        methods = ("log_partition", "mean", "covariance", "entropy")

        @functools.partial(jax.jit, static_argnums=0)
        def everything(q, eta, other):
            values = [getattr(q, method)(eta) for method in methods]
            return *values, jax.grad(q.log_partition)(eta), q.kl(eta, other)

        found, exact = everything(q, eta, other), everything(plain, eta, other)
        for name, one, two in zip((*methods, "gradient", "kl"), found, exact, strict=True):
            assert np.allclose(one, two, rtol=1e-8 if name == "kl" else 1e-9, atol=1e-9), name
        third = jax.jacfwd(q.covariance)(eta)
        assert np.allclose(third, jax.jacfwd(plain.covariance)(eta), rtol=1e-6, atol=1e-7)
        back = q.natural_parameters(q.mean(eta))
        assert np.allclose(back, eta, rtol=1e-6)
        assert 0 < q.accuracy(eta) < 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_accuracy_has_the_cancellation_far_from_zero(dtype):
    """Of normals whose location is r standard deviations, in closed form."""
    with jax.enable_x64(dtype == jnp.float64):
        q = nd.Symmetric(nd.ClosedForm(nd.GaussianNatural1D()), LocationScale())
        ratios = [1.0, 10.0, 103.0, 1e3, 1e4] if dtype == jnp.float32 else [10.0, 1e3, 1e7, 1e9]
        etas = np.array([(r / sd, -0.5 / sd**2) for r in ratios for sd in (0.03, 1.0, 30.0)])
        etas = jnp.asarray(etas, dtype)
        both = jax.jit(jax.vmap(lambda eta: (q.mean(eta), q.accuracy(eta))))
        mean, limit = (np.asarray(leaf, np.longdouble) for leaf in both(etas))
        eta1, eta2 = np.asarray(etas, np.longdouble).T
        v = -1 / (2 * eta2)
        m = eta1 * v
        exact, sd = np.stack([m, m**2 + v], 1), np.sqrt([v, 2 * v**2 + 4 * m**2 * v]).T
        error = np.max(np.abs(mean - exact) / sd, 1)
        assert np.all((error <= limit) | np.isinf(limit))
        assert np.all(limit[error < 1e-4] < 3e-2)
        assert np.isinf(limit[-3:]).all()


def test_draws_are_moved():
    q = nd.Symmetric(nd.Quadrature(nd.Gamma()), Scaling(x=1))
    eta = jnp.array([2.0, -3e5])
    x = np.asarray(q.sample(jax.random.key(0), eta, 4_000), np.float64)
    mean, sd = 3 / 3e5, np.sqrt(3) / 3e5
    assert abs(x.mean() - mean) < 5 * sd / np.sqrt(4_000)


def test_symmetries_compose():
    with jax.enable_x64(True):
        plain = nd.Quadrature(FULL)
        q = functools.reduce(nd.Symmetric, FULL.symmetries, plain)
        assert q.symmetry == LocationScale()
        assert q.q.symmetry == SignFlip("x")
        eta = jnp.array([-30.0, 2.0, 4.0, -0.7])
        assert np.allclose(q.mean(eta), plain.mean(eta), rtol=1e-9)


def test_invalid_etas_and_wrong_symmetries_are_refused(without_type_checks):
    q = nd.Symmetric(nd.Quadrature(nd.Gamma()), Scaling(x=1))
    with pytest.raises(ValueError, match=r"'x'.*negative"):
        q.mean(jnp.array([1.0, 1.0]))
    with pytest.raises(ValueError, match="misfit"):
        nd.Symmetric(nd.Quadrature(nd.Polynomial1D((1, 2, 4))), LocationScale())
    with pytest.raises(ValueError, match="symmetry to be an instance of AbstractSymmetry"):
        nd.Symmetric(q, "scale")


def test_labels_serve_their_orbits():
    etas = INVERSE.sample_eta(
        jax.random.key(0), 6, {"log": (-1.0, 1.0), "x": (-2.0, -1.0), "inverse": (-2.0, -1.0)}
    )
    data = nd.estimate_moments(INVERSE, etas, jax.random.key(1))
    more = nd.moments.orbit(data, Scaling(x=1, inverse=-1), jax.random.key(2), 3)
    assert len(more) == 18
    assert (more.status == np.tile(data.status, 3)).all()
    ratios = more.eta[:, 1] / np.tile(data.eta[:, 1], 3)
    assert len(np.unique(ratios)) == 18
    q = nd.Quadrature(INVERSE)
    exact = jax.lax.map(lambda eta: (q.mean(eta), q.covariance(eta)), jnp.asarray(more.eta))
    for i in range(18):
        assert np.all(np.abs(more.mean[i] - exact[0][i]) < 5 * more.standard_error[i])
        assert np.all(np.abs(more.covariance[i] - exact[1][i]) < 6 * more.covariance_error[i])


def test_orbits_of_permutations_are_as_good_as_their_labels():
    family = nd.Dirichlet(3)
    etas = family.sample_eta(jax.random.key(0), 4, {"log_x": (0.5, 4.0)})
    data = nd.estimate_moments(family, etas, jax.random.key(1))
    more = nd.moments.orbit(data, Permutation("log_x", 3), jax.random.key(2), 2)
    assert np.allclose(np.sort(more.eta, 1), np.tile(np.sort(data.eta, 1), (2, 1)), rtol=1e-5)
    errors = np.sort(more.standard_error, 1)
    assert np.allclose(errors, np.tile(np.sort(data.standard_error, 1), (2, 1)), rtol=1e-4)
    z = (more.mean - jax.vmap(family.mean)(jnp.asarray(more.eta))) / more.standard_error
    assert np.max(np.abs(z)) < 5
