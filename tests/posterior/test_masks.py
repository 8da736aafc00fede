"""Observations with a mask: the padding has no effect, and the number of trials has one."""

import functools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.posterior import masked_observation
from tests.posterior import structured
from tests.posterior.simulators import normal_prior

ROWS, CHANNELS = 7, 2
KINDS = ("set", "series", "vector")
# Programs of all of a head take seconds to compile.
FEW_KINDS = ("set", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:]))
JUNK = (np.nan, np.inf, -np.inf, 3.0e38, -1.0)


@functools.cache
def data_of(kind, n=512):
    """Prefixes of random length, with single missing entries; vectors with missing entries."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(n, 1))
    shape = (n, ROWS) if kind == "vector" else (n, ROWS, CHANNELS)
    values = theta.reshape(n, *(1,) * (len(shape) - 1)) + rng.normal(size=shape)
    observed = rng.uniform(size=shape) < 0.8
    if kind != "vector":
        observed &= (np.arange(ROWS) < rng.integers(1, ROWS + 1, (n, 1)))[:, :, None]
    observed.reshape(n, -1)[:, 0] = True
    x = np.stack([np.where(observed, values, 0), observed], -1)
    return nd.Simulations(theta.astype(np.float32), x.astype(np.float32))


def embedding_of(kind, data):
    options = {"masked": True, "width": 8, "key": jax.random.key(0), "dtype": "float32"}
    if kind == "set":
        return nd.posterior.SetEmbedding(data.x_shape, 4, **options)
    if kind == "series":
        return nd.posterior.SeriesEmbedding(data.x_shape, 4, **options)
    return nd.posterior.MaskedVectorEmbedding(data.x_shape)


@functools.cache
def head_of(kind):
    data = data_of(kind)

    @jax.jit
    def make(key):
        return nd.GaussianPosterior(
            data, embedding=embedding_of(kind, data), width=8, depth=1, key=key
        )

    return make(jax.random.key(1))


@eqx.filter_jit
def everything(head, theta, x):
    """All that a head gives: density, draws, parameters, region, loss and its gradient."""
    batch = nd.posterior.SimulationBatch(theta[None], x[None])
    dynamic, static = nd.freeze_stdvs(head)
    loss, gradient = jax.value_and_grad(lambda d: nd.nll_loss(nd.unfreeze_all(d, static), batch))(
        dynamic
    )
    return (
        head.log_prob(theta, x),
        head.sample(jax.random.key(0), x, 3),
        head.parameters(x),
        head.coordinates.region.scores(x),
        head.coordinates.inputs(x),
        nd.posterior.nll_elbo_loss(head, batch, jax.random.key(1), total=10),
        loss,
        gradient,
        jax.grad(lambda x: head.log_prob(theta, x))(x),
    )


def filled(x, content):
    """The same observation with other content of what is missing."""
    values = np.where(x[..., 1] == 1, x[..., 0], np.asarray(content, np.float32))
    return jnp.asarray(np.stack([values, x[..., 1]], -1))


class TestPadding:
    @pytest.mark.parametrize("kind", FEW_KINDS)
    def test_its_content_changes_no_bit(self, kind):
        head, data = head_of(kind), data_of(kind)
        theta, x = jnp.asarray(data.theta[0]), data.x[0]
        expected = everything(head, theta, jnp.asarray(x))
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(expected))
        rng = np.random.default_rng(0)
        for content in (*JUNK, rng.normal(size=x.shape[:-1]) * 1e30):
            found = everything(head, theta, filled(x, content))
            for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
                assert np.array_equal(one, two)

    @pytest.mark.parametrize("kind", KINDS)
    def test_its_content_changes_no_bit_outside_of_programs(self, kind):
        """Concrete observations are checked by NumPy, and none of this warns or raises."""
        head, x = head_of(kind), data_of(kind).x[0]
        region = head.coordinates.region
        expected = head.coordinates.inputs(jnp.asarray(x))
        for content in (np.nan, np.inf, 3.0e38):
            other = filled(x, content)
            assert np.array_equal(head.coordinates.inputs(other), expected)
            scores = region.concrete_scores(np.asarray(other))
            assert np.array_equal(scores, region.concrete_scores(x))

    @pytest.mark.parametrize("kind", [pytest.param("set", marks=pytest.mark.slow), "series"])
    def test_its_length_does_not_matter(self, kind):
        head, data = head_of(kind), data_of(kind)
        theta = jnp.asarray(data.theta[0])
        # The last row is missing, so shorter padding is possible too.
        x = next(x for x in data.x if not x[-1, :, 1].any() and x[-2, :, 1].any())
        call = eqx.filter_jit(
            lambda x: (head.log_prob(theta, x), head.parameters(x).mean, head.is_inside(x))
        )
        expected = call(jnp.asarray(x))
        for rows in (-1, 10):
            more = np.zeros((max(rows, 0), CHANNELS, 2), np.float32)
            more[..., 0] = np.nan
            found = call(jnp.asarray(np.concatenate([x, more])[: ROWS + rows]))
            for one, two in zip(found, expected, strict=True):
                np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)

    @pytest.mark.slow
    def test_float64(self):
        with jax.enable_x64(True):
            data = data_of("series")
            data = nd.Simulations(data.theta.astype(float), data.x.astype(float))
            shape, key = data.x_shape, jax.random.key(0)
            embedding = nd.posterior.SeriesEmbedding(
                shape, 4, masked=True, width=4, dtype="float64", key=key
            )
            found = jax.eval_shape(embedding, jax.ShapeDtypeStruct(shape, "float64"))
            assert found.dtype == "float64"
            coordinates = nd.posterior.PosteriorCoordinates(data, masked=True, by_channel=True)
            assert coordinates.inputs(jnp.asarray(data.x[0])).dtype == "float64"


class TestMasks:
    @pytest.mark.parametrize("kind", ["vector", *FEW_KINDS[:2]])
    def test_others_are_refused(self, kind):
        head, data = head_of(kind), data_of(kind)
        theta, x = jnp.asarray(data.theta[0]), jnp.asarray(data.x[0])
        first = (0,) * (x.ndim - 1)
        cases = {
            "got 0.5 at": x.at[(*first, 1)].set(0.5),
            "got nan at": x.at[(*first, 1)].set(jnp.nan),
            "got 2.0 at": x.at[(*first, 1)].set(2.0),
            "at least one observed entry": x.at[..., 1].set(0.0),
            "Expected a finite observation x; got nan": x.at[(*first, 0)].set(jnp.nan),
        }
        call = eqx.filter_jit(lambda x: (head.log_prob(theta, x), head.is_inside(x)))
        for message, bad in cases.items():
            with pytest.raises(ValueError, match=message):
                head.log_prob(theta, bad)
            value, inside = call(bad)
            assert np.isnan(value)
            assert not inside
            if "finite" not in message:
                with pytest.raises(ValueError, match=message):
                    head.trunk.embedding(bad)
        embedded = eqx.filter_jit(head.trunk.embedding)(cases["at least one observed entry"])
        assert np.isnan(embedded).all()

    def test_of_simulations_are_checked(self):
        data = data_of("set")
        x = data.x.copy()
        x[5, ..., 1] = 0
        with pytest.raises(ValueError, match=r"at least one observed entry; .*simulation 5, one"):
            nd.posterior.PosteriorCoordinates(nd.Simulations(data.theta, x), masked=True)
        with pytest.raises(ValueError, match=r"Expected masked x of shape \(..., 2\)"):
            nd.posterior.PosteriorCoordinates(nd.Simulations(data.theta, x[..., :1]), masked=True)

    def test_other_shapes_are_refused(self, without_type_checks):
        key = jax.random.key(0)
        for make in (nd.posterior.SetEmbedding, nd.posterior.SeriesEmbedding):
            with pytest.raises(ValueError, match=r"or masked=True if it has a mask; got \(5, 3, 2"):
                make((5, 3, 2), key=key)
            for shape in ((5, 3), (5, 3, 3)):
                with pytest.raises(ValueError, match="made by masked_observation"):
                    make(shape, masked=True, key=key)
        with pytest.raises(ValueError, match="made by masked_observation"):
            nd.posterior.MaskedVectorEmbedding((4,))
        for kind, shape in (("set", "(rows, 2, 2)"), ("vector", "(7, 2)")):
            with pytest.raises(ValueError, match=re.escape(f"Expected x of shape {shape}; got")):
                head_of(kind).parameters(jnp.ones((9, 3, 2)))


class TestHelper:
    def test_marks_rows_and_entries(self):
        values = jnp.array([[1.0, 2.0], [3.0, jnp.nan], [jnp.inf, 5.0]])
        x = masked_observation(values, jnp.array([True, False, False]))
        assert np.array_equal(x[..., 1], [[1, 1], [0, 0], [0, 0]])
        assert np.array_equal(x[..., 0], [[1, 2], [0, 0], [0, 0]])
        x = masked_observation(values, jnp.isfinite(values))
        assert np.array_equal(x[..., 0], [[1, 2], [3, 0], [0, 5]])
        assert np.array_equal(masked_observation(np.ones(3))[:, 1], np.ones(3))
        # A failure of the simulator at an observed entry is seen.
        assert np.isnan(masked_observation(values)[1, 1, 0])

    @pytest.mark.parametrize(
        ("observed", "message"),
        [
            (np.ones(2, bool), r"of shape \(3, 2\) or of its leading axes; got \(2,\)"),
            (np.ones((3, 3), bool), r"got \(3, 3\)"),
            (np.array(True), r"got \(\)"),
            (np.ones(3), "dtype bool; got float"),
        ],
    )
    def test_refuses(self, observed, message, without_type_checks):
        with pytest.raises(ValueError, match=message):
            masked_observation(jnp.ones((3, 2)), observed)

    def test_simulations_with_missing_entries_are_kept(self, tmp_path):
        def simulator(key, theta):
            values = theta + jax.random.normal(key, (5, 1))
            observed = jnp.arange(5) < jax.random.randint(key, (), 1, 6)
            return masked_observation(jnp.where(observed[:, None], values, jnp.nan), observed)

        def simulate(**options):
            return nd.simulate(simulator, normal_prior(1), jax.random.key(0), 20, **options)

        data = simulate(progress=False, path=tmp_path / "data")
        assert data.failed == 0
        assert data.x.shape == (20, 5, 1, 2)
        assert np.array_equal(nd.posterior.open_simulations(tmp_path / "data").x, data.x)
        with pytest.warns(UserWarning, match="Missing entries need a mask"):
            nd.simulate(
                lambda key, theta: theta / jnp.where(theta > 0, 1, jnp.nan),
                normal_prior(1), jax.random.key(0), 20, progress=False,
            )  # fmt: skip
        with pytest.raises(ValueError, match="Mark missing entries"):
            nd.Simulations(data.theta, np.where(data.x[..., 1:] == 1, data.x, np.nan))


class TestStandardization:
    def test_is_of_observed_entries(self):
        rng = np.random.default_rng(0)
        values = rng.normal(3.0, 2.0, (200, 6, 2))
        observed = rng.uniform(size=values.shape) < 0.5
        observed[:, 0] = True
        x = np.stack([np.where(observed, values, 1e6), observed], -1).astype(np.float32)
        data = nd.Simulations(rng.normal(size=(200, 1)).astype(np.float32), x)
        fixed = nd.posterior.PosteriorCoordinates(data, masked=True, by_channel=True)
        for channel in range(2):
            seen = values[..., channel][observed[..., channel]]
            np.testing.assert_allclose(fixed.x_shift.tree[channel], seen.mean(), rtol=1e-5)
            np.testing.assert_allclose(fixed.x_scale.tree[channel], seen.std(), rtol=1e-5)
        inputs = np.asarray(fixed.inputs(jnp.asarray(x[0])))
        assert np.all(inputs[..., 0][~observed[0]] == 0)
        assert np.array_equal(inputs[..., 1], observed[0])


class TestRegion:
    @pytest.mark.parametrize("exchangeable", [True, False])
    def test_takes_fresh_simulations_alone(self, exchangeable):
        """Of 500 fresh ones at most 1 % are outside; other values, numbers and patterns are."""

        def draw(rng, n):
            theta = rng.normal(size=(n, 1, 1))
            values = theta + rng.normal(size=(n, 20, 1))
            observed = (np.arange(20) < rng.integers(5, 11, (n, 1)))[..., None]
            return np.stack([np.where(observed, values, 0), observed], -1).astype(np.float32)

        options = {"exchangeable": exchangeable, "masked": True}
        region = nd.posterior.ObservationRegion(draw(np.random.default_rng(0), 1000), **options)
        fresh = draw(np.random.default_rng(1), 500)
        scores = np.array([region.concrete_scores(one) for one in fresh])
        assert np.mean(scores.max(1) > 1) <= 0.01
        traced = eqx.filter_jit(eqx.filter_vmap(region.scores))(jnp.asarray(fresh[:16]))
        np.testing.assert_allclose(traced, scores[:16], rtol=2e-3, atol=2e-3)

        def outside(change):
            x = draw(np.random.default_rng(2), 1)[0]
            change(x)
            return region.concrete_scores(x).max() > 1

        def far(x):
            x[2, 0, 0] = 40.0

        def too_many(x):
            x[..., 1] = 1

        def too_few(x):
            x[1:, :, 1] = 0

        assert outside(far)
        assert outside(too_many)
        assert outside(too_few)

    def test_warns_of_numbers_that_were_not_simulated(self):
        x = masked_observation(jnp.zeros((60, CHANNELS)))
        with pytest.warns(nd.distributions.ExtrapolationWarning, match="number of observed ones"):
            head_of("set").parameters(x)


class TestEmbeddings:
    def test_the_number_of_trials_is_seen(self):
        """Repeated rows have the mean of one of them."""
        embedding = head_of("set").trunk.embedding
        rows = jnp.ones((5, CHANNELS))
        call = eqx.filter_jit(lambda n: embedding(masked_observation(rows, jnp.arange(5) < n)))
        one, five = (call(jnp.asarray(n)) for n in (1, 5))
        assert np.abs(one - five).max() > 1e-3

    def test_the_order_of_a_set_does_not_matter(self):
        head, data = head_of("set"), data_of("set")
        call = eqx.filter_jit(lambda x: head.parameters(x).mean)
        for x in data.x[:3]:
            found = call(jnp.asarray(x[::-1].copy()))
            np.testing.assert_allclose(found, call(jnp.asarray(x)), rtol=1e-5, atol=1e-6)

    def test_the_times_of_a_series_matter(self):
        embedding = head_of("series").trunk.embedding
        call = eqx.filter_jit(embedding)
        values = jnp.arange(ROWS * CHANNELS, dtype=float).reshape(ROWS, CHANNELS)
        late = call(masked_observation(values, jnp.arange(ROWS) > 2))
        assert np.abs(late - call(masked_observation(values))).max() > 1e-3
        assert (
            np.abs(call(masked_observation(values[::-1])) - call(masked_observation(values))).max()
            > 1e-3
        )

    @pytest.mark.parametrize("kind", FEW_KINDS)
    def test_saves_and_loads(self, kind, tmp_path):
        head, x = head_of(kind), jnp.asarray(data_of(kind).x[0])
        nd.save(tmp_path / "head", head)
        theta = jnp.zeros(1)
        again = everything(nd.load(tmp_path / "head"), theta, x)
        for one, two in zip(
            jax.tree.leaves(again), jax.tree.leaves(everything(head, theta, x)), strict=True
        ):
            assert np.array_equal(one, two)


@pytest.mark.slow
class TestExactPosteriors:
    def test_sets_of_one_to_twenty_trials(self):
        """A tenth of the benchmark's work, so that its figure is not asked for at one trial."""
        model = structured.Trials(20)
        head = structured.head_of(model, structured.data_of(model, 2048), 16)
        head = structured.fit(head, model, jax.random.key(2), 2500, 128)
        for n, most in ((1, 0.15), (3, 0.08), (10, 0.05), (20, 0.05)):
            size = jnp.asarray(n)
            off, log_ratio = structured.errors_of_trials(head, model, jax.random.key(3), size, 400)
            assert np.sqrt(np.mean(off**2)) < most
            assert np.sqrt(np.mean(log_ratio**2)) < most

    def test_missing_sensors(self):
        model = structured.Sensors()
        head = structured.head_of(model, structured.data_of(model, 2048))
        head = structured.fit(head, model, jax.random.key(2), 3000, 128)
        nats = structured.errors_of_gaussians(head, model, jax.random.key(3), 1000)
        assert np.mean(nats) < 0.04
