"""An upper limit of a network's errors, from draws of its weights and held-out labels."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nnef_dists.bayes import predictive_moments
from nnef_dists.networks import AbstractMomentNetwork

_COVERAGE = 0.95
# Rounding error of a mean, in units of its last digit, and of eta as it moves the mean.
_ROUNDINGS, _ETA_ROUNDINGS = 16.0, 4.0
# Number of draws of the weights, and their seed, which is fixed for all etas.
_SAMPLES, _SEED = 32, 0
# Floors of the spread, in units of its median over etas. The last one makes the limit constant.
# A smaller floor is unsafe, because draws of the weights may agree far from all labels.
_FLOORS = (0.3, 1.0, 3.0, 10.0, 1e4)
# Largest extrapolated share, at which errors still depend on the calibrated factor.
_MOST_SHARE = 0.99
# Largest part of a held-out error that its distance from the training etas explains.
_MOST_GROWTH = 100.0


class ErrorTerms(NamedTuple):
    """The predictors of the limit of errors at one eta.

        e = factor sqrt(spread^2 + (floor size)^2)
        limit = max(growth e, e^(1 - share) max(learned, e)^share)

    Attributes:
        spread: Standard deviation of mu over draws of the weights, in z units, the largest over
            statistics.
        size: See `ErrorScales`, like the others.
        growth: Least factor of errors.
        share: Extrapolated share.
        learned: In z units, the largest over statistics.
    """

    spread: Float[Array, "*n"]
    size: Float[Array, "*n"]
    growth: Float[Array, "*n"]
    share: Float[Array, "*n"]
    learned: Float[Array, "*n"]

    def limit(self, factor: float | Array, floor: float | Array) -> Float[Array, "*n"]:
        """Returns the limit of errors, in z units."""
        error = factor * jnp.hypot(self.spread, floor * self.size)
        most = jnp.maximum(self.learned, error)
        return jnp.maximum(self.growth * error, error ** (1 - self.share) * most**self.share)


def error_terms(
    network: AbstractMomentNetwork, eta: Float[Array, " eta_dim"], scale: Float[Array, " eta_dim"]
) -> ErrorTerms:
    """Returns the predictors of the limit of errors at one eta.

    Args:
        network: The network.
        eta: Valid natural parameters, `(eta_dim,)`.
        scale: sd(T | eta), `(eta_dim,)`.

    Returns:
        The predictors, scalars.
    """
    key = jax.random.key(_SEED)
    mean, spread = predictive_moments(network, lambda drawn: drawn(eta), key, _SAMPLES)
    # Draws of nearly certain weights differ by rounding, which is subtracted.
    spread = jnp.maximum(jnp.max(spread / scale) - _rounding(mean, scale), 0)
    size, growth, share, learned = network.error_scales(eta)
    share = jnp.minimum(share, _MOST_SHARE)
    return ErrorTerms(spread, size, growth, share, jnp.max(learned / scale))


def calibrate_limit(errors: np.ndarray, terms: ErrorTerms) -> tuple[float, float]:
    """Fits factor and floor of the limit that 95% of errors do not exceed (see `ErrorTerms`).

    The limit rises with the factor. The factor is the conformal quantile of the least factors at
    which the limit covers each error. The limit then covers 95% of new errors from the distribution
    of `errors`, even if the spreads are not calibrated. Among several floors, the fit takes the one
    with the least median limit.

    Args:
        errors: Absolute errors, `(n,)`, in z units.
        terms: The predictors, `(n,)` each.

    Returns:
        Factor and floor. The factor is infinite if there are fewer than 19 errors, or one in twenty
        is not finite.

    Reference:
        Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, *Distribution-free predictive inference for
        regression*, JASA 113 (2018), section 5.2.
    """
    n = len(errors)
    rank = math.ceil(_COVERAGE * (n + 1))
    spread, size, growth, share, learned = (np.asarray(leaf, np.float64) for leaf in terms)
    spread = np.where(np.isfinite(spread), spread, np.inf)
    cleaned = ErrorTerms(*(jnp.asarray(leaf) for leaf in (spread, size, growth, share, learned)))
    unit = np.median(spread) / max(np.median(size), np.finfo(np.float64).tiny)
    unit = unit if 0 < unit < np.inf else 1.0
    # The least e that covers each error. If the error is below `learned`, so is e.
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.exp((np.log(errors) - share * np.log(learned)) / (1 - share))
        least = np.where(errors < learned, np.maximum(least, errors / _MOST_GROWTH), errors)
        least = np.minimum(least, errors / growth)
    fits = []
    for floor in unit * np.asarray(_FLOORS):
        widths = np.hypot(spread, floor * size)
        # Without any width, an error has no finite limit.
        usable = (widths > 0) & (widths < np.inf) & np.isfinite(least)
        ratios = np.where(usable, least, np.inf) / np.where(usable, widths, 1)
        factor = np.sort(ratios)[rank - 1] if rank <= n else np.inf
        median = np.inf
        if factor < np.inf:
            limits = np.asarray(cleaned.limit(float(factor), float(floor)))
            median = np.median(np.where(np.isfinite(limits), limits, np.inf))
        fits.append((float(median), float(factor), float(floor)))
    _, factor, floor = min(fits)
    return factor, floor


def rounding_of_mean(
    eta: Float[Array, " eta_dim"],
    covariance: Float[Array, "eta_dim eta_dim"],
    mean: Float[Array, " eta_dim"],
) -> Float[Array, ""]:
    """Returns the rounding error of mean parameters, in z units, the largest over statistics.

        16 eps (1 + max_i |mu_i| / sd_i) + 4 eps max_i sum_j |Cov_ij eta_j| / sd_i

    The second term is the effect of relative errors of eta, which grows with the condition number
    of the precision of a normal.

    Args:
        eta: Valid natural parameters, `(eta_dim,)`.
        covariance: Cov[T | eta], `(eta_dim, eta_dim)`.
        mean: Mean parameters, `(eta_dim,)`.
    """
    scale = jnp.sqrt(jnp.diagonal(covariance))
    moved = jnp.max(jnp.abs(covariance) @ jnp.abs(eta) / scale)
    return _rounding(mean, scale) + _ETA_ROUNDINGS * jnp.finfo(mean.dtype).eps * moved


def _rounding(mean: Float[Array, " eta_dim"], scale: Float[Array, " eta_dim"]) -> Float[Array, ""]:
    eps = jnp.finfo(mean.dtype).eps
    # A sum over terms and draws loses a few more digits than its result.
    return _ROUNDINGS * eps * (1 + jnp.max(jnp.abs(mean) / scale))
