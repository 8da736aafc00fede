"""What weighted draws say of an exponential family."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists.sampling import pareto_k


class ImportanceEstimate(NamedTuple):
    """A(eta) and E[T | eta] by importance sampling, for one eta.

    Attributes:
        log_partition: log of the mean weight: A(eta), in nats.
        log_partition_error: Its standard error, in nats.
        bound: The mean log-weight, a lower bound of A(eta) but for its standard error; the gap to
            A(eta) is the KL divergence of the flow from the family, in nats.
        bound_error: The bound's standard error, in nats.
        mean: Self-normalized E[T | eta], `(eta_dim,)`.
        mean_error: Its standard error, `(eta_dim,)`, in units of T.
        efficiency: The effective sample size 1 / sum(w^2), of normalized weights, over n.
        pareto_k: Shape of the weights' tail: above 0.7 estimates and errors are not to be trusted.
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
    """Returns the estimates that n weighted draws give.

    Args:
        log_weights: log p(x) + A - log q(x) of the draws, `(n,)`, in nats.
        stats: Their statistics, `(n, eta_dim)`.

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
