"""Choice of the next etas to label."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nnef_dists._ranges import check_integer, check_number
from nnef_dists.bayes import predictive_draws
from nnef_dists.distributions._amortized import AmortizedFamily
from nnef_dists.moments import check_etas


def acquire(
    q: AmortizedFamily,
    candidates: Float[Array, "n_candidates eta_dim"],
    key: PRNGKeyArray,
    n: int,
    *,
    samples: int = 64,
    noise: float = 0.01,
) -> Int[np.ndarray, " n"]:
    """Chooses the etas with the most informative labels for a network, one after the other.

    The network's moments at the candidates, over draws of its weights, have a covariance

        k(a, b) = sum_i Cov[mu_i(a) / s_i(a), mu_i(b) / s_i(b)]

    with s the log-linear fit of sd(T) in the standardization. Unlike the covariance of a network
    with few labels, this fit is always positive.

    Each step takes the candidate of the largest variance, and conditions k on its label. This is
    the pivoted Cholesky factorization of k, which greedily maximizes det(k + noise^2) over subsets.
    Candidates with strongly correlated moments are therefore not all taken. Runs on the host.

    Args:
        q: The family and its network, whose weights must be random.
        candidates: Valid natural parameters, `(n_candidates, eta_dim)`.
        key: PRNG key of the draws of the weights.
        n: Number of candidates to choose, from 1 to n_candidates.
        samples: Number of draws of the weights, at least 2. They distinguish at most
            `samples * eta_dim` candidates. Defaults to 64.
        noise: Error of a label, in z units, positive. Defaults to 0.01.

    Returns:
        Distinct indices of candidates, `(n,)`, the most informative first.

    Raises:
        ValueError: If `n`, `samples` or `noise` is out of range, or a candidate is invalid. If the
            moments of the network at the candidates are not finite, or have zero variance.

    Reference:
        Chen, Zhang and Zhou, *Fast greedy MAP inference for determinantal point process to improve
        recommendation diversity*, NeurIPS (2018). Holzmueller, Zaverkin, Kaestner and Steinwart,
        *A framework and benchmark for deep batch active learning for regression*, JMLR 24 (2023),
        for its use with networks.
    """
    candidates = check_etas(q.family, candidates)
    n = check_integer("n", n, 1, len(candidates))
    samples = check_integer("samples", samples, 2)
    noise = check_number("noise", noise, 0.0)
    features = _features(q, candidates, key, samples)
    size = np.asarray(jnp.sum(features**2, 1))
    if not np.isfinite(size).all():
        raise ValueError(
            "Expected a network with finite moments at all candidates; got candidate "
            f"{int(np.argmin(np.isfinite(size)))} without"
        )
    if not size.any():
        raise ValueError("Expected a network with uncertain weights; got one that is certain")
    return np.asarray(_pivots(features, n, jnp.asarray(noise, features.dtype)))


@partial(jax.jit, static_argnames="samples")
def _features(
    q: AmortizedFamily, candidates: Float[Array, "n eta_dim"], key: PRNGKeyArray, samples: int
) -> Float[Array, "n k"]:
    """Returns vectors whose inner products are the covariance k between candidates."""
    coordinates = q.network.standardization
    scale = jax.vmap(lambda eta: coordinates.rough_sd(coordinates.inputs(eta)))(candidates)

    def predict(network):
        return jax.vmap(network)(candidates) / scale

    draws = predictive_draws(q.network, predict, key, samples)
    # Subtract one draw first, so that equal draws have zero spread.
    draws = draws - draws[0]
    spread = (draws - jnp.mean(draws, 0)) / (samples - 1) ** 0.5
    return jnp.moveaxis(spread, 0, 1).reshape(len(candidates), -1)


@partial(jax.jit, static_argnames="n")
def _pivots(features: Float[Array, "m k"], n: int, noise: Float[Array, ""]) -> Int[Array, " n"]:
    """Returns the first n pivots of the Cholesky factorization of features features^T + noise^2."""

    def step(i, carry):
        chosen, columns, variance = carry
        pivot = jnp.argmax(variance)
        column = features @ features[pivot] - columns @ columns[pivot]
        column = column / jnp.sqrt(jnp.maximum(variance[pivot], 0) + noise**2)
        # Exclude the chosen candidate from later steps.
        variance = (variance - column**2).at[pivot].set(-jnp.inf)
        return chosen.at[i].set(pivot), columns.at[:, i].set(column), variance

    m = len(features)
    start = (
        jnp.zeros(n, int),
        jnp.zeros((m, n), features.dtype),
        jnp.sum(features**2, 1),
    )
    return jax.lax.fori_loop(0, n, step, start)[0]
