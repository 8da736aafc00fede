"""The calibration ratio, on networks whose errors have a stated size."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.networks.data import GAUSSIAN, gaussian_data

pytestmark = pytest.mark.usefixtures("strict_promotion")

LABELS = 1024
STDV = 0.02


class UncertainTruth(nd.networks.AbstractMomentNetwork):
    """The exact moments, with an uncertain shift of mean 0 in z units."""

    standardization = nd.networks.Standardization.fit(gaussian_data())
    family: nd.ExponentialFamily = eqx.field(static=True)
    shift: nd.AbstractParameter

    def __call__(self, eta, *, key=None, sample=None):
        net = nd.bayes.draw_or_mean(self, key=key, sample=sample)
        sd = jnp.sqrt(jnp.diagonal(self.family.covariance(eta)))
        return self.family.mean(eta) + sd * net.shift.mean


def uncertain_truth(stdv=STDV):
    law = nd.GaussianParameter.from_stdv(jnp.zeros(2, float), stdv)
    return UncertainTruth(GAUSSIAN, law)


def labels(error, noise, *, gross=0):
    """Labels off by errors and by noise of these sizes in z units; the first few grossly."""
    exact = gaussian_data(n=LABELS, seed=5).batch()
    rng = np.random.default_rng(7)
    sd = np.asarray(exact.sd)
    off = error * rng.normal(size=sd.shape) + noise * rng.normal(size=sd.shape)
    off[:gross] = 1e3
    mean, error = jnp.asarray(exact.mean + sd * off, float), jnp.asarray(sd * noise, float)
    batch = dataclasses.replace(exact, mean=mean, standard_error=error)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, float), batch)


calibration_ratio = jax.jit(nd.networks.calibration_ratio, static_argnames="samples")


def ratio(batch, network=None, samples=512):
    network = uncertain_truth() if network is None else network
    return float(calibration_ratio(network, batch, jax.random.key(11), samples=samples))


# Relative standard errors: of the predictive variance sqrt(2 / 512), in each of two statistics; of
# the capped mean of 2,048 squares about 1.2 sqrt(2 / 2048); together 0.06. Tolerances are four.
@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_it_is_the_factor_that_the_variance_lacks(factor):
    batch = labels(error=np.sqrt(factor) * STDV, noise=0.0)
    assert ratio(batch) == pytest.approx(factor, rel=0.24)


def test_the_labels_own_noise_does_not_count():
    # With as much noise as error the relative standard error of the squares doubles.
    assert ratio(labels(error=STDV, noise=STDV)) == pytest.approx(1.0, abs=0.33)


def test_a_few_gross_errors_do_not_decide():
    assert ratio(labels(error=STDV, noise=0.0, gross=5)) == pytest.approx(1.0, abs=0.35)


def test_ends_of_the_range():
    certain = UncertainTruth(GAUSSIAN, nd.DeterministicParameter(jnp.zeros(2, float)))
    assert ratio(labels(error=STDV, noise=0.0), certain) == pytest.approx(1e4, rel=1e-3)
    noise_only = labels(error=0.0, noise=STDV)
    too_cautious = dataclasses.replace(noise_only, standard_error=2 * noise_only.standard_error)
    assert ratio(too_cautious) == pytest.approx(1e-4, rel=1e-3)


def test_the_key_decides():
    batch = labels(error=STDV, noise=STDV)
    assert ratio(batch, samples=8) == ratio(batch, samples=8)
    other = calibration_ratio(uncertain_truth(), batch, jax.random.key(12), samples=8)
    assert float(other) != ratio(batch, samples=8)


def test_needs_two_samples():
    with pytest.raises(ValueError, match="samples >= 2"):
        nd.networks.calibration_ratio(
            uncertain_truth(), labels(STDV, 0.0), jax.random.key(0), samples=1
        )
