"""Discrete and mixed parameters: what single heads promise beside the contract of all heads."""

import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.posterior import structured
from tests.posterior.cases import mixed
from tests.posterior.simulators import box, simulations

OPTIONS = {"width": 8, "depth": 1, "key": jax.random.key(0)}


def parts_of(data, discrete=1):
    """Simulations of the discrete entries, and of the others."""
    rows = slice(discrete), slice(discrete, None)
    return [nd.Simulations(data.theta[:, one], data.x) for one in rows]


@functools.cache
def categorical():
    """Entries of three and of four values, away from the start."""
    head = nd.posterior.CategoricalPosterior(simulations(discrete=2), (3, 4), features=4, **OPTIONS)
    dynamic, static = nd.freeze_stdvs(head)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.5 * rng.normal(size=leaf.shape), leaf.dtype), dynamic
    )
    return nd.unfreeze_all(moved, static)


class TestCategorical:
    def test_is_a_distribution_of_dependent_entries(self):
        head, x = categorical(), jnp.asarray(simulations(discrete=2).x[0])
        table = np.asarray(eqx.filter_jit(head.parameters)(x))
        assert table.shape == (3, 4)
        assert abs(table.sum() - 1) < 1e-5
        independent = table.sum(1, keepdims=True) * table.sum(0, keepdims=True)
        assert np.abs(table - independent).max() > 1e-3
        points = jnp.array(
            [[2.0, 3.0], [0.0, 1.0], [2.0, 4.0], [-1.0, 0.0], [0.5, 1.0], [jnp.nan, 0.0]]
        )
        logs = jax.jit(lambda points: jax.vmap(head.log_prob, (0, None))(points, x))(points)
        expected = [table[2, 3], table[0, 1], 0, 0, 0, np.nan]
        np.testing.assert_allclose(np.exp(logs), expected, rtol=1e-5)
        draws = eqx.filter_jit(lambda key: head.sample(key, x, 4000))(jax.random.key(1))
        found = np.zeros((3, 4))
        np.add.at(found, tuple(np.asarray(draws, int).T), 1 / len(draws))
        assert np.all(np.abs(found - table) < 4.5 * np.sqrt(table / len(draws)) + 1e-4)

    @pytest.mark.parametrize(
        ("values", "theta", "message"),
        [
            (3, 0.5, "Expected theta[1] among the whole numbers 0, ..., 2; got 0.5"),
            (3, 3.0, "got 3.0. Number its values from 0"),
            (3, -1.0, "got -1.0"),
            (1, 0.0, "Expected values >= 2; got 1"),
            ((2, 1), 0.0, "Expected values[1] >= 2; got 1"),
            ((3, 3, 3), 0.0, "Expected values for 2 entries of theta; got 3"),
            (2.5, 0.0, "Expected an integer values >= 2"),
        ],
    )
    def test_refuses(self, values, theta, message, without_type_checks):
        data = simulations(discrete=2)
        changed = data.theta.copy()
        changed[4, 1] = theta
        with pytest.raises(ValueError, match=re.escape(message)):
            nd.posterior.CategoricalPosterior(nd.Simulations(changed, data.x), values, **OPTIONS)

    def test_a_table_of_too_many_points_is_refused(self):
        data = simulations(theta_dim=18, discrete=18)
        head = eqx.filter_eval_shape(
            lambda key: nd.posterior.CategoricalPosterior(data, 3, width=4, depth=1, key=key),
            jax.random.key(0),
        )
        with pytest.raises(ValueError, match="at most 65536 points"):
            eqx.filter_eval_shape(head.parameters, jnp.asarray(data.x[0]))

    def test_ranks_and_levels(self):
        """Ties are broken at random, so calibration of an exact posterior shows no fault."""

        class Coin(eqx.Module):
            """theta and x are coins that agree with probability 0.7."""

            def sample(self, key, x, n):
                agree = jax.random.bernoulli(key, 0.7, (n, 1))
                return jnp.where(agree, x, 1 - x)

            def log_prob(self, theta, x):
                return jnp.log(jnp.where(theta[0] == x[0], 0.7, 0.3))

        rng = np.random.default_rng(0)
        theta = rng.integers(0, 2, (500, 1)).astype(np.float32)
        x = np.where(rng.uniform(size=(500, 1)) < 0.7, theta, 1 - theta)
        pairs = jnp.asarray(theta), jnp.asarray(x, jnp.float32)
        for measure in (nd.diagnostics.sbc_ranks, nd.diagnostics.highest_density_levels):
            found = measure(Coin(), *pairs, jax.random.key(0), 50)
            assert np.all(nd.diagnostics.uniformity_p_value(found) > 1e-3)


class TestMixed:
    def test_is_made_of_two_heads_of_one_observation(self):
        data = simulations(discrete=1)
        one, two = parts_of(data)
        discrete = nd.posterior.CategoricalPosterior(one, 3, **OPTIONS)
        with pytest.raises(ValueError, match=r"continuous part with context=3.*; got 0. Make it"):
            nd.posterior.MixedPosterior(discrete, nd.GaussianPosterior(two, **OPTIONS))
        other = nd.Simulations(two.theta, two.x + 1)
        with pytest.raises(ValueError, match="two heads of the same observations"):
            nd.posterior.MixedPosterior(discrete, nd.GaussianPosterior(other, context=3, **OPTIONS))
        alone = nd.GaussianPosterior(two, context=3, **OPTIONS)
        stacked = jax.tree.map(lambda leaf: leaf[None], alone)
        with pytest.raises(ValueError, match="make an EnsemblePosterior of MixedPosteriors"):
            nd.posterior.MixedPosterior(discrete, nd.posterior.EnsemblePosterior(stacked))
        with pytest.raises(ValueError, match="is for the continuous part of a MixedPosterior"):
            alone.log_prob(jnp.zeros(1), jnp.asarray(data.x[0]))
        with pytest.raises(ValueError, match="Expected context >= 0; got -1"):
            nd.GaussianPosterior(two, context=-1, **OPTIONS)

    def test_density_is_the_product(self):
        data = simulations(discrete=1, uniform=True)
        head, x = mixed(data, box(1), jax.random.key(0)), jnp.asarray(data.x[0])

        @eqx.filter_jit
        def evaluate(theta):
            return head.log_prob(theta, x), head.parameters(x)

        value, found = evaluate(jnp.array([2.0, 0.3]))
        given = jax.tree.map(lambda leaf: leaf[2], found.continuous)
        expected = jnp.log(found.probabilities[2]) + given.log_prob(jnp.array([0.3]))
        assert abs(value - expected) < 1e-5

    @pytest.mark.slow
    def test_ensembles_and_embeddings(self):
        """Members are stacked heads; both parts may see a masked set."""
        rng = np.random.default_rng(0)
        k, phi = rng.integers(0, 2, (64, 1)), rng.uniform(size=(64, 2))
        values = (k + phi)[:, None] + rng.normal(size=(64, 5, 2))
        observed = np.arange(5)[:, None] < rng.integers(1, 6, (64, 1, 1))
        observed = np.broadcast_to(observed, values.shape)
        x = np.stack([np.where(observed, values, 0), observed], -1).astype(np.float32)
        one, two = (nd.Simulations(a.astype(np.float32), x) for a in (k, phi))

        support = box(2)

        def make(key):
            keys = jax.random.split(key, 4)
            sets = [
                nd.posterior.SetEmbedding(x.shape[1:], 4, masked=True, width=8, key=key)
                for key in keys[:2]
            ]
            options = {"width": 8, "depth": 1}
            return nd.posterior.MixedPosterior(
                nd.posterior.CategoricalPosterior(
                    one, 2, embedding=sets[0], key=keys[2], **options
                ),
                nd.MixturePosterior(
                    two, 2, context=2, embedding=sets[1], support=support, key=keys[3], **options
                ),
            )

        members = eqx.filter_jit(eqx.filter_vmap(make))(jax.random.split(jax.random.key(0), 2))
        ensemble = nd.posterior.EnsemblePosterior(members)
        theta = jnp.array([1.0, 0.2, 0.3])
        arrays, rest = eqx.partition(members, eqx.is_array)
        first, second = (
            eqx.combine(jax.tree.map(lambda leaf, m=m: leaf[m], arrays), rest) for m in (0, 1)
        )
        observation = jnp.asarray(x[0])
        log_prob = eqx.filter_jit(lambda head, theta: head.log_prob(theta, observation))
        logs = [log_prob(head, theta) for head in (first, second)]
        assert abs(np.exp(log_prob(ensemble, theta)) - np.mean(np.exp(logs))) < 1e-5
        assert log_prob(ensemble, theta.at[1].set(2.5)) == -np.inf
        draws = eqx.filter_jit(lambda key: ensemble.sample(key, observation, 5))
        assert draws(jax.random.key(1)).shape == (5, 3)
        drawn = nd.posterior.EnsemblePosterior.of_draws(first, jax.random.key(2), 2)
        assert np.isfinite(log_prob(drawn, theta))


@pytest.mark.slow
class TestExactPosteriors:
    """A quarter of the benchmark's steps, and thresholds to match; it prints the figures."""

    def test_digits(self):
        model = structured.Digits()
        head = structured.head_of(model, structured.data_of(model))
        head = structured.fit(head, model, jax.random.key(2), 4000)
        assert np.mean(structured.errors_of_digits(head, model, jax.random.key(3), 1000)) < 0.05

    def test_models(self):
        model = structured.Models()
        head = structured.head_of(model, structured.data_of(model))
        head = structured.fit(head, model, jax.random.key(2), 3000)
        found = structured.errors_of_models(head, model, jax.random.key(3), 1000)
        assert all(np.mean(part) < 0.03 for part in found)
