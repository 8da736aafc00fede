"""The trapezoidal rule for one-dimensional densities whose mode is known.

The rule is accurate to rounding. Let the function be analytic in the strip |Im t| < a and fall to
zero at both ends. Then the error is of order exp(-2 pi a / h), where h is the distance of nodes.
Logarithms of Bessel functions and their derivatives, also with respect to the order, are computed
from such integrals.

Reference:
    Trefethen and Weideman, *The exponentially convergent trapezoidal rule*, SIAM Review 56 (2014),
    theorem 5.1.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Logarithms of the shortest and the longest distance from the mode to an end of the rule.
_SHORTEST, _LONGEST = math.log(1e-20), math.log(1e3)
# Number of bisections per end of the rule. They leave an uncertainty of 1% of the distance.
_BISECTIONS = 13
_SERIES_TERMS = 14


class UnimodalRule(NamedTuple):
    """Nodes and weights of a density relative to its mode.

    Attributes:
        t: Nodes relative to the mode, `(n,)`.
        roots: Square roots of the probabilities of the nodes, `(n,)`.
        log_integral: Log of the integral of the density, divided by the density at the mode, in
            nats.
    """

    t: Float[Array, " n"]
    roots: Float[Array, " n"]
    log_integral: Float[Array, ""]

    def mean(self, values: Float[Array, "k n"]) -> Float[Array, " k"]:
        """Returns the means, `(k,)`, of functions with these values at the nodes."""
        return jnp.sum(self.roots * (self.roots * values), -1)

    def covariance(self, values: Float[Array, "k n"]) -> Float[Array, "k k"]:
        """Returns the covariances, `(k, k)`, of functions with these values at the nodes."""
        # The product of a root and a value does not overflow if a product of squares would.
        scaled = self.roots * (values - self.mean(values)[:, None])
        return jnp.sum(scaled[:, None] * scaled[None], -1)


def unimodal_rule(
    drop: Callable[..., Array],
    growth: Callable[..., Array],
    parameters: tuple[Float[Array, ""], ...],
    strip: float,
) -> UnimodalRule:
    """Returns the rule for exp(-drop(t, *parameters)).

    Derivatives of the weights are exact. The nodes count as constants.

    Args:
        drop: Log-density at the mode minus the log-density at t. It is zero at t = 0, increasing on
            both sides, and analytic, and is called with t, `()` or `(n,)`.
        growth: Log of a bound on products of statistics, relative to their size near the mode. It
            is called like `drop`.
        parameters: Parameters of the density.
        strip: Half-width of a strip |Im t| < `strip` in which the density is analytic.

    Returns:
        The rule. Its weights are NaN if the nodes are too far apart, because the density falls too
        slowly.
    """
    dtype = parameters[0].dtype
    digits = -math.log(float(jnp.finfo(dtype).eps))
    n = 512 if digits > 20 else 256
    fixed = jax.lax.stop_gradient(parameters)

    def end(side: float) -> Array:
        """Returns the distance at which all moments are negligible."""

        def halve(_, bounds):
            low, high = bounds
            middle = (low + high) / 2
            distance = jnp.exp(middle)
            t = side * distance
            within = drop(t, *fixed) - growth(t, *fixed) < 1.1 * digits
            return jnp.where(within, middle, low), jnp.where(within, high, middle)

        bounds = jnp.asarray(_SHORTEST, dtype), jnp.asarray(_LONGEST, dtype)
        return jnp.exp(jax.lax.fori_loop(0, _BISECTIONS, halve, bounds)[1])

    left, right = end(-1.0), end(1.0)
    t = (left + right) * jnp.asarray(np.linspace(0, 1, n), dtype) - left
    step = (left + right) / (n - 1)
    drops = drop(t, *parameters)
    # The bound exp(-2 pi strip / step) of the error must be below the rounding error.
    resolved = step < 2 * math.pi * strip / digits
    integral = jnp.where(resolved, step, jnp.nan) * jnp.sum(jnp.exp(-drops))
    roots = jnp.exp(-drops / 2) * jnp.sqrt(step / integral)
    return UnimodalRule(t, roots, jnp.log(integral))


def exp_remainder(t: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns exp(t) - 1 - t, accurate to rounding."""
    near = jnp.abs(t) < 0.5
    small = jnp.where(near, t, 0)
    total = jnp.ones_like(t)
    for k in range(_SERIES_TERMS, 2, -1):
        total = 1 + small * total / k
    return jnp.where(near, small**2 / 2 * total, jnp.expm1(t) - t)


def cosh_remainder(t: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns cosh(t) - 1, accurate to rounding."""
    return 2 * jnp.sinh(t / 2) ** 2
