"""Calibration of the predictive variance of a network."""

import math

import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import predictive_moments
from nnef_dists.moments import MomentBatch
from nnef_dists.networks._base import AbstractMomentNetwork, moments_at

# Logarithm of the largest ratio, and number of bisections and tolerance of the search.
_LOG_LARGEST = math.log(1e4)
_HALVINGS = 40
_TOLERANCE = 1e-6
# Cap of squared residuals, at three standard deviations. The mean of a chi-squared variable of one
# degree of freedom that is capped at c is P(chi2_3 < c) + c P(chi2_1 > c).
_CAP = 9.0
_INSIDE = math.erf(math.sqrt(_CAP / 2))
_EXPECTED = _INSIDE - math.sqrt(2 * _CAP / math.pi) * math.exp(-_CAP / 2) + _CAP * (1 - _INSIDE)


def calibration_ratio(
    network: AbstractMomentNetwork,
    batch: MomentBatch,
    key: PRNGKeyArray,
    *,
    samples: int = 64,
) -> Float[Array, ""]:
    """Returns the factor that calibrates the network's predictive variance.

        rho:  mean of min((label - mu)^2 / (s^2 + rho v), 9) = E min(z^2, 9),    z standard normal

    over all labels and statistics, with mu the moments at the weights' means and s the labels'
    standard errors. The variance of the moments over draws of the weights is v. Above 1, the
    network is overconfident, and below 1, underconfident. With exact labels and Gaussian errors,
    rho is the mean of (label - mu)^2 / v. The cap bounds the influence of a few gross errors.

    The labels must be held out from training. Their standard errors should be no larger than the
    errors of the network, otherwise noise dominates rho. After training with `negative_elbo`, the
    variances grow with its `temperature`. To calibrate them, continue with `temperature * rho`,
    with rho clipped, for example to [0.02, 50].

    Args:
        network: A moment network.
        batch: Valid labels, held out from training.
        key: PRNG key for the draws of the weights.
        samples: Number of draws of the weights, at least 2. Defaults to 64.

    Returns:
        A scalar in [1e-4, 1e4], 1 if calibrated. The lower end if the labels' noise explains all
        errors. The upper end if the network has errors but almost no predictive variance.

    Raises:
        ValueError: If `samples` is below 2.
    """
    _, stdv = predictive_moments(network, lambda drawn: moments_at(drawn, batch), key, samples)
    variance, noise = stdv**2, batch.standard_error**2
    tiny = jnp.finfo(stdv.dtype).tiny
    squared = (moments_at(network, batch) - batch.mean) ** 2

    def excess(middle, _):
        # Both may be zero, and so may the error.
        total = jnp.maximum(noise + jnp.exp(middle) * variance, tiny)
        return jnp.mean(jnp.minimum(squared / total, _CAP)) - _EXPECTED

    # The excess decreases. If it has no root, the search ends at an end of the interval.
    solver = optimistix.Bisection(rtol=_TOLERANCE, atol=_TOLERANCE, flip=True)
    start = jnp.zeros((), squared.dtype)
    ends = {"lower": -_LOG_LARGEST, "upper": _LOG_LARGEST}
    found = optimistix.root_find(
        excess, solver, start, options=ends, max_steps=_HALVINGS, throw=False
    )
    return jnp.exp(found.value)
