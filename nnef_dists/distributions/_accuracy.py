"""An upper limit of a network's errors, from draws of its weights and held-out labels."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nnef_dists.bayes import predictive_moments
from nnef_dists.networks import AbstractMomentNetwork

_COVERAGE = 0.95
# Rounding error of a mean, in units of its last digit.
_ROUNDINGS = 16.0
# Number of draws of the weights, and their seed, which is fixed for all etas.
_SAMPLES, _SEED = 32, 0
# Floors of the spread, in units of its median over etas. The last one makes the limit constant.
# A smaller floor is unsafe, because draws of the weights may agree far from all labels.
_FLOORS = (0.3, 1.0, 3.0, 10.0, 1e4)


def error_sizes(
    network: AbstractMomentNetwork, eta: Float[Array, " eta_dim"], scale: Float[Array, " eta_dim"]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns the predictors of the size of errors at one eta.

    Args:
        network: The network.
        eta: Valid natural parameters, `(eta_dim,)`.
        scale: sd(T | eta), `(eta_dim,)`.

    Returns:
        Two scalars, both multiplied by the remoteness of eta. The first is the standard deviation
        of mu over draws of the weights, in z units, the largest over statistics. The second is the
        size of errors relative to a typical training eta.
    """
    key = jax.random.key(_SEED)
    mean, spread = predictive_moments(network, lambda drawn: drawn(eta), key, _SAMPLES)
    # Draws of nearly certain weights differ by rounding, which is subtracted.
    spread = jnp.maximum(jnp.max(spread / scale) - _rounding(mean, scale), 0)
    far, size = network.error_scales(eta)
    return far * spread, far * size


def calibrate_limit(
    errors: np.ndarray, spreads: np.ndarray, sizes: np.ndarray
) -> tuple[float, float]:
    """Fits factor and floor of the limit that 95% of errors do not exceed.

        limit = factor sqrt(spread^2 + (floor size)^2)

    The factor is the conformal quantile of the ratios of errors to this root. The limit then covers
    95% of new errors from the distribution of `errors`, even if the spreads are not calibrated.
    Among several floors, the fit takes the one with the least median limit.

    Args:
        errors: Absolute errors, `(n,)`, in z units.
        spreads: Standard deviations over draws of the weights times the remoteness, `(n,)`, in z
            units.
        sizes: Expected sizes of errors relative to a typical training eta, `(n,)`.

    Returns:
        Factor and floor. The factor is infinite if there are fewer than 19 errors, or one in twenty
        is not finite.

    Reference:
        Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, *Distribution-free predictive inference for
        regression*, JASA 113 (2018), section 5.2.
    """
    n = len(errors)
    rank = math.ceil(_COVERAGE * (n + 1))
    spreads = np.where(np.isfinite(spreads), spreads, np.inf)
    unit = np.median(spreads) / max(np.median(sizes), np.finfo(np.float64).tiny)
    unit = unit if 0 < unit < np.inf else 1.0
    fits = []
    for floor in unit * np.asarray(_FLOORS):
        widths = np.hypot(spreads, floor * sizes)
        # Without any width, an error has no finite limit.
        usable = (widths > 0) & (widths < np.inf) & np.isfinite(errors)
        ratios = np.where(usable, errors, np.inf) / np.where(usable, widths, 1)
        factor = np.sort(ratios)[rank - 1] if rank <= n else np.inf
        median = factor * np.median(widths) if factor < np.inf else np.inf
        fits.append((float(median), float(factor), float(floor)))
    _, factor, floor = min(fits)
    return factor, floor


def rounding_of_mean(
    covariance: Float[Array, "eta_dim eta_dim"], mean: Float[Array, " eta_dim"]
) -> Float[Array, ""]:
    """Returns the rounding error of mean parameters, in z units, the largest over statistics."""
    return _rounding(mean, jnp.sqrt(jnp.diagonal(covariance)))


def _rounding(mean: Float[Array, " eta_dim"], scale: Float[Array, " eta_dim"]) -> Float[Array, ""]:
    eps = jnp.finfo(mean.dtype).eps
    # A sum over terms and draws loses a few more digits than its result.
    return _ROUNDINGS * eps * (1 + jnp.max(jnp.abs(mean) / scale))
