"""The inverse of a trained network, and that of an over-complete family."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnef_dists as nd
from tests.networks.exact import CASES, data_of, family_of, held_out, inverted, relative_error
from tests.numerics import epsilon

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAUSSIAN = CASES["GaussianNatural1D"][0]


def test_an_over_complete_family_gets_the_symmetric_eta():
    etas, mu = held_out("MultivariateNormal")
    q = family_of("MultivariateNormal")
    found = inverted(q, mu)
    inside = np.asarray(jax.vmap(q.network.is_inside)(etas))
    assert inside.mean() > 0.9
    assert np.max(relative_error(found, etas)[inside]) < 3e3 * epsilon(etas)
    matrices = np.asarray(found)[inside][:, 2:].reshape(-1, 2, 2)
    assert np.array_equal(matrices, np.swapaxes(matrices, 1, 2))


@functools.cache
def trained():
    """A small network of the log-partition, trained for a few seconds."""
    data = data_of("GaussianNatural1D")
    labels = data.batch()
    net = nd.LogPartitionNetwork(GAUSSIAN, data, width=16, depth=2, key=jax.random.key(0))
    dynamic, static = nd.freeze_stdvs(net)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, 800))

    def loss(dynamic, key):
        with jax.numpy_dtype_promotion("strict"):
            return nd.sobolev_loss(nd.unfreeze_all(dynamic, static), labels, key)

    @jax.jit
    def train(dynamic):
        def step(carry, key):
            dynamic, state = carry
            updates, state = optimizer.update(jax.grad(loss)(dynamic, key), state, dynamic)
            return (optax.apply_updates(dynamic, updates), state), None

        keys = jax.random.split(jax.random.key(1), 800)
        return jax.lax.scan(step, (dynamic, optimizer.init(dynamic)), keys)[0][0]

    with jax.numpy_dtype_promotion("standard"):
        return nd.AmortizedFamily(GAUSSIAN, nd.unfreeze_all(train(dynamic), static))


class TestTrained:
    def test_it_inverts_itself(self):
        """The etas of held-out moments come back, for 99 % of them within 1e-3."""
        q = trained()
        etas, _ = held_out("GaussianNatural1D", 200)
        etas = etas[np.asarray(jax.vmap(q.network.is_inside)(etas))]
        found = inverted(q, jax.jit(jax.vmap(q.mean))(etas))
        assert np.mean(relative_error(found, etas) < 1e-3) >= 0.99

    def test_it_is_a_distribution(self):
        """Densities integrate to 1, as A is nearly that of the family."""
        q, etas = trained(), held_out("GaussianNatural1D")[0][:16]
        x = jnp.linspace(-30, 30, 4001, dtype=etas.dtype)
        logs = jax.jit(
            lambda q: jax.vmap(lambda eta: jax.vmap(lambda x: q.log_prob(x, eta))(x))(etas)
        )(q)
        total = np.exp(np.asarray(logs, np.float64)).sum(1) * float(x[1] - x[0])
        assert np.max(np.abs(total - 1)) < 0.02
