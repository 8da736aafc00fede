"""Which observations a head takes: those like its simulations, whatever their distribution."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.posterior.simulators import box, simulations, uniform_prior


def uniform(rng, n):
    return rng.uniform(size=(n, 1)) + 0.1 * rng.normal(size=(n, 1))


def ten_normals(rng, n):
    return rng.normal(size=(n, 10)) + rng.normal(size=(n, 10))


def cauchy(rng, n):
    return rng.normal(size=(n, 3)) + rng.standard_cauchy((n, 3))


def log_normal(rng, n):
    return np.exp(3 * rng.normal(size=(n, 2)))


def counts(rng, n):
    return rng.poisson(rng.gamma(2, 2, (n, 4)))


def rare_events(rng, n):
    return rng.uniform(size=(n, 300)) < 0.002


def mixed(rng, n):
    columns = (
        rng.standard_cauchy(n), rng.uniform(size=n), rng.poisson(1.0, n), np.full(n, 3.0),
    )  # fmt: skip
    return np.stack(columns, 1)


def student_1000(rng, n):
    return rng.standard_t(3, (n, 1000))


TIMES = np.linspace(0, 6, 100)[:, None]


def series(rng, n):
    amplitude, frequency = rng.uniform(0.5, 2, (n, 1, 1)), rng.uniform(0.5, 3, (n, 1, 1))
    return amplitude * np.sin(frequency * TIMES) + 0.1 * rng.normal(size=(n, 100, 1))


def image(rng, n):
    center = rng.uniform(8, 24, (n, 2, 1))
    rows, columns = np.exp(-((np.arange(32) - center) ** 2) / 8).swapaxes(0, 1)
    return rows[:, :, None] * columns[:, None] + 0.05 * rng.normal(size=(n, 32, 32))


def sets(rng, n):
    location, scale = rng.normal(size=(n, 1, 1)), np.exp(0.5 * rng.normal(size=(n, 1, 1)))
    return location + scale * rng.normal(size=(n, 50, 1))


def correlated(rng, n):
    first = rng.normal(size=(n, 1))
    return np.concatenate([first, first + 0.01 * rng.normal(size=(n, 1))], 1)


SIMULATORS = (
    uniform, ten_normals, cauchy, log_normal, counts, rare_events, mixed, student_1000, series,
    image, sets, correlated,
)  # fmt: skip

rng = np.random.default_rng(9)
UNLIKE = {
    "beyond the range": (uniform, [2.0]),
    "another unit": (uniform, [50.0]),
    "one entry far out": (ten_normals, [12.0] + 9 * [0.0]),
    "all entries in the tails": (ten_normals, 10 * [5.0]),
    "beyond heavy tails": (cauchy, [1e9, 0.0, 0.0]),
    "a negative count": (counts, [-5.0, 3, 3, 3]),
    "beside a heavy-tailed entry": (mixed, [1.0, 5.0, 1, 3]),
    "another constant": (mixed, [1.0, 0.5, 1, 4]),
    "noise for a series": (series, rng.normal(size=(100, 1))),
    "another frequency": (series, np.sin(8 * TIMES)),
    "one spike": (series, np.sin(TIMES) + 5 * (TIMES[50] == TIMES)),
    "an offset": (series, 1 + np.sin(TIMES)),
    "another unit of an image": (image, 255 * image(rng, 1)[0]),
    "noise for an image": (image, rng.normal(size=(32, 32))),
    "two objects": (image, image(rng, 2).sum(0)),
    "an outlier in a set": (sets, np.append(rng.normal(size=49), 50.0)[:, None]),
    "two clusters in a set": (sets, np.repeat([-4.0, 4.0], 25)[:, None]),
    "off a line": (correlated, [1.0, -1.0]),
    "beside a line": (correlated, [1.0, 0.8]),
}


def draw(simulator, n, seed):
    return simulator(np.random.default_rng(seed), n).astype(np.float32)


@functools.cache
def region_of(simulator, n=2000, seed=0):
    return nd.posterior.ObservationRegion(draw(simulator, n, seed), exchangeable=simulator is sets)


def share_outside(region, x):
    return np.mean([region.concrete_scores(one).max() > 1 for one in x])


class TestRegion:
    @pytest.mark.parametrize("simulator", SIMULATORS, ids=lambda s: s.__name__)
    def test_takes_fresh_simulations(self, simulator):
        """Of 1,000 fresh ones, less than 1 % are outside; of few simulations, less than 2 %."""
        fresh = draw(simulator, 1000, 1)
        assert share_outside(region_of(simulator), fresh) < 0.01
        few = [share_outside(region_of(simulator, 100, seed), fresh[:300]) for seed in range(4)]
        assert np.mean(few) < 0.02

    @pytest.mark.parametrize("name", UNLIKE)
    def test_refuses_other_observations(self, name):
        simulator, x = UNLIKE[name]
        assert region_of(simulator).concrete_scores(np.asarray(x)).max() > 1

    @pytest.mark.parametrize("simulator", [mixed, sets, image], ids=lambda s: s.__name__)
    def test_is_the_same_in_compiled_programs(self, simulator):
        region, x = region_of(simulator), draw(simulator, 16, 2)
        found = eqx.filter_jit(eqx.filter_vmap(region.scores))(jnp.asarray(x))
        expected = [region.concrete_scores(one) for one in x]
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3)
        inside = eqx.filter_jit(eqx.filter_vmap(region.is_inside))(jnp.asarray(x))
        assert np.array_equal(inside, np.max(expected, 1) <= 1)
        bad = jnp.full(x.shape[1:], jnp.nan)
        is_inside = eqx.filter_jit(region.is_inside)
        assert not is_inside(bad)
        assert not is_inside(jnp.full_like(bad, 1e38))

    def test_the_order_of_a_set_does_not_matter(self):
        region, x = region_of(sets), draw(sets, 1, 2)[0]
        assert np.array_equal(region.concrete_scores(x), region.concrete_scores(x[::-1]))

    def test_of_two_simulations(self):
        region = nd.posterior.ObservationRegion(np.array([[0.0], [1.0]], np.float32))
        assert region.is_inside(jnp.array([0.5]))

    def test_is_small(self):
        """Examples of long observations are thinned."""
        arrays = jax.tree.leaves(region_of(image))
        assert sum(array.size for array in arrays) < 2e5


class TestHeads:
    def head(self, **options):
        options = {"width": 8, "depth": 1, "key": jax.random.key(0)} | options
        return nd.GaussianPosterior(simulations(uniform=True), support=box(), **options)

    def test_every_method_warns(self):
        head, far = self.head(), jnp.full(2, 40.0)
        for call in (
            lambda: head.log_prob(jnp.zeros(2), far),
            lambda: head.sample(jax.random.key(0), far, 2),
            lambda: head.parameters(far),
        ):
            with pytest.warns(
                nd.distributions.ExtrapolationWarning, match="times as far outside"
            ) as caught:
                call()
            assert caught[0].filename == __file__

    def test_compiled_ones_have_no_callback(self):
        head = self.head()

        def evaluate(x):
            return head.log_prob(jnp.zeros(2), x), head.sample(jax.random.key(0), x, 2)

        assert "callback" not in str(jax.make_jaxpr(evaluate)(jnp.full(2, 40.0)))
        assert np.isfinite(jax.jit(evaluate)(jnp.full(2, 40.0))[0])

    def test_rounds_check_their_observation(self):
        head = self.head()
        with pytest.raises(ValueError, match="finite observation"):
            nd.posterior.truncate_prior(
                uniform_prior(), head, jnp.full(2, jnp.nan), jax.random.key(0)
            )

    def test_integers_are_observations(self, without_type_checks):
        head = self.head()
        found = head.log_prob(jnp.zeros(2), jnp.ones(2, int))
        assert found == head.log_prob(jnp.zeros(2), jnp.ones(2))

    def test_is_saved_and_loaded(self, tmp_path):
        head = self.head()
        nd.save(tmp_path / "head", head)
        again = nd.load(tmp_path / "head").coordinates.region
        x = np.array([0.3, 0.4])
        expected = head.coordinates.region.concrete_scores(x)
        np.testing.assert_array_equal(again.concrete_scores(x), expected)


class TestFewValues:
    def make(self, theta):
        theta = np.asarray(theta, np.float32)
        x = theta + np.random.default_rng(1).normal(size=theta.shape).astype(np.float32)
        data = nd.Simulations(theta, x)
        return nd.GaussianPosterior(data, width=4, depth=1, key=jax.random.key(0))

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (lambda rng: np.floor(5 * rng.uniform(size=400)) / 4, "takes 5 distinct values in 400"),
            (lambda rng: np.full(400, 2.0), "is constant"),
            (
                lambda rng: np.where(rng.uniform(size=400) < 0.1, 0, rng.normal(size=400)),
                "takes one value in",
            ),
            (lambda rng: np.round(rng.normal(size=400), 1), "takes 50 distinct values"),
        ],
    )
    def test_warn(self, column, message):
        rng = np.random.default_rng(0)
        theta = np.stack([rng.normal(size=400), column(rng)], 1)
        with pytest.warns(UserWarning, match=rf"theta\[1\] {message}") as caught:
            self.make(theta)
        assert len(caught) == 1

    @pytest.mark.parametrize("values", [[0.0, 1.0], [-1.0, 1.0], [0.0, 7.0, 30.0]])
    def test_whole_numbers_are_refused(self, values):
        rng = np.random.default_rng(0)
        theta = np.stack([rng.normal(size=400), rng.choice(values, 400)], 1)
        with pytest.raises(
            ValueError, match=r"Expected theta\[1\] with .*CategoricalPosterior for"
        ):
            self.make(theta)

    def test_continuous_ones_do_not(self):
        """float32 repeats some uniform numbers; tails and bounds are no atoms."""
        rng = np.random.default_rng(0)
        uniform = jax.random.uniform(jax.random.key(0), (100_000, 1))
        self.make(np.concatenate([uniform, rng.standard_cauchy((100_000, 1))], 1))
        self.make(rng.beta(0.5, 0.5, (1000, 2)))


@pytest.mark.filterwarnings("ignore:theta.0. is constant")
def test_a_constant_has_scale_one_in_double_precision():
    """The mean of 1,000 numbers 0.1 is not 0.1 in float64."""
    rng = np.random.default_rng(0)
    columns = np.full(1000, 0.1), 1e9 + rng.normal(size=1000), rng.normal(size=1000)
    values = np.stack(columns, 1)
    with jax.enable_x64(True):
        coordinates = nd.posterior.PosteriorCoordinates(nd.Simulations(values, values))
        scales = [np.asarray(leaf.tree) for leaf in (coordinates.scale, coordinates.x_scale)]
        region = np.asarray(coordinates.region.scale.tree)
    for scale in scales:
        np.testing.assert_allclose(scale, [1, *values[:, 1:].std(0)], rtol=1e-6)
    assert region[0] == 1
