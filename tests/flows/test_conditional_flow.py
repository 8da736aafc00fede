"""A flow conditioned on eta: densities, weights, training, and its place in an amortized family."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
from flowjax.bijections import Affine, Chain, Scan, Vmap
from jax.scipy.special import gammaln

import nnef_dists as nd
from tests.registry import FAMILIES

CASES = {case.name: case for case in FAMILIES}
SUPPORTS = ("GaussianNatural1D", "Gamma", "Dirichlet", "FisherBingham")


def flow_of(family, ranges, key=0, depth=3):
    """A small flow, as it is before training."""
    k_layers, k_net, k_etas = jax.random.split(jax.random.key(key), 3)
    layer = eqx.filter_vmap(lambda key: nd.flows.CubicConjugation.random(key, depth=depth))
    stack = Chain([Affine(), Scan(layer(jax.random.split(k_layers, depth))), Affine()])
    if family.support.shape:
        stack = Vmap(stack, axis_size=math.prod(family.support.shape))
    cond_dim = family.unconstrained_dim
    net = eqx.nn.MLP(
        cond_dim, nd.flows.conditioner_size(stack), 16, 1, activation=jnp.tanh, key=k_net
    )
    etas = jax.jit(lambda key: family.sample_eta(key, 200, ranges))(k_etas)
    return nd.flows.ConditionalFlow(
        family, nd.flows.ConditionedBijection(stack, net, cond_dim), etas
    )


def one_eta(family, ranges):
    return jax.jit(lambda key: family.sample_eta(key, 1, ranges)[0])(jax.random.key(5))


@pytest.mark.parametrize("name", SUPPORTS)
def test_draws_stay_in_the_support_with_honest_weights(name):
    """E[w] = exp(A), whatever the flow: unbiased to within the standard error of many draws."""
    case = CASES[name]
    family = case.make()
    flow = flow_of(family, case.ranges)
    eta = one_eta(family, case.ranges)
    x = eqx.filter_jit(flow.sample)(jax.random.key(1), eta, 50)
    assert x.shape == (50, *family.x_shape)
    assert x.dtype == eta.dtype
    stats = jax.jit(jax.vmap(family.sufficient_statistics))(x)
    assert bool(jnp.all(jnp.isfinite(stats)))

    found = eqx.filter_jit(flow.importance)(jax.random.key(2), eta, 4096)
    _, log_weights = eqx.filter_jit(flow.draw_with_log_weights)(jax.random.key(2), eta, 4096)
    log_weights = np.asarray(log_weights, np.float64)
    log_sum = scipy.special.logsumexp(log_weights)
    assert float(found.bound) == pytest.approx(log_weights.mean(), rel=1e-5, abs=1e-5)
    assert float(found.log_partition) == pytest.approx(log_sum - np.log(4096), rel=1e-5, abs=1e-5)
    efficiency = np.exp(2 * log_sum - scipy.special.logsumexp(2 * log_weights)) / 4096
    assert float(found.efficiency) == pytest.approx(efficiency, rel=1e-3)
    # An untrained flow can be so far off that weights have no variance, and errors no meaning.
    if isinstance(family, nd.families.AbstractNamedFamily) and float(found.pareto_k) < 0.5:
        log_partition, mean = jax.jit(lambda eta: (family.log_partition(eta), family.mean(eta)))(
            eta
        )
        error = abs(float(found.log_partition - log_partition))
        assert error < 5 * float(found.log_partition_error)
        z = np.abs(found.mean - mean) / np.asarray(found.mean_error)
        assert z.max() < 6


@pytest.mark.parametrize("name", ["GaussianNatural1D", "Gamma"])
def test_log_prob_is_the_density_of_the_draws(name):
    case = CASES[name]
    family = case.make()
    flow = flow_of(family, case.ranges)
    eta = one_eta(family, case.ranges)
    key = jax.random.key(1)
    x, log_weight = eqx.filter_jit(flow.sample_and_log_weight)(key, eta)
    expected = jax.jit(lambda x: family.unnormalized_logdensity(eta, x) - flow.log_prob(x, eta))(x)
    np.testing.assert_allclose(log_weight, expected, rtol=1e-4, atol=1e-4)
    # In the coordinates of the line, where the grid is fine enough.
    u = jnp.linspace(-60, 60, 24_001)
    support = family.support
    x, log_det = jax.jit(jax.vmap(support.transform_and_log_det))(u)
    inside = jnp.isfinite(x) & (x > 0 if name == "Gamma" else True)
    log_q = jax.jit(jax.vmap(lambda x: flow.log_prob(x, eta)))(jnp.where(inside, x, 1.0))
    total = jnp.sum(jnp.where(inside, jnp.exp(log_q + log_det), 0)) * (u[1] - u[0])
    assert abs(float(total) - 1) < 2e-3


def test_supports_without_an_inverse_have_no_log_prob():
    case = CASES["Dirichlet"]
    flow = flow_of(case.make(), case.ranges)
    with pytest.raises(ValueError, match="has no inverse"):
        flow.log_prob(jnp.ones(3) / 3, jnp.ones(3))


@pytest.fixture(scope="module")
def trained():
    """Gammas over a range of etas, without data."""
    family, ranges = nd.Gamma(), {"log_x": (0.0, 3.0), "x": (-3.0, -0.5, "log")}
    flow = flow_of(family, ranges, depth=6)
    dynamic, static = nd.partition_trainable(flow)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, 600))

    @jax.jit
    def run(dynamic, key):
        def step(carry, key):
            dynamic, state = carry
            k_etas, k_draws = jax.random.split(key)
            etas = family.sample_eta(k_etas, 64, ranges)
            value, gradient = jax.value_and_grad(
                lambda dynamic: nd.flows.free_energy(
                    nd.unfreeze_all(dynamic, static), etas, k_draws, 2
                )
            )(dynamic)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(dynamic, updates), state), value

        start = dynamic, optimizer.init(dynamic)
        return jax.lax.scan(step, start, jax.random.split(key, 600))

    (dynamic, _), losses = run(dynamic, jax.random.key(0))
    return family, ranges, nd.unfreeze_all(dynamic, static), losses


class TestTrained:
    def test_the_bound_is_tight_and_a_bound(self, trained):
        family, ranges, flow, losses = trained
        assert float(losses[-50:].mean()) < float(losses[:50].mean())
        etas = jax.jit(lambda key: family.sample_eta(key, 64, ranges))(jax.random.key(7))
        keys = jax.random.split(jax.random.key(8), 64)
        found = jax.jit(jax.vmap(lambda key, eta: flow.importance(key, eta, 2048)))(keys, etas)
        # The closed form in the flow's own terms.
        shape, rate = etas[:, 0] + 1, -etas[:, 1]
        exact = gammaln(shape) - shape * jnp.log(rate)
        gap = np.asarray(exact - found.bound)
        assert np.median(gap) < 0.01
        assert (gap > -5 * np.asarray(found.bound_error) - 1e-4).all()
        assert np.median(found.efficiency) > 0.95
        error = np.abs(np.asarray(found.log_partition - exact))
        assert np.median(error) < 2e-3

    def test_draws_have_the_moments(self, trained):
        family, _, flow, _ = trained
        eta, n = jnp.array([1.5, -1.2]), 20_000
        sampler = nd.flows.FlowSampler(flow, resample=4)
        x = jax.jit(lambda key: sampler.sample(key, family, eta, n))(jax.random.key(0))
        stats = jax.jit(jax.vmap(family.sufficient_statistics))(x)
        mean, covariance = jax.jit(lambda eta: (family.mean(eta), family.covariance(eta)))(eta)
        z = (np.mean(stats, 0) - mean) / np.sqrt(np.diagonal(covariance))
        # Draws that were chosen twice are not independent.
        assert np.abs(z).max() < 5 * math.sqrt(2 / n)

    def test_a_tractable_family_draws_by_it(self, trained):
        _, _, flow, _ = trained
        with pytest.raises(ValueError, match=r"the flow's family, Gamma.*got GaussianNatural1D"):
            nd.ClosedForm(nd.GaussianNatural1D(), sampler=nd.flows.FlowSampler(flow)).sample(
                jax.random.key(0), jnp.array([0.5, -1.0]), 3
            )
        q = nd.ClosedForm(nd.Gamma(), sampler=nd.flows.FlowSampler(flow))
        draw = eqx.filter_jit(lambda q, key: q.sample(key, jnp.array([1.5, -1.2]), 7))
        x = draw(q, jax.random.key(0))
        assert x.shape == (7,)
        assert bool(jnp.all(x > 0))

    def test_is_saved_and_loaded(self, trained, tmp_path):
        _, _, flow, _ = trained
        nd.save(tmp_path / "flow.safetensors", flow)
        again = nd.load(tmp_path / "flow.safetensors")
        eta, key = jnp.array([1.5, -1.2]), jax.random.key(0)
        draw = eqx.filter_jit(lambda flow: flow.sample(key, eta, 5))
        np.testing.assert_array_equal(draw(again), draw(flow))

    def test_knows_its_box(self, trained):
        _, _, flow, _ = trained
        assert bool(flow.is_inside(jnp.array([1.5, -1.0])))
        assert not bool(flow.is_inside(jnp.array([5.0, -1.0])))


class TestImportance:
    def test_equal_weights_count_all(self):
        found = nd.flows.importance_estimate(jnp.full(100, 0.7), jnp.arange(100.0)[:, None])
        np.testing.assert_allclose(found.efficiency, 1, rtol=1e-5)
        np.testing.assert_allclose(found.log_partition, 0.7, rtol=1e-5)
        np.testing.assert_allclose(found.log_partition_error, 0, atol=1e-3)
        np.testing.assert_allclose(found.mean, [49.5], rtol=1e-5)

    def test_standard_errors_are_honest(self):
        """Over repeats, deviations from the truth have a standard deviation of about 1."""

        def one(key):
            x = 1.5 * jax.random.normal(key, (2000,))
            log_weights = -(x**2) / 2 + x**2 / 4.5 + math.log(1.5)
            found = nd.flows.importance_estimate(log_weights, jnp.stack([x, x**2], 1))
            z_mean = (found.mean - jnp.array([0.0, 1.0])) / found.mean_error
            return jnp.append(z_mean, found.log_partition / found.log_partition_error)

        z = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), 400))
        # The standard error of a standard deviation of 400 is 0.035.
        assert np.abs(np.std(z, 0) - 1).max() < 4 * 0.035 + 0.03
        assert np.abs(np.mean(z, 0)).max() < 5 / 20


class TestRefusals:
    def test_of_shapes(self, without_type_checks):
        family = nd.Polynomial1D((1, 2, 4))
        with pytest.raises(ValueError, match=r"shape \(\) and cond_shape \(3,\)"):
            nd.flows.ConditionalFlow(family, nd.flows.CubicConjugation(), jnp.zeros((5, 3)))
        flow = flow_of(family, CASES["Polynomial1D"].ranges)
        with pytest.raises(ValueError, match=r"etas of shape \(n, 3\); got \(3,\)"):
            nd.flows.ConditionalFlow(family, flow.bijection, jnp.zeros(3))
        with pytest.raises(ValueError, match="valid etas"):
            nd.flows.ConditionalFlow(family, flow.bijection, jnp.ones((5, 3)))

    def test_of_counts(self):
        case = CASES["Gamma"]
        flow = flow_of(case.make(), case.ranges)
        eta = jnp.array([1.0, -1.0])
        with pytest.raises(ValueError, match="n >= 1; got 0"):
            flow.sample(jax.random.key(0), eta, 0)
        with pytest.raises(ValueError, match="n >= 2; got 1"):
            flow.importance(jax.random.key(0), eta, 1)
        with pytest.raises(ValueError, match="resample >= 1; got 0"):
            nd.flows.FlowSampler(flow, resample=0)
        with pytest.raises(ValueError, match="natural parameter 'x'"):
            flow.sample(jax.random.key(0), jnp.array([1.0, 1.0]), 3)
