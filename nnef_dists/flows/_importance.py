"""Importance sampling estimates of A(eta) and E[T | eta] from weighted draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists.sampling import pareto_k


class ImportanceEstimate(NamedTuple):
    """A(eta) and E[T | eta] by importance sampling, for one eta.

    Attributes:
        log_partition: Log of the mean weight, an estimate of A(eta), in nats.
        log_partition_error: Standard error of `log_partition`, in nats.
        bound: Mean log-weight, in nats, an estimate of a lower bound of A(eta). The gap between the
            bound and A(eta) is KL(q || p), for the flow q and the family p.
        bound_error: Standard error of `bound`, in nats.
        mean: Self-normalized estimate of E[T | eta], `(eta_dim,)`.
        mean_error: Standard error of `mean`, `(eta_dim,)`, in units of T.
        efficiency: Effective sample size 1 / sum(w^2), of normalized weights w, divided by n.
        pareto_k: Tail shape of the weights. Above 0.7, estimates and errors are unreliable.
    """

    log_partition: Float[Array, ""]
    log_partition_error: Float[Array, ""]
    bound: Float[Array, ""]
    bound_error: Float[Array, ""]
    mean: Float[Array, " eta_dim"]
    mean_error: Float[Array, " eta_dim"]
    efficiency: Float[Array, ""]
    pareto_k: Float[Array, ""]


def importance_estimate(
    log_weights: Float[Array, " n"], stats: Float[Array, "n eta_dim"]
) -> ImportanceEstimate:
    """Returns importance sampling estimates from n weighted draws.

    Args:
        log_weights: log p(x) + A - log q(x) of the draws, `(n,)`, in nats.
        stats: Statistics of the draws, `(n, eta_dim)`.

    Returns:
        An `ImportanceEstimate`.
    """
    n = log_weights.shape[0]
    weights = jax.nn.softmax(log_weights)
    mean = weights @ stats
    # Delta method: relative error of the mean weight, and of a ratio of means.
    square = jnp.sum(weights**2)
    return ImportanceEstimate(
        log_partition=jax.nn.logsumexp(log_weights) - jnp.log(n).astype(log_weights.dtype),
        log_partition_error=jnp.sqrt(jnp.maximum(square - 1 / n, 0)),
        bound=jnp.mean(log_weights),
        bound_error=jnp.std(log_weights, ddof=1) / n**0.5,
        mean=mean,
        mean_error=jnp.sqrt(jnp.sum((weights[:, None] * (stats - mean)) ** 2, 0)),
        efficiency=1 / (n * square),
        pareto_k=pareto_k(log_weights),
    )
