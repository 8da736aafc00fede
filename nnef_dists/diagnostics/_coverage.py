"""Expected coverage of credible regions."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Real

from nnef_dists._checks import as_array, at_least_float32
from nnef_dists._ranges import check_range
from nnef_dists.diagnostics._sampler import (
    PosteriorDensity,
    as_parameters,
    as_ranks,
    compiled_and_checked,
    draw_posterior,
    normalized_ranks,
)


@compiled_and_checked
def highest_density_levels(
    posterior: PosteriorDensity,
    theta: Float[Array, "m theta_dim"],
    x: Float[Array, "m *x_shape"],
    key: PRNGKeyArray,
    n: int,
    *,
    batch_size: int = 64,
) -> Float[Array, " m"]:
    """Returns the levels of the smallest highest-density regions that contain the true parameters.

        level = P(q(theta | x) > q(theta* | x)),    theta ~ q(. | x),

    estimated from n draws as a normalized rank. It is uniform on (0, 1) if q is the true posterior.
    Levels near 1 indicate a posterior that is too narrow or biased. Small levels indicate one that
    is too wide.

    Args:
        posterior: Posterior with `sample(key, x, n)` and `log_prob(theta, x)`.
        theta: Parameters drawn from the prior, `(m, theta_dim)`.
        x: One simulation per parameter, not used in training, `(m, *x_shape)`.
        key: PRNG key.
        n: Number of draws per simulation, at least 1.
        batch_size: Number of simulations evaluated at a time. Defaults to 64.

    Returns:
        Levels in (0, 1), `(m,)`, for `expected_coverage` or `uniformity_p_value`.

    Raises:
        ValueError: If `theta` and `x` differ in length, a shape is wrong, also of the posterior's
            draws, or a count is not positive.
        RuntimeError: If a log-density is NaN. Under `jax.jit`, the result is NaN instead.

    Reference:
        Hermans, Delaunoy, Rozet, Wehenkel, Begy and Louppe, *A trust crisis in simulation-based
        inference? Your posterior approximations can be unfaithful*, TMLR (2022).
    """
    theta = as_parameters(theta)

    def draw(key: PRNGKeyArray, theta: Array, x: Array) -> tuple[Array, Array]:
        draws = draw_posterior(posterior, key, x, n, len(theta))
        log_prob = posterior.log_prob(theta, x)
        if jnp.shape(log_prob) != ():
            raise ValueError(
                "Expected posterior.log_prob(theta, x) to return a scalar; got shape "
                f"{jnp.shape(log_prob)}. It takes one theta, {theta.shape}, and one x, {x.shape}."
            )
        log_probs = jax.vmap(posterior.log_prob, (0, None))(draws, x)
        return -log_prob, -log_probs

    return normalized_ranks(draw, key, n, theta, x, batch_size=batch_size)


def central_levels(ranks: Float[Array, "m *k"]) -> Float[Array, "m *k"]:
    """Returns the levels |2 r - 1| of the smallest central intervals that contain the true values.

    Args:
        ranks: Normalized ranks, such as from `sbc_ranks`.

    Returns:
        Levels in [0, 1), uniform if the ranks are uniform.

    Raises:
        ValueError: If there are no ranks, or concrete ones outside of [0, 1]. Traced ones give NaN.
    """
    return jnp.abs(2 * as_ranks(ranks) - 1)


def expected_coverage(
    levels: Real[Array, "m *k"], nominal: Sequence[float] | Float[Array, " l"]
) -> Float[Array, "l *k"]:
    """Returns the fraction of simulations whose credible region contains the true parameter.

    The posterior is overconfident if coverage is below the nominal level, and underconfident if it
    is above.

    Args:
        levels: Levels of the smallest regions that contain the true parameters, `(m, *k)`, from
            `central_levels`, `highest_density_levels` or `tarp_levels`.
        nominal: Nominal levels, probabilities in [0, 1], `(l,)`.

    Returns:
        Coverage, `(l, *k)`, with the standard error of a binomial fraction of m.

    Raises:
        ValueError: If a concrete nominal probability is not in [0, 1], or they are one number.
    """
    nominal = as_array(check_range("nominal", nominal, 0.0, 1.0, closed="both"))
    if nominal.ndim != 1:
        raise ValueError(
            f"Expected nominal levels of shape (l,); got {nominal.shape}. Use [0.9] for one level."
        )
    levels = at_least_float32(levels)
    nominal = nominal.astype(levels.dtype)
    held = levels <= nominal.reshape(-1, *[1] * levels.ndim)
    return jnp.mean(jnp.where(jnp.isnan(levels), jnp.nan, held.astype(levels.dtype)), 1)
