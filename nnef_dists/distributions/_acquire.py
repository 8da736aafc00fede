"""Which etas to label next."""

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
    """Chooses etas whose labels would tell the network most, one after the other.

    The network's moments at the candidates, over draws of its weights, have a covariance

        k(a, b) = sum_i Cov[mu_i(a) / s_i(a), mu_i(b) / s_i(b)]

    with s the log-linear fit of sd(T) in the standardization, which is positive where a network
    that has seen little may have no covariance.

    The candidate of the largest variance is taken, k is conditioned on its label, and so on: the
    pivoted Cholesky factorization of k, which greedily maximizes det(k + noise^2) over subsets. So
    those that are uncertain for the same reason are not all taken. Runs on the host.

    Args:
        q: The family and its network, whose weights have to have widths.
        candidates: Valid natural parameters, `(n_candidates, eta_dim)`.
        key: For the draws of the weights.
        n: How many to choose.
        samples: How many sets of weights are drawn, at least 2. With `eta_dim` statistics they tell
            at most `samples * eta_dim` candidates apart.
        noise: The error of a label, in z units, positive.

    Returns:
        Different indices of candidates, `(n,)`, the most informative first.

    Raises:
        ValueError: If n is not in [1, n_candidates], for fewer than 2 samples or a noise that is
            not positive, for an invalid candidate, or if the network is certain of all of them or
            its moments are not finite.

    Reference:
        Chen, Zhang and Zhou, *Fast greedy MAP inference for determinantal point process to improve
        recommendation diversity*, NeurIPS (2018); Holzmueller, Zaverkin, Kaestner and Steinwart,
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
    # From one of them first, so that equal ones have no spread at all.
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
        # What is chosen is not chosen again.
        variance = (variance - column**2).at[pivot].set(-jnp.inf)
        return chosen.at[i].set(pivot), columns.at[:, i].set(column), variance

    m = len(features)
    start = (
        jnp.zeros(n, int),
        jnp.zeros((m, n), features.dtype),
        jnp.sum(features**2, 1),
    )
    return jax.lax.fori_loop(0, n, step, start)[0]
