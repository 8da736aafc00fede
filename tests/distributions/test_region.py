"""Etas that do not fill their box, in a family: the region, the anchor, the inverse, the oracle."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.networks.data import exact_data
from tests.networks.exact import CASES, moments_of, potential_of

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAUSSIAN = CASES["GaussianNatural1D"][0]
# Of 40 observations with a mean of 1, where means were between -0.5 and 0.5.
FAR = (8.0, -4.0)


@functools.cache
def wedge(exact=potential_of):
    """Posteriors of a Gaussian: eta is n times the mean and the precision of one observation."""
    rng = np.random.default_rng(0)
    number = np.exp(rng.uniform(0, np.log(40), 300))
    mean = rng.uniform(-0.5, 0.5, 300)
    etas = jnp.asarray(np.stack([number * mean, -number / 2], 1), float)
    coordinates = nd.networks.Standardization.fit(exact_data(GAUSSIAN, etas))
    network = dataclasses.replace(exact("GaussianNatural1D"), standardization=coordinates)
    return nd.AmortizedFamily(GAUSSIAN, network), etas


@pytest.mark.parametrize("exact", [potential_of, moments_of])
def test_an_unseen_combination_is_outside(exact):
    q, etas = wedge(exact)
    far = jnp.asarray(FAR, etas.dtype)
    assert jnp.all((far > etas.min(0)) & (far < etas.max(0)))
    assert jax.vmap(q.network.is_inside)(etas).all()
    assert not q.network.is_inside(far)
    with pytest.warns(nd.distributions.ExtrapolationWarning):
        q.mean(far)


def test_the_anchor_is_a_training_eta():
    q, etas = wedge()
    assert np.any(np.all(np.asarray(etas) == np.asarray(q.anchor.tree.eta), axis=1))


def test_the_inverse_finds_training_etas_and_none_outside():
    q, etas = wedge()
    invert = jax.jit(jax.vmap(lambda mu: q.natural_parameters(mu, throw=False)))
    found = invert(jax.vmap(GAUSSIAN.mean)(jnp.concatenate([etas[:63], jnp.array([FAR])])))
    assert np.all(np.isnan(found[-1]))
    relative = np.linalg.norm(found[:-1] - etas[:63], axis=1) / np.linalg.norm(etas[:63], axis=1)
    assert np.max(relative) < 1e-2


def test_the_oracle_samples_outside():
    q, etas = wedge()
    q = nd.validate(q, exact_data(GAUSSIAN, etas[100:200]))
    config = nd.HMCConfig(tile=8, ladder=False, global_moves=False, warmup=40, draws=40)
    both = jnp.concatenate([etas[:3], jnp.array([FAR])])
    with jax.numpy_dtype_promotion("standard"):  # which sampling needs
        _, report = nd.mean_or_oracle(q, both, jax.random.key(0), 10.0, config=config)
    assert (
        np.isinf(report.accuracy).tolist() == report.asked.tolist() == [False, False, False, True]
    )
