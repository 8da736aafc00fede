"""Posterior predictive checks."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from nnef_dists._checks import at_least_float32, check_concrete
from nnef_dists.diagnostics._sampler import PosteriorSampler, check_draws, map_pairs


@eqx.filter_jit
def posterior_predictive(
    posterior: PosteriorSampler,
    simulator: Callable[[PRNGKeyArray, Array], Array],
    x: Float[Array, "*x_shape"],
    key: PRNGKeyArray,
    n: int,
    *,
    batch_size: int = 1024,
) -> Float[Array, "n *x_shape"]:
    """Simulates observations at posterior draws of theta given x.

        x_rep ~ p(x_rep | theta),    theta ~ q(theta | x)

    Args:
        posterior: Posterior with `sample(key, x, n)`.
        simulator: Simulator of one observation, `simulator(key, theta)`.
        x: Observation, `(*x_shape)`.
        key: PRNG key.
        n: Number of simulated observations, at least 1.
        batch_size: Number of simulations at a time. Defaults to 1024.

    Returns:
        Simulated observations, `(n, *x_shape)`, for `predictive_p_value`.

    Raises:
        ValueError: If a count is not positive, or the posterior returns another number of draws.

    Reference:
        Gelman, Meng and Stern, *Posterior predictive assessment of model fitness via realized
        discrepancies*, Statistica Sinica 6 (1996).
    """
    check_draws(n)
    key_draws, key_simulator = jax.random.split(key)
    draws = posterior.sample(key_draws, x, n)
    if jnp.shape(draws)[:1] != (n,):
        raise ValueError(
            f"Expected posterior.sample(key, x, n) to return n = {n} draws; got draws of shape "
            f"{jnp.shape(draws)}. It takes one observation x."
        )
    return map_pairs(simulator, key_simulator, draws, batch_size=batch_size)


def predictive_p_value(
    replicates: Shaped[Array, "n *k"], observed: Shaped[Array, "*k"]
) -> Float[Array, "*k"]:
    """Returns the two-sided p-value of an observation among its posterior predictions.

        p = 2 min(r, 1 - r),    r = (#{x_rep < x} + #{x_rep = x} / 2 + 1/2) / (n + 1)

    The posterior depends on x, so p is larger than uniform if posterior and simulator are correct.
    A small p indicates a posterior, or a simulator, that cannot produce x.

    Args:
        replicates: Simulated observations, `(n, *k)`, or a statistic of each, of any real dtype.
        observed: Observation, or its statistic, `(*k,)`.

    Returns:
        The p-value of each entry, `(*k,)`, at least 1 / (n + 1).

    Raises:
        ValueError: If there are no replicates, or their shape is not that of `observed`.
        RuntimeError: If a value is NaN. Under `jax.jit`, the p-values are NaN instead.
    """
    n = replicates.shape[0]
    if n < 1:
        raise ValueError("Expected at least one replicate; got none")
    if replicates.shape[1:] != jnp.shape(observed):
        raise ValueError(
            f"Expected an observation of shape {replicates.shape[1:]}, as each replicate; got "
            f"{jnp.shape(observed)}."
        )
    bad = jnp.any(jnp.isnan(replicates)) | jnp.any(jnp.isnan(observed))
    check_concrete(
        replicates,
        ~bad,
        "Expected observations without NaN",
        "some",
        "Check the draws of the posterior, and the simulator at them.",
        error=RuntimeError,
    )
    # Counts overflow in the dtype of small integers.
    dtype = at_least_float32(replicates[:0]).dtype
    below = jnp.sum(replicates < observed, 0).astype(dtype)
    equal = jnp.sum(replicates == observed, 0).astype(dtype)
    rank = (below + equal / 2 + 0.5) / (n + 1)
    return jnp.where(bad, jnp.nan, 2 * jnp.minimum(rank, 1 - rank))
