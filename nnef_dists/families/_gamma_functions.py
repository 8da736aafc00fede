"""Differences of log-gamma and digamma functions, accurate for large arguments.

log Gamma(a) and digamma(a) are split into elementary terms, which cancel in differences, and
remainders that vanish at infinity:

    log Gamma(a) = (a - 1/2) log a - a + log(2 pi) / 2 + R(a)
    digamma(a) = log a + D(a)

Reference:
    NIST, *Digital Library of Mathematical Functions*, equations 5.11.1 and 5.11.2.
"""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float

# Smallest argument at which the series below are accurate to double precision.
_LARGE = 10.0
_LOG_GAMMA_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_DIGAMMA_SERIES = (-1 / 12, 1 / 120, -1 / 252, 1 / 240, -1 / 132, 691 / 32760, -1 / 12)
HALF_LOG_TWO_PI = math.log(2 * math.pi) / 2


def log_gamma_remainder(a: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns R(a) = log Gamma(a) - (a - 1/2) log a + a - log(2 pi) / 2 for a > 0."""
    large, small = jnp.maximum(a, _LARGE), jnp.minimum(a, _LARGE)
    series = _polynomial(_LOG_GAMMA_SERIES, 1 / large**2) / large
    exact = gammaln(small) - (small - 0.5) * jnp.log(small) + small - HALF_LOG_TWO_PI
    return jnp.where(a >= _LARGE, series, exact)


@jax.jit
def log_factorial(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns log x! = log Gamma(x + 1) for x > -1, accurate to rounding."""
    a = x + 1
    large = (a - 0.5) * jnp.log(jnp.maximum(a, 1)) - a + HALF_LOG_TWO_PI + log_gamma_remainder(a)
    # For small arguments the terms cancel, and gammaln is accurate.
    return jnp.where(a >= _LARGE, large, gammaln(jnp.minimum(a, _LARGE)))


def digamma_remainder(a: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns D(a) = digamma(a) - log a for a > 0."""
    large, small = jnp.maximum(a, _LARGE), jnp.minimum(a, _LARGE)
    series = -0.5 / large + _polynomial(_DIGAMMA_SERIES, 1 / large**2) / large**2
    return jnp.where(a >= _LARGE, series, digamma(small) - jnp.log(small))


def log_ratio(a: Float[Array, "*n"], b: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns log(a / b) of positive numbers, accurate also if they are nearly equal."""
    near = jnp.abs(a - b) < b / 2
    change = jnp.where(near, a - b, 0) / b
    return jnp.where(near, jnp.log1p(change), jnp.log(a / b))


def log_multivariate_beta(alpha: Float[Array, " k"]) -> Float[Array, ""]:
    """Returns sum_i log Gamma(alpha_i) - log Gamma(sum_i alpha_i), in nats."""
    total = jnp.sum(alpha)
    elementary = jnp.sum(alpha * log_share(alpha)) - (jnp.sum(jnp.log(alpha)) - jnp.log(total)) / 2
    remainder = jnp.sum(log_gamma_remainder(alpha)) - log_gamma_remainder(total)
    return elementary + remainder + (len(alpha) - 1) * HALF_LOG_TWO_PI


def mean_log_share(alpha: Float[Array, " k"]) -> Float[Array, " k"]:
    """Returns digamma(alpha_i) - digamma(sum_i alpha_i)."""
    return digamma_remainder(alpha) - digamma_remainder(jnp.sum(alpha)) + log_share(alpha)


def log_share(alpha: Float[Array, " k"]) -> Float[Array, " k"]:
    """Returns log(alpha_i / sum_i alpha_i) of positive numbers, accurate also near 0."""
    total = jnp.sum(alpha)
    others = jnp.sum(jnp.where(jnp.eye(len(alpha), dtype=bool), 0, alpha), 1)
    near = others < total / 2
    share = jnp.where(near, others, 0) / total
    return jnp.where(near, jnp.log1p(-share), jnp.log(alpha / total))


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    total = jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = total * x + coefficient
    return total
