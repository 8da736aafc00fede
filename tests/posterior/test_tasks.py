"""The benchmark's tasks: simulator, likelihood and exact posterior draws agree with each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.benchmarks.tasks import TASKS

pytestmark = pytest.mark.slow


def features(theta):
    return np.concatenate([theta, np.abs(theta), theta**2], -1)


@pytest.fixture(params=TASKS)
def task(request):
    return TASKS[request.param]


def test_posterior_draws_are_those_of_the_likelihood(task):
    """Against importance sampling from the prior, in units of both standard errors."""
    x = task.observations()[1][3]

    @jax.jit
    def weighted(key):
        theta = task.prior.sample(key, (200_000,))
        return theta, jax.vmap(lambda theta: task.log_likelihood(theta, x))(theta)

    theta, logs = (np.asarray(each, np.float64) for each in weighted(jax.random.key(0)))
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    effective = 1 / np.sum(weights**2)
    assert effective > 50
    draws = task.reference(jax.random.key(1), x, 20_000, batch=20_000)
    mean = weights @ features(theta)
    sd = np.sqrt(weights @ (features(theta) - mean) ** 2)
    z = (features(draws).mean(0) - mean) / (sd * np.sqrt(1 / effective + 1 / len(draws)))
    assert np.max(np.abs(z)) < 4.5


def test_truth_and_a_posterior_draw_are_exchangeable(task):
    """Of simulated pairs: so that the simulator is that of the posterior."""
    n = 1500
    keys = jax.random.split(jax.random.key(2), 3)
    theta = task.prior.sample(keys[0], (n,))
    x = jax.vmap(task.simulate)(jax.random.split(keys[1], n), theta)

    @jax.jit
    def one(pair):
        draws, keep = task.propose(pair[0], pair[1], 1000)
        return draws[jnp.argmax(keep)], jnp.any(keep)

    drawn, found = jax.lax.map(one, (jax.random.split(keys[2], n), x), batch_size=100)
    found = np.asarray(found)
    # Where few candidates are kept, posteriors are narrow; they are left out for truth and draw.
    assert found.mean() > 0.9
    both = [np.asarray(each, np.float64)[found] for each in (theta, drawn)]
    seen = np.asarray(x, np.float64).reshape(n, -1)[found][:, : both[0].shape[1]]
    columns = seen.shape[1]
    together = [np.concatenate([features(t), t[:, :columns] * seen], 1) for t in both]
    difference = together[0] - together[1]
    z = difference.mean(0) / (difference.std(0) / np.sqrt(len(difference)))
    assert np.max(np.abs(z)) < 4.5


def test_evidence_is_the_average_likelihood(task):
    if task.log_evidence is None:
        pytest.skip("no closed form")
    x = task.observations()[1][0]
    theta = task.prior.sample(jax.random.key(3), (200_000,))
    likelihood = np.exp(jax.vmap(lambda theta: task.log_likelihood(theta, x))(theta))
    error = likelihood.std() / np.sqrt(len(likelihood))
    assert abs(likelihood.mean() - np.exp(task.log_evidence(x))) < 5 * error


def test_observations_are_pinned_and_inside(task):
    theta, x = task.observations()
    np.testing.assert_array_equal(x, task.observations()[1])
    assert len(theta) == len(x) == 10
    assert np.all(np.isfinite(jax.vmap(task.log_likelihood)(theta, x)))
    if task.box is not None:
        assert np.all((theta > task.box[0]) & (theta < task.box[1]))
