"""Ranks, coverage and TARP: what is exact passes, and planted faults are caught."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import nnef_dists as nd
from tests.posterior.exact import Bimodal, LinearGaussian, Prior

KEY = jax.random.key(0)
M, N = 600, 150

FAULTS = {
    "too narrow": (LinearGaussian(width=0.75), LinearGaussian()),
    "too wide": (LinearGaussian(width=1.3), LinearGaussian()),
    "biased": (LinearGaussian(shift=0.4), LinearGaussian()),
    "one mode of two": (Bimodal(right=1.0), Bimodal()),
    "one mode too heavy": (Bimodal(right=0.75), Bimodal()),
}


# In one program for all truths of a kind, or for all levels of a shape.
simulate = eqx.filter_jit(lambda truth, key, m: truth.simulate(key, m))
expected_coverage = jax.jit(nd.diagnostics.expected_coverage)
uniformity_p_value = jax.jit(nd.diagnostics.uniformity_p_value)


def simulations(truth, m=M, seed=1):
    return simulate(truth, jax.random.key(seed), m)


def levels_of(posterior, pairs, seed=2):
    """All credible levels and ranks by name."""
    keys = jax.random.split(jax.random.key(seed), 3)
    ranks = nd.diagnostics.sbc_ranks(posterior, *pairs, keys[0], N)
    return {
        "ranks": ranks,
        "central": nd.diagnostics.central_levels(ranks),
        "highest density": nd.diagnostics.highest_density_levels(posterior, *pairs, keys[1], N),
        "tarp": nd.diagnostics.tarp_levels(posterior, *pairs, keys[2], N),
    }


def p_values(levels):
    """The smallest p value of each, times the number of its columns."""
    found = {name: np.atleast_1d(uniformity_p_value(each)) for name, each in levels.items()}
    return {name: float(p.min() * p.size) for name, p in found.items()}


def largest_gap(levels):
    nominal = jnp.linspace(0.05, 0.95, 19)
    coverage = expected_coverage(levels, nominal)
    return float(np.max(np.abs(np.asarray(coverage).T - np.asarray(nominal))))


@pytest.mark.parametrize("truth", [LinearGaussian(), Bimodal()], ids=["linear", "bimodal"])
def test_an_exact_posterior_passes(truth):
    levels = levels_of(truth, simulations(truth))
    assert all(p > 0.01 for p in p_values(levels).values()), p_values(levels)
    # Four standard errors of a share of M.
    assert all(largest_gap(each) < 4 * 0.5 / M**0.5 for each in levels.values())


@pytest.mark.parametrize("name", FAULTS)
def test_planted_faults_are_caught(name):
    faulty, truth = FAULTS[name]
    levels = levels_of(faulty, simulations(truth))
    found = p_values(levels)
    assert found["ranks"] < 1e-4
    assert found["highest density"] < 1e-3
    assert min(found.values()) < 1e-6


def test_ranks_tell_which_fault_it_is():
    pairs = simulations(LinearGaussian())

    def share(posterior, low, high):
        ranks = levels_of(posterior, pairs)["ranks"]
        return float(jnp.mean((low < ranks) & (ranks < high)))

    assert share(LinearGaussian(width=0.75), 0.25, 0.75) < 0.45
    assert share(LinearGaussian(width=1.3), 0.25, 0.75) > 0.55
    assert share(LinearGaussian(shift=0.4), 0.0, 0.5) > 0.55


def test_coverage_tells_too_narrow_from_too_wide():
    pairs, nominal = simulations(LinearGaussian()), jnp.linspace(0.1, 0.9, 9)
    for width, sign in ((0.75, -1), (1.3, 1)):
        levels = levels_of(LinearGaussian(width=width), pairs)
        for name in ("central", "highest density"):
            gap = nd.diagnostics.expected_coverage(levels[name], nominal).T - nominal
            assert np.all(sign * gap > 0), name


class TestPriorAsPosterior:
    """Calibrated, and useless: only what looks at x can tell."""

    def test_coordinates_and_densities_do_not_see_it(self):
        found = p_values(levels_of(Prior(), simulations(LinearGaussian(), seed=5)))
        assert min(found["ranks"], found["highest density"]) > 0.01

    def test_tarp_sees_it_as_references_depend_on_x(self):
        pairs = simulations(LinearGaussian(), seed=5)
        assert p_values(levels_of(Prior(), pairs))["tarp"] < 1e-6
        elsewhere = jax.random.normal(jax.random.key(9), pairs[0].shape)
        blind = nd.diagnostics.tarp_levels(Prior(), *pairs, KEY, N, references=elsewhere)
        assert nd.diagnostics.uniformity_p_value(blind) > 0.01

    def test_ranks_of_the_likelihood_see_it(self):
        def log_likelihood(theta, x):
            return -jnp.sum((x - theta) ** 2, keepdims=True) / 2

        pairs = simulations(LinearGaussian(), seed=5)
        for posterior, sees in ((Prior(), True), (LinearGaussian(), False)):
            ranks = nd.diagnostics.sbc_ranks(posterior, *pairs, KEY, N, quantity=log_likelihood)
            assert ranks.shape == (M, 1)
            assert (float(nd.diagnostics.uniformity_p_value(ranks)[0]) < 1e-6) == sees


def test_references_change_nothing_where_all_is_well():
    pairs = simulations(LinearGaussian(), seed=6)
    corner = jnp.full_like(pairs[0], 3.0)
    levels = nd.diagnostics.tarp_levels(LinearGaussian(), *pairs, KEY, N, references=corner)
    assert nd.diagnostics.uniformity_p_value(levels) > 0.01


class TestUniformity:
    def test_law_is_that_of_simulated_uniforms(self):
        rng = np.random.default_rng(0)
        p = np.asarray(
            nd.diagnostics.uniformity_p_value(jnp.asarray(rng.uniform(size=(30, 20_000)), float))
        )
        for level in (0.01, 0.1, 0.5, 0.9):
            error = np.sqrt(level * (1 - level) / p.size)
            assert abs(np.mean(p < level) - level) < 4 * error + 1e-3

    def test_statistic_is_anderson_and_darlings(self):
        # SciPy has the statistic for a normal law of given parameters.
        values = np.random.default_rng(1).normal(0.2, 1.1, 100)
        expected = scipy.stats.goodness_of_fit(
            scipy.stats.norm,
            values,
            statistic="ad",
            known_params={"loc": 0, "scale": 1},
            n_mc_samples=20_000,
            rng=np.random.default_rng(2),
        )
        found = nd.diagnostics.uniformity_p_value(jnp.asarray(scipy.stats.norm.cdf(values), float))
        assert abs(float(found) - expected.pvalue) < 4 * np.sqrt(expected.pvalue / 20_000) + 1e-3

    def test_ends_are_allowed(self):
        assert np.isfinite(nd.diagnostics.uniformity_p_value(jnp.asarray([0.0, 0.3, 0.6, 1.0])))
        assert nd.diagnostics.uniformity_p_value(jnp.zeros(50)) == 0

    @pytest.mark.usefixtures("without_type_checks")
    def test_no_ranks_are_refused(self):
        with pytest.raises(ValueError, match="at least one rank"):
            nd.diagnostics.uniformity_p_value(jnp.zeros((0, 2)))


class Coin:
    """A posterior with atoms: theta is -1, 0 or 1, whatever x."""

    def sample(self, key, x, n):
        return jax.random.randint(key, (n, 1), -1, 2).astype(x.dtype)

    def log_prob(self, theta, x):
        return jnp.zeros((), x.dtype)


def test_ties_are_broken_at_random():
    theta = jax.random.randint(KEY, (M, 1), -1, 2).astype(float)
    levels = levels_of(Coin(), (theta, jnp.zeros((M, 1))))
    assert all(p > 0.01 for p in p_values(levels).values()), p_values(levels)


@pytest.mark.parametrize("n", [1, 5])
def test_ranks_of_few_draws_are_uniform(n):
    ranks = nd.diagnostics.sbc_ranks(LinearGaussian(), *simulations(LinearGaussian()), KEY, n)
    assert np.all((ranks > 0) & (ranks < 1))
    assert np.all(nd.diagnostics.uniformity_p_value(ranks) > 0.01)


def test_batches_change_nothing():
    pairs = simulations(LinearGaussian(), 50)
    whole = nd.diagnostics.sbc_ranks(LinearGaussian(), *pairs, KEY, N, batch_size=50)
    for batch_size in (7, 1000):
        ranks = nd.diagnostics.sbc_ranks(LinearGaussian(), *pairs, KEY, N, batch_size=batch_size)
        np.testing.assert_allclose(ranks, whole, atol=1.01 / N)


def test_memory_is_bounded_by_the_batch():
    pairs = simulations(LinearGaussian(), 256)

    def ranks(theta, x):
        return nd.diagnostics.sbc_ranks(LinearGaussian(), theta, x, KEY, 1000, batch_size=4)

    compiled = jax.jit(ranks).lower(*pairs).compile()
    draws = 256 * 1000 * 2 * pairs[0].dtype.itemsize
    assert compiled.memory_analysis().temp_size_in_bytes < draws / 4


@pytest.mark.usefixtures("strict_promotion")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dtype_is_that_of_theta(dtype):
    if dtype == jnp.float64 and not jax.config.read("jax_enable_x64"):
        pytest.skip("float64 is not enabled")

    class Half:
        def sample(self, key, x, n):
            return x / 2 + jax.random.normal(key, (n, 2), dtype)

        def log_prob(self, theta, x):
            return -jnp.sum((theta - x / 2) ** 2)

    pairs = tuple(jnp.asarray(each, dtype) for each in simulations(LinearGaussian(), 20))
    levels = levels_of(Half(), pairs)
    assert {each.dtype for each in levels.values()} == {jnp.dtype(dtype)}
    assert nd.diagnostics.uniformity_p_value(levels["ranks"]).dtype == dtype


def test_images_are_observations_too():
    theta, x = simulations(LinearGaussian(), 30)
    image = jnp.broadcast_to(x[:, :, None], (30, 2, 3))

    class OfImages:
        def sample(self, key, x, n):
            return LinearGaussian().sample(key, x[:, 0], n)

    assert nd.diagnostics.sbc_ranks(OfImages(), theta, image, KEY, 10).shape == (30, 2)
    assert nd.diagnostics.tarp_levels(OfImages(), theta, image, KEY, 10).shape == (30,)


def test_a_head_will_do():
    theta, x = simulations(LinearGaussian(), 40)
    head = nd.GaussianPosterior(nd.Simulations(theta, x), width=4, depth=1, key=KEY)
    assert isinstance(head, nd.diagnostics.PosteriorDensity)
    assert nd.diagnostics.highest_density_levels(head, theta, x, KEY, 10).shape == (40,)


def test_coverage_counts_and_keeps_shape():
    levels = jnp.asarray([[0.1, 0.9], [0.3, 0.95], [0.5, 0.2], [1.0, 0.0]])
    found = nd.diagnostics.expected_coverage(levels, jnp.asarray([0.0, 0.3, 1.0]))
    np.testing.assert_allclose(found, [[0, 0.25], [0.5, 0.5], [1, 1]])


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize(
    "ranked",
    [nd.diagnostics.sbc_ranks, nd.diagnostics.highest_density_levels, nd.diagnostics.tarp_levels],
)
def test_faults_of_arguments_are_named(ranked):
    theta, x = simulations(LinearGaussian(), 10)
    with pytest.raises(ValueError, match="as many observations as parameters"):
        ranked(LinearGaussian(), theta, x[:5], KEY, N)
    with pytest.raises(ValueError, match="Expected n >= 1"):
        ranked(LinearGaussian(), theta, x, KEY, 0)
    with pytest.raises(ValueError, match="batch_size >= 1"):
        ranked(LinearGaussian(), theta, x, KEY, N, batch_size=0)
    with pytest.raises(Exception, match="got NaN"):
        ranked(LinearGaussian(width=jnp.nan), theta, x, KEY, N)
    with pytest.raises(ValueError, match=r"theta of shape \(m, theta_dim\); got \(10,\)"):
        ranked(LinearGaussian(), theta[:, 0], x, KEY, N)


class Misshapen:
    """A posterior whose draws have another shape."""

    def __init__(self, shape):
        self.shape = shape

    def sample(self, key, x, n):
        return jnp.zeros(self.shape)

    def log_prob(self, theta, x):
        return -jnp.sum(theta**2)


@pytest.mark.parametrize("shape", [(10,), (50, 2), (10, 1), (2, 10)])
@pytest.mark.parametrize(
    "of_draws",
    [
        nd.diagnostics.sbc_ranks,
        nd.diagnostics.highest_density_levels,
        nd.diagnostics.tarp_levels,
        lambda q, theta, x, key, n: nd.diagnostics.local_c2st(q, theta, x, x, key, n),
    ],
)
def test_draws_of_another_shape_are_refused(of_draws, shape):
    message = rf"\((10|1), 2\); got {re.escape(str(shape))}"
    with pytest.raises(ValueError, match=message):
        of_draws(Misshapen(shape), jnp.ones((4, 2)), jnp.ones((4, 2)), KEY, 10)


@pytest.mark.usefixtures("without_type_checks")
def test_shapes_of_references_and_densities_are_checked():
    theta, x = simulations(LinearGaussian(), 10)
    with pytest.raises(ValueError, match=r"references of the shape \(10, 2\)"):
        nd.diagnostics.tarp_levels(LinearGaussian(), theta, x, KEY, 5, references=theta[:, :1])

    class PerEntry(LinearGaussian):
        def log_prob(self, theta, x):
            return -(theta**2)

    with pytest.raises(ValueError, match=r"to return a scalar; got shape \(2,\)"):
        nd.diagnostics.highest_density_levels(PerEntry(), theta, x, KEY, 5)


@pytest.mark.usefixtures("without_type_checks")
def test_integer_parameters_are_ranked():
    theta = jax.random.randint(KEY, (M, 1), -1, 2)
    ranks = nd.diagnostics.sbc_ranks(Coin(), theta, jnp.zeros((M, 1)), KEY, N)
    assert nd.diagnostics.uniformity_p_value(ranks)[0] > 0.01


@pytest.mark.usefixtures("without_type_checks")
def test_ranks_and_levels_in_other_forms():
    levels = jnp.asarray([0.2, 0.4, 0.6, 0.8])
    found = nd.diagnostics.expected_coverage(levels, [0.5, 0.9])
    np.testing.assert_allclose(found, [0.5, 1.0])
    with pytest.raises(ValueError, match=r"Use \[0.9\] for one level"):
        nd.diagnostics.expected_coverage(levels, 0.9)
    p_value = nd.diagnostics.uniformity_p_value(levels)
    np.testing.assert_allclose(nd.diagnostics.uniformity_p_value(levels.tolist()), p_value)
    assert np.isfinite(nd.diagnostics.uniformity_p_value(jnp.asarray([0, 1])))
    np.testing.assert_allclose(nd.diagnostics.central_levels([0.2, 0.8]), 0.6, rtol=1e-6)
    with pytest.raises(ValueError, match=r"got 0\.0 to 99\.0\. Divide ranks"):
        nd.diagnostics.central_levels(jnp.arange(100))
    assert np.all(np.isnan(jax.jit(nd.diagnostics.central_levels)(jnp.arange(3.0))))
