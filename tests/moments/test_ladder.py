"""What is tried for labels that fail: longer runs, importance sampling, tempered SMC."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.moments._diagnostics import missing_labels
from nnef_dists.moments._discrete import discrete_ladder
from nnef_dists.moments._ladder import LADDER, LongerRun, TemperedSMC
from nnef_dists.moments._rung import AbstractRung, Climb
from nnef_dists.sampling import pareto_k
from tests import truth
from tests.moments.conftest import QUARTIC
from tests.moments.exact import polynomial_moments
from tests.moments.user_families import NotANumber

# Without global moves the wells of these quartics stay apart.
APART = [[0.0, 20.0, -1.0], [1.0, 20.0, -1.0], [0.0, -1.0, -0.5], [0.0, 30.0, -1.0]]
LOCAL = nd.HMCConfig(global_moves=False, tile=8)
SHORT = nd.HMCConfig(
    chains=8,
    warmup=120,
    draws=100,
    min_ess=100.0,
    max_rhat=1.05,
    tile=8,
    control_variates=False,
)


@pytest.fixture(scope="module")
def rescued():
    return nd.estimate_moments(QUARTIC, jnp.asarray(APART), jax.random.key(40), LOCAL)


class TestSeparateWells:
    def test_importance_sampling_weighs_them(self, rescued):
        assert rescued.ok.all()
        assert (rescued.rung == [2, 2, 0, 2]).all()
        mean, covariance = polynomial_moments(APART)
        sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        z = (rescued.mean - mean) / sd
        assert np.max(np.abs(z)) < 0.03
        assert np.max(np.abs(rescued.mean - mean) / rescued.standard_error) < 5

    def test_each_diagnostic_has_one_meaning(self, rescued):
        weighted = rescued.rung == nd.moments.Rung.IMPORTANCE
        assert np.isnan(rescued.acceptance[weighted]).all()
        assert (rescued.acceptance[~weighted] > 0.5).all()
        # A mixture of Student t distributions at the modes of a quartic wastes some of its draws.
        assert (rescued.effective_fraction[weighted] > 0.2).all()
        assert (rescued.effective_fraction[weighted] < 1).all()
        assert (rescued.effective_fraction[~weighted] == 1).all()

    def test_the_summary_says_so(self, rescued):
        assert "3 by importance sampling" in repr(rescued)

    def test_a_label_does_not_depend_on_which_others_fail(self, rescued):
        alone = nd.estimate_moments(QUARTIC, jnp.asarray(APART[:1]), jax.random.key(40), LOCAL)
        for name in nd.moments.MomentLabel._fields:
            assert getattr(alone, name)[0].tobytes() == getattr(rescued, name)[0].tobytes(), name

    def test_without_the_ladder_they_fail(self):
        config = nd.HMCConfig(global_moves=False, ladder=False, tile=8)
        data = nd.estimate_moments(QUARTIC, jnp.asarray(APART), jax.random.key(40), config)
        assert (data.ok == [False, False, True, False]).all()
        assert (data.rung == nd.moments.Rung.HMC).all()


def test_a_longer_run_mends_a_short_one():
    etas = jnp.asarray([[0.0, 0.0, -1.0], [1.0, 1.0, -1.0]])
    # Standard errors from four chains are too rough to be compared with quadrature.
    config = dataclasses.replace(
        SHORT, chains=4, warmup=48, draws=60, min_ess=300.0, quadrature=False
    )
    data = nd.estimate_moments(QUARTIC, etas, jax.random.key(41), config)
    assert data.ok.all()
    assert (data.rung == nd.moments.Rung.LONGER).all()
    assert (data.ess > 300).all()


def test_tempered_populations_know_the_moments():
    """The last rung of a lattice, whether or not it would have been needed."""
    family = nd.LatticePhi4(4)
    ranges = {"x": (-0.3, 0.3), "x2": (0.5, 1.5), "x4": (-1.0, -0.4), "neighbors": (0.2, 0.8)}
    etas = jax.jit(lambda key: family.sample_eta(key, 8, ranges))(jax.random.key(42))
    climb, rows = Climb(family, SHORT, etas, jax.random.split(jax.random.key(43), 8)), np.arange(8)
    LongerRun().label(climb, rows)
    label = TemperedSMC().label(climb, rows)
    good = label.status == nd.Status.OK
    assert good.sum() >= 6
    assert ((label.acceptance > 0.5) & (label.acceptance <= 1)).all()
    exact = [truth.lattice_phi4(4, eta) for eta in np.asarray(etas, np.float64)]
    mean = np.array([one.mean for one in exact])
    t = ((np.asarray(label.mean) - mean) / np.asarray(label.standard_error))[good]
    assert np.max(np.abs(t)) < 6
    assert t.std() < 1.6


def test_what_is_not_a_number_is_tried_in_double_precision_alone():
    etas = jnp.asarray([[-1.0], [-2.0]])
    data = nd.estimate_moments(NotANumber(), etas, jax.random.key(44), SHORT)
    assert (data.status == nd.Status.NOT_FINITE).all()
    tried = nd.moments.Rung.DOUBLE if data.eta.dtype == np.float32 else nd.moments.Rung.HMC
    assert (data.rung == tried).all()
    for moments in (data.mean, data.covariance, data.standard_error):
        assert np.isnan(moments).all()


class OneByOne(AbstractRung):
    """Labels one eta: the first that has none."""

    rung = nd.moments.Rung.HMC

    def __init__(self, status):
        self.status, self.rows = status, []

    def tries(self, climb):
        return climb.has(nd.Status.MISSING) & (np.arange(len(climb.etas)) == len(self.rows))

    def label(self, climb, rows):
        self.rows.append(rows)
        self.keys = climb.fresh_keys(rows)
        labels = missing_labels(len(rows), climb.family.eta_dim, climb.etas.dtype)
        labels.status[:] = self.status
        return labels


class TestList:
    """A rung of one's own in the list."""

    @staticmethod
    def climb(ladder, **changes):
        etas, keys = jnp.zeros((3, 1)), jax.random.split(jax.random.key(46), 3)
        config = dataclasses.replace(SHORT, **changes)
        climb = Climb(NotANumber(), config, etas, keys)
        return climb, climb.run(ladder)

    def test_rungs_are_tried_in_their_order_until_a_label_is_valid(self):
        rung = OneByOne(nd.Status.OK)
        _, labels = self.climb([rung, rung, rung])
        assert list(labels.status) == [nd.Status.OK] * 3
        assert [list(rows) for rows in rung.rows] == [[0], [1], [2]]

    def test_what_no_rung_is_for_is_missing(self):
        _, labels = self.climb([OneByOne(nd.Status.OK)])
        assert list(labels.status) == [nd.Status.OK, nd.Status.MISSING, nd.Status.MISSING]
        assert np.isnan(labels.mean).all()

    def test_each_try_of_an_eta_has_another_key(self):
        climb, _ = self.climb([])
        rows = np.array([1, 2])
        first, second = climb.fresh_keys(rows), climb.fresh_keys(np.array([0, 2]))
        assert (first == climb.keys[rows]).all()
        assert second[0] == climb.keys[0]
        assert second[1] == jax.random.fold_in(climb.keys[2], 1)

    def test_every_rung_of_the_package_has_a_name_of_its_own(self):
        ladders = (
            LADDER,
            discrete_ladder(nd.families.Poisson()),
            discrete_ladder(nd.families.Ising((6, 6))),
        )
        names = [[rung.rung for rung in ladder] for ladder in ladders]
        assert {name for ladder in names for name in ladder} == set(nd.moments.Rung)
        assert all(len(set(ladder)) == len(ladder) for ladder in names)
        assert all(nd.moments.Rung(ladder[0]).is_first for ladder in names)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k(k):
    """Weights w = u^-k of uniform u have a Pareto tail of shape k."""
    u = jax.random.uniform(jax.random.key(45), (20, 8000), minval=1e-7)
    estimates = jax.vmap(pareto_k)(-k * jnp.log(u))
    assert abs(float(jnp.mean(estimates)) - k) < 0.05
    assert float(jnp.std(estimates)) < 0.15


def test_pareto_k_of_weights_that_vanish():
    assert all(float(pareto_k(jnp.zeros(n))) == np.inf for n in (2, 5))
    assert float(pareto_k(jnp.full(1000, -jnp.inf).at[0].set(0.0))) == np.inf
