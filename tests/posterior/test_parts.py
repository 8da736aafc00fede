"""Parts of heads: supports, coordinates, normal laws, embeddings; and what single heads promise."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flowjax.bijections import Affine, Chain, Exp, Scale

import nnef_dists as nd
from tests.families.checks import assert_coordinates_are_a_bijection
from tests.networks.exact import family_of, moments_of
from tests.numerics import assert_close
from tests.posterior.simulators import box, normal_prior, simulations
from tests.registry import HEADS


def made(kind, *args, key=0, **options):
    """A module with random weights, made in one program."""
    return eqx.filter_jit(lambda key: kind(*args, **options, key=key))(jax.random.key(key))


OPTIONS = {"width": 4, "depth": 1, "key": jax.random.key(0)}
HEAD = "Expected head to be an instance of AbstractPosterior; got "
DATA = "Expected data to be an instance of Simulations; got "
BATCH = "Expected batch to be an instance of SimulationBatch; got {}. Use data.arrays(), or nnef_di"
SUPPORT = "'width']; got 'bounds'. Use support=nnef_dists.BoxSupport(low, high)."
BOUNDS = {"bounds": (jnp.zeros(2), jnp.ones(2))}
FLOW = Affine(jnp.zeros(2), jnp.ones(2))
MISTAKES = {
    "bounds of a flow": (lambda data, _: nd.FlowPosterior(data, FLOW, **BOUNDS, **OPTIONS),
                         SUPPORT),
    "bounds of layers": (lambda data, _: nd.FlowPosterior.autoregressive(data, **BOUNDS, **OPTIONS),
                         SUPPORT),
    "bounds of a family": (lambda data, _: nd.ExponentialFamilyPosterior(
        nd.ClosedForm(nd.MultivariateNormal(2)), data, **BOUNDS, **OPTIONS), SUPPORT),
    "bounds of counts": (lambda data, _: nd.posterior.CategoricalPosterior(
        data, 2, **BOUNDS, **OPTIONS), "got 'bounds'. Omit it."),
    "near option": (lambda data, _: nd.MixturePosterior(data, n_components=3, **OPTIONS),
                    "got 'n_components'. Did you mean 'components'?"),
    "far option": (lambda data, _: nd.GaussianPosterior(data, foo=3, **OPTIONS), "Expected keyword "
                   "arguments among ['activation', 'bounds', 'context', 'depth', 'diagonal', "
                   "'embedding', 'key', 'param_type', 'support', 'width']; got 'foo'. Omit it."),
    "near option of layers": (lambda data, _: nd.FlowPosterior.coupling(data, layer=3, **OPTIONS),
                              "got 'layer'. Did you mean 'layers'?"),
    "no flow": (lambda data, _: nd.FlowPosterior(data, None, **OPTIONS), "Expected flow as a "
                "flowjax distribution or bijection; got NoneType. FlowPosterior.autoregressive"),
    "arrays for data": (lambda data, _: nd.GaussianPosterior(data.arrays(), **OPTIONS), DATA +
                        "SimulationBatch."),
    "family and data": (lambda data, _: nd.ExponentialFamilyPosterior(
        data, nd.ClosedForm(nd.MultivariateNormal(2)), **OPTIONS), DATA + "ClosedForm."),
    "seed of a head": (lambda data, _: nd.MixturePosterior(data, key=0), "key; got 0. Use jax.ran"),
    "seed to draw": (lambda data, head: head.sample(0, data.x[0], 3), "key; got 0. Use jax.ran"),
    "seed of weights": (lambda data, head: head.log_prob(data.theta[0], data.x[0], key=0), "got 0"),
    "seed of a set": (lambda *_: nd.posterior.SetEmbedding((3, 2), key=0), "key; got 0. Use jax"),
    "seed of a series": (lambda *_: nd.posterior.SeriesEmbedding((9, 2), key=0), "key; got 0. Use"),
    "seed to truncate": (lambda data, head: nd.posterior.truncate_prior(
        normal_prior(), head, data.x[0], 0), "key; got 0. Use jax.random.key(seed)"),
    "head and prior": (lambda data, head: nd.posterior.truncate_prior(
        head, normal_prior(), data.x[0], jax.random.key(0)), HEAD + "StandardNormal."),
    "seed of members": (lambda _, head: nd.posterior.EnsemblePosterior.of_draws(head, 0, 3),
                        "key; got 0. Use jax.random.key(seed)"),
    "dict for a batch": (lambda data, head: nd.nll_loss(head, vars(data)), BATCH.format("dict")),
    "tuple for a batch": (lambda data, head: nd.posterior.nll_elbo_loss(
        head, (data.theta, data.x), jax.random.key(0), total=64), BATCH.format("tuple")),
    "batch and head": (lambda data, head: nd.nll_loss(data.arrays(), head), HEAD + "SimulationBat"),
    "seed of a loss": (lambda data, head: nd.posterior.nll_elbo_loss(
        head, data.arrays(), 0, total=64), "key; got 0. Use jax.random.key(seed)"),
}  # fmt: skip


@functools.cache
def small_head():
    return nd.GaussianPosterior(simulations(), **OPTIONS)


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("name", MISTAKES)
def test_likely_mistakes(name):
    call, message = MISTAKES[name]
    with pytest.raises(ValueError) as error:  # noqa: PT011
        call(simulations(), small_head())
    assert message in str(error.value)


class TestBoxSupport:
    def test_is_a_bijection(self):
        assert_coordinates_are_a_bijection(box(3))

    def test_a_uniform_law_is_standard_normal(self):
        theta = jnp.array([-0.4, 1.9])
        u, log_det = box().inverse_and_log_det(theta)
        normal = scipy.stats.norm.logpdf(np.asarray(u, float)).sum()
        np.testing.assert_allclose(normal + log_det, -2 * np.log(3.0), rtol=1e-5)

    def test_ends_belong_to_it(self):
        for theta in (jnp.array([-1.0, 2.0]), jnp.array([2.0, -1.0])):
            u, log_det = box().inverse_and_log_det(theta)
            assert np.isfinite(u).all()
            assert np.isfinite(log_det)
        assert np.isnan(box().inverse(jnp.array([-1.001, 0.0]))[0])
        far = box().transform(jnp.array([-50.0, 50.0]))
        assert np.array_equal(far, [-1.0, 2.0])

    @pytest.mark.parametrize("low", [2.0, np.nan, -np.inf])
    def test_refuses(self, low):
        with pytest.raises(ValueError, match=r"Expected (finite low|low < high)"):
            nd.BoxSupport(jnp.array([low]), jnp.array([2.0]))

    def test_traced_ends_give_nan(self):
        def transform(low):
            return nd.BoxSupport(low, jnp.array([2.0])).transform(jnp.zeros(1))

        assert jax.jit(transform)(jnp.array([1.0])) == 1.5
        assert np.isnan(jax.jit(transform)(jnp.array([3.0])))
        assert jax.jit(lambda: nd.BoxSupport(jnp.zeros(1), jnp.ones(1)).transform(jnp.zeros(1)))()


class TestCoordinates:
    def test_are_of_order_one(self):
        data = simulations(uniform=True)
        coordinates = nd.posterior.PosteriorCoordinates(data, box())
        inputs = jax.jit(jax.vmap(coordinates.inputs))(jnp.asarray(data.x))
        assert_close(inputs.mean(0), np.zeros(2), scale=1.0)
        assert_close(inputs.std(0), np.ones(2))
        u, _, inside = jax.jit(jax.vmap(coordinates.unconstrain))(jnp.asarray(data.theta))
        assert inside.all()
        assert_close(jax.jit(jax.vmap(coordinates.constrain))(u), data.theta)

    def test_channels_keep_together(self):
        rng = np.random.default_rng(0)
        x = (3 + rng.normal(size=(50, 7, 2))).astype(np.float32)
        x[..., 1] = 5.0  # a constant stays unscaled
        data = nd.Simulations(rng.normal(size=(50, 1)).astype(np.float32), x)
        coordinates = nd.posterior.PosteriorCoordinates(data, by_channel=True)
        assert coordinates.x_shift.tree.shape == (2,)
        assert coordinates.x_scale.tree[1] == 1
        assert nd.posterior.PosteriorCoordinates(data).x_shift.tree.shape == (7, 2)

    def test_refuses(self):
        data = simulations()
        with pytest.raises(ValueError, match="Expected theta inside the support"):
            nd.posterior.PosteriorCoordinates(data, box())
        with pytest.raises(ValueError, match="Expected an unconditional support of shape"):
            nd.posterior.PosteriorCoordinates(data, box(3))
        with pytest.raises(ValueError, match="Expected at least two simulations"):
            nd.posterior.PosteriorCoordinates(data[:1])

    def test_any_flowjax_bijection_is_a_support(self):
        data = simulations()
        positive = nd.Simulations(np.exp(data.theta), data.x)
        support = Chain([Scale(jnp.array([1.0, 2.0])), Exp((2,))])
        head = made(nd.GaussianPosterior, positive, support=support, width=8, depth=1)
        x = jnp.asarray(data.x[0])
        assert eqx.filter_jit(head.sample)(jax.random.key(1), x, 20).min() > 0
        assert eqx.filter_jit(head.log_prob)(jnp.array([-1.0, 1.0]), x) == -np.inf


class TestNormal:
    @pytest.mark.parametrize("d", [1, 2, 3, 5, 8])
    def test_is_scipys(self, d):
        rng = np.random.default_rng(d)
        mean, log_scale = rng.normal(size=(2, d))
        lower = np.tril(rng.normal(size=(d, d)), -1)
        law = nd.posterior.Normal(*(jnp.asarray(a, float) for a in (mean, log_scale, lower)))

        @jax.jit
        def found(law, u):
            return law.scale_tril, law.covariance, law.log_variance, law.log_prob(u)

        whitening = (np.eye(d) + lower) / np.exp(log_scale)
        factor = np.linalg.inv(whitening)
        covariance = factor @ factor.T
        u = mean + factor @ rng.normal(size=d)
        scale_tril, found_covariance, log_variance, log_prob = found(law, jnp.asarray(u, float))
        np.testing.assert_allclose(scale_tril, factor, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(found_covariance, covariance, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(log_variance, np.log(np.diag(covariance)), atol=1e-3)
        exact = scipy.stats.multivariate_normal(mean, covariance).logpdf(u)
        np.testing.assert_allclose(log_prob, exact, atol=1e-3)


class TestMixture:
    def test_weights_and_components(self):
        head = made(nd.MixturePosterior, simulations(), 4, width=8, depth=1)
        law = eqx.filter_jit(head.parameters)(jnp.zeros(2))
        assert_close(jnp.sum(law.weights), 1.0)
        assert law.components.mean.shape == (4, 2)
        assert law.components.scale_tril.shape == (4, 2, 2)
        assert len(np.unique(law.components.mean)) == 8
        with pytest.raises(ValueError, match="Expected components >= 1"):
            nd.MixturePosterior(simulations(), 0, key=jax.random.key(0))


class TestFlow:
    def test_any_conditional_flow(self):
        options = {"width": 8, "depth": 1}
        head = made(nd.FlowPosterior.coupling, simulations(), layers=1, features=4, **options)
        alone = made(nd.FlowPosterior, simulations(), head.flow.bijection, key=1, **options)
        assert alone.parameters(jnp.zeros(2)).shape == (4,)
        with pytest.raises(ValueError, match=r"Expected a flow of shape \(3,\)"):
            nd.FlowPosterior(simulations(theta_dim=3), head.flow, key=jax.random.key(1))
        with pytest.raises(ValueError, match="Expected theta_dim >= 2"):
            nd.FlowPosterior.coupling(simulations(theta_dim=1), key=jax.random.key(0))


class TestExponentialFamily:
    def make(self, **options):
        data, options = simulations(theta_dim=1), {"width": 8, "depth": 1} | options
        return made(nd.ExponentialFamilyPosterior, family_of("GaussianNatural1D"), data, **options)

    def test_stays_in_the_box(self):
        head = self.make()
        q = family_of("GaussianNatural1D")
        x = 1000 * jax.random.normal(jax.random.key(1), (64, 1))
        laws = jax.jit(jax.vmap(head.parameters))(x)
        assert jax.jit(jax.vmap(q.network.is_inside))(laws.eta).all()
        assert np.all(laws.scale > 0)

    def test_the_family_is_no_part_of_the_weights(self):
        """Its weights are uncertain; the head's draws, prior and entropy leave them out."""
        head = self.make()
        drawn = eqx.filter_jit(nd.sample_all_parameters)(head, jax.random.key(1))
        for one, two in zip(jax.tree.leaves(head.q), jax.tree.leaves(drawn.q), strict=True):
            assert np.array_equal(one, two)
        entropy, prior = jax.jit(nd.bayes.entropy), jax.jit(lambda model: model.compute_prior())
        assert_close(entropy(head), entropy(head.trunk))
        assert_close(prior(head), prior(head.trunk))

    @pytest.mark.parametrize("source", [nd.ClosedForm, nd.Quadrature])
    def test_without_location_and_scale_theta_is_the_familys(self, source):
        """Of sources without a network, whose etas are those of the natural domain."""
        q, options = source(nd.GaussianNatural1D()), {"width": 8, "depth": 1, "affine": False}
        head = made(nd.ExponentialFamilyPosterior, q, simulations(theta_dim=1), **options)
        law = eqx.filter_jit(head.parameters)(jnp.ones(1))
        expected = nd.ClosedForm(q.family).log_prob(jnp.asarray(0.3), law.eta)
        found = eqx.filter_jit(head.log_prob)(jnp.array([0.3]), jnp.ones(1))
        assert_close(found, expected, ulps=256, scale=10.0)

    def test_refuses(self):
        with pytest.raises(ValueError, match="Expected a family of points of size theta_dim = 2"):
            nd.ExponentialFamilyPosterior(
                family_of("GaussianNatural1D"), simulations(), key=jax.random.key(0)
            )
        direct = nd.AmortizedFamily(nd.GaussianNatural1D(), moments_of("GaussianNatural1D"))
        with pytest.raises(ValueError, match="Expected an AbstractLogPartitionNetwork"):
            nd.ExponentialFamilyPosterior(direct, simulations(theta_dim=1), key=jax.random.key(0))

    @pytest.mark.parametrize(
        ("family", "theta_dim"),
        [(nd.RectifiedGaussian(), 1), (nd.Beta(), 1), (nd.VonMisesHarmonic(1), 1),
         (nd.families.VonMisesFisher(3), 3), (nd.families.DirichletPrior(2), 2)],
    )  # fmt: skip
    def test_location_and_scale_need_a_family_on_the_whole_space(self, family, theta_dim):
        q, data = nd.Quadrature(family), simulations(theta_dim=theta_dim)
        with pytest.raises(ValueError, match=r"x fill R\^d.*Use affine=False if this is"):
            nd.ExponentialFamilyPosterior(q, data, key=jax.random.key(0))

    def test_refuses_a_family_of_counts(self):
        for affine in (True, False):
            with pytest.raises(ValueError, match=r"of continuous x; got Poisson.*CategoricalPost"):
                nd.ExponentialFamilyPosterior(
                    nd.Summation(nd.families.Poisson()),
                    simulations(theta_dim=1),
                    affine=affine,
                    key=jax.random.key(0),
                )


class TestEnsemble:
    def test_is_the_average(self):
        theta, x = jnp.zeros(2), jnp.ones(2)

        @jax.jit
        def both(key):
            dynamic, static = nd.freeze_means(HEADS[2].make(simulations(), None, key))
            head = nd.unfreeze_all(jax.tree.map(lambda raw: raw + 0.3, dynamic), static)
            ensemble = nd.posterior.EnsemblePosterior.of_draws(head, jax.random.key(1), 3)
            keys = jax.random.split(jax.random.key(1), 3)
            each = [nd.sample_all_parameters(head, key).log_prob(theta, x) for key in keys]
            return ensemble.log_prob(theta, x), jnp.stack(each)

        together, each = both(jax.random.key(0))
        assert len({float(value) for value in each}) == 3
        expected = np.log(np.mean(np.exp(np.asarray(each, float))))
        assert_close(together, expected, ulps=256, scale=10.0)

    def test_refuses(self):
        head = HEADS[2].make(simulations(), None, jax.random.key(0))
        with pytest.raises(ValueError, match="Expected one leading axis"):
            nd.posterior.EnsemblePosterior(head)
        with pytest.raises(ValueError, match="Expected n >= 1"):
            nd.posterior.EnsemblePosterior.of_draws(head, jax.random.key(0), 0)

    def test_refuses_heads_of_different_simulations(self):
        data = simulations()
        heads = [HEADS[2].make(part, None, jax.random.key(0)) for part in (data[::2], data[1::2])]
        arrays, rest = zip(*(eqx.partition(head, eqx.is_array) for head in heads), strict=True)
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *arrays)
        with pytest.raises(ValueError, match="Expected members with equal coordinates"):
            nd.posterior.EnsemblePosterior(eqx.combine(stacked, rest[0]))


class TestEmbeddings:
    def data(self, rows=6, channels=2):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(16, rows, channels)).astype(np.float32)
        return nd.Simulations(rng.normal(size=(16, 1)).astype(np.float32), x)

    def test_the_order_of_a_set_does_not_matter(self):
        data = self.data()
        embedding = made(nd.posterior.SetEmbedding, (6, 2), 4, width=8, dtype="float32")
        head = made(nd.GaussianPosterior, data, embedding=embedding, width=8, depth=1, key=1)
        theta, x = jnp.asarray(data.theta[0]), jnp.asarray(data.x[0])
        log_prob = eqx.filter_jit(head.log_prob)
        value = log_prob(theta, x)
        assert_close(log_prob(theta, x[::-1]), value, ulps=256, scale=1.0)
        assert abs(log_prob(theta, x.at[0].add(1.0)) - value) > 1e-4

    @pytest.mark.parametrize("times", [1, 7, 16])
    def test_series(self, times):
        data = self.data(times)
        embedding = made(nd.posterior.SeriesEmbedding, (times, 2), 4, width=8, dtype="float32")
        head = made(nd.GaussianPosterior, data, embedding=embedding, width=8, depth=1, key=1)
        names = head.get_parameters()
        assert any("kernels[1]" in name for name in names)
        theta, x = jnp.asarray(data.theta[0]), jnp.asarray(data.x[0])
        value, drawn = (
            eqx.filter_jit(head.log_prob)(theta, x, key=key) for key in (None, jax.random.key(2))
        )
        assert np.isfinite(value)
        assert value != drawn

    def test_saves_and_loads(self, tmp_path):
        data = self.data()
        x = jnp.asarray(data.x[0])
        for make in (nd.posterior.SetEmbedding, nd.posterior.SeriesEmbedding):
            embedding = made(make, (6, 2), 4, dtype="float32")
            nd.save(tmp_path / "embedding", embedding)
            call = jax.jit(lambda embedding: embedding(x))
            assert np.array_equal(call(nd.load(tmp_path / "embedding")), call(embedding))

    def test_refuses(self):
        embedding = nd.posterior.SetEmbedding((5, 2), key=jax.random.key(0))
        with pytest.raises(ValueError, match=r"Expected an embedding of x of shape \(6, 2\)"):
            nd.GaussianPosterior(self.data(), embedding=embedding, key=jax.random.key(1))
        with pytest.raises(ValueError, match="Expected channels >= 1; got 0"):
            nd.posterior.SetEmbedding((5, 0), key=jax.random.key(0))
        with pytest.raises(ValueError, match="Expected width >= 1; got 0"):
            nd.GaussianPosterior(self.data(), width=0, key=jax.random.key(1))
