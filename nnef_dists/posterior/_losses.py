"""Losses of posterior heads: pure functions of a head, a batch of simulations and a key."""

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

    Its minimum over all conditional distributions is the posterior, for simulations from the prior;
    the expected excess over that minimum is the mean KL divergence from the posterior.

    Args:
        head: The head.
        batch: Simulations.
        key: Draws one set of weights for the batch; without a key the means are used.

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
    """Returns minus the (tempered) evidence lower bound, in nats for each simulation.

        E_q[-log q(theta | x, weights)] + temperature (E_q[g(weights)] - H(q)) / total

    with g `head.compute_prior()`, minus the log-prior up to a constant, and H(q) the entropy of the
    weights' law. Both expectations are Monte Carlo averages over draws of the weights.

    Args:
        head: The head.
        batch: Simulations, of `total` in all.
        key: PRNG key for the weights.
        total: How many simulations there are: the weight of prior and entropy.
        samples: How many sets of weights are drawn.
        temperature: 1 is the evidence bound; more widens the weights' law, less narrows it.

    Returns:
        A scalar, up to a constant that does not depend on the weights' law.

    Raises:
        ValueError: If `total` or `samples` is below 1, or `temperature` is negative; if `head` is
            no head, `batch` is of another type, or `key` is not one key.
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
