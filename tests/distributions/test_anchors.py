"""Anchors of the log-partition, base measures, the box of the training etas, and saving."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import nnef_dists as nd
from tests.networks.exact import (
    CASES,
    data_of,
    etas_of,
    family_of,
    labeled,
    potential_of,
    uncertain,
)
from tests.numerics import assert_close, epsilon

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAUSSIAN = CASES["GaussianNatural1D"][0]
LATTICE = nd.LatticePhi4(3)
ETA = (0.1, 0.2, -0.5, 0.1)


class QuadraticMoments(nd.networks.AbstractLogPartitionNetwork):
    """A = 2 |eta|^2 + shift . eta: a network of whatever family."""

    family: nd.ExponentialFamily = eqx.field(static=True)
    standardization: nd.networks.Standardization
    shift: nd.AbstractParameter

    def potential(self, eta):
        return 2 * jnp.sum(eta**2) + jnp.sum(self.shift.mean * eta)


@functools.cache
def lattice_network():
    """A network of a family that has neither closed form nor quadrature."""
    ranges = {"x": (-0.5, 0.5), "x2": (-1.0, 1.0), "x4": (-1.0, -0.2), "neighbors": (-0.5, 0.5)}
    etas = LATTICE.sample_eta(jax.random.key(0), 16, ranges)
    return labeled(QuadraticMoments(LATTICE, None, uncertain(jnp.ones(4, etas.dtype))), etas)


class TestAnchors:
    def test_without_one_differences_remain(self):
        net = lattice_network()
        q = nd.AmortizedFamily(LATTICE, net)
        one, two = jnp.asarray([[0.1, 0.2, -0.5, 0.1], [0.0, -0.3, -0.6, 0.2]])
        assert q.anchor is None
        kl = jax.jit(lambda q: q.kl(one, two))(q)
        exact = (one - two) @ net(one) - net.log_partition(one) + net.log_partition(two)
        assert_close(kl, exact, scale=10.0)
        for call in (q.log_partition, q.entropy, lambda eta: q.log_prob(jnp.zeros(3), eta)):
            with pytest.raises(ValueError, match=r"Expected an anchor.*estimate_log_partition"):
                call(one)

    def test_given_ones_are_met(self):
        eta = jnp.asarray([0.1, 0.2, -0.5, 0.1])
        anchor = nd.moments.LogPartitionEstimate(eta, jnp.asarray(2.5), jnp.asarray(0.1), "guessed")
        q = nd.AmortizedFamily(LATTICE, lattice_network(), anchor=anchor)
        assert q.log_partition(eta) == 2.5
        assert dataclasses.replace(q, strict=True).log_partition(eta) == 2.5

    def test_the_default_is_at_a_training_eta_in_the_middle(self):
        q = family_of("GaussianNatural1D")
        etas = np.asarray(etas_of("GaussianNatural1D"))
        assert np.any(np.all(etas == np.asarray(q.center), axis=1))
        inputs = q.network.standardization.inputs(q.center)
        # Inputs have variance 1, and a range of -1.7 to 1.7.
        assert np.max(np.abs(inputs)) < 0.5
        assert np.array_equal(q.anchor.tree.eta, q.center)
        assert q.anchor.tree.method == "closed form"
        assert_close(q.log_partition(q.center), np.asarray(GAUSSIAN.log_partition(q.center)))

    def test_what_does_not_belong_is_refused(self):
        net = potential_of("GaussianNatural1D")
        with pytest.raises(ValueError, match=r"Expected a network of Gamma.*GaussianNatural1D"):
            nd.AmortizedFamily(nd.Gamma(), net)
        anchor = nd.moments.LogPartitionEstimate(jnp.zeros(3), jnp.zeros(()), jnp.zeros(()), "none")
        with pytest.raises(ValueError, match=r"shape \(2,\); got \(3,\)"):
            nd.AmortizedFamily(GAUSSIAN, net, anchor=anchor)


class Tempered(nd.ExponentialFamily):
    """A normal of variance 1, by a base measure."""

    x_shape = ()
    natural_domain = nd.domain()

    def compute_stats(self, x):
        return {"x": x}

    def log_base_measure(self, x):
        return -(x**2) / 2


class TemperedPotential(nd.networks.AbstractLogPartitionNetwork):
    """The log of the integral of exp(eta x - t x^2 / 2)."""

    family: nd.ExponentialFamily = eqx.field(static=True)
    standardization: nd.networks.Standardization
    shift: nd.AbstractParameter

    def potential(self, eta):
        return eta[0] ** 2 / (2 * eta[1]) - jnp.log(eta[1]) / 2 + self.shift.mean[0]


class TestBaseMeasures:
    def test_the_entropy_needs_it_as_a_statistic(self):
        """Any normal of variance 1 has the entropy log(2 pi e) / 2."""
        family = nd.families.BaseMeasureAsStatistic(Tempered(), 0.5, 2.0)
        etas = family.sample_eta(
            jax.random.key(0), 16, {"x": (-2.0, 2.0), "log_h": (0.6, 1.9, "log")}
        )
        net = labeled(TemperedPotential(family, None, uncertain(jnp.ones(1, etas.dtype))), etas)
        q = nd.AmortizedFamily(family, net)
        assert q.anchor.tree.method == "quadrature"
        assert q.anchor.tree.standard_error < 1e-4
        eta = jnp.asarray([1.3])
        entropy = q.entropy(family.to_natural(eta))
        assert abs(entropy - scipy.stats.norm().entropy()) < 64 * epsilon(eta) * 3

    def test_without_it_there_is_none(self):
        class Other(nd.GaussianNatural1D.__mro__[1]):
            x_shape = ()
            natural_domain = GAUSSIAN.natural_domain

            def compute_stats(self, x):
                return GAUSSIAN.compute_stats(x)

            def log_base_measure(self, x):
                return jnp.cos(x)

            def log_partition(self, eta):
                return GAUSSIAN.log_partition(eta)

            def mean(self, eta):
                return GAUSSIAN.mean(eta)

        family, net = Other(), potential_of("GaussianNatural1D")
        q = nd.AmortizedFamily(family, dataclasses.replace(net, family=family))
        with pytest.raises(ValueError, match=r"base measure.*BaseMeasureAsStatistic"):
            q.entropy(jnp.array([0.5, -1.0]))


class TestLeavingTheBox:
    FAR = (0.5, -40.0)

    def test_training_etas_are_inside(self):
        q = family_of("GaussianNatural1D")
        assert jax.vmap(q.network.is_inside)(etas_of("GaussianNatural1D")).all()
        assert not q.network.is_inside(jnp.array(self.FAR))

    def test_it_is_warned_of(self):
        q, far = family_of("GaussianNatural1D"), jnp.array(self.FAR)
        with pytest.warns(nd.distributions.ExtrapolationWarning, match="got .*-40"):
            mean = q.mean(far)
        assert_close(mean, np.asarray(GAUSSIAN.mean(far)))
        for call in (q.covariance, q.log_partition, q.entropy, q.is_positive_definite):
            with pytest.warns(nd.distributions.ExtrapolationWarning):
                call(far)
        # Inside a transformation nothing can warn, and warnings are errors here.
        assert_close(jax.jit(lambda q: q.mean(far))(q), np.asarray(mean))

    def test_a_strict_family_refuses(self):
        q, far = family_of("GaussianNatural1D", strict=True), jnp.array(self.FAR)
        near = etas_of("GaussianNatural1D")[0]
        with pytest.raises(ValueError, match=r"in the training region.*-40"):
            q.mean(far)
        compiled = jax.jit(lambda q, eta: q.mean(eta))
        with pytest.raises(RuntimeError, match="in the training region"):
            compiled(q, far).block_until_ready()
        assert_close(compiled(q, near), np.asarray(GAUSSIAN.mean(near)))

    def test_an_invalid_eta_is_refused(self):
        q = family_of("GaussianNatural1D", sampler=nd.distributions.QuadratureSampler())
        draw = functools.partial(q.sample, jax.random.key(0), n=2)
        for call in (q.mean, q.covariance, q.entropy, draw):
            with pytest.raises(ValueError, match=r"'x2'.*negative"):
                call(jnp.array([0.5, 1.0]))


def test_saving(tmp_path):
    """All is in the file: `load` needs the path alone."""
    data = data_of("GaussianNatural1D")
    net = nd.LogPartitionNetwork(GAUSSIAN, data, width=4, depth=1, key=jax.random.key(0))
    sampler = nd.distributions.HMCSampler(nd.HMCConfig(draws=64, min_ess=100.0))
    q = nd.AmortizedFamily(GAUSSIAN, net, sampler=sampler, strict=True)
    nd.save(tmp_path / "q.safetensors", q)
    again = nd.load(tmp_path / "q.safetensors")
    assert jax.tree.structure(again) == jax.tree.structure(q)
    for one, two in zip(*map(jax.tree.leaves, (q, again)), strict=True):
        assert np.array_equal(one, two)
    assert again.sampler.config == sampler.config
    eta = etas_of("GaussianNatural1D")[0]
    assert np.array_equal(again.entropy(eta), q.entropy(eta))


def test_a_sampler_in_a_file_is_checked(tmp_path):
    """What would not have been made is not loaded."""
    sampler = nd.distributions.HMCSampler()
    object.__setattr__(sampler.config, "chains", 1)
    nd.save(tmp_path / "sampler.safetensors", sampler)
    with pytest.raises(ValueError, match=r"valid HMCConfig at config.*chains"):
        nd.load(tmp_path / "sampler.safetensors")
