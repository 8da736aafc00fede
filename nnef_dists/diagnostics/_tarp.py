"""Tests of accuracy with random points (TARP)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.diagnostics._sampler import (
    PosteriorSampler,
    as_parameters,
    compiled_and_checked,
    draw_posterior,
    normalized_ranks,
)


@compiled_and_checked
def tarp_levels(
    posterior: PosteriorSampler,
    theta: Float[Array, "m theta_dim"],
    x: Float[Array, "m *x_shape"],
    key: PRNGKeyArray,
    n: int,
    *,
    references: Float[Array, "m theta_dim"] | None = None,
    batch_size: int = 64,
) -> Float[Array, " m"]:
    """Returns the levels of the smallest balls around references that contain the true parameters.

        level = P(|theta - rho(x)| < |theta* - rho(x)|),    theta ~ q(. | x),

    with distances in units of sd(theta*), estimated from n draws as a normalized rank. The level is
    uniform on (0, 1) for every rho if and only if q is the true posterior. No density is needed. A
    curve of `expected_coverage` that crosses the diagonal at 1/2 indicates a posterior that is too
    wide or too narrow. A curve on one side of the diagonal indicates a bias.

    The references must depend on x. Otherwise, a posterior that is equal to the prior passes. They
    must depend on the true parameter only through x.

    Args:
        posterior: Posterior with `sample(key, x, n)`.
        theta: Parameters drawn from the prior, `(m, theta_dim)`.
        x: One simulation per parameter, not used in training, `(m, *x_shape)`.
        key: PRNG key.
        n: Number of draws per simulation, at least 1.
        references: Reference points rho(x), `(m, theta_dim)`. By default, random linear functions
            of the standardized x, with the mean and standard deviation of theta.
        batch_size: Number of simulations evaluated at a time. Defaults to 64.

    Returns:
        Levels in (0, 1), `(m,)`, for `expected_coverage` or `uniformity_p_value`.

    Raises:
        ValueError: If `theta`, `x` and `references` differ in length, a shape is wrong, also of the
            posterior's draws, or a count is not positive.
        RuntimeError: If a draw is NaN. Under `jax.jit`, the result is NaN instead.

    Reference:
        Lemos, Coogan, Hezaveh and Perreault-Levasseur, *Sampling-based accuracy testing of
        posterior estimators for general inference*, ICML (2023).
    """
    theta = as_parameters(theta)
    key_references, key_pairs = jax.random.split(key)
    location, scale = jnp.mean(theta, 0), jnp.std(theta, 0)
    scale = jnp.where(scale > 0, scale, 1)
    if references is None:
        references = location + scale * _random_linear(key_references, x, theta.shape[1])
    if references.shape[1:] != theta.shape[1:]:
        raise ValueError(
            f"Expected references of the shape {theta.shape} of theta; got {references.shape}. "
            "Every simulation has its own."
        )

    def draw(key: PRNGKeyArray, theta: Array, x: Array, reference: Array) -> tuple[Array, Array]:
        def distance(theta: Array) -> Array:
            return jnp.sum(((theta - reference) / scale) ** 2)

        draws = draw_posterior(posterior, key, x, n, len(theta))
        return distance(theta), jax.vmap(distance)(draws)

    return normalized_ranks(draw, key_pairs, n, theta, x, references, batch_size=batch_size)


def _random_linear(
    key: PRNGKeyArray, x: Float[Array, "m *x_shape"], dim: int
) -> Float[Array, "m dim"]:
    """Returns random linear functions of x, with mean 0 and variance 1."""
    x = x.reshape(x.shape[0], -1)
    sd = jnp.std(x, 0)
    x = (x - jnp.mean(x, 0)) / jnp.where(sd > 0, sd, 1)
    values = x @ jax.random.normal(key, (x.shape[1], dim), x.dtype)
    spread = jnp.std(values, 0)
    return values / jnp.where(spread > 0, spread, 1)
