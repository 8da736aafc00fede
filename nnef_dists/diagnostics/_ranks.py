"""Simulation-based calibration: where the truth ranks among posterior draws."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.diagnostics._sampler import PosteriorSampler, compiled_and_checked, normalized_ranks


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
    """Ranks each true parameter among n draws from the posterior of its own simulation.

        r = (#{f(theta_i, x) < f(theta*, x)} + u) / (n + 1),    u uniform on (0, 1),

    with theta* from the prior, x simulated from it, and theta_i drawn given x. Where the posterior
    is exact, r is uniform on (0, 1); ties are broken at random. Ranks that pile up in the middle
    tell of a posterior too wide, at the ends of one too narrow, and at one end of a bias.

    Coordinates cannot tell the prior from the posterior, whose ranks are uniform too. A `quantity`
    that depends on x, best the log-likelihood, can.

    Args:
        posterior: With `sample(key, x, n)`.
        theta: Parameters drawn from the prior, `(m, theta_dim)`.
        x: What was simulated from each, and not seen in training, `(m, *x_shape)`.
        key: PRNG key.
        n: Draws for each simulation, at least 1.
        quantity: What to rank, k numbers f(theta, x) of one parameter and one observation; None
            is the coordinates of theta.
        batch_size: Simulations evaluated at a time: bounds the memory, of `batch_size * n` draws.

    Returns:
        Normalized ranks in (0, 1), `(m, k)`; `uniformity_p_value` tests them.

    Raises:
        ValueError: If theta and x differ in number, or a count is not positive.
        RuntimeError: If a draw is NaN. Inside a compiled program the result is NaN.

    Reference:
        Talts, Betancourt, Simpson, Vehtari and Gelman, *Validating Bayesian inference algorithms
        with simulation-based calibration* (2018); Modrak, Moon, Kim, Buerkner, Huurre, Faltejskova,
        Gelman and Vehtari, *Simulation-based calibration checking for Bayesian computation: the
        choice of test quantities shapes sensitivity*, Bayesian Analysis (2023).
    """
    ranked = (lambda theta, x: theta) if quantity is None else quantity

    def draw(key: PRNGKeyArray, theta: Array, x: Array) -> tuple[Array, Array]:
        draws = posterior.sample(key, x, n)
        return ranked(theta, x), jax.vmap(ranked, (0, None))(draws, x)

    return normalized_ranks(draw, key, n, theta, x, batch_size=batch_size)


def uniformity_p_value(ranks: Float[Array, "m *k"]) -> Float[Array, "*k"]:
    """Tests ranks for uniformity on (0, 1), by Anderson and Darling's statistic.

        A^2 = -1/m sum_i (2 i - 1) (log r_(i) + log(1 - r_(m + 1 - i)) + 1)

    weighs the ends, where the ranks of a posterior too narrow or too wide show, more than
    Kolmogorov and Smirnov's does. Its asymptotic law is used, which holds to 1e-3 from 20 ranks on.

    Args:
        ranks: Independent numbers in (0, 1) along the first axis, such as those of `sbc_ranks`, or
            credible levels.

    Returns:
        The p value of each column, `(*k,)`. Of several columns, compare the smallest with the
        significance divided by their number.

    Raises:
        ValueError: If there are no ranks.

    Reference:
        Anderson and Darling, *A test of goodness of fit*, JASA 49 (1954); Marsaglia and Marsaglia,
        *Evaluating the Anderson-Darling distribution*, J. Statistical Software 9 (2004), for the
        law.
    """
    m = ranks.shape[0]
    if m == 0:
        raise ValueError("Expected at least one rank; got none")
    # Rounding may put a rank on 0 or 1.
    inside = jnp.finfo(ranks.dtype).eps / 4
    ordered = jnp.sort(jnp.clip(ranks, inside, 1 - 2 * inside), 0)
    weights = (2 * jnp.arange(m, dtype=ranks.dtype) + 1) / m
    terms = jnp.log(ordered) + jnp.log1p(-ordered[::-1]) + 1
    return _anderson_darling_tail(-jnp.tensordot(weights, terms, 1))


def _anderson_darling_tail(z: Float[Array, "*k"]) -> Float[Array, "*k"]:
    """Returns P(A^2 > z) in the limit of many, within 2e-6 [Marsaglia and Marsaglia, 2004]."""
    low, high = jnp.clip(z, 0.05, 2), jnp.maximum(z, 2)
    small = (2.00012, 0.247105, -0.0649821, 0.0347962, -0.0116720, 0.00168691)
    large = (1.0776, -2.30695, 0.43424, -0.082433, 0.008056, -0.0003146)
    below = jnp.exp(-1.2337141 / low) / jnp.sqrt(low) * _polynomial(small, low)
    return jnp.where(z < 2, 1 - below, -jnp.expm1(-jnp.exp(_polynomial(large, high))))


def _polynomial(coefficients: tuple[float, ...], z: Float[Array, "*k"]) -> Float[Array, "*k"]:
    return jnp.polyval(jnp.asarray(coefficients[::-1], z.dtype), z)
