"""Whether a network's stated uncertainty matches its errors."""

import math

import jax.numpy as jnp
import optimistix
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import predictive_moments
from nnef_dists.moments import MomentBatch
from nnef_dists.networks._base import AbstractMomentNetwork, moments_at

_LOG_LARGEST = math.log(1e4)
_HALVINGS = 40
_TOLERANCE = 1e-6
# Squared residuals count up to three standard deviations. The mean of a chi-squared variable of one
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
    """The factor that the network's predictive variance lacks: 1 when it is calibrated.

        rho:  mean of min((label - mu)^2 / (s^2 + rho v), 9) = E min(z^2, 9),    z standard normal

    over all labels and statistics, with mu the moments at the weights' means, v the variance of the
    moments over draws of the weights, and s the labels' standard errors. Above 1 the network is too
    sure, below 1 not sure enough. With exact labels and Gaussian errors it is the mean of
    (label - mu)^2 / v; the cap keeps a few gross errors from deciding for all.

    The labels have to be new to the network, and best be no noisier than it errs: otherwise the
    errors drown in the noise, and rho with them. Widths that were trained with a `temperature` of
    `negative_elbo` have variances that grow with it: continue with `temperature * rho`, with rho
    clipped, say to [0.02, 50].

    Args:
        network: A moment network.
        batch: Good labels that were not trained on.
        key: For the draws of the weights.
        samples: How many sets of weights are drawn, at least 2.

    Returns:
        A scalar in [1e-4, 1e4]: the lower end where the labels' noise explains all errors, the
        upper one where the network claims to be certain and is not.

    Raises:
        ValueError: For fewer than 2 samples.
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
