"""Labels from programs that are compiled as for users, where other tests compile quickly."""

import jax
import numpy as np
import pytest

import nnef_dists as nd
from tests.moments.conftest import QUARTIC, QUARTIC_KEY
from tests.moments.exact import polynomial_moments


@pytest.mark.slow
def test_they_are_as_exact_and_as_honest(quartic_etas):
    data = nd.estimate_moments(QUARTIC, quartic_etas, jax.random.key(QUARTIC_KEY))
    assert data.ok.mean() >= 0.99
    good = data.only_ok()
    mean, covariance = polynomial_moments(good.eta)
    t = (good.mean - mean) / good.standard_error
    assert 0.6 < t.std() < 1.3
    assert np.abs(t).max() < 6
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    assert np.sqrt(np.mean(((good.mean - mean) / sd) ** 2)) < 0.005
