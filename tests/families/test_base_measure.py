"""A base measure as one more statistic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.families.checks import assert_quadrature_agrees
from tests.truth import Truth

pytestmark = pytest.mark.usefixtures("strict_promotion")


class HalfNormal(nd.ExponentialFamily):
    """exp(eta x - x^2 / 2) on x > 0."""

    x_shape = ()
    natural_domain = nd.domain()
    support = nd.Gamma().support

    def compute_stats(self, x):
        return {"x": x}

    def log_base_measure(self, x):
        return jnp.where(x > 0, -(x**2) / 2, -jnp.inf)


FAMILY = nd.families.BaseMeasureAsStatistic(HalfNormal(), 0.5, 2.0)


def test_at_one_it_is_the_family():
    eta, xs = jnp.asarray([0.7]), jnp.asarray([0.3, 2.0, -1.0])
    tempered = jax.vmap(FAMILY.logdensity_fn(FAMILY.to_natural(eta)))(xs)
    plain = jax.vmap(HalfNormal().logdensity_fn(eta))(xs)
    assert np.array_equal(tempered, plain)
    assert np.isneginf(tempered[-1])
    assert np.isfinite(jax.vmap(FAMILY.sufficient_statistics)(xs)).all()


@pytest.mark.parametrize("t", [0.6, 1.0, 1.9])
def test_its_moments_hold_that_of_log_h(t):
    """Against a rectangle rule on a fine grid."""

    def exact(eta):
        x = np.linspace(0, 30, 2_000_001)[1:]
        stats = np.stack([x, -(x**2) / 2], -1)
        logs = stats @ eta
        weights = np.exp(logs - logs.max())
        # Half the weight at 0, by which the rule is the trapezoidal one.
        total = (weights.sum() + np.exp(-logs.max()) / 2) * x[0]
        p = weights * x[0] / total
        mean = p @ stats
        covariance = ((stats - mean) * p[:, None]).T @ (stats - mean)
        rest = 1 - p.sum()
        covariance += rest * np.outer(mean, mean)
        return Truth(float(np.log(total) + logs.max()), mean, covariance)

    assert_quadrature_agrees(FAMILY, [0.7, t], exact)


def test_it_is_a_family():
    assert FAMILY.stat_shapes == {"x": (), "log_h": ()}
    assert FAMILY.has_unit_base_measure
    assert not HalfNormal().has_unit_base_measure
    for t, valid in ((0.4, False), (0.6, True), (2.1, False)):
        assert bool(FAMILY.is_valid_eta(jnp.asarray([0.0, t]))) is valid
    etas = FAMILY.sample_eta(jax.random.key(0), 8, {"x": (-1, 1), "log_h": (0.9, 1.1)})
    assert jax.vmap(FAMILY.is_valid_eta)(etas).all()
    assert hash(FAMILY) == hash(nd.families.BaseMeasureAsStatistic(HalfNormal(), 0.5, 2.0))


@pytest.mark.parametrize("family", [nd.Gamma(), nd.Beta(), nd.Dirichlet(3), nd.Polynomial1D((2,))])
def test_indicators_are_no_base_measures(family):
    assert family.has_unit_base_measure
    with pytest.raises(ValueError, match=r"Expected a family with a base measure"):
        nd.families.BaseMeasureAsStatistic(family, 0.5, 2.0)


def test_bounds_enclose_one():
    for bounds in ((1.0, 2.0), (0.5, 1.0), (2.0, 0.5)):
        with pytest.raises(ValueError, match=r"low < 1 < high"):
            nd.families.BaseMeasureAsStatistic(HalfNormal(), *bounds)
