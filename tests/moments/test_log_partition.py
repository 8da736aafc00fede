"""Log-partitions by closed form, quadrature and tempered sequential Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.moments._log_partition import _evidence
from tests import truth

# Each a compiled program; one start is enough, as several populations judge each other.
SAMPLED = {
    "MultivariateNormal": (
        nd.MultivariateNormal(5),
        np.r_[0.5, -1.0, 0.3, 0.0, 0.8, np.diag([-0.5, -0.3, -2.0, -1.0, -0.7]).ravel()],
    ),
    "LatticePhi4": (nd.LatticePhi4(10), np.array([0.1, 0.5, -0.5, 0.4])),
    "FisherBingham": (nd.FisherBingham(), np.array([1.0, -0.5, 0.3, 0.5, 1.0, -1.0, 0.2, 0.7])),
}


def exact(name):
    family, eta = SAMPLED[name]
    match name:
        case "LatticePhi4":
            return truth.lattice_phi4(10, eta).log_partition
        case "FisherBingham":
            return truth.fisher_bingham(eta).log_partition
        case _:
            return float(family.log_partition(jnp.asarray(eta, float)))


@pytest.mark.parametrize("name", SAMPLED)
def test_tempering_finds_it(name):
    """Within five standard errors, which are small; on the sphere by the surface measure."""
    family, eta = SAMPLED[name]
    eta = jnp.asarray(eta, float)
    config = nd.HMCConfig(draws=2000)
    found, error, finite = _evidence(family, config, eta, jax.random.key(1))
    assert finite
    assert 0 < error < 0.03
    assert abs(found - exact(name)) < 5 * error
    if name == "LatticePhi4":
        estimate = nd.moments.estimate_log_partition(family, eta, jax.random.key(1), config)
        assert estimate.method == "tempered sequential Monte Carlo"
        assert (estimate.value, estimate.standard_error) == (found, error)
        assert np.array_equal(estimate.eta, eta)


def test_closed_forms_come_first():
    eta = jnp.asarray([1.5, -2.0])
    estimate = nd.moments.estimate_log_partition(nd.Gamma(), eta)
    assert (estimate.method, estimate.standard_error) == ("closed form", 0)
    assert estimate.value == nd.Gamma().log_partition(eta)


def test_then_quadrature():
    eta = jnp.asarray([0.5, 1.0, -1.0, -0.5])
    estimate = nd.moments.estimate_log_partition(nd.VonMisesHarmonic(2), eta)
    assert estimate.method == "quadrature"
    assert estimate.standard_error < 1e-4
    assert abs(estimate.value - truth.von_mises_harmonic(eta).log_partition) < 1e-4


def test_sampling_needs_a_key():
    with pytest.raises(ValueError, match=r"Expected a key: A\(eta\) of LatticePhi4"):
        nd.moments.estimate_log_partition(nd.LatticePhi4(3), jnp.asarray([0.0, 0.0, -1.0, 0.0]))


def test_an_invalid_eta_is_refused():
    with pytest.raises(ValueError, match="'x4'"):
        nd.moments.estimate_log_partition(nd.LatticePhi4(3), jnp.asarray([0.0, 0.0, 1.0, 0.0]))
