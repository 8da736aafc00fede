"""Moments from the network where it is sure, and from sampling where it is not."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
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
        predicted_z: The network's standard deviations of mu, in z units, `(n, eta_dim)`.
        outside: Which etas are outside the training region, `(n,)`.
        indefinite: Where the network's covariance is not positive definite, `(n,)`.
        asked: Which etas were sampled, `(n,)`.
        failed: Those of them whose labels are not good, and whose means are NaN, `(n,)`.
        data: The labels of the etas that were sampled, in their order, good for further training;
            None if there were none.
    """

    predicted_z: np.ndarray
    outside: np.ndarray
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
    samples: int = 64,
    config: HMCConfig | None = None,
) -> tuple[np.ndarray, OracleReport]:
    """Returns E[T | eta] of many etas: the network's, or sampled where the network is not sure.

    An eta is sampled if the network's standard deviation of any moment, over draws of its weights,
    is above the tolerance in z units, if it is outside the training region, or if the
    covariance there is not positive definite. A source without a network is sampled only where its
    mean is not finite. Runs on the host.

    Args:
        q: The tractable family.
        etas: Valid natural parameters, `(n, eta_dim)`.
        key: PRNG key.
        tolerance: The largest standard deviation that is accepted, in z units, positive.
        samples: How many sets of weights are drawn, at least 2.
        config: How to sample; None is `HMCConfig()`.

    Returns:
        The means, `(n, eta_dim)`, and a report. A label that failed is NaN, and in the report.

    Raises:
        ValueError: If the tolerance is not positive, and for an invalid eta, by index.
    """
    tolerance = check_number("tolerance", tolerance, 0.0)
    etas = check_etas(q.family, etas)
    key_weights, key_labels = jax.random.split(key)
    predicted = _predict(q, etas, key_weights, samples)
    mean, predicted_z, inside, definite = (np.array(leaf) for leaf in predicted)
    # A comparison that NaN fails.
    sure = (predicted_z <= tolerance).all(1) & np.isfinite(mean).all(1)
    asked = ~(sure & inside & definite)
    failed = np.zeros_like(asked)
    data = None
    if asked.any():
        data = estimate_moments(q.family, etas[asked], key_labels, config)
        mean[asked] = data.mean
        failed[asked] = ~data.ok
    return mean, OracleReport(predicted_z, ~inside, ~definite, asked, failed, data)


@partial(jax.jit, static_argnames="samples")
def _predict(
    q: AbstractTractableFamily, etas: Float[Array, "n eta_dim"], key: PRNGKeyArray, samples: int
) -> tuple[
    Float[Array, "n eta_dim"], Float[Array, "n eta_dim"], Bool[Array, " n"], Bool[Array, " n"]
]:
    def one(eta):
        # The same draws of the weights for all etas.
        _, sd = q.predictive(eta, key, samples)
        predicted_z = sd / jnp.sqrt(jnp.diagonal(q.covariance(eta)))
        return q.mean(eta), predicted_z, q.is_inside(eta), q.is_positive_definite(eta)

    return jax.lax.map(one, etas, batch_size=_BATCH)
