"""Expected coverage: how often credible regions hold the truth."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._ranges import check_range
from nnef_dists.diagnostics._sampler import PosteriorDensity, compiled_and_checked, normalized_ranks


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
    """Finds the level of the smallest highest-density region that holds each true parameter.

        level = P(q(theta | x) > q(theta* | x)),    theta ~ q(. | x),

    estimated from n draws as a normalized rank, so that it is uniform on (0, 1) where q is exact.
    Levels near 1 tell of a posterior too narrow or beside the truth, small ones of one too wide.

    Args:
        posterior: With `sample(key, x, n)` and `log_prob(theta, x)`.
        theta: Parameters drawn from the prior, `(m, theta_dim)`.
        x: What was simulated from each, and not seen in training, `(m, *x_shape)`.
        key: PRNG key.
        n: Draws for each simulation, at least 1.
        batch_size: Simulations evaluated at a time.

    Returns:
        Levels in (0, 1), `(m,)`: for `expected_coverage`, or `uniformity_p_value`.

    Raises:
        ValueError: If theta and x differ in number, or a count is not positive.
        RuntimeError: If a log-density is NaN. Inside a compiled program the result is NaN.

    Reference:
        Hermans, Delaunoy, Rozet, Wehenkel, Begy and Louppe, *A trust crisis in simulation-based
        inference? Your posterior approximations can be unfaithful*, TMLR (2022).
    """

    def draw(key: PRNGKeyArray, theta: Array, x: Array) -> tuple[Array, Array]:
        draws = posterior.sample(key, x, n)
        log_probs = jax.vmap(posterior.log_prob, (0, None))(draws, x)
        return -posterior.log_prob(theta, x), -log_probs

    return normalized_ranks(draw, key, n, theta, x, batch_size=batch_size)


def central_levels(ranks: Float[Array, "m *k"]) -> Float[Array, "m *k"]:
    """Turns ranks into levels of the smallest central intervals that hold the truth, |2 r - 1|.

    Args:
        ranks: Normalized ranks, such as those of `sbc_ranks`.

    Returns:
        Levels in [0, 1), uniform where the ranks are.
    """
    return jnp.abs(2 * ranks - 1)


def expected_coverage(
    levels: Float[Array, "m *k"], nominal: Float[Array, " l"]
) -> Float[Array, "l *k"]:
    """Returns the share of simulations whose credible region of a nominal level holds the truth.

    Below the nominal level the posterior is overconfident, above it underconfident.

    Args:
        levels: Of the smallest region that holds each truth, `(m, *k)`: of `central_levels`,
            `highest_density_levels` or `tarp_levels`.
        nominal: Probabilities in [0, 1], `(l,)`.

    Returns:
        Coverage, `(l, *k)`; its standard error is that of a binomial share of m.

    Raises:
        ValueError: If a concrete nominal probability is not in [0, 1].
    """
    nominal = check_range("nominal", nominal, 0.0, 1.0, closed="both")
    held = levels <= nominal.reshape(-1, *[1] * levels.ndim)
    return jnp.mean(jnp.where(jnp.isnan(levels), jnp.nan, held.astype(levels.dtype)), 1)
