"""Invalid natural parameters inside compiled programs: NaN, so that a Markov chain rejects."""

import functools

import blackjax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.networks.exact import family_of
from tests.numerics import assert_close
from tests.registry import FAMILIES

CLOSED = [case for case in FAMILIES if case.has_closed_form]


def good_and_bad(family):
    """A valid eta, and one that is not: minus that, or NaN where any finite one is valid."""
    good = family.constrain_eta(jnp.ones(family.unconstrained_dim))
    bad = -good if not family.is_valid_eta(-good) else jnp.full_like(good, jnp.nan)
    return good, bad


@pytest.mark.parametrize("case", FAMILIES, ids=str)
def test_densities_are_nan_beside_good_ones(case):
    family = case.make()
    good, bad = good_and_bad(family)
    x = family.support.transform(jnp.full(family.support.shape, 0.3))

    def at(eta):
        return family.check_eta(eta), family.logdensity_fn(eta)(x)

    eta, logdensity = jax.jit(jax.vmap(at))(jnp.stack([good, bad]))
    assert np.array_equal(eta[0], good)
    assert np.isnan(eta[1]).all()
    assert_close(logdensity[0], family.logdensity_fn(good)(x), ulps=1024)
    assert np.isnan(logdensity[1])


@pytest.mark.parametrize("case", CLOSED, ids=str)
def test_closed_forms_and_their_derivatives_are_nan_beside_good_ones(case):
    family = case.make()
    etas = jnp.stack(good_and_bad(family))

    def at(eta):
        parts = [family.log_partition(eta), family.mean(eta), family.covariance(eta)]
        entropy = family.log_partition(eta) - eta @ family.mean(eta)
        kl = jnp.sum((eta - etas[0]) * family.mean(eta)) - family.log_partition(eta)
        kl = kl + family.log_partition(etas[0])
        gradient, hessian = jax.grad(family.log_partition)(eta), jax.hessian(family.log_partition)
        return *parts, entropy, kl, gradient, hessian(eta)

    _, mean, covariance, _, kl, gradient, hessian = found = jax.jit(jax.vmap(at))(etas)
    for leaf in found:
        assert np.isnan(leaf[1]).all()
    alone = jax.jit(at)(etas[0])
    for leaf, good in zip(found, alone, strict=True):
        assert_close(leaf[0], good, ulps=1024, scale=float(1 + jnp.max(jnp.abs(good))))
    assert_close(kl[0], np.zeros(()), scale=float(1 + jnp.abs(found[0][0])))
    # The gradient of a valid eta is not touched by the check.
    assert_close(gradient[0], np.asarray(mean[0]), ulps=256)
    scale = np.max(np.abs(covariance[0]))
    assert_close(hessian[0], np.asarray(covariance[0]), scale=scale, ulps=1024)


@pytest.mark.parametrize(
    ("family", "edge", "inside"),
    [
        (nd.GaussianNatural1D(), (1.0, 0.0), (1.0, -1e-6)),
        (nd.Gamma(), (-1.0, -1.0), (-0.999, -1.0)),
        (nd.Beta(), (0.0, -1.0), (0.0, -0.999)),
        (nd.MultivariateNormal(2), (0, 0, -1, 1, 1, -1), (0, 0, -1, 0.999, 0.999, -1)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nd.ExponentialFamily) else "",
)
def test_gradients_at_the_edge(family, edge, inside):
    gradient = jax.jit(jax.vmap(jax.value_and_grad(family.log_partition)))
    value, slope = gradient(jnp.asarray([edge, inside], jnp.result_type(float)))
    assert np.isnan(value[0])
    assert np.isnan(slope[0]).all()
    assert np.isfinite(value[1])
    assert np.isfinite(slope[1]).all()


class TestAmortizedFamily:
    GOOD, BAD = (0.5, -0.5), (0.5, 0.5)

    def test_methods_are_nan(self):
        q, x, key = family_of("GaussianNatural1D"), jnp.array(0.3), jax.random.key(0)

        def at(eta):
            good = jnp.array(self.GOOD)
            found = q.mean(eta), q.covariance(eta), q.log_partition(eta), q.entropy(eta)
            pairs = q.kl(eta, good), q.kl(good, eta), q.log_prob(x, eta), q.predictive(eta, key, 4)
            return (*found, *pairs, jax.grad(q.entropy)(eta)), q.is_positive_definite(eta)

        found, definite = jax.jit(jax.vmap(at))(jnp.array([self.GOOD, self.BAD]))
        alone, _ = jax.jit(at)(jnp.array(self.GOOD))
        for leaf, good in zip(*map(jax.tree.leaves, (found, alone)), strict=True):
            assert_close(leaf[0], good, ulps=1024, scale=1.0)
            assert np.isnan(leaf[1]).all()
        assert definite.tolist() == [True, False]

    def test_a_strict_family_raises(self):
        q = family_of("GaussianNatural1D", strict=True)
        with pytest.raises(eqx.EquinoxRuntimeError, match=r"'x2' of .* to be negative"):
            jax.block_until_ready(eqx.filter_jit(q.mean)(jnp.array(self.BAD)))

    @pytest.mark.parametrize(
        "sampler", [nd.distributions.HMCSampler(), nd.distributions.QuadratureSampler()], ids=repr
    )
    def test_draws_are_nan(self, sampler):
        q = family_of("GaussianNatural1D", sampler=sampler)
        draw = jax.jit(lambda eta: q.sample(jax.random.key(0), eta, 3))
        assert np.isnan(draw(jnp.array(self.BAD))).all()
        # GOOD is a normal distribution of mean 0.5 and standard deviation 1.
        good = draw(jnp.array(self.GOOD))
        assert np.all(np.abs(good - 0.5) < 5)
        assert len(np.unique(good)) == 3

    def test_bound_methods_compile(self):
        q, eta, x = family_of("GaussianNatural1D"), jnp.array(self.GOOD), jnp.array(0.3)
        expected = q.mean(eta)
        assert_close(jax.jit(q.mean)(eta), np.asarray(expected))
        assert_close(eqx.filter_jit(q.mean)(eta), np.asarray(expected))
        assert_close(jax.jit(q.log_prob)(x, eta), np.asarray(q.log_prob(x, eta)))
        draw = jax.jit(q.sample, static_argnums=2)
        assert draw(jax.random.key(0), eta, 3).shape == (3,)
        # A pytree, with the weights as leaves.
        assert len(jax.tree.leaves(q.mean)) == len(jax.tree.leaves(q))


class TestFlows:
    def test_draws_and_densities_are_nan(self):
        stack = nd.flows.CubicConjugation.random(jax.random.key(0))
        net = eqx.nn.MLP(2, nd.flows.conditioner_size(stack), 8, 1, key=jax.random.key(1))
        etas = jnp.array([(0.5, -0.5), (-1.0, -2.0)])
        flow = nd.flows.ConditionalFlow(
            nd.GaussianNatural1D(), nd.flows.ConditionedBijection(stack, net, 2), etas
        )

        @eqx.filter_jit
        def at(flow, eta):
            draws = flow.draw_with_log_weights(jax.random.key(2), eta, 3)
            return draws, flow.log_prob(jnp.array(0.3), eta)

        for leaf in jax.tree.leaves(at(flow, jnp.array([0.5, 0.5]))):
            assert np.isnan(leaf).all()


def scaled_posterior(log_density, eta_at, xs):
    """The log-density of s given points x ~ p(x | eta(s)), with a normal prior around 1."""

    def target(s):
        eta = eta_at(s)
        return jnp.sum(jax.vmap(lambda x: log_density(x, eta))(xs)) - (s - 1) ** 2 / 2

    return target


def closed_form(family):
    return lambda x, eta: family.logdensity_fn(eta)(x) - family.log_partition(eta)


def gamma_at(s):
    return jnp.stack([2 * s - 1, -s])


LATENT = {
    "Gamma": (closed_form(nd.Gamma()), gamma_at, jnp.array([1.0, 4.0])),
    "Dirichlet": (
        closed_form(nd.Dirichlet(3)),
        lambda s: s * jnp.array([1.0, 2.0, 2.0]) - 1,
        jnp.array([[0.8, 0.1, 0.1], [0.1, 0.2, 0.7]]),
    ),
    "MultivariateNormal": (
        closed_form(nd.MultivariateNormal(2)),
        lambda s: s * jnp.array([0.5, 0.0, -1.0, 0.2, 0.2, -0.5]),
        jnp.array([[1.0, -2.0]]),
    ),
    "AmortizedFamily": (
        lambda x, eta: family_of("GaussianNatural1D").log_prob(x, eta),
        lambda s: s * jnp.array([0.5, -0.5]),
        jnp.array([-1.0, 2.0]),
    ),
}


@pytest.mark.parametrize("name", LATENT)
def test_a_chain_over_a_latent_eta_rejects_what_is_invalid(name):
    """Beyond s = 0 no eta is valid, and the posterior of s reaches there."""
    log_density, eta_at, xs = LATENT[name]
    target = scaled_posterior(log_density, eta_at, xs)
    kernel = blackjax.nuts(target, 0.7, jnp.ones(1), max_num_doublings=4)

    @jax.jit
    @functools.partial(jax.vmap, in_axes=0)
    def chain(key):
        def step(state, key):
            state, info = kernel.step(key, state)
            return state, (state.position, info.is_divergent)

        return jax.lax.scan(step, kernel.init(jnp.array(1.0)), jax.random.split(key, 300))[1]

    draws, divergent = chain(jax.random.split(jax.random.key(0), 16))
    draws = np.asarray(draws[:, 50:], np.float64)
    assert np.any(divergent), "no invalid proposal: the test tests nothing"
    assert draws.min() > 0
    grid = jnp.linspace(1e-4, 6, 4001)
    logs = np.asarray(jax.jit(jax.vmap(target))(grid), np.float64)
    weights = np.exp(logs - logs.max())
    mean = np.sum(grid * weights) / np.sum(weights)
    # The means of independent chains.
    error = np.std(draws.mean(1), ddof=1) / np.sqrt(len(draws))
    assert abs(draws.mean() - mean) < 5 * error
    assert error < 0.05
