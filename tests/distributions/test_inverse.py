"""Natural parameters of given mean parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.networks.exact import (
    CASES,
    data_of,
    family_of,
    held_out,
    inverted,
    moments_of,
    relative_error,
)
from tests.numerics import assert_close, epsilon

pytestmark = pytest.mark.usefixtures("strict_promotion")

one_inverted = jax.jit(lambda q, mu: q.natural_parameters(mu))
GAUSSIAN = CASES["GaussianNatural1D"][0]


def test_exact_moments_are_inverted():
    """To the residual's tolerance, as amplified by the condition of the covariance."""
    etas, mu = held_out("GaussianNatural1D")
    q = family_of("GaussianNatural1D")
    found = inverted(q, mu)
    inside = np.asarray(jax.vmap(q.network.is_inside)(etas))
    assert inside.mean() > 0.9
    error = relative_error(found, etas)
    assert np.all(np.isnan(error) <= ~inside)
    assert np.max(error[inside]) < 3e3 * epsilon(etas)


def test_a_direct_network_is_inverted():
    q = nd.AmortizedFamily(GAUSSIAN, moments_of("GaussianNatural1D"))
    etas, mu = held_out("GaussianNatural1D")
    inside = np.asarray(jax.vmap(q.network.is_inside)(etas))
    assert np.max(relative_error(inverted(q, mu), etas)[inside]) < 3e3 * epsilon(etas)


@pytest.mark.parametrize(
    ("family", "ranges"),
    [
        (nd.Gamma(), {"log_x": (-0.99, 300.0), "x": (-1e3, -1e-3, "log")}),
        (nd.Beta(), {"log_x": (-0.99, 100.0), "log_1mx": (-0.99, 100.0)}),
    ],
    ids=["Gamma", "Beta"],
)
def test_distant_means_of_closed_forms(family, ranges):
    """Shapes and rates over many orders of magnitude, all from one start."""
    etas = family.sample_eta(jax.random.key(0), 200, ranges)
    q = nd.ClosedForm(family)
    mu = jax.jit(jax.vmap(q.mean))(etas)
    found = jax.jit(jax.vmap(lambda mu: q.natural_parameters(mu, throw=False)))(mu)
    sd = np.sqrt(np.diagonal(jax.jit(jax.vmap(q.covariance))(etas), axis1=1, axis2=2))
    z = np.abs(jax.jit(jax.vmap(q.mean))(found) - mu) / sd
    assert np.max(z) <= np.sqrt(epsilon(etas))


class TestDerivatives:
    def test_in_the_mean_parameters(self):
        """d eta / d mu is the inverse of the covariance."""
        mu = jnp.asarray(data_of("GaussianNatural1D").mean[:8])
        q = family_of("GaussianNatural1D")
        forward = jax.jit(jax.vmap(jax.jacfwd(q.natural_parameters)))(mu)
        exact = np.linalg.inv(np.asarray(data_of("GaussianNatural1D").covariance[:8], np.float64))
        for found, one in zip(forward, exact, strict=True):
            assert_close(found, one, ulps=3e4)

    def test_in_the_weights(self):
        """mu = grad A + shift: a shift acts as minus that change of mu."""
        q, data = family_of("GaussianNatural1D"), data_of("GaussianNatural1D")
        mu = jnp.asarray(data.mean[0])
        gradient = jax.jit(jax.grad(lambda q: q.natural_parameters(mu)[0]))(q)
        exact = np.linalg.inv(np.asarray(data.covariance[0], np.float64))
        assert_close(gradient.network.shift.mean, -exact[0], ulps=3e4)


class TestFailures:
    # Less than the square of the mean; and the moments of an eta far outside the box.
    IMPOSSIBLE = (1.0, 0.5)
    OUTSIDE = (0.0, 0.5 / 40)

    def test_they_are_nan_among_others(self):
        good = np.asarray(data_of("GaussianNatural1D").mean[:64])
        mu = np.array(good)
        mu[3], mu[5] = self.IMPOSSIBLE, self.OUTSIDE
        found = np.asarray(inverted(family_of("GaussianNatural1D"), jnp.asarray(mu)))
        assert np.isnan(found[[3, 5]]).all()
        assert np.isfinite(np.delete(found, [3, 5], 0)).all()

    @pytest.mark.parametrize("mu", [IMPOSSIBLE, OUTSIDE])
    def test_they_are_errors(self, mu):
        with pytest.raises(
            RuntimeError, match=r"of some eta in the training region; got \[.*throw=False"
        ):
            family_of("GaussianNatural1D").natural_parameters(jnp.asarray(mu))

    def test_compiled_they_are_nan_or_errors_of_a_strict_family(self):
        mu = jnp.asarray(self.IMPOSSIBLE)
        assert np.isnan(one_inverted(family_of("GaussianNatural1D"), mu)).all()
        with pytest.raises(RuntimeError, match="Expected mean parameters of some eta in the train"):
            one_inverted(family_of("GaussianNatural1D", strict=True), mu).block_until_ready()
