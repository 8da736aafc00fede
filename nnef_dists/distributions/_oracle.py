"""Moments from a network if it is accurate, and from sampling otherwise."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._ranges import check_number
from nnef_dists.distributions._base import AbstractTractableFamily
from nnef_dists.moments import MomentDataset, check_etas, estimate_moments
from nnef_dists.sampling import HMCConfig

# Number of etas that are evaluated at once.
_BATCH = 256


class OracleReport(NamedTuple):
    """The accuracy of each eta, and the labels of sampled etas.

    Attributes:
        accuracy: The limits of errors that `q.accuracy` returns, in z units, `(n,)`.
        indefinite: Whether the covariance of q is not positive definite, `(n,)`.
        asked: Whether eta was sampled, `(n,)`.
        failed: Whether the label of a sampled eta was rejected, so that the mean is NaN, `(n,)`.
        data: Labels of the sampled etas, in order, for further training. None if no eta was
            sampled.
    """

    accuracy: np.ndarray
    indefinite: np.ndarray
    asked: np.ndarray
    failed: np.ndarray
    data: MomentDataset | None


def mean_or_oracle(
    q: AbstractTractableFamily,
    etas: Float[Array, "n eta_dim"],
    key: PRNGKeyArray,
    tolerance: float,
    *,
    config: HMCConfig | None = None,
) -> tuple[np.ndarray, OracleReport]:
    """Returns E[T | eta] of many etas, from q or, if q is not accurate enough, from samples.

    Each eta is sampled for which `q.accuracy(eta)` is above the tolerance, the mean is not finite,
    or the covariance is not positive definite. Without a report of `nd.validate`, the accuracy of a
    network is infinite, so that all etas are sampled. Runs on the host.

    Args:
        q: The tractable family.
        etas: Valid natural parameters, `(n, eta_dim)`.
        key: PRNG key.
        tolerance: Largest accepted error, in z units, positive.
        config: Sampler settings. Defaults to `HMCConfig()`.

    Returns:
        The means, `(n, eta_dim)`, and a report. The means of rejected labels are NaN.

    Raises:
        ValueError: If `tolerance` is not positive, or a row of `etas` is invalid. The message
            contains its index.
    """
    tolerance = check_number("tolerance", tolerance, 0.0)
    etas = check_etas(q.family, etas)
    mean, accuracy, definite = (np.array(leaf) for leaf in _predict(q, etas))
    # NaN compares as False, so that a NaN prediction is sampled.
    asked = ~((accuracy <= tolerance) & np.isfinite(mean).all(1) & definite)
    failed = np.zeros_like(asked)
    data = None
    if asked.any():
        data = estimate_moments(q.family, etas[asked], key, config)
        mean[asked] = data.mean
        failed[asked] = ~data.ok
    return mean, OracleReport(accuracy, ~definite, asked, failed, data)


@jax.jit
def _predict(
    q: AbstractTractableFamily, etas: Float[Array, "n eta_dim"]
) -> tuple[Float[Array, "n eta_dim"], Float[Array, " n"], Bool[Array, " n"]]:
    def one(eta):
        return q.mean(eta), q.accuracy(eta), q.is_positive_definite(eta)

    return jax.lax.map(one, etas, batch_size=_BATCH)
