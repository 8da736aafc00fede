"""Labels of families as strangers declare them: right, refused by name, or with their error."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.moments._diagnostics import label_draws
from nnef_dists.moments._quadrature import compare_with_quadrature
from nnef_dists.moments._validity import find_validity
from nnef_dists.sampling import SamplerInfo
from nnef_dists.sampling._density import Density, Tails
from nnef_dists.sampling._proposal import Whitening
from nnef_dists.sampling._start import start_chains
from tests.strangers import DECLARED, Stranger, etas_of

# The comparison with quadrature is switched off: it must not hide a bad sampler.
BARE = nd.HMCConfig(quadrature=False, tile=32)


@functools.cache
def labels_of(name, n=32):
    """Labels of random etas, and their exact moments."""
    etas = etas_of(name, jax.random.key(11), n)
    data = nd.estimate_moments(Stranger(name), etas, jax.random.key(12), BARE)
    exact = [DECLARED[name].exact(eta) for eta in np.asarray(etas, float)]
    return data, np.array([mean for mean, _ in exact]), np.array([cov for _, cov in exact])


@pytest.mark.parametrize(
    "name",
    [
        "log cubic",
        "student",
        "kinks, undeclared",
        "minor modes",
        pytest.param("pearson", marks=pytest.mark.slow),
        pytest.param("lognormal, softplus", marks=pytest.mark.slow),
        pytest.param("a jump", marks=pytest.mark.slow),
        pytest.param("inverse gamma, softplus", marks=pytest.mark.slow),
        pytest.param("interval", marks=pytest.mark.slow),
        pytest.param("steep walls", marks=pytest.mark.slow),
        pytest.param("bivariate t", marks=pytest.mark.slow),
        pytest.param("three quartics", marks=pytest.mark.slow),
        pytest.param("five log cubics", marks=pytest.mark.slow),
        pytest.param("six scales", marks=pytest.mark.slow),
    ],
)
def test_errors_are_as_large_as_the_labels_say(name):
    data, mean, covariance = labels_of(name)
    assert data.ok.mean() >= 0.96, data
    ok = data.ok
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))[ok]
    error = np.abs(data.mean - mean)[ok]
    assert np.max(error / np.hypot(data.standard_error[ok], 1e-6 * sd)) < 6
    assert np.max(error / sd) < 0.1
    scale = sd[:, :, None] * sd[:, None]
    error = np.abs(data.covariance - covariance)[ok]
    assert np.max(error / np.hypot(data.covariance_error[ok], 1e-6 * scale)) < 6


@pytest.mark.slow
def test_a_step_that_draws_seldom_hit_is_in_the_errors():
    """Integration by parts misses it: its slope is large where one in 10,000 draws lies."""
    data, mean, _ = labels_of("a narrow step")
    assert data.ok.sum() >= 4
    assert np.max((np.abs(data.mean - mean) / data.standard_error)[data.ok]) < 6


class TestHeavyTails:
    def test_what_is_not_integrable_is_refused_by_name(self):
        etas = jnp.asarray([[-0.45], [-0.2], [-0.499]])
        family = Stranger("student, of too wide a domain")
        data = nd.estimate_moments(family, etas, jax.random.key(0), BARE)
        assert (data.status == nd.Status.HEAVY_TAILS).all()
        assert "tails" in repr(data)
        assert np.isnan(data.mean).all()
        assert np.isnan(data.covariance_error).all()

    def test_compressed_coordinates_are_a_bijection(self):
        tails = Tails(
            jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0]), jnp.array([True, False]), jnp.array(True)
        )
        v = jnp.array([4.0, 7.0])
        np.testing.assert_allclose(tails.to_v(tails.to_u(v)), v, rtol=1e-5)
        jacobian = jax.jacfwd(tails.to_u)(v)
        np.testing.assert_allclose(
            tails.log_det(v), jnp.linalg.slogdet(jacobian)[1], rtol=1e-5, atol=1e-5
        )
        # Finite at the center, where it is symmetric.
        assert np.isfinite(jax.grad(tails.log_det)(tails.center)).all()


class TestRounding:
    """Mean 100, sd 0.01: eta . T is 5e7 nats, of which float32 has no digits."""

    def test_labels_are_made_in_double_precision(self):
        eta = jnp.asarray([[1e6, -5e3], [1.0, -0.5]], jnp.float32)
        data = nd.estimate_moments(Stranger("narrow and far"), eta, jax.random.key(0), BARE)
        assert data.mean.dtype == np.float32
        assert data.ok.all()
        assert list(data.rung) == [nd.moments.Rung.DOUBLE, nd.moments.Rung.HMC]
        assert abs(data.covariance[0, 0, 0] / 1e-4 - 1) < 1e-3
        assert abs(data.mean[0, 0] - 100) < 1e-5 * 100
        # What float32 rounds off the mean counts as an error.
        assert data.standard_error[0, 0] >= 0.24 * np.finfo(np.float32).eps * 100


class TestModes:
    @pytest.mark.parametrize("center", [(0.0, 0.0), (3e3, -40.0), (-1e4, 1e4)])
    def test_a_mode_far_away_is_found(self, center):
        """A normal of unlike widths, as a stranger's polynomial."""
        family = nd.MultivariateNormal(2)
        covariance = jnp.asarray([[4.0, 1.0], [1.0, 1.0]])
        eta = family.to_natural(jnp.asarray(center), covariance)
        density, start = jax.jit(
            lambda eta, key: start_chains(Density.unconstrained(family, eta), key, 16, 2.0)
        )(eta, jax.random.key(0))
        z = (start.points - jnp.asarray(center)) @ jnp.linalg.inv(jnp.linalg.cholesky(covariance)).T
        # Dispersed around the mode by about two standard deviations, not more than ten.
        assert np.max(np.abs(z)) < 10
        assert 0.5 < float(jnp.std(z)) < 4
        assert not density.tails.is_heavy.any()
        np.testing.assert_allclose(jnp.max(density.modes.mass), 1, atol=1e-3)

    def test_minor_modes_are_found_with_their_masses(self):
        """Wells at -2.1 and 1.7 of which the higher one has about 0.3% of the mass."""
        family, eta = nd.Polynomial1D((1, 2, 4)), jnp.asarray([-1.501, 1.962, -0.257])
        x = np.linspace(-6, 6, 20_001)
        p = np.exp(np.stack([x, x**2, x**4], 1) @ np.asarray(eta, float))
        exact = p[x > 0.4].sum() / p.sum()
        density, _ = jax.jit(
            lambda eta, key: start_chains(Density.unconstrained(family, eta), key, 16, 2.0)
        )(eta, jax.random.key(0))
        masses = np.sort(np.asarray(density.modes.mass))
        assert np.sum(masses > 0) == 2
        assert abs(np.log(masses[-2] / exact)) < np.log(2)


INFO = SamplerInfo(*(jnp.asarray(v) for v in (0.9, 0.0, 0.1, 0.5, 1.0, -jnp.inf, True)))


class TestIsolatedDraws:
    """Whatever the sampler, one draw must not decide."""

    def label(self, outlier, power=1):
        z = jax.random.normal(jax.random.key(3), (16, 512, 1))
        z = z.at[3, 77, 0].set(outlier)
        return label_draws(z**power, INFO, nd.HMCConfig())

    @pytest.mark.parametrize("outlier", [30.0, 1e3, 1e5, -1e12])
    def test_one_draw_far_out(self, outlier):
        assert float(self.label(outlier).influence) > nd.HMCConfig().max_influence

    def test_normal_draws_and_their_squares_have_no_such_draw(self):
        for power in (1, 2):
            assert float(self.label(0.3, power).influence) < 0.5

    def test_pareto_k_alone_does_not_tell(self):
        """A healthy sixth power has a heavier tail than normal draws with an impossible one."""
        assert float(self.label(1e5).pareto_k) < 0.7
        assert float(self.label(0.3, 6).pareto_k) > 0.3

    def test_a_log_density_too_low_for_a_draw(self):
        family = nd.Polynomial1D((1, 2, 4))
        from nnef_dists.moments._label import label_chains
        from nnef_dists.sampling._hmc import sample_chains

        config = nd.HMCConfig(
            chains=4, warmup=24, draws=40, min_ess=1.0, max_rhat=9.0, max_influence=1.0
        )

        @jax.jit
        def label(eta, key, shift):
            density, chains = sample_chains(family, config, eta, key)
            chains = chains._replace(log_density=chains.log_density.at[1, 5].add(-shift))
            return label_chains(config, density, chains)[1].status

        eta, key = jnp.asarray([0.0, -0.5, -0.1]), jax.random.key(0)
        assert label(eta, key, 0.0) == nd.Status.OK
        assert label(eta, key, 34_000.0) == nd.Status.NOT_CONVERGED


class TestValidity:
    """Control variates that integrate by parts need densities without jumps, T without kinks."""

    @pytest.mark.parametrize(
        ("name", "eta", "polynomials", "statistics"),
        [
            ("sextic", (-0.5, -0.5), True, True),
            ("kinks, undeclared", (0.1, -1.0), True, False),
            ("a jump", (1.0, -0.5), False, False),
            ("a narrow step", (1.0, -0.5), False, False),
            ("a wall in the base measure", (1.0, -0.5), False, False),
            ("steep walls", (1.0, -0.5), True, True),
        ],
    )
    def test_they_are_found(self, name, eta, polynomials, statistics):
        z = jax.random.normal(jax.random.key(4), (16, 40, 1))
        z = {"a wall in the base measure": jnp.abs(z), "steep walls": z / 3}.get(name, z)
        found = self.validity(name, eta, z)
        assert (bool(found.polynomials), bool(found.statistics)) == (polynomials, statistics)

    @pytest.mark.parametrize(
        ("name", "eta", "polynomials"),
        [("a jump", (1.0, -0.5), False), ("kinks, undeclared", (0.1, -1.0), True)],
    )
    def test_they_are_found_beyond_most_draws(self, name, eta, polynomials):
        """All draws but one are far on one side, as in some of a thousand labels."""
        z = 2 + 0.2 * jax.random.normal(jax.random.key(5), (16, 40, 1))
        found = self.validity(name, eta, z.at[3, 1].set(-0.5))
        assert (bool(found.polynomials), bool(found.statistics)) == (polynomials, False)

    def validity(self, name, eta, z):
        family = Stranger(name)
        density = Density.unconstrained(family, jnp.asarray(eta, z.dtype))

        @jax.jit
        def validity(density, z):
            whitening = Whitening(jnp.zeros(1), 0.8 * jnp.eye(1))
            highest = jnp.max(jax.vmap(jax.vmap(lambda z: density(whitening.to_u(z))))(z))
            sd = jnp.ones(family.eta_dim)
            return find_validity(density, whitening, z, highest, sd)

        return validity(density, z)


class TestComparisonWithQuadrature:
    def labels(self, shift, scale=1.0):
        family = nd.GaussianNatural1D()
        etas = np.asarray([[0.5, -1.0], [1.0, -2.0]])
        mean = np.array(jax.vmap(family.mean)(jnp.asarray(etas)), float)
        covariance = np.array(jax.vmap(family.covariance)(jnp.asarray(etas)), float)
        n, d = mean.shape
        mean[1, 0] += shift
        covariance[1] *= scale
        fields = dict.fromkeys(nd.moments.MomentLabel._fields, np.ones(n)) | {
            "mean": mean,
            "covariance": covariance,
            "standard_error": np.full((n, d), 1e-3),
            "covariance_error": np.full((n, d, d), 1e-3),
            "status": np.full(n, nd.Status.OK, np.int8),
        }
        return compare_with_quadrature(family, etas, nd.moments.MomentLabel(**fields))

    def test_labels_within_their_errors_stay(self):
        labels = self.labels(3e-3)
        assert (labels.status == nd.Status.OK).all()

    @pytest.mark.parametrize(("shift", "scale"), [(0.01, 1.0), (0.0, 1.2)])
    def test_others_are_refused(self, shift, scale):
        labels = self.labels(shift, scale)
        assert list(labels.status) == [nd.Status.OK, nd.Status.DISAGREES]
        assert np.isnan(labels.mean[1]).all()
        assert np.isfinite(labels.mean[0]).all()
