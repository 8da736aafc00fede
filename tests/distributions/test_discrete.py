"""Summation and enumeration beside closed forms and sums by NumPy."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import nnef_dists as nd
from nnef_dists.sampling import states_table, sum_states
from tests.counts import conway_truth
from tests.registry import DISCRETE

KEY = jax.random.key(0)
CONWAY = nd.Summation(nd.families.ConwayMaxwellPoisson())
CLOSED = [case for case in DISCRETE if case.has_closed_form]


class AnyCounts(nd.ExponentialFamily):
    """Counts with other statistics, by name."""

    kind: str
    lower: int = 0
    upper: int | None = None
    x_shape = ()
    natural_domain = nd.domain()

    @property
    def support(self):
        return nd.Counts(self.lower, self.upper)

    def compute_stats(self, x):
        return {
            "zipf": lambda: {"log_x": jnp.log(x)},
            "inflated": lambda: {"zero": (x == 0) * 1.0, "even": (x % 2 == 0) * 1.0, "x": x},
            "comb": lambda: {"spikes": (x % 1000 == 7) * 40.0, "x": x},
            "weekly": lambda: {"x": x, "cos": jnp.cos(2 * jnp.pi * x / 7)},
            "two": lambda: {"wells": (x - 30) ** 2 * (x - 70_000) ** 2 * 1e-9, "x": x},
        }[self.kind]()

    def log_base_measure(self, x):
        is_poisson = self.kind in ("inflated", "weekly")
        return -jax.scipy.special.gammaln(x + 1) if is_poisson else jnp.zeros(())


def truth(log_weights, stats):
    """A, means and standard deviations by sums in double precision."""
    log_partition = scipy.special.logsumexp(log_weights)
    p = np.exp(log_weights - log_partition)
    mean = p @ stats
    return log_partition, mean, np.sqrt(p @ (stats - mean) ** 2)


class TestSummation:
    @pytest.mark.parametrize(
        ("mode", "dispersion"), [(3, 2), (0.1, 0.05), (0.5, 5), (1e3, 0.05), (1e5, 0.05), (1e5, 5)]
    )
    def test_moments_are_exact(self, mode, dispersion):
        eta = np.array([dispersion * math.log(mode), -dispersion])
        log_partition, mean, sd = conway_truth(eta)
        with jax.enable_x64(True):
            found = CONWAY.mean(eta)
            assert np.max(np.abs(found - mean) / sd) < 1e-9
            assert abs(CONWAY.log_partition(eta) - log_partition) < 1e-9
        # In single precision the eta is another one, and the sum is in double precision.
        narrow = jnp.asarray(eta, jnp.float32)
        _, mean, sd = conway_truth(np.asarray(narrow, np.float64))
        found = CONWAY.mean(narrow)
        assert found.dtype == jnp.float32
        rounding = np.finfo(np.float32).eps * np.abs(mean)
        assert np.max((np.abs(np.asarray(found, np.float64) - mean) - rounding) / sd) < 1e-4

    def test_derivatives_are_moments(self):
        eta = jnp.array([1.2, -0.8])
        with jax.enable_x64(True):
            eta = eta.astype(float)
            _, mean, sd = conway_truth(np.asarray(eta))
            np.testing.assert_allclose(jax.grad(CONWAY.log_partition)(eta), mean, rtol=1e-10)
            np.testing.assert_allclose(jnp.diagonal(CONWAY.covariance(eta)), sd**2, rtol=1e-8)

    def test_a_compiled_program_is_right_or_nan(self):
        mean = jax.jit(CONWAY.mean)
        eta = jnp.array([2 * math.log(3.0), -2.0], jnp.float32)
        np.testing.assert_allclose(mean(eta), CONWAY.mean(eta), rtol=1e-5)
        if jnp.result_type(float) == jnp.float32:
            far = jnp.array([5 * math.log(1e5), -5.0], jnp.float32)
            assert jnp.isnan(mean(far)).all()
            assert jax.jit(CONWAY.accuracy)(far) == jnp.inf

    def test_the_accuracy_is_infinite_where_moments_are_nan(self):
        q = nd.Summation(nd.families.Poisson())
        both = jax.jit(jax.vmap(lambda eta: (q.mean(eta), q.accuracy(eta))))
        mean, limit = both(jnp.array([[1.0], [6.1], [9.0]], jnp.float32))
        assert np.array_equal(np.isnan(mean[:, 0]), np.isinf(limit))
        assert np.isnan(mean[1, 0])
        assert limit[0] < 1e-4

    def test_concrete_etas_inside_of_other_programs(self):
        eta = jnp.array([1.0, -1.0], jnp.float32)
        found = jax.jit(lambda y: y * CONWAY.mean(eta))(jnp.float32(2))
        np.testing.assert_allclose(found, 2 * CONWAY.mean(eta), rtol=1e-5)
        jacobian = jax.jacfwd(lambda y: y * CONWAY.mean(eta))(jnp.float32(2))
        np.testing.assert_allclose(jacobian, CONWAY.mean(eta), rtol=1e-6)

    def test_results_have_the_widest_floating_dtype_of_the_arguments(self):
        q = nd.Enumeration(nd.families.Ising((2, 2)))
        x = jnp.ones((2, 2), jnp.float32)
        with jax.enable_x64(False):
            for dtype in (jnp.float16, jnp.bfloat16, jnp.float32):
                assert q.mean(jnp.ones(2, dtype)).dtype == dtype
            assert q.log_prob(x, jnp.ones(2, jnp.bfloat16)).dtype == jnp.float32
        with jax.enable_x64(True):
            assert q.log_prob(x, jnp.ones(2, jnp.float64)).dtype == jnp.float64
            assert q.log_prob(x, jnp.ones(2, jnp.float32)).dtype == jnp.float32
            assert jax.eval_shape(CONWAY.mean, jnp.ones(2, jnp.float32)).dtype == jnp.float32

    def test_a_power_law_has_the_zeta_function(self):
        q = nd.Summation(AnyCounts("zipf", lower=1))
        for power in (1.5, 3.0, 20.0):
            exact = math.log(scipy.special.zeta(power))
            assert abs(q.log_partition(jnp.array([-power])) - exact) < 1e-4 + 1e-6 * abs(exact)
        for power in (1.05, 1.0, 0.5):
            with pytest.raises(ValueError, match="converges to 1e-3"):
                q.mean(jnp.array([-power]))
        assert jnp.isnan(jax.jit(q.mean)(jnp.array([-1.0]))).all()

    @pytest.mark.parametrize("eta", [(2.0, 0.5, 1.0), (8.0, -1.0, 5.0), (30.0, 0.7, 9.2)])
    def test_statistics_need_not_be_smooth(self, eta):
        x = np.arange(40_000.0)
        stats = np.stack([x == 0, x % 2 == 0, x], 1).astype(float)
        _, mean, sd = truth(stats @ np.asarray(eta) - scipy.special.gammaln(x + 1), stats)
        found = nd.Summation(AnyCounts("inflated")).mean(jnp.array(eta))
        np.testing.assert_allclose(found, mean, rtol=1e-6, atol=1e-6 * sd.max())

    def test_statistics_may_oscillate_while_the_density_does_not(self):
        q = nd.Summation(AnyCounts("weekly"))
        with jax.enable_x64(True):
            eta = jnp.array([math.log(1e4), 0.0])
            np.testing.assert_allclose(q.mean(eta)[1], 0, atol=1e-9)
            np.testing.assert_allclose(q.covariance(eta)[1, 1], 0.5, rtol=1e-9)
            # Here the distribution has more periods than panels.
            with pytest.raises(ValueError, match="converges to 1e-3"):
                q.mean(jnp.array([math.log(1e6), 0.0]))

    def test_spikes_between_nodes_count_or_are_refused(self):
        q = nd.Summation(AnyCounts("comb"))
        x = np.arange(2_000_000.0)
        stats = np.stack([(x % 1000 == 7) * 40.0, x], 1)
        for slope in (-0.01, -0.005):
            _, mean, sd = truth(stats @ np.array([1.0, slope]), stats)
            found = q.mean(jnp.array([1.0, slope]))
            assert abs(found[1] - mean[1]) < 1e-4 * sd[1]
        # Here a third of the mass is beyond the counts that are summed.
        with pytest.raises(ValueError, match="converges to 1e-3"):
            q.mean(jnp.array([1.0, -1e-4]))

    @pytest.mark.parametrize("eta", [(-1.0, 0.0), (-1.0, 1e-4), (-1e-3, 0.0)])
    def test_narrow_modes_far_apart_count(self, eta):
        x = np.arange(200_000.0)
        stats = np.stack([(x - 30) ** 2 * (x - 70_000) ** 2 * 1e-9, x], 1)
        log_partition, mean, sd = truth(stats @ np.asarray(np.float32(eta), float), stats)
        q = nd.Summation(AnyCounts("two"))
        found = np.asarray(q.mean(jnp.array(eta, jnp.float32)), float)
        assert np.all(np.abs(found - mean) <= 1e-6 * sd + 2e-7 * np.abs(mean))
        assert abs(q.log_partition(jnp.array(eta)) - log_partition) < 1e-5

    def test_a_bound_is_advised_where_statistics_are_infinite(self):
        with pytest.raises(ValueError, match=r"Declare nd.Counts\(lower=1\)"):
            nd.Summation(AnyCounts("zipf"))
        with pytest.raises(ValueError, match=r"support nd\.Counts"):
            nd.Summation(nd.Gamma())

    def test_bounded_counts_end(self):
        q = nd.Summation(AnyCounts("zipf", 3, 1000))
        x = np.arange(3, 1001.0)
        log_partition, mean, _ = truth(0.7 * np.log(x), np.log(x)[:, None])
        np.testing.assert_allclose(q.mean(jnp.array([0.7])), mean, rtol=1e-6)
        np.testing.assert_allclose(q.log_partition(jnp.array([0.7])), log_partition, rtol=1e-6)

    def test_draws_have_the_distribution(self):
        eta = jnp.array([0.1 * math.log(300.0), -0.1])
        x = np.asarray(CONWAY.sample(KEY, eta, 20_000))
        assert x.dtype.kind == "i"
        _, mean, sd = conway_truth(np.asarray(eta, float))
        z = (x.mean() - mean[0]) / sd[0] * math.sqrt(len(x))
        assert abs(z) < 4
        assert abs(x.std() / sd[0] - 1) < 0.03
        assert np.mean(x % 2) == pytest.approx(0.5, abs=0.02)


class TestClosedForms:
    @pytest.mark.parametrize("case", CLOSED, ids=str)
    def test_formulas_are_sums(self, case):
        family = case.make()
        is_counts = isinstance(family.support, nd.Counts)
        sums, formulas = (
            (nd.Summation if is_counts else nd.Enumeration)(family),
            nd.ClosedForm(family),
        )
        for eta in family.sample_eta(KEY, 3, case.ranges):
            np.testing.assert_allclose(sums.mean(eta), formulas.mean(eta), rtol=1e-5)
            np.testing.assert_allclose(
                sums.log_partition(eta), formulas.log_partition(eta), rtol=1e-5
            )

    @pytest.mark.parametrize("case", CLOSED, ids=str)
    def test_scipy_agrees(self, case):
        family, q = case.make(), nd.ClosedForm(case.make())
        for eta in family.sample_eta(KEY, 3, case.ranges):
            parts = family.unflatten_stats_or_eta(eta)
            reference = case.reference({k: np.asarray(v, float) for k, v in parts.items()})
            for x in range(4):
                np.testing.assert_allclose(q.log_prob(x, eta), reference.logpmf(x), rtol=1e-4)
        draws = q.sample(KEY, eta, 4000)
        assert abs(np.mean(draws) - reference.mean()) < 5 * reference.std() / math.sqrt(4000)


class TestEnumeration:
    @pytest.mark.parametrize(
        "case", [c for c in DISCRETE if not isinstance(c.make().support, nd.Counts)], ids=str
    )
    def test_sums_over_all_points(self, case):
        family = case.make()
        q = nd.Enumeration(family)
        eta = family.sample_eta(KEY, 1, case.ranges)[0]
        values = family.support.values
        points = np.array(list(itertools.product(values, repeat=family.support.sites)))
        points = points.reshape(-1, *family.x_shape)
        stats = np.asarray(jax.vmap(family.sufficient_statistics)(jnp.asarray(points)), float)
        log_partition, mean, sd = truth(stats @ np.asarray(eta, float), stats)
        np.testing.assert_allclose(q.log_partition(eta), log_partition, rtol=1e-6)
        assert np.max(np.abs(q.mean(eta) - mean) / sd) < 1e-5
        np.testing.assert_allclose(jnp.diagonal(q.covariance(eta)), sd**2, rtol=1e-4)
        # Probabilities of all points sum to 1.
        logs = jax.vmap(lambda x: q.log_prob(x, eta))(jnp.asarray(points))
        assert abs(np.exp(np.asarray(logs, float)).sum() - 1) < 1e-4

    def test_a_table_and_a_pass_over_all_points_agree(self):
        family = nd.families.Ising((3, 4))
        eta = jnp.array([0.2, 0.3])
        table = states_table(family)
        assert len(table.stats) < 100
        one, two = (jax.jit(sum_states, static_argnums=0)(family, eta, t)
                    for t in (table, None))  # fmt: skip
        for a, b in zip(one, two, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4)

    @pytest.mark.parametrize("penalty", [1e12, 1e16])
    @pytest.mark.parametrize("is_measure", [False, True])
    def test_penalties_keep_small_differences(self, penalty, is_measure):
        class Chain(nd.ExponentialFamily):
            x_shape, support = (6,), nd.families.Bits(6)
            natural_domain = nd.domain(e=nd.families.negative)

            def is_bad(self, x):
                return jnp.sum(x[1:] * x[:-1]) > 0

            def compute_stats(self, x):
                energy = jnp.sum(x * jnp.arange(1, 7) * 0.3)
                return {
                    "n": jnp.sum(x),
                    "e": energy if is_measure else jnp.where(self.is_bad(x), penalty, energy),
                }

            def log_base_measure(self, x):
                return jnp.where(self.is_bad(x) & is_measure, -penalty, 0.0)

        q, eta = nd.Enumeration(Chain()), jnp.array([0.5, -1.0])
        np.testing.assert_allclose(q.mean(eta), [1.46352, 1.32097], atol=2e-5)
        np.testing.assert_allclose(q.log_partition(eta), 2.25618, atol=2e-5)

    def test_graphs_collapse_to_few_cells(self):
        table = nd.Enumeration(nd.families.ExponentialRandomGraph(5)).table.tree
        assert table.stats.shape == (21, 2)
        assert np.exp(table.log_weights).sum() == pytest.approx(2**10)

    def test_draws_have_the_distribution(self):
        family = nd.families.Ising((3, 4))
        q, eta = nd.Enumeration(family), jnp.array([0.2, 0.3])
        x = q.sample(KEY, eta, 4000)
        assert x.dtype.kind == "i"
        assert set(np.unique(x)) == {-1, 1}
        stats = jax.vmap(family.sufficient_statistics)(x)
        z = (stats.mean(0) - q.mean(eta)) / jnp.sqrt(jnp.diagonal(q.covariance(eta)) / 4000)
        assert np.max(np.abs(z)) < 4

    def test_too_many_points_are_refused(self):
        with pytest.raises(ValueError, match=r"at most 2\^24 points.*2\^36"):
            nd.Enumeration(nd.families.Ising((6, 6)))
        with pytest.raises(ValueError, match="infinitely many"):
            nd.Enumeration(nd.families.Poisson())
        with pytest.raises(ValueError, match="finite support"):
            nd.Enumeration(nd.Gamma())


def test_maximum_likelihood_inverts_the_mean():
    family = nd.families.Ising((3, 4))
    q, eta = nd.Enumeration(family), jnp.array([0.2, 0.3])
    np.testing.assert_allclose(q.natural_parameters(q.mean(eta)), eta, atol=1e-4)


def test_a_site_of_numpyro_scores_counts():
    eta = jnp.array([1.0, -1.0])
    site = CONWAY.at(eta).to_numpyro()
    assert float(site.log_prob(2)) == pytest.approx(2 - math.log(2) - math.e, abs=1e-5)
    assert site.support(jnp.asarray(2))
    assert not site.support(jnp.asarray(0.5))
