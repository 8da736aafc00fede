"""What is tried for labels that fail: longer runs, importance sampling, tempered SMC."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.moments._ladder import _label_elsewhere, _label_longer, longer
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

    def test_the_summary_says_so(self, rescued):
        assert "3 by importance sampling" in repr(rescued)

    def test_a_label_does_not_depend_on_which_others_fail(self, rescued):
        alone = nd.estimate_moments(QUARTIC, jnp.asarray(APART[:1]), jax.random.key(40), LOCAL)
        for name in nd.MomentLabel._fields:
            assert getattr(alone, name)[0].tobytes() == getattr(rescued, name)[0].tobytes(), name

    def test_without_the_ladder_they_fail(self):
        config = nd.HMCConfig(global_moves=False, ladder=False, tile=8)
        data = nd.estimate_moments(QUARTIC, jnp.asarray(APART), jax.random.key(40), config)
        assert (data.ok == [False, False, True, False]).all()
        assert (data.rung == nd.Rung.HMC).all()


def test_a_longer_run_mends_a_short_one():
    etas = jnp.asarray([[0.0, 0.0, -1.0], [1.0, 1.0, -1.0]])
    # Standard errors from four chains are too rough to be compared with quadrature.
    config = dataclasses.replace(
        SHORT, chains=4, warmup=48, draws=60, min_ess=300.0, quadrature=False
    )
    data = nd.estimate_moments(QUARTIC, etas, jax.random.key(41), config)
    assert data.ok.all()
    assert (data.rung == nd.Rung.LONGER).all()
    assert (data.ess > 300).all()


def test_tempered_populations_know_the_moments():
    """The last rung of a lattice, whether or not it would have been needed."""
    family = nd.LatticePhi4(4)
    ranges = {"x": (-0.3, 0.3), "x2": (0.5, 1.5), "x4": (-1.0, -0.4), "neighbours": (0.2, 0.8)}
    etas = jax.jit(lambda key: family.sample_eta(key, 8, ranges))(jax.random.key(42))
    keys = jax.random.split(jax.random.key(43), 8)
    again = longer(SHORT)
    _, densities, modes = _label_longer(family, again, etas, keys)
    label = _label_elsewhere(again, densities, keys, modes)
    good = np.asarray(label.status) == nd.Status.OK
    assert good.sum() >= 6
    assert (np.asarray(label.rung) == nd.Rung.TEMPERED).all()
    exact = [truth.lattice_phi4(4, eta) for eta in np.asarray(etas, np.float64)]
    mean = np.array([one.mean for one in exact])
    t = ((np.asarray(label.mean) - mean) / np.asarray(label.standard_error))[good]
    assert np.max(np.abs(t)) < 6
    assert t.std() < 1.6


def test_what_is_not_a_number_is_tried_in_double_precision_alone():
    etas = jnp.asarray([[-1.0], [-2.0]])
    data = nd.estimate_moments(NotANumber(), etas, jax.random.key(44), SHORT)
    assert (data.status == nd.Status.NOT_FINITE).all()
    tried = nd.Rung.DOUBLE if data.eta.dtype == np.float32 else nd.Rung.HMC
    assert (data.rung == tried).all()
    for moments in (data.mean, data.covariance, data.standard_error):
        assert np.isnan(moments).all()


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k(k):
    """Weights w = u^-k of uniform u have a Pareto tail of shape k."""
    u = jax.random.uniform(jax.random.key(45), (20, 8000), minval=1e-7)
    estimates = jax.vmap(pareto_k)(-k * jnp.log(u))
    assert abs(float(jnp.mean(estimates)) - k) < 0.05
    assert float(jnp.std(estimates)) < 0.15


def test_pareto_k_of_weights_that_vanish():
    assert float(pareto_k(jnp.full(1000, -jnp.inf).at[0].set(0.0))) == np.inf
