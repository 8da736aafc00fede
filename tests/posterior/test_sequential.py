"""Truncated priors, correction by weights, and training to the exact posterior."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.stats import norm

import nnef_dists as nd
from tests.posterior.simulators import NOISE, linear, normal_prior, simulations


@pytest.fixture(scope="module")
def trained():
    """A Gaussian head of the linear simulator in one dimension, whose posterior is normal."""
    data = simulations(2000, 1)
    make = jax.jit(lambda key: nd.GaussianPosterior(data, width=16, depth=1, key=key))
    head = make(jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, data.arrays())
    dynamic, static = nd.freeze_stdvs(head)
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, 600))

    def step(carry, _):
        dynamic, state = carry
        value, gradient = jax.value_and_grad(
            lambda d: nd.nll_loss(nd.unfreeze_all(d, static), batch)
        )(dynamic)
        updates, state = optimizer.update(gradient, state, dynamic)
        return (optax.apply_updates(dynamic, updates), state), value

    run = jax.jit(lambda d: jax.lax.scan(step, (d, optimizer.init(d)), length=600))
    (dynamic, _), losses = run(dynamic)
    assert losses[-1] < losses[0]
    return nd.unfreeze_all(dynamic, static)


def exact(x):
    """Mean and standard deviation of the posterior under the normal prior."""
    variance = 1 / (1 + NOISE**-2)
    return variance * x / NOISE**2, variance**0.5


def test_training_reaches_the_posterior(trained):
    parameters = eqx.filter_jit(trained.parameters)
    for x in (-1.0, 0.0, 1.5):
        law, (mean, sd) = parameters(jnp.array([x])), exact(x)
        assert abs(law.mean[0] - mean) < 0.15 * sd
        assert abs(law.log_variance[0] / 2 - np.log(sd)) < 0.15


class SummedPrior(eqx.Module):
    """The normal prior, its density a sum over all that it is given, batches too."""

    def sample(self, key, shape):
        return normal_prior(1).sample(key, shape)

    def log_prob(self, theta):
        return jnp.sum(norm.logpdf(theta))


class TestTruncatedPrior:
    def truncated(self, trained, epsilon=0.05):
        x = jnp.array([1.0])
        key = jax.random.key(3)
        return nd.posterior.truncate_prior(
            normal_prior(1), trained, x, key, epsilon=epsilon, n=4000
        )

    def test_a_prior_takes_one_theta_at_a_time(self, trained):
        """Of a batch, each theta has its own density."""
        truncated = self.truncated(trained)
        summed = dataclasses.replace(truncated, prior=SummedPrior())
        theta = exact(1.0)[0] + jnp.array([[0.0], [0.1], [-0.1]])
        found = summed.log_prob(theta)
        np.testing.assert_allclose(found, truncated.log_prob(theta), rtol=1e-5)
        np.testing.assert_allclose(found[1], summed.log_prob(theta[1]), rtol=1e-5)

    def test_keeps_the_highest_density_region(self, trained):
        truncated = self.truncated(trained)
        mean, sd = exact(1.0)
        half = 1.96 * sd  # of a normal law, what is left out of the middle 95 %
        theta = eqx.filter_jit(truncated.sample)(jax.random.key(4), (2000,))
        assert theta.shape == (2000, 1)
        assert abs(theta.min() - (mean - half)) < 0.25 * sd
        assert abs(theta.max() - (mean + half)) < 0.25 * sd
        kept = norm.cdf(mean + half) - norm.cdf(mean - half)
        assert abs(truncated.acceptance - kept) < 0.1

    def test_is_the_prior_inside(self, trained):
        truncated = self.truncated(trained)
        theta = jnp.linspace(-4, 4, 4001)[:, None]
        density = np.exp(np.asarray(eqx.filter_jit(truncated.log_prob)(theta), float))
        # Its constant is a Monte Carlo estimate from 4,000 draws of an acceptance near 0.55.
        assert abs(density.sum() * 0.002 - 1) < 0.06
        inside = density > 0
        ratio = density[inside] / np.exp(np.asarray(norm.logpdf(theta[inside, 0])))
        assert np.ptp(ratio) < 1e-3 * ratio.mean()

    def test_is_a_prior_to_simulate_from(self, trained):
        data = nd.simulate(linear, self.truncated(trained), jax.random.key(5), 100, progress=False)
        assert len(data) == 100

    def test_a_hopeless_draw_is_nan(self, trained):
        truncated = self.truncated(trained)
        nowhere = nd.posterior.TruncatedPrior(
            truncated.prior, trained, truncated.x, jnp.asarray(1e9), jnp.asarray(0.0), attempts=128
        )
        assert np.isnan(nowhere.sample(jax.random.key(0), (2,))).all()

    @pytest.mark.parametrize("epsilon", [0.0, 1.0])
    def test_refuses(self, trained, epsilon):
        with pytest.raises(ValueError, match="Expected 0 < epsilon < 1"):
            self.truncated(trained, epsilon)


@jax.jit
def weigh(shift, spread):
    """4,000 draws of N(shift, spread^2), weighed for N(0, 1)."""
    theta = shift + spread * jax.random.normal(jax.random.key(0), (4000, 1))
    log_q = norm.logpdf(theta[:, 0], shift, spread)
    return theta, nd.posterior.importance_weights(theta, log_q, norm.logpdf(theta[:, 0]) + 5.0)


class TestImportanceCorrection:
    def test_corrects(self):
        theta, weights = weigh(0.5, 1.5)
        w = np.exp(np.asarray(weights.log_weights, float))
        assert abs(w.sum() - 1) < 1e-4
        mean, square = (w @ np.asarray(theta[:, 0], float) ** power for power in (1, 2))
        assert abs(mean) < 4.5 / float(weights.ess) ** 0.5
        assert abs(square - 1) < 4.5 * (2 / float(weights.ess)) ** 0.5
        assert 0.3 * 4000 < weights.ess < 4000
        assert weights.pareto_k < 0.5

    def test_says_where_it_cannot(self):
        assert weigh(0.0, 0.3)[1].pareto_k > 0.7

    def test_exact_draws_have_equal_weights(self):
        _, weights = weigh(0.0, 1.0)
        np.testing.assert_allclose(weights.ess, 4000, rtol=1e-3)
        assert weights.pareto_k == -np.inf

    def test_draws_without_target_density_do_not_make_weights_equal(self):
        theta, exact = weigh(0.0, 0.3)
        log_target = jnp.log(jnp.exp(exact.log_weights).at[::1000].set(0))
        weigh_again = jax.jit(nd.posterior.importance_weights)
        found = weigh_again(theta, jnp.zeros(4000), log_target)
        assert abs(found.pareto_k - exact.pareto_k) < 0.2
        # Of equal weights, many or one.
        most, one = (jnp.where(jnp.arange(4000) < n, 2.0, -jnp.inf) for n in (3000, 1))
        assert weigh_again(theta, jnp.zeros(4000), most).pareto_k == -np.inf
        assert weigh_again(theta, jnp.zeros(4000), one).pareto_k > 0.7

    def test_a_draw_that_is_nan_has_no_weight(self):
        theta = jnp.linspace(-1, 1, 50)[:, None].at[3].set(jnp.nan)
        log_p = norm.logpdf(theta[:, 0])
        weights = jax.jit(nd.posterior.importance_weights)(theta, jnp.zeros(50), log_p)
        assert weights.log_weights[3] == -np.inf
        assert np.isfinite(weights.ess)
        with pytest.raises(ValueError, match="at least 25 draws"):
            nd.posterior.importance_weights(theta[:10], log_p[:10], log_p[:10])
