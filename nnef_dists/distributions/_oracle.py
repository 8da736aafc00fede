"""Moments from the network where it is sure, and from sampling where it is not."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._ranges import check_number
from nnef_dists.distributions._base import AbstractTractableFamily
from nnef_dists.moments import MomentDataset, check_etas, estimate_moments
from nnef_dists.sampling import HMCConfig

# Etas whose networks are evaluated at once.
_BATCH = 256


class OracleReport(NamedTuple):
    """Where the network was not trusted, and what was found instead.

    Attributes:
        accuracy: The limits of errors that `q.accuracy` returns, in z units, `(n,)`.
        indefinite: Where the network's covariance is not positive definite, `(n,)`.
        asked: Which etas were sampled, `(n,)`.
        failed: Those of them whose labels are not good, and whose means are NaN, `(n,)`.
        data: The labels of the etas that were sampled, in their order, good for further training;
            None if there were none.
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

    An eta is sampled if `q.accuracy(eta)` is above the tolerance, or if the covariance there is not
    positive definite. A network without a report of `nd.validate` has an accuracy that is not
    known, so that all etas are sampled. Runs on the host.

    Args:
        q: The tractable family.
        etas: Valid natural parameters, `(n, eta_dim)`.
        key: PRNG key.
        tolerance: The largest error that is accepted, in z units, positive.
        config: How to sample; None is `HMCConfig()`.

    Returns:
        The means, `(n, eta_dim)`, and a report. A label that failed is NaN, and in the report.

    Raises:
        ValueError: If the tolerance is not positive, and for an invalid eta, by index.
    """
    tolerance = check_number("tolerance", tolerance, 0.0)
    etas = check_etas(q.family, etas)
    mean, accuracy, definite = (np.array(leaf) for leaf in _predict(q, etas))
    # A comparison that NaN fails.
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
