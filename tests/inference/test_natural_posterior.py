"""Posteriors of natural parameters, beside a sum over a grid of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd

KEY = jax.random.key(0)
Q = nd.Enumeration(nd.families.ExponentialRandomGraph(5))
TOTAL, START = jnp.array([4.0, 1.0]), jnp.array([-0.5, 0.1])


def log_prior(eta):
    return -jnp.sum(eta**2) / 18


@pytest.mark.parametrize("method", ["grid", "nuts"])
def test_moments_are_those_of_a_sum(method):
    axes = jnp.linspace(-8, 6, 160), jnp.linspace(-8, 6, 160)
    grid = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)

    def log_posterior(eta):
        return jnp.sum(TOTAL * eta) - Q.log_partition(eta) + log_prior(eta)

    p = jax.nn.softmax(jax.jit(jax.vmap(log_posterior))(grid))
    mean = p @ grid
    sd = jnp.sqrt(p @ (grid - mean) ** 2)
    found = nd.inference.sample_natural_posterior(
        KEY, Q, TOTAL, 1, log_prior, START, warmup=300, draws=700, method=method
    )
    eta = found.eta.reshape(-1, 2)
    z = (eta.mean(0) - mean) / (sd / jnp.sqrt(found.ess))
    assert found.eta.shape == (4, 700, 2)
    assert np.max(np.abs(z)) < 4
    np.testing.assert_allclose(eta.std(0), sd, rtol=0.1)
    assert np.max(found.rhat) < 1.02
    assert found.divergences < 0.01


def test_a_bounded_domain_has_its_jacobian():
    # Counts of one observation: a gamma prior of the dispersion has a density on a half-line.
    q = nd.ClosedForm(nd.GaussianNatural1D())
    found = nd.inference.sample_natural_posterior(
        KEY,
        q,
        jnp.array([0.0, 4.0]),
        4,
        lambda eta: -(eta[0] ** 2) / 2 + eta[1],
        jnp.array([0.0, -0.5]),
        draws=700,
    )
    eta = np.asarray(found.eta).reshape(-1, 2)
    # Given the precision w = -2 eta2, eta1 is normal: the posterior of w is a sum over a grid.
    w = np.linspace(1e-4, 12, 4000)
    log_w = -2 * w - w / 2 + 2 * np.log(w) - np.log(1 + 4 / w) / 2
    p = np.exp(log_w - log_w.max())
    p /= p.sum()
    mean = p @ w
    sd = np.sqrt(p @ (w - mean) ** 2)
    assert abs((-2 * eta[:, 1]).mean() - mean) < 4 * sd / np.sqrt(float(found.ess[1]))
    assert (-2 * eta[:, 1]).std() == pytest.approx(sd, rel=0.1)


def test_starts_and_numbers_are_checked():
    sample = functools.partial(nd.inference.sample_natural_posterior, KEY, Q)
    with pytest.raises(ValueError, match="finite density"):
        sample(TOTAL, 1, lambda eta: -jnp.inf * jnp.ones(()), START)
    with pytest.raises(ValueError, match="0 < n"):
        sample(TOTAL, 0, log_prior, START)
    with pytest.raises(ValueError, match="chains"):
        sample(TOTAL, 1, log_prior, START, chains=1)
    with pytest.raises(ValueError, match="method 'auto'"):
        sample(TOTAL, 1, log_prior, START, method="Grid")


def test_a_far_start_and_an_improper_posterior():
    sample = functools.partial(nd.inference.sample_natural_posterior, KEY, Q)
    near, far = (
        np.asarray(sample(TOTAL, 1, log_prior, start).eta).reshape(-1, 2)
        for start in (START, jnp.array([-7.0, 5.0]))
    )
    np.testing.assert_allclose(near.mean(0), far.mean(0), atol=0.15)
    np.testing.assert_allclose(near.std(0), far.std(0), rtol=0.05)
    # The empty graph: the likelihood never falls as the first eta decreases.
    with pytest.raises(ValueError, match="proper prior"):
        sample(jnp.zeros(2), 1, lambda eta: jnp.zeros(()), START)


def test_a_cut_is_where_it_is():
    def log_cut_prior(eta):
        return jnp.where(eta[1] < 0.25, log_prior(eta), -jnp.inf)

    found = nd.inference.sample_natural_posterior(KEY, Q, TOTAL, 1, log_cut_prior, START)
    # A cell is 0.05 sd wide.
    assert 0.1 < np.max(found.eta[..., 1]) < 0.35


def test_more_coordinates_have_no_grid():
    q = nd.Enumeration(nd.families.PairwiseBinary(2))
    with pytest.raises(ValueError, match="two unconstrained"):
        nd.inference.sample_natural_posterior(
            KEY, q, jnp.ones(3), 4, log_prior, jnp.zeros(3), method="grid"
        )


def test_counts_have_a_gamma_posterior_until_rounding_spoils_it():
    q, mean = nd.ClosedForm(nd.families.Poisson()), 3.0

    def sample(n):
        # Flat in the rate, with the Jacobian of its logarithm.
        return nd.inference.sample_natural_posterior(
            KEY, q, jnp.array([n * mean]), n, lambda eta: eta[0], jnp.log(jnp.array([mean]))
        )

    rate = np.exp(np.asarray(sample(20).eta, np.float64)).ravel()
    error = np.sqrt(61.0) / 20 / np.sqrt(len(rate))
    assert abs(rate.mean() - 61 / 20) < 4 * error
    assert rate.std() == pytest.approx(np.sqrt(61) / 20, rel=0.05)
    if not jax.config.jax_enable_x64:
        with pytest.raises(ValueError, match="double precision"):
            sample(1e7)


@pytest.mark.slow
def test_counts_whose_sum_has_no_digits_in_single_precision():
    """In float32, A is NaN at most etas above 6.55."""
    q, eta = nd.Summation(nd.families.Poisson()), np.linspace(6.3, 6.8, 20001)
    log_p = 1400 * eta - 2 * np.exp(eta) - (eta - 6) ** 2 / 200
    p = np.exp(log_p - log_p.max())
    mean = p @ eta / p.sum()
    sd = np.sqrt(p @ (eta - mean) ** 2 / p.sum())
    start = jnp.log(jnp.array([700.0]))
    found = nd.inference.sample_natural_posterior(
        KEY, q, jnp.array([1400.0]), 2, lambda e: -jnp.sum((e - 6) ** 2) / 200, start
    )
    assert abs(float(found.eta.mean()) - mean) < 4 * sd / 4000**0.5
    assert float(found.eta.std()) == pytest.approx(sd, rel=0.05)
    assert found.eta.dtype == jnp.zeros(()).dtype


@pytest.mark.parametrize("method", ["grid", "nuts"])
def test_a_density_of_nan_is_no_cut(method):
    def sample(cut):
        return nd.inference.sample_natural_posterior(
            KEY,
            nd.ClosedForm(nd.families.Poisson()),
            jnp.array([60.0]),
            20,
            lambda e: jnp.where(e[0] > cut, jnp.nan, e[0]),
            jnp.log(jnp.array([3.0])),
            warmup=50,
            draws=50,
            method=method,
        )

    with pytest.raises(ValueError, match=r"a number or -inf inside .* got NaN"):
        sample(1.2)
    assert np.isfinite(sample(3.0).eta).all()
