"""Conjugate updates and evidences against closed forms, and sums that keep their digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln

import nnef_dists as nd
from nnef_dists.inference import StatisticsSum, conjugate_update, evidence

PRIOR = np.array([1.5, -0.7])


def negative_binomial(total, n, logs_of_factorials):
    """The evidence of n Poisson counts whose rate has a gamma prior of shape 2.5 and rate 0.7."""
    shape, rate = 1 + PRIOR[0], -PRIOR[1]
    posterior = gammaln(shape + total) - (shape + total) * np.log(rate + n)
    return posterior - gammaln(shape) + shape * np.log(rate) - logs_of_factorials


@pytest.mark.parametrize("n", [1, 100, 10_000, 1_000_000])
@pytest.mark.parametrize("source", [nd.ClosedForm, nd.Quadrature])
def test_evidence_of_poisson_counts(source, n):
    y = np.random.default_rng(0).poisson(3.0, n).astype(float)
    logs = float(np.sum(gammaln(y + 1)))
    with jax.enable_x64(True):
        prior = jnp.array(PRIOR)
        posterior = conjugate_update(prior, jnp.array([y.sum(), -float(n)]))
        found = evidence(source(nd.Gamma()), prior, posterior, -logs)
    np.testing.assert_allclose(posterior, PRIOR + np.array([y.sum(), -n]), rtol=1e-15)
    assert abs(float(found) - negative_binomial(y.sum(), n, logs)) < 1e-5


def test_sums_keep_their_digits():
    """A million small numbers, in single precision."""
    rows = np.random.default_rng(0).uniform(0, 1, (1_000_000, 2)).astype(np.float32)

    @jax.jit
    def both(rows):
        def add(carry, row):
            return (carry[0].add(row), carry[1] + row), None

        start = StatisticsSum.zeros(2, dtype=jnp.float32), jnp.zeros(2, jnp.float32)
        return jax.lax.scan(add, start, rows)[0]

    total, plain = both(jnp.asarray(rows))
    exact = rows.astype(float).sum(0)
    prior = jnp.zeros(2, jnp.float32)
    np.testing.assert_array_equal(conjugate_update(prior, total), exact.astype(np.float32))
    assert (np.abs(plain - exact) > 1).all()


def test_roundings_in_one_direction_do_not_add_up():
    """Of a sum of equal numbers all roundings have the same sign for long."""
    number, n = np.float32(0.1), 200_000

    def add(total, row):
        return total.add(row), None

    start = StatisticsSum.zeros(1, dtype=jnp.float32)
    total, _ = jax.lax.scan(add, start, jnp.full((n, 1), number))
    exact = n * float(number)
    assert abs(float(total.value[0]) + float(total.rest[0]) - exact) < 1e-9 * exact
    assert conjugate_update(jnp.zeros(1, jnp.float32), total)[0] == np.float32(exact)


def test_a_small_prior_is_not_lost():
    total = StatisticsSum.zeros(1, dtype=jnp.float32)
    for value in (1e8, 3.0, -1e8):
        total = total.add(jnp.array([value], jnp.float32))
    assert conjugate_update(jnp.array([0.5], jnp.float32), total)[0] == 3.5


def test_sums_of_chunks_are_added_with_their_rests():
    small, total = jnp.full(1, 1e-4, jnp.float32), StatisticsSum.zeros(1, dtype=jnp.float32)
    total = total.add(jnp.full(1, 1e4, jnp.float32))
    for _ in range(4):
        chunk = StatisticsSum.zeros(1, dtype=jnp.float32)
        for _ in range(3):
            chunk = chunk.add(small)
        total = total.add(chunk)
    assert float(total.value[0]) + float(total.rest[0]) == pytest.approx(1e4 + 12e-4, abs=1e-9)


def test_counts_may_be_integers(without_type_checks):
    found = conjugate_update(jnp.array(PRIOR, jnp.float32), jnp.array([3, -1]))
    np.testing.assert_array_equal(found, np.array([4.5, -1.7], np.float32))
    with pytest.raises(ValueError, match="prior_eta of a floating-point dtype; got int"):
        conjugate_update(jnp.array([3, -1]), jnp.array(PRIOR))


def test_arguments_are_checked(without_type_checks):
    with pytest.raises(ValueError, match=r"statistics of shape \(2,\)"):
        conjugate_update(jnp.zeros(2), jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"that of the sum; got \(3,\)"):
        StatisticsSum.zeros(2).add(jnp.zeros(3))
    with pytest.raises(ValueError, match=r"log_base as a number; got shape \(2,\)"):
        evidence(nd.ClosedForm(nd.Gamma()), jnp.array(PRIOR), jnp.array(PRIOR), jnp.zeros(2))
    with pytest.raises(ValueError, match="q to be an instance"):
        evidence(nd.Gamma(), jnp.array(PRIOR), jnp.array(PRIOR))
    with pytest.raises(ValueError, match="negative"):
        evidence(nd.ClosedForm(nd.Gamma()), jnp.array(PRIOR), jnp.array([1.0, 1.0]))


@pytest.mark.parametrize(
    "statistics",
    [jnp.array([jnp.nan]), StatisticsSum.zeros(1).add(jnp.array([jnp.inf]))],
)
def test_statistics_that_are_not_finite_are_refused(statistics):
    with pytest.raises(ValueError, match="Expected finite statistics"):
        conjugate_update(jnp.array([0.5]), statistics)
