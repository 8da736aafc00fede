"""Draws of x from an amortized family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.networks.exact import family_of


class FixedSampler(nd.sampling.AbstractSampler):
    """Points on a grid."""

    def sample(self, key, family, eta, n):
        return jnp.arange(n, dtype=eta.dtype)


class TestSampling:
    def test_draws_have_the_moments(self):
        eta = jnp.asarray([0.8, -0.7])
        q = family_of("GaussianNatural1D")
        n = 1001
        x = np.asarray(jax.jit(lambda q, key: q.sample(key, eta, n))(q, jax.random.key(3)))
        assert x.shape == (n,)
        mean, sd = 0.8 / 1.4, 1.4**-0.5
        # Antithetic or correlated draws: an effective sample size of half their number.
        assert abs(x.mean() - mean) < 5 * sd / np.sqrt(n / 2)
        assert abs(x.var() / sd**2 - 1) < 5 * np.sqrt(2 / (n / 2))

    def test_draws_that_fail_their_checks_are_refused(self):
        config = nd.HMCConfig(
            chains=4, warmup=24, draws=8, global_moves=False, control_variates=False
        )
        q = dataclasses.replace(
            family_of("GaussianNatural1D"), sampler=nd.distributions.HMCSampler(config)
        )
        with pytest.raises(RuntimeError, match="pass the sampler's checks"):
            q.sample(jax.random.key(0), jnp.asarray([0.8, -0.7]), 5)
        with pytest.raises(ValueError, match="n >= 1; got 0"):
            q.sample(jax.random.key(0), jnp.asarray([0.8, -0.7]), 0)

    def test_another_sampler_can_be_given(self, without_type_checks):
        q = dataclasses.replace(family_of("GaussianNatural1D"), sampler=FixedSampler())
        key, eta = jax.random.key(0), jnp.asarray([0.8, -0.7])
        for n in (3, np.int64(3), jnp.asarray(3), np.asarray(3)):
            assert np.array_equal(q.sample(key, eta, n), [0, 1, 2])
        assert np.array_equal(q.at(eta).sample(key, 3), [0, 1, 2])
        with pytest.raises(ValueError, match=r"n >= 1; got 2\.5"):
            q.sample(key, eta, jnp.asarray(2.5))
        with pytest.raises(ValueError, match="static integer; got a traced one"):
            jax.jit(lambda n: q.sample(key, eta, n))(3)
