"""Labels of discrete families: exact sums and Gibbs sampling, beside transfer matrices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.moments import Rung, Status
from nnef_dists.sampling import gibbs_plan
from tests.spins import ising_truth, transfer

KEY = jax.random.key(0)
GRID = nd.families.Ising((5, 6))
RANGES = {"x": (-0.5, 0.5), "neighbors": (0.0, 0.5)}
CONFIG = nd.HMCConfig(chains=8, warmup=100, draws=200, min_ess=200.0, tile=8)


class Unanimous(nd.ExponentialFamily):
    """A statistic that jumps at points which no random point is close to."""

    x_shape = (20,)
    natural_domain = nd.domain()

    @property
    def support(self):
        return nd.families.Bits(20)

    def compute_stats(self, x):
        return {"x": jnp.sum(x), "all": (jnp.sum(x) == 20).astype(x.dtype)}


class Potts(nd.ExponentialFamily):
    """Neighbors of a chain that agree, of four categories, and a rare pair of them."""

    x_shape = (6,)
    natural_domain = nd.domain()

    @property
    def support(self):
        return nd.families.Categories(4, 6)

    def compute_stats(self, x):
        pair = (x[:-1] == 2) & (x[1:] == 3)
        agree = jnp.sum(x[1:] == x[:-1])
        return {"agree": agree.astype(float), "pair": jnp.sum(pair).astype(float)}


@functools.cache
def grid_labels():
    etas = GRID.sample_eta(KEY, 8, RANGES)
    return nd.estimate_moments(GRID, etas, jax.random.key(1), CONFIG)


class TestPlan:
    def test_a_grid_has_two_colors(self):
        plan = gibbs_plan(GRID)
        assert plan.is_affine
        assert plan.colors.shape == (2, 15)
        rows, columns = np.divmod(plan.colors, 6)
        assert np.ptp((rows + columns) % 2, axis=1).tolist() == [0, 0]

    def test_pairs_that_share_no_node_are_updated_together(self):
        for statistics in (("edges", "triangles"), ("edges", "two_stars")):
            family = nd.families.ExponentialRandomGraph(6, statistics)
            plan = gibbs_plan(family)
            pairs = np.stack(np.triu_indices(6, 1), 1)
            assert plan.is_affine
            assert len(plan.colors) <= 9
            for color in plan.colors:
                nodes = pairs[color[color < 15]].ravel()
                assert len(set(nodes)) == len(nodes)

    def test_other_statistics_are_updated_one_by_one(self):
        partners = nd.families.ExponentialRandomGraph(5, ("edges", "shared_partners"))
        for family in (partners, Unanimous(), Potts()):
            plan = gibbs_plan(family)
            assert not plan.is_affine
            assert plan.colors.shape == (family.support.sites, 1)

    @pytest.mark.parametrize(
        ("kind", "colors"), [("units", 2), ("penalty", 3), ("square", 12), ("both", 12)]
    )
    def test_small_terms_beside_large_ones_count(self, kind, colors):
        class Chain(nd.ExponentialFamily):
            x_shape, support, natural_domain = (12,), nd.families.Bits(12), nd.domain()

            def compute_stats(self, x):
                pairs, square = jnp.sum(x[1:] * x[:-1]), 0.3 * jnp.sum(x) ** 2
                return {
                    "units": {"m": 1e10 * jnp.sum(x), "pairs": pairs},
                    "penalty": {"e": 1e16 * pairs + 0.3 * jnp.sum(x[2:] * x[:-2])},
                    "square": {"m": 1e10 * jnp.sum(x), "square": square},
                    "both": {"e": 1e16 * pairs + square},
                }[kind]

        plan = gibbs_plan(Chain())
        assert len(plan.colors) == colors
        assert plan.is_affine == (kind in ("units", "penalty"))

    def test_statistics_have_to_be_finite(self):
        class Infinite(nd.ExponentialFamily):
            x_shape = (3,)
            natural_domain = nd.domain()

            @property
            def support(self):
                return nd.families.Bits(3)

            def compute_stats(self, x):
                return {"log_sum": jnp.log(x.sum() * 0)}

        with pytest.raises(ValueError, match="finite on"):
            gibbs_plan(Infinite())

    def test_counts_are_refused(self):
        with pytest.raises(ValueError, match="Gibbs sampling"):
            nd.moments.sample_gibbs(KEY, nd.families.Poisson(), jnp.zeros(1), 10)


class TestExactLabels:
    def test_counts(self):
        family = nd.families.ConwayMaxwellPoisson()
        etas = jnp.array([[2.0, -1.0], [np.log(3.0), -2.0]])
        data = nd.estimate_moments(family, etas, KEY)
        assert data.ok.all()
        assert (data.rung == Rung.EXACT).all()
        q = nd.Summation(family)
        for eta, mean, covariance in zip(etas, data.mean, data.covariance, strict=True):
            np.testing.assert_allclose(mean, q.mean(eta), rtol=1e-6)
            np.testing.assert_allclose(covariance, q.covariance(eta), rtol=1e-5)
        # The case of a stranger who fitted counts as if they were continuous.
        assert data.mean[1, 0] == pytest.approx(1.4535, abs=1e-4)
        assert "exact" not in repr(data)

    def test_a_sum_that_diverges_has_a_status(self):
        class Geometric(nd.ExponentialFamily):
            x_shape = ()
            natural_domain = nd.domain()

            @property
            def support(self):
                return nd.Counts()

            def compute_stats(self, x):
                return {"x": x}

        data = nd.estimate_moments(Geometric(), jnp.array([[-0.5], [0.5], [0.0]]), KEY)
        assert data.status.tolist() == [Status.OK, Status.DIVERGES, Status.DIVERGES]
        assert np.isnan(data.mean[1:]).all()
        assert data.mean[0, 0] == pytest.approx(1 / (np.exp(0.5) - 1), rel=1e-6)

    @pytest.mark.parametrize("scale", [1e20, 1e-23])
    def test_a_variance_outside_of_the_range_of_labels_has_a_status(self, scale):
        class Scaled(nd.ExponentialFamily):
            x_shape, support, natural_domain = (), nd.Counts(0, 3), nd.domain()

            def compute_stats(self, x):
                return {"x": scale * x}

        with jax.enable_x64(False):
            data = nd.estimate_moments(Scaled(), jnp.zeros((2, 1)), KEY)
        assert data.status.tolist() == [Status.NOT_FINITE] * 2
        assert np.isnan(data.covariance).all()

    def test_finite_families(self):
        family = nd.families.PairwiseBinary(4)
        etas = family.sample_eta(KEY, 3, {"x": (-2.0, 1.0), "xx": (-1.0, 1.0)})
        data = nd.estimate_moments(family, etas, KEY)
        q = nd.Enumeration(family)
        expected = jnp.stack([q.mean(eta) for eta in etas])
        np.testing.assert_allclose(data.mean, expected, rtol=1e-5)


class TestGibbsLabels:
    def test_means_are_those_of_the_transfer_matrix(self):
        data = grid_labels()
        assert data.ok.all(), data
        truth = [ising_truth(eta, (6, 5)) for eta in data.eta]
        _, mean, sd = (np.array(part) for part in zip(*truth, strict=True))
        z = (data.mean - mean) / sd
        t = (data.mean - mean) / data.standard_error
        assert np.sqrt(np.mean(z**2)) < 0.02
        assert 0.5 < np.sqrt(np.mean(t**2)) < 1.6
        variance = np.diagonal(data.covariance, axis1=1, axis2=2)
        np.testing.assert_allclose(np.sqrt(variance), sd, rtol=0.1)

    def test_control_variates_lower_the_error(self):
        data = grid_labels()
        plain = np.sqrt(np.diagonal(data.covariance, axis1=1, axis2=2) / data.ess)
        assert np.median(data.standard_error / plain) < 0.3

    def test_flips_carry_chains_between_ordered_phases(self):
        # Without a field both phases have the same probability, and single sites do not cross.
        eta = jnp.array([[0.0, 0.9]])
        data = nd.estimate_moments(GRID, jnp.tile(eta, (8, 1)), KEY, CONFIG)
        assert data.ok.all(), data
        _, mean, sd = ising_truth(eta[0], (6, 5))
        assert np.max(np.abs(data.mean[:, 0]) / sd[0]) < 0.2
        np.testing.assert_allclose(data.mean[:, 1], mean[1], atol=0.2 * sd[1])

    def test_a_constant_statistic_is_degenerate(self):
        data = nd.estimate_moments(GRID, jnp.array([[30.0, 1.0]] * 8), KEY, CONFIG)
        assert set(data.status.tolist()) == {Status.DEGENERATE}
        assert np.isnan(data.mean).all()

    def test_draws_are_integers_of_the_support(self):
        eta = jnp.array([0.1, 0.2])
        x, label = nd.moments.sample_gibbs(KEY, GRID, eta, 1000, CONFIG)
        assert label.status == Status.OK
        assert x.shape == (1000, 5, 6)
        assert set(np.unique(x)) == {-1, 1}
        _, mean, sd = ising_truth(eta, (6, 5))
        stats = jax.vmap(GRID.sufficient_statistics)(x)
        assert np.max(np.abs(stats.mean(0) - mean) / sd) < 0.2

    @pytest.mark.parametrize(
        ("family", "eta"), [(Unanimous(), (1.0, 4.0)), (Potts(), (0.3, 1.5))], ids=["bits", "Potts"]
    )
    def test_statistics_with_comparisons(self, family, eta):
        eta = jnp.array(eta)
        x, label = nd.moments.sample_gibbs(KEY, family, eta, 1600, CONFIG)
        q = nd.Enumeration(family)
        mean, sd = q.mean(eta), jnp.sqrt(jnp.diagonal(q.covariance(eta)))
        assert label.status == Status.OK
        assert np.max(np.abs(label.mean - mean) / label.standard_error) < 4
        stats = jax.vmap(family.sufficient_statistics)(x)
        assert np.max(np.abs(stats.mean(0) - mean) / sd) < 0.2

    def test_the_log_partition_is_annealed(self):
        eta = jnp.array([0.1, 0.3])
        found = nd.moments.estimate_log_partition(GRID, eta, KEY)
        exact = transfer(np.asarray(eta, float), (6, 5))
        assert found.standard_error < 0.02
        assert abs(found.value - exact) < 4 * found.standard_error


@pytest.mark.slow
def test_a_network_learns_the_moments_of_spins():
    """The networks and distributions of continuous families serve discrete ones."""
    import optax

    data, unseen = (
        nd.estimate_moments(
            GRID, GRID.sample_eta(jax.random.key(k), n, RANGES), jax.random.key(k), CONFIG
        ).only_ok()
        for k, n in ((2, 160), (3, 32))
    )
    assert len(data) > 156
    network = nd.LogPartitionNetwork(GRID, data, width=32, depth=2, key=KEY)
    assert network.base is None
    labels, (dynamic, static) = network.batch(data), nd.freeze_stdvs(network)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, 800))

    @jax.jit
    def fit(dynamic):
        def step(carry, key):
            dynamic, state = carry

            def loss(dynamic):
                return nd.sobolev_loss(nd.unfreeze_all(dynamic, static), labels, key)

            updates, state = optimizer.update(jax.grad(loss)(dynamic), state, dynamic)
            return (optax.apply_updates(dynamic, updates), state), None

        carry = dynamic, optimizer.init(dynamic)
        return jax.lax.scan(step, carry, jax.random.split(KEY, 800))[0][0]

    q = nd.validate(
        nd.AmortizedFamily(GRID, nd.unfreeze_all(fit(dynamic), static)), unseen, tolerance=0.03
    )
    truth = [ising_truth(eta, (6, 5)) for eta in unseen.eta]
    _, mean, sd = (np.array(part) for part in zip(*truth, strict=True))
    z = (jax.vmap(q.mean)(jnp.asarray(unseen.eta)) - mean) / sd
    assert np.sqrt(np.mean(np.square(z))) < 0.02
    x = q.sample(KEY, jnp.asarray(unseen.eta[0]), 100)
    assert set(np.unique(x)) == {-1, 1}
