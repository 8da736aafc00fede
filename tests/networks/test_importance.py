"""Estimates of A by importance sampling around the mode, against closed forms and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.moments._quadrature import double_quadrature
from nnef_dists.networks import LaplaceBase
from nnef_dists.networks._taylor import expand_labels
from tests.networks.data import labeled

GAMMA, DIRICHLET, NORMAL = nd.Gamma(), nd.Dirichlet(4), nd.GaussianNatural1D()
QUARTIC = nd.Polynomial1D((1, 2, 4))


def gaps(family, etas):
    base = LaplaceBase(family)

    @jax.jit
    def both(etas):
        return jax.vmap(lambda eta: (base.estimate_gap(eta), base(eta).value))(etas)

    return both(jnp.asarray(etas))


@pytest.mark.parametrize(
    ("family", "etas", "largest"),
    [
        (GAMMA, [[-0.7, -3.0], [0.0, -1.0], [30.0, -1e-3], [1e5, -1e4]], 2e-3),
        (
            DIRICHLET,
            [[-0.6, -0.5, 2.0, 0.1], [0.0, 0.0, 0.0, 0.0], [50.0, 3.0, -0.5, 0.0]],
            0.1,
        ),
        (NORMAL, [[3.0, -2.0], [-1e5, -1e4], [0.1, -1e-4]], 2e-3),
    ],
    ids=["gamma", "dirichlet", "normal"],
)
def test_estimates_and_their_errors(family, etas, largest):
    gap, value = gaps(family, etas)
    exact = np.array([family.log_partition(jnp.array(eta)) for eta in etas])
    rounding = 1e-5 + 3e-7 * np.abs(exact)
    assert (np.abs(gap.value + value - exact) < 4 * gap.error + rounding).all()
    assert (gap.error < largest + rounding).all()
    means = np.stack([family.mean(jnp.array(eta)) for eta in etas])
    covariances = np.stack([jax.hessian(family.log_partition)(jnp.array(eta)) for eta in etas])
    sd = np.sqrt(np.diagonal(covariances, axis1=1, axis2=2))
    share = 0.02 + 8 * np.asarray(gap.error)[:, None]
    assert (np.abs(gap.mean - means) < share * sd).all()


def test_a_missed_mode_makes_the_level_unknown():
    """The other well is 40 widths away; the mean of the label says that it exists."""
    etas = jnp.array([[0.01, 200.0, -1.0], [0.0, -1.0, -1.0]])
    exact = double_quadrature(QUARTIC, np.asarray(etas))
    data = labeled(QUARTIC, etas, exact.mean, exact.covariance)
    found = expand_labels(LaplaceBase(QUARTIC), data).base.gap
    assert gaps(QUARTIC, etas)[0].error[0] < 0.01
    assert np.isinf(found.error[0])
    assert found.error[1] < 0.01


class Ball(nd.ExponentialFamily):
    x_shape = (64,)
    natural_domain = nd.domain(squares=nd.negative)

    def compute_stats(self, x):
        return {"squares": jnp.sum(x**2)}


def test_many_dimensions_have_no_estimate():
    gap, value = gaps(Ball(), [[-0.5]])
    assert np.isinf(gap.error).all()
    assert abs(value[0] - 32 * np.log(2 * np.pi)) < 1e-4


def test_no_mode_is_no_estimate():
    gap, _ = gaps(GAMMA, [[-0.5, 1.0]])  # not integrable
    assert np.isinf(gap.error).all()
    assert (gap.value == 0).all()
