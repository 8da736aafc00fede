"""Etas from other distributions than ranges: posteriors, ellipsoids, guesses, functions."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions
import pytest
import scipy.stats

import nnef_dists as nd

pytestmark = pytest.mark.usefixtures("strict_promotion")

KEY = jax.random.key(0)
GAUSSIAN = nd.GaussianNatural1D()
PRIOR = jnp.array([0.5, -1.0])
ROWS = jnp.array([[1.0, -0.5], [2.0, -2.5], [-1.0, -0.5]])


def a_row(key):
    return jax.random.choice(key, ROWS)


def wedge(key):
    """|eta1| < -eta2 < 3."""
    size, share = jax.random.uniform(key, (2,), minval=jnp.array([0.01, -1.0]))
    return 3 * jnp.stack([size * share, -size])


LAWS = {
    "posterior": nd.posterior_etas(PRIOR, ROWS, (1, 1e4)),
    "posterior of a function": nd.posterior_etas(PRIOR, a_row, (1, 1e4)),
    "ellipsoid": nd.families.ellipsoid_etas([0.0, -2.0], [[1.0, 0.3], [0.3, 1.0]]),
    "nearby": nd.families.nearby_etas([0.5, -1.0], 0.3),
    "wedge": wedge,
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
class TestEveryLaw:
    def test_draws_are_valid_and_number_i_depends_on_i_alone(self, law):
        whole = GAUSSIAN.sample_eta(KEY, 64, law)
        assert jax.vmap(GAUSSIAN.is_valid_eta)(whole).all()
        assert len(np.unique(whole, axis=0)) == 64
        part = GAUSSIAN.sample_eta(KEY, 3, law, first=40)
        assert np.allclose(part, whole[40:43], rtol=1e-6)

    def test_draws_compile_and_keep_the_dtype(self, law):
        etas = jax.jit(lambda key: GAUSSIAN.sample_eta(key, 4, law, dtype=jnp.float16))(KEY)
        assert etas.dtype == jnp.float16
        assert np.isfinite(etas).all()


def test_posteriors_are_the_prior_plus_n_log_uniform_rows():
    etas = np.asarray(GAUSSIAN.sample_eta(KEY, 3_000, LAWS["posterior"]), np.float64)
    added = etas - np.asarray(PRIOR)
    slopes = added[:, 0] / added[:, 1]
    counts = [np.sum(np.isclose(slopes, ratio, rtol=1e-2)) for ratio in (-2.0, -0.8, 2.0)]
    assert sum(counts) == 3_000
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    n = np.where(np.isclose(slopes, -0.8, rtol=1e-2), added[:, 1] / -2.5, added[:, 1] / -0.5)
    assert scipy.stats.kstest(n, scipy.stats.loguniform(1, 1e4).cdf).pvalue > 1e-3


def test_ellipsoids_are_filled_uniformly():
    center, matrix = np.array([0.0, -2.0]), np.array([[1.0, 0.3], [0.3, 1.0]])
    etas = np.asarray(GAUSSIAN.sample_eta(KEY, 2_000, LAWS["ellipsoid"]), np.float64) - center
    square = np.einsum("ni,ij,nj->n", etas, np.linalg.inv(matrix), etas)
    # The share of the area within radius r is r^2.
    assert scipy.stats.kstest(square, "uniform").pvalue > 1e-3
    assert np.allclose(np.cov(etas.T), matrix / 4, atol=0.03)


def test_a_flat_ellipsoid_is_a_segment():
    law = nd.families.ellipsoid_etas([0.0, -2.0], np.outer([1.0, 1.0], [1.0, 1.0]))
    etas = GAUSSIAN.sample_eta(KEY, 50, law)
    assert np.allclose(etas[:, 0] - etas[:, 1], 2, atol=1e-5)
    assert np.ptp(etas[:, 0]) > 1


def test_draws_around_a_guess_are_normal_in_unconstrained_coordinates():
    scale = jnp.array([0.5, 3.0])
    etas = GAUSSIAN.sample_eta(KEY, 2_000, nd.families.nearby_etas([0.5, -1.0], scale))
    u = np.asarray(jax.vmap(GAUSSIAN.unconstrain_eta)(etas), np.float64)
    z = (u - np.asarray(GAUSSIAN.unconstrain_eta(jnp.array([0.5, -1.0])))) / np.asarray(scale)
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 1e-3


def test_a_numpyro_distribution_is_one_by_its_sample_method():
    normal = numpyro.distributions.MultivariateNormal(jnp.array([1.0, -9.0]), jnp.eye(2))
    etas = GAUSSIAN.sample_eta(KEY, 200, normal.sample)
    assert np.allclose(np.mean(etas, 0), [1, -9], atol=0.3)


def too_wide(key):
    return jnp.array([0.0, -1.0]) + 2 * jax.random.normal(key, (2,))


def test_invalid_draws_raise_with_their_number():
    raw = jax.vmap(lambda i: too_wide(jax.random.fold_in(KEY, i)))(jnp.arange(100))
    bad = np.asarray(raw[:, 1] >= 0)
    message = (
        rf"natural domain of GaussianNatural1D\(\).*negative.*{bad.sum()} invalid of 100: the "
        rf"first, number {np.argmax(bad)}, .*nearby_etas"
    )
    with pytest.raises(ValueError, match=message):
        GAUSSIAN.sample_eta(KEY, 100, too_wide)
    traced = jax.jit(lambda key: GAUSSIAN.sample_eta(key, 100, too_wide))(KEY)
    assert np.array_equal(np.isnan(traced).all(1), bad)
    assert np.allclose(traced[~bad], raw[~bad])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nd.posterior_etas(PRIOR, ROWS, (0, 10)), r"n_range as \(low, high\)"),
        (lambda: nd.posterior_etas(PRIOR, ROWS, (10, 1)), r"n_range as \(low, high\)"),
        (lambda: nd.posterior_etas([jnp.nan, -1.0], ROWS, (1, 10)), "finite prior_eta"),
        (lambda: nd.posterior_etas(PRIOR, ROWS.at[0, 0].set(jnp.inf), (1, 2)), "finite statistics"),
        (lambda: nd.posterior_etas(PRIOR, ROWS[:, :1], (1, 2)), r"\(2,\) and \(3, 1\)"),
        (lambda: nd.families.ellipsoid_etas([0.0, -1.0], jnp.eye(3)), r"\(2,\) and \(3, 3\)"),
        (lambda: nd.families.ellipsoid_etas(PRIOR, -jnp.eye(2)), "positive semidefinite"),
        (lambda: nd.families.ellipsoid_etas(PRIOR, [[1.0, 1.0], [0.0, 1.0]]), "asymmetry 1"),
        (lambda: nd.families.nearby_etas(PRIOR, -1.0), "0 <= scale"),
    ],
)
def test_bad_laws_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (nd.posterior_etas([-1.0], ROWS[:, :1], (1, 2)), r"prior_eta of shape \(2,\)"),
        (nd.families.nearby_etas([0.0, 1.0], 1.0), "'x2'.*negative"),
        (nd.families.nearby_etas([0.0, -1.0], jnp.ones(3)), r"scale of shape \(\) or \(2,\)"),
        (lambda key: {"x": 0.0, "x2": -1.0}, "flat array.*got a dict"),
        ([0.0, -1.0], "Expected ranges by statistic.*function.*got list"),
    ],
)
def test_laws_of_other_families_are_refused(law, message, without_type_checks):
    with pytest.raises(ValueError, match=message):
        GAUSSIAN.sample_eta(KEY, 2, law)
