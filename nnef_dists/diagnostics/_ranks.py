"""Simulation-based calibration: ranks of true parameters among posterior draws."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Real

from nnef_dists.diagnostics._sampler import (
    PosteriorSampler,
    as_parameters,
    as_ranks,
    compiled_and_checked,
    draw_posterior,
    normalized_ranks,
)


@compiled_and_checked
def sbc_ranks(
    posterior: PosteriorSampler,
    theta: Float[Array, "m theta_dim"],
    x: Float[Array, "m *x_shape"],
    key: PRNGKeyArray,
    n: int,
    *,
    quantity: Callable[[Array, Array], Array] | None = None,
    batch_size: int = 64,
) -> Float[Array, "m k"]:
    """Ranks each true parameter among n draws from the posterior of its simulation.

        r = (#{f(theta_i, x) < f(theta*, x)} + u) / (n + 1),    u uniform on (0, 1),

    with theta* from the prior, x simulated from theta*, and theta_i drawn given x. Ties are broken
    at random. If the posterior is correct, r is uniform on (0, 1). Ranks accumulate in the middle
    for a posterior that is too wide, and at both ends for one that is too narrow. They accumulate
    at one end for a biased posterior.

    The ranks of coordinates are also uniform if q is the prior. To detect this, rank a `quantity`
    that depends on x, ideally the log-likelihood.

    Args:
        posterior: Posterior with `sample(key, x, n)`.
        theta: Parameters drawn from the prior, `(m, theta_dim)`.
        x: One simulation per parameter, not used in training, `(m, *x_shape)`.
        key: PRNG key.
        n: Number of draws per simulation, at least 1.
        quantity: Quantity to rank: a function f(theta, x) of one parameter and one observation,
            which returns k numbers. By default, the coordinates of theta.
        batch_size: Number of simulations evaluated at a time. The memory is `batch_size * n` draws.
            Defaults to 64.

    Returns:
        Normalized ranks in (0, 1), `(m, k)`, for `uniformity_p_value`.

    Raises:
        ValueError: If `theta` and `x` differ in length, a shape is wrong, also of the posterior's
            draws, or a count is not positive.
        RuntimeError: If a draw is NaN. Under `jax.jit`, the result is NaN instead.

    Reference:
        Talts, Betancourt, Simpson, Vehtari and Gelman, *Validating Bayesian inference algorithms
        with simulation-based calibration* (2018).
        Modrak, Moon, Kim, Buerkner, Huurre, Faltejskova, Gelman and Vehtari, *Simulation-based
        calibration checking for Bayesian computation: the choice of test quantities shapes
        sensitivity*, Bayesian Analysis (2023).
    """
    ranked = (lambda theta, x: theta) if quantity is None else quantity

    theta = as_parameters(theta)

    def draw(key: PRNGKeyArray, theta: Array, x: Array) -> tuple[Array, Array]:
        draws = draw_posterior(posterior, key, x, n, len(theta))
        return ranked(theta, x), jax.vmap(ranked, (0, None))(draws, x)

    return normalized_ranks(draw, key, n, theta, x, batch_size=batch_size)


def uniformity_p_value(ranks: Real[Array, "m *k"]) -> Float[Array, "*k"]:
    """Tests ranks for uniformity on (0, 1) by the Anderson-Darling statistic.

        A^2 = -1/m sum_i (2 i - 1) (log r_(i) + log(1 - r_(m + 1 - i)) + 1)

    gives the ends more weight than the Kolmogorov-Smirnov statistic does. The ranks of posteriors
    that are too narrow or too wide differ there. The p-value uses the asymptotic distribution,
    which is accurate to 1e-3 from 20 ranks on.

    Args:
        ranks: Independent numbers in (0, 1) along the first axis, such as from `sbc_ranks`, or
            credible levels.

    Returns:
        The p-value of each column, `(*k,)`. For several columns, compare the smallest with the
        significance level divided by the number of columns.

    Raises:
        ValueError: If there are no ranks, or concrete ones outside of [0, 1]. Traced ones give NaN.

    Reference:
        Anderson and Darling, *A test of goodness of fit*, JASA 49 (1954).
        Marsaglia and Marsaglia, *Evaluating the Anderson-Darling distribution*, J. Statistical
        Software 9 (2004), for the distribution.
    """
    ranks = as_ranks(ranks)
    m = len(ranks)
    # Rounding may move a rank to 0 or 1.
    inside = jnp.finfo(ranks.dtype).eps / 4
    ordered = jnp.sort(jnp.clip(ranks, inside, 1 - 2 * inside), 0)
    weights = (2 * jnp.arange(m, dtype=ranks.dtype) + 1) / m
    terms = jnp.log(ordered) + jnp.log1p(-ordered[::-1]) + 1
    return _anderson_darling_tail(-jnp.tensordot(weights, terms, 1))


def _anderson_darling_tail(z: Float[Array, "*k"]) -> Float[Array, "*k"]:
    """Returns P(A^2 > z) for many ranks, within 2e-6 [Marsaglia and Marsaglia, 2004]."""
    low, high = jnp.clip(z, 0.05, 2), jnp.maximum(z, 2)
    small = (2.00012, 0.247105, -0.0649821, 0.0347962, -0.0116720, 0.00168691)
    large = (1.0776, -2.30695, 0.43424, -0.082433, 0.008056, -0.0003146)
    below = jnp.exp(-1.2337141 / low) / jnp.sqrt(low) * _polynomial(small, low)
    return jnp.where(z < 2, 1 - below, -jnp.expm1(-jnp.exp(_polynomial(large, high))))


def _polynomial(coefficients: tuple[float, ...], z: Float[Array, "*k"]) -> Float[Array, "*k"]:
    return jnp.polyval(jnp.asarray(coefficients[::-1], z.dtype), z)
