"""Functions of mean zero, and labels that they make more exact without being less honest."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.moments._control_variates import correct_means
from nnef_dists.moments._features import draw_features, monomial_features, quadratics
from nnef_dists.moments._validity import Validity
from nnef_dists.sampling._density import Density
from nnef_dists.sampling._proposal import Whitening
from tests import truth
from tests.moments.conftest import QUARTIC
from tests.registry import FAMILIES


def derivatives(function, point):
    """Value, gradient and Laplacian by automatic differentiation."""
    hessian = jax.hessian(function)(point)
    return function(point), jax.jacobian(function)(point), jnp.trace(hessian, axis1=-2, axis2=-1)


class TestSteinFunctions:
    def test_products(self):
        def phi(u):
            return jnp.stack([u[0], jnp.sin(u[1]) * u[0], jnp.sum(u**3)])

        def products(u):
            i, j = np.triu_indices(2)
            return jnp.concatenate([phi(u), phi(u)[i] * phi(u)[j]])

        u, score = jnp.array([0.3, -1.2]), jnp.array([0.7, 2.0])

        @jax.jit
        def both(u, score):
            functions = nd.families.SteinFunctions(*derivatives(phi, u), multiplied=2)
            _, gradient, laplacian = derivatives(products, u)
            return functions.stein(score), laplacian + gradient @ score

        ours, exact = both(u, score)
        assert ours.shape == (3 + 3,)
        assert np.allclose(ours, exact, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("n", [2, 5])
    def test_those_of_the_lattice(self, n):
        family = nd.LatticePhi4(n)
        u = jax.random.normal(jax.random.key(0), (n,))
        ours = jax.jit(family.stein_functions)(u)
        expected = jax.jit(lambda u: derivatives(lambda u: family.stein_functions(u).value, u))(u)
        for got, true in zip(jax.tree.leaves(ours), expected, strict=True):
            assert np.allclose(got, true, rtol=2e-4, atol=2e-4)

    @pytest.mark.parametrize(("n", "count"), [(1, 4), (2, 14), (3, 34), (12, 90), (13, 13)])
    def test_monomials(self, n, count):
        z, score = jax.random.normal(jax.random.key(1), (2, n))
        features = jax.jit(monomial_features)(z, score)
        assert features.shape == (count,)
        assert quadratics(n) == (n if n == 13 else n + n * (n + 1) // 2)
        z, score = np.asarray(z), np.asarray(score)
        # Those of first degree are the score itself, in order.
        assert np.allclose(features[:n], score, rtol=1e-6)
        if count > n:
            i, j = np.triu_indices(n)
            second = z[i] * score[j] + z[j] * score[i] + 2 * (i == j)
            assert np.allclose(features[n : n + len(i)], second, rtol=1e-5, atol=1e-5)

    def test_monomials_of_higher_degree(self):
        z, score = jax.random.normal(jax.random.key(2), (2, 2))

        def cubic_and_quartic(z):
            x, y = z
            cubic = [x**3, x**2 * y, x * y**2, y**3]
            return jnp.stack([*cubic, x**4, x**3 * y, x**2 * y**2, x * y**3, y**4])

        @jax.jit
        def both(z, score):
            _, gradient, laplacian = derivatives(cubic_and_quartic, z)
            return monomial_features(z, score)[5:], laplacian + gradient @ score

        assert np.allclose(*both(z, score), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [(0.3, 1.5, -0.4), (1.0, -2.0, -0.1), (0.0, 4.0, -1.0)])
def test_all_features_have_mean_zero(eta):
    """By quadrature on the line, where monomials, statistics and splines all take part."""
    eta = jnp.asarray(eta)
    whitening = Whitening(jnp.array([0.2]), jnp.array([[0.9]]))

    @jax.jit
    def moments(z):
        density = Density.unconstrained(QUARTIC, eta)

        def log_density(z):
            return density(whitening.to_u(z))

        everything = Validity(jnp.asarray(True), jnp.asarray(True), jnp.zeros(()))
        features = draw_features(density, whitening, everything, jnp.zeros(3)).of_draw
        logs, scores = jax.vmap(jax.value_and_grad(log_density))(z)
        values = jax.vmap(features)(z, scores, logs)
        weights = jax.nn.softmax(logs)
        return weights @ values, jnp.sqrt(weights @ values**2)

    mean, scale = moments(jnp.linspace(-9, 9, 8_001)[:, None])
    # The splines' grid is that of the log-density: some must be kept, and none be all zero.
    assert np.sum(scale > 0) >= 4 + 3 + 3
    assert np.max(np.abs(mean)[scale > 0] / scale[scale > 0]) < 1e-4


class TestFlips:
    @pytest.mark.parametrize("n", [2, 5])
    def test_those_of_the_lattice(self, n):
        family = nd.LatticePhi4(n)
        x = jax.random.normal(jax.random.key(3), (n,))
        site = np.arange(n)
        sites = [np.where(site == i, -1, 1) for i in range(n)]
        domains = [np.where(site <= i, -1, 1) for i in range(n)]
        domains += [np.where(site > i, -1, 1) for i in range(n - 1)]
        for changes, signs in zip(jax.jit(family.flips)(x), (sites, domains), strict=True):
            flipped = jax.vmap(family.sufficient_statistics)(np.array(signs) * x)
            exact = flipped - family.sufficient_statistics(x)
            assert np.allclose(changes["x"], exact[:, 0], atol=1e-5)
            assert np.allclose(changes["neighbors"], exact[:, 3], atol=1e-5)
            assert np.allclose(exact[:, 1:3], 0, atol=1e-4)

    def test_features_have_mean_zero(self):
        """By quadrature in the plane, where flips lead between four modes of unequal masses."""
        family, eta = nd.LatticePhi4(2), jnp.array([0.3, 1.5, -0.5, 0.4])
        axis = jnp.linspace(-4, 4, 161)
        u = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)

        @jax.jit
        def moments(u):
            density = Density.unconstrained(family, eta)
            logs, scores = jax.vmap(jax.value_and_grad(density))(u)
            everything = Validity(jnp.asarray(True), jnp.asarray(True), jnp.zeros(()))
            identity = Whitening.identity(2, u.dtype)
            features = draw_features(density, identity, everything, jnp.ones(4))
            values = jax.vmap(features.of_draw)(u, scores, logs)
            weights = jax.nn.softmax(logs)
            return weights @ values, jnp.sqrt(weights @ values**2)

        mean, scale = moments(u)
        # Of both kinds: two statistics, and seven products with one of them.
        assert len(mean) == 15 + 28 + 2 * (2 + 7)
        # The two sites are no neighbors at distances from 2 on.
        assert np.sum(scale > 0) == len(mean) - 3
        assert np.max(np.abs(mean)[scale > 0] / scale[scale > 0]) < 1e-4


def test_features_without_use_do_no_harm():
    """Noise of mean zero as features: the corrected error is that of the plain average."""
    draws = jax.random.normal(jax.random.key(0), (200, 16, 100, 31))

    @jax.jit
    @jax.vmap
    def both(draws):
        return correct_means(
            lambda y, x: y,
            lambda y, x: x,
            (draws[..., :1], draws[..., 1:]),
            (draws[:, 0, :1], draws[:, 0, 1:]),
            jnp.ones(16),
            simple=5,
        )

    corrected, plain = both(draws)
    error = jnp.sqrt(jnp.mean(corrected.mean**2))
    assert error < 1.06 * jnp.sqrt(jnp.mean(plain.mean**2))
    t = corrected.mean / corrected.standard_error
    assert 0.85 < float(jnp.std(t)) < 1.15


TRUTH = {
    "GammaShapePrior": truth.gamma_shape_prior,
    "LaplaceProduct": truth.laplace_product,
    "FisherBingham": truth.fisher_bingham,
    "LatticePhi4": lambda eta: truth.lattice_phi4(4, eta),
}
# At least so many times less variance than the plain average has; measured are several times more.
GAIN = {
    "GaussianNatural1D": 1e6,
    "MultivariateNormal": 1e5,
    "MinimalMultivariateNormal": 1e5,
    "Gamma": 200,
    "Beta": 200,
    "Dirichlet": 100,
    "GammaShapePrior": 200,
    "FisherBingham": 3,
    "LatticePhi4": 20,
}


SLOW = {
    "Beta",
    "Dirichlet",
    "FisherBingham",
    "GeneralizedInverseGaussian",
    "InverseWishart",
    "LaplaceProduct",
    "LatticePhi4",
    "MinimalMultivariateNormal",
    "MultivariateNormal",
    "RectifiedGaussian",
    "VonMisesFisher",
    "Wishart",
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] if case.name in SLOW else [], id=case.name)
        for case in FAMILIES
        if case.has_closed_form or case.name in TRUTH
    ],
)
def test_labels_are_more_exact_and_as_honest(case):
    family, gain = case.make(), GAIN.get(case.name, 1)
    etas = jax.jit(lambda key: family.sample_eta(key, 48, case.ranges))(jax.random.key(60))
    data = nd.estimate_moments(family, etas, jax.random.key(61), nd.HMCConfig(tile=4))
    assert data.ok.mean() >= 0.95
    good = data.only_ok()
    etas = good.eta.astype(np.float64)
    if case.has_closed_form:
        exact = jax.jit(jax.vmap(lambda eta: (family.mean(eta), family.covariance(eta))))
        with jax.enable_x64(True):
            mean, covariance = (np.asarray(leaf) for leaf in exact(etas))
    else:
        truths = [TRUTH[case.name](eta) for eta in etas]
        mean = np.array([one.mean for one in truths])
        covariance = np.array([one.covariance for one in truths])
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    z = (good.mean - mean) / sd
    # The squared z error of a plain average is 1 / ESS.
    assert np.mean(1 / good.ess) > gain * np.mean(z**2)
    t = (good.mean - mean) / good.standard_error
    # Exact labels are more certain than they say, never less.
    assert t.std() < 1.3
    assert case.has_closed_form or gain >= 100 or t.std() > 0.6
    assert np.abs(t).max() < 6
    error = (good.covariance - covariance) / (sd[:, :, None] * sd[:, None, :])
    assert np.sqrt(np.mean(error**2)) < 0.05


def test_gaussians_are_exact_however_narrow_or_far():
    family = nd.GaussianNatural1D()
    etas = jnp.asarray(
        [[0.0, -0.5], [20.0, -1.0], [-5.0, -40.0], [3.0, -4.9], [3.0, -19.7]], jnp.float32
    )
    data = nd.estimate_moments(family, etas, jax.random.key(62), nd.HMCConfig(tile=8))
    assert data.ok.all()
    with jax.enable_x64(True):
        moments = jax.vmap(lambda eta: (family.mean(eta), family.covariance(eta)))
        mean, covariance = (np.asarray(leaf) for leaf in moments(etas.astype(jnp.float64)))
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert np.max(np.abs(data.mean - mean) / sd) < 1e-4
    unit = sd[:, :, None] * sd[:, None, :]
    assert np.max(np.abs(data.covariance - covariance) / unit) < 0.01


def test_far_off_center_it_is_no_worse():
    """A quartic with its mass far from zero and hardly any curvature of fourth order."""
    etas = jnp.tile(jnp.asarray([[20.0, -1.0, -0.01]], jnp.float32), (32, 1))
    error = {}
    exact = np.asarray(nd.quadrature_moments(QUARTIC, etas[0]).mean)
    for flag in (True, False):
        config = nd.HMCConfig(tile=32, control_variates=flag)
        data = nd.estimate_moments(QUARTIC, etas, jax.random.key(63), config)
        assert data.ok.all()
        error[flag] = np.mean((data.mean - exact) ** 2, 0)
        t = (data.mean - exact) / data.standard_error
        assert t.std() < 1.5
    assert np.all(error[True] < 0.01 * error[False])
