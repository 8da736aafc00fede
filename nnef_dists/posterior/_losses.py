"""Losses of posterior heads, as pure functions of a head, a batch and a key."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nnef_dists._checks import as_key, check_instance
from nnef_dists._ranges import check_integer, check_range
from nnef_dists.bayes import draw_or_mean, entropy, sample_all_parameters
from nnef_dists.posterior._base import AbstractPosterior
from nnef_dists.posterior._simulations import SimulationBatch, Simulations


def nll_loss(
    head: AbstractPosterior, batch: SimulationBatch, key: PRNGKeyArray | None = None
) -> Float[Array, ""]:
    """Returns the mean negative log-likelihood of simulations, in nats.

        mean over pairs of -log q(theta | x)

    For simulations from the prior, the posterior minimizes the expected loss over all conditional
    distributions. The excess over this minimum is the mean KL divergence from the posterior.

    Args:
        head: The head.
        batch: Simulations.
        key: PRNG key for one draw of the weights. By default, the means are used.

    Returns:
        A scalar.

    Raises:
        ValueError: If `head` is not a posterior head, `batch` is of another type, or `key` is not
            one key.
    """
    _check_arguments(head, batch)
    head = draw_or_mean(head, key=key)
    return -jnp.mean(jax.vmap(head.log_prob)(batch.theta, batch.x))


def nll_elbo_loss(
    head: AbstractPosterior,
    batch: SimulationBatch,
    key: PRNGKeyArray,
    *,
    total: int | Int[Array, ""],
    samples: int = 1,
    temperature: float | Float[Array, ""] = 1.0,
) -> Float[Array, ""]:
    """Returns minus the (tempered) evidence lower bound (ELBO), in nats per simulation.

        E_q[-log q(theta | x, weights)] + temperature (E_q[g(weights)] - H(q)) / total

    where g is `head.compute_prior()`, the negative log-prior up to a constant, and H(q) is the
    entropy of the distribution q of the weights. Both expectations are averages over draws of the
    weights.

    Args:
        head: The head.
        batch: Simulations, a subset of `total`.
        key: PRNG key for the weights.
        total: Total number of simulations, at least 1. It divides prior and entropy.
        samples: Number of draws of the weights, at least 1. Defaults to 1.
        temperature: Weight of prior and entropy, at least 0. With 1 this is the ELBO. A larger
            value widens q, and a smaller value narrows it. Defaults to 1.

    Returns:
        A scalar, up to a constant that does not depend on q.

    Raises:
        ValueError: If `total` or `samples` is below 1, or `temperature` is negative. If `head` is
            not a posterior head, `batch` is of another type, or `key` is not one key.
    """
    _check_arguments(head, batch)
    key = as_key(key)
    total = check_range("total", total, 1, closed="low")
    samples = check_integer("samples", samples, 1)
    temperature = check_range("temperature", temperature, 0.0, closed="low")

    def one(key):
        drawn = sample_all_parameters(head, key)
        return nll_loss(drawn, batch), drawn.compute_prior()

    nll, prior = jax.lax.map(one, jax.random.split(key, samples))
    return jnp.mean(nll) + temperature * (jnp.mean(prior) - entropy(head)) / total


def _check_arguments(head: Any, batch: Any) -> None:
    check_instance(head, AbstractPosterior, "head")
    if not isinstance(batch, SimulationBatch | Simulations):
        raise ValueError(
            f"Expected batch to be an instance of SimulationBatch; got {type(batch).__name__}. Use "
            "data.arrays(), or nnef_dists.posterior.SimulationBatch(theta, x)."
        )
