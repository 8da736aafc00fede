"""Heads that are truncated to a box: exact at its bounds, where other coordinates are not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats

import nnef_dists as nd
from nnef_dists.posterior._normal import log_interval_mass, truncated_quantile
from tests.posterior.simulators import box, simulations

NOISE = 0.1
ENDS = [
    (-1, 1), (0.4, 0.45), (3, 4), (10, 11), (-31, -30), (50, 60), (5, 5.01), (-200, -100),
    (-np.inf, 0.5), (2, np.inf), (20, np.inf), (-np.inf, -30), (-np.inf, np.inf), (1e-3, 2e-3),
]  # fmt: skip


def exact_log_mass(a, b):
    """In float64, by the tail that does not cancel; by the midpoint in narrow intervals."""
    a, b = (np.float64(np.float32(end)) for end in (a, b))
    if np.isinf([a, b]).all():
        return 0.0
    if a + b > 0:
        a, b = -b, -a
    if b - a < 0.02:
        middle = (a + b) / 2
        curvature = (middle**2 - 1) * (b - a) ** 2 / 24
        return np.log(b - a) + scipy.stats.norm.logpdf(middle) + np.log1p(curvature)
    tail = scipy.special.log_ndtr(b)
    return tail + np.log1p(-np.exp(scipy.special.log_ndtr(a) - tail))


class TestTruncatedNormal:
    def test_masses_are_those_of_float64(self):
        a, b = (jnp.asarray(end, jnp.float32) for end in zip(*ENDS, strict=True))
        mass, gradient = jax.vmap(jax.value_and_grad(log_interval_mass, (0, 1)))(a, b)
        exact = np.array([exact_log_mass(*ends) for ends in ENDS])
        np.testing.assert_allclose(mass, exact, rtol=2e-6, atol=2e-6)
        assert all(np.isfinite(part).all() for part in gradient)
        # d log mass / d b is the density at b over the mass.
        slope = np.exp(scipy.stats.norm.logpdf(np.asarray(b, float)) - exact)
        np.testing.assert_allclose(gradient[1], slope, rtol=2e-3, atol=1e-6)

    def test_quantiles_invert_the_distribution(self):
        p = jnp.linspace(0.01, 0.99, 25)
        for a, b in ENDS:
            t = np.asarray(truncated_quantile(p, jnp.asarray(a, float), jnp.asarray(b, float)))
            assert (t >= np.float32(a)).all()
            assert (t <= np.float32(b)).all()
            found = np.exp(np.array([exact_log_mass(a, end) for end in t]) - exact_log_mass(a, b))
            np.testing.assert_allclose(found, p, atol=2e-3)

    def law(self, low=(0.0, -np.inf), high=(1.0, 0.5)):
        normal = nd.posterior.Normal(
            jnp.array([1.2, 0.3]), jnp.log(jnp.array([0.4, 0.6])), jnp.array([[0, 0], [-1.5, 0]])
        )
        return nd.posterior.TruncatedNormal(
            normal, jnp.asarray(low, float), jnp.asarray(high, float)
        )

    def test_is_the_product_of_truncated_conditionals(self):
        law = self.law()
        factor = np.asarray(law.normal.scale_tril, float)
        u = np.array([0.8, -0.4])
        ends = np.array([0, -np.inf]), np.array([1, 0.5])
        expected, t = 0.0, np.zeros(2)
        for j in range(2):
            mean, sd = law.normal.mean[j] + factor[j, :j] @ t[:j], factor[j, j]
            a, b = ((end[j] - float(mean)) / sd for end in ends)
            expected += scipy.stats.truncnorm.logpdf(u[j], a, b, float(mean), sd)
            t[j] = (u[j] - mean) / sd
        np.testing.assert_allclose(law.log_prob(jnp.asarray(u, float)), expected, rtol=1e-5)

    def test_without_bounds_is_the_normal(self):
        law = self.law((-np.inf, -np.inf), (np.inf, np.inf))
        u = jnp.array([0.8, -0.4])
        np.testing.assert_allclose(law.log_prob(u), law.normal.log_prob(u), rtol=1e-6)
        draws = np.asarray(law.sample(jax.random.key(0), 4000))
        sd = np.sqrt(np.diag(law.normal.covariance))
        assert np.all(np.abs(draws.mean(0) - law.normal.mean) < 4.5 * sd / 4000**0.5)
        covariance = np.asarray(law.normal.covariance)
        assert np.abs(np.cov(draws.T) - covariance).max() < 5 * sd.max() ** 2 * (2 / 4000) ** 0.5

    def test_draws_stay_inside(self):
        draws = np.asarray(self.law().sample(jax.random.key(0), 2000))
        assert draws[:, 0].min() >= 0
        assert draws[:, 0].max() <= 1
        assert draws[:, 1].max() <= 0.5


def exact(theta, x):
    """The posterior of theta in (0, 1) under a uniform prior, x = theta + 0.1 noise."""
    a, b = (0 - x) / NOISE, (1 - x) / NOISE
    return scipy.stats.truncnorm.logpdf(theta, a, b, x, NOISE)


@functools.cache
def trained(bounds):
    """A small mixture, trained on 8,192 simulations."""
    rng = np.random.default_rng(0)
    theta = rng.uniform(0, 1, (8192, 1)).astype(np.float32)
    data = nd.Simulations(theta, theta + NOISE * rng.normal(size=theta.shape).astype(np.float32))
    zeros, ones = jnp.zeros(1), jnp.ones(1)
    place = {"bounds": (zeros, ones)} if bounds else {"support": nd.BoxSupport(zeros, ones)}
    head = nd.MixturePosterior(data, 2, **place, width=32, depth=2, key=jax.random.key(0))
    dynamic, static = nd.freeze_stdvs(head)
    steps = 1500
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    batch = jax.tree.map(jnp.asarray, data.arrays())

    @jax.jit
    def run(dynamic, key):
        def step(carry, key):
            dynamic, state = carry
            rows = jax.random.randint(key, (256,), 0, len(data))
            gradient = jax.grad(
                lambda dynamic: nd.nll_loss(
                    nd.unfreeze_all(dynamic, static), jax.tree.map(lambda leaf: leaf[rows], batch)
                )
            )(dynamic)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(dynamic, updates), state), None

        return jax.lax.scan(step, (dynamic, optimizer.init(dynamic)), jax.random.split(key, steps))

    (dynamic, _), _ = run(dynamic, jax.random.key(1))
    return nd.unfreeze_all(dynamic, static)


@jax.jit
def log_probs(head, theta, x):
    return jax.vmap(lambda x: jax.vmap(head.log_prob, (0, None))(theta, x))(x)


class TestAtTheBounds:
    # Up to one standard deviation of the noise beyond the bounds.
    x = np.array([[-0.1], [0.0], [0.1], [0.5], [0.9], [1.0], [1.1]])
    theta = np.array([[0.0], [1e-3], [0.02], [0.98], [0.999], [1.0]])

    def difference(self, bounds):
        found = log_probs(trained(bounds), *map(jnp.float32, (self.theta, self.x)))
        truth = exact(self.theta[:, 0], self.x)
        # Where the posterior has its mass.
        return (np.asarray(found) - truth)[truth > 0]

    def test_the_density_is_the_exact_one(self):
        head = trained(True)
        at_one = float(np.exp(head.log_prob(jnp.ones(1), jnp.ones(1))))
        assert abs(at_one / np.exp(exact(1.0, 1.0)) - 1) < 0.1
        assert np.abs(self.difference(True)).max() < 0.15

    def test_coordinates_of_the_whole_line_are_off(self):
        """What the guide says of `BoxSupport`: the density there is of another order."""
        assert np.abs(self.difference(False)).max() > 0.5

    def test_is_normalized_to_the_bounds(self):
        grid = (np.arange(2000) + 0.5) / 2000
        density = np.exp(log_probs(trained(True), jnp.float32(grid[:, None]), jnp.float32(self.x)))
        np.testing.assert_allclose(density.mean(1), 1, atol=2e-3)

    def test_draws_have_the_exact_distribution(self):
        for x in (0.0, 1.0):
            draws = np.asarray(trained(True).sample(jax.random.key(2), jnp.full(1, x), 4000))[:, 0]
            exact_law = scipy.stats.truncnorm(-x / NOISE, (1 - x) / NOISE, x, NOISE)
            assert draws.min() >= 0
            assert draws.max() <= 1
            assert np.abs(draws.mean() - exact_law.mean()) < 0.006
            assert np.abs(draws.std() - exact_law.std()) < 0.006


class TestBounds:
    def data(self):
        rng = np.random.default_rng(0)
        theta = rng.exponential(size=(64, 2)).astype(np.float32)
        return nd.Simulations(theta, theta + rng.normal(size=theta.shape).astype(np.float32))

    def make(self, bounds, **options):
        options = {"width": 8, "depth": 1, "key": jax.random.key(0)} | options
        return nd.GaussianPosterior(self.data(), bounds=bounds, **options)

    def test_may_be_infinite(self):
        head = self.make((jnp.zeros(2), jnp.array([jnp.inf, 100.0])))
        x = jnp.asarray(self.data().x[0])
        dynamic, static = nd.partition_trainable(head)

        @jax.jit
        def evaluate(dynamic):
            head = nd.unfreeze_all(dynamic, static)
            loss = lambda head: nd.nll_loss(head, self.data().arrays())  # noqa: E731
            return (
                head.sample(jax.random.key(1), x, 100),
                head.log_prob(jnp.zeros(2), x),
                head.log_prob(jnp.array([1.0, -0.1]), x),
                jax.grad(lambda dynamic: loss(nd.unfreeze_all(dynamic, static)))(dynamic),
            )

        draws, at_edge, outside, gradient = evaluate(dynamic)
        assert draws.min() >= 0
        assert np.isfinite(at_edge)
        assert outside == -np.inf
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

    @pytest.mark.parametrize(
        ("bounds", "message"),
        [
            ((jnp.ones(2), jnp.full(2, 100.0)), "Expected theta inside the support"),
            ((jnp.zeros(2), jnp.zeros(2)), "Expected low < high in each dimension"),
            ((jnp.full(2, jnp.nan), jnp.ones(2)), "Expected low that is not NaN; got nan"),
            ((jnp.zeros(3), jnp.ones(3)), "Expected an unconditional support of shape"),
            ((jnp.zeros(2),), r"Expected bounds \(low, high\); got 1"),
        ],
    )
    def test_refuses(self, bounds, message, without_type_checks):
        with pytest.raises(ValueError, match=message):
            self.make(bounds)

    def test_refuses_two_supports(self):
        ends = jnp.zeros(2), jnp.full(2, 100.0)
        with pytest.raises(ValueError, match=r"Expected either support .* or bounds"):
            self.make(ends, support=nd.BoxSupport(*ends))


@pytest.mark.parametrize("support", [None, box()])
def test_thetas_are_numbers_of_any_kind(support, without_type_checks):
    data = simulations(uniform=True)
    head = nd.GaussianPosterior(data, support=support, width=4, depth=1, key=jax.random.key(0))
    x = jnp.asarray(data.x[0])
    expected = head.log_prob(jnp.array([1.0, 0.0]), x)
    assert np.isfinite(expected)
    for theta in ([1, 0.0], (1, 0), np.array([1, 0]), jnp.array([True, False])):
        found = head.log_prob(theta, x)
        assert found == expected
        assert found.dtype == expected.dtype
    for missing in ([np.nan, 0.0], [np.nan, np.inf]):
        assert np.isnan(head.log_prob(jnp.array(missing), x))
    assert head.log_prob(jnp.array([jnp.inf, 0.0]), x) == -jnp.inf
    with pytest.raises(ValueError, match="theta as an array or a list of numbers; got 'one'"):
        head.log_prob("one", x)
