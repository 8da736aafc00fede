"""The generalized inverse Gaussian distribution."""

import math
from typing import ClassVar, final

import jax
import jax.numpy as jnp
from flowjax.bijections import Exp
from jaxtyping import Array, Float

from nnef_dists.families._boundary import log_above_zero, log_indicator
from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._constraints import negative
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._unimodal_rule import (
    UnimodalRule,
    cosh_remainder,
    exp_remainder,
    unimodal_rule,
)


@final
class GeneralizedInverseGaussian(AbstractNamedFamily):
    """The generalized inverse Gaussian distribution on x > 0.

        p(x | eta) proportional to exp(eta1 log x + eta2 x + eta3 / x),    eta2 < 0, eta3 < 0

    Statistics `log_x`, `x` and `inverse`. With the order p = eta1 + 1, a = -2 eta2, b = -2 eta3 and
    the modified Bessel function K of the second kind,

        A = log(2 K_p(sqrt(a b))) + (p / 2) log(b / a)
        E[x] = sqrt(b / a) K_{p+1}(sqrt(a b)) / K_p(sqrt(a b))
        E[log x] = log(b / a) / 2 + d log K_p(sqrt(a b)) / d p

    The order is any real number, because the density decays exponentially at both ends. The inverse
    Gaussian distribution has p = -1/2. For eta3 -> 0 and p > 0 the limit is a gamma distribution,
    for eta2 -> 0 and p < 0 an inverse gamma distribution.

    Quadrature over log x around the mode gives A and its derivatives, accurate to rounding. The
    results are NaN for sqrt(a b) below 1e-12 (1e-27 in float32) and |p| far below 1. The density of
    log x is then too wide for the nodes.

    Reference:
        Jorgensen, *Statistical Properties of the Generalized Inverse Gaussian Distribution* (1982),
        chapter 2.
    """

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain(x=negative, inverse=negative)

    @property
    def support(self) -> Exp:
        """The positive half-line."""
        return Exp()

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns log x, x and 1 / x."""
        above_zero = jnp.maximum(x, jnp.finfo(x.dtype).tiny)
        return {"log_x": log_above_zero(x), "x": x, "inverse": 1 / above_zero}

    def log_base_measure(self, x: Array) -> Float[Array, ""]:
        """Returns 0, or -inf outside the support."""
        return log_indicator(x > 0, x)

    @property
    def has_unit_base_measure(self) -> bool:
        """True: h is 1 on the support."""
        return True

    def log_partition(self, eta: Float[Array, "3"]) -> Float[Array, ""]:
        """Returns A = log(2 K_p(sqrt(a b))) + (p / 2) log(b / a), in nats."""
        return _log_partition(self.check_eta(eta))

    def mean(self, eta: Float[Array, "3"]) -> Float[Array, "3"]:
        """Returns E[log x], E[x] and E[1 / x]."""
        return _mean(self.check_eta(eta))

    def to_natural(
        self, order: Float[Array, ""], a: Float[Array, ""], b: Float[Array, ""]
    ) -> Float[Array, "3"]:
        """Returns eta for x^(order - 1) exp(-(a x + b / x) / 2), with positive a and b."""
        return self.check_eta(jnp.stack([order - 1, -a / 2, -b / 2]))


def _drop(
    t: Float[Array, "*n"], order: Float[Array, ""], excess: Float[Array, ""]
) -> Float[Array, "*n"]:
    """Returns the log-density of log x at the mode minus the log-density at distance t.

    With w = sqrt(a b) this is hypot(p, w) (cosh t - 1) + p (sinh t - t). It is computed as a sum of
    two positive numbers, with `excess` equal to hypot(p, w) - |p|.
    """
    toward = jnp.where(order < 0, -t, t)
    return jnp.abs(order) * exp_remainder(toward) + excess * cosh_remainder(t)


def _growth(t: Float[Array, ""], *_: Array) -> Float[Array, ""]:
    """Returns the log of x^4 or x^-4, a bound on products of up to four statistics."""
    return 4 * jnp.abs(t)


def _mode_and_rule(
    eta: Float[Array, "3"],
) -> tuple[Float[Array, ""], Float[Array, ""], UnimodalRule]:
    """Returns the mode of the density of log x, as x, the value of hypot(p, w), and the rule."""
    order, rate, inverse_rate = eta[0] + 1, -eta[1], -eta[2]
    w = 2 * jnp.sqrt(rate) * jnp.sqrt(inverse_rate)
    size = jnp.hypot(order, w)
    mode = jnp.where(
        order < 0,
        2 * inverse_rate / (size + jnp.abs(order)),
        (size + jnp.abs(order)) / (2 * rate),
    )
    excess = w * (w / (size + jnp.abs(order)))
    return mode, size, unimodal_rule(_drop, _growth, (order, excess), math.pi / 2)


def _deviations(t: Float[Array, " n"]) -> Float[Array, "3 n"]:
    """Returns the statistics relative to the mode: log x, x and 1 / x."""
    return jnp.stack([t, jnp.expm1(t), jnp.expm1(-t)])


@jax.custom_jvp
def _log_partition(eta: Float[Array, "3"]) -> Float[Array, ""]:
    mode, size, rule = _mode_and_rule(eta)
    return (eta[0] + 1) * jnp.log(mode) - size + rule.log_integral


@_log_partition.defjvp
def _log_partition_jvp(primals, tangents):
    return _log_partition(*primals), jnp.sum(_mean(*primals) * tangents[0])


@jax.custom_jvp
def _mean(eta: Float[Array, "3"]) -> Float[Array, "3"]:
    mode, _, rule = _mode_and_rule(eta)
    log_x, x, inverse = rule.mean(_deviations(rule.t))
    return jnp.stack([jnp.log(mode) + log_x, mode * (1 + x), (1 + inverse) / mode])


@_mean.defjvp
def _mean_jvp(primals, tangents):
    mode, _, rule = _mode_and_rule(*primals)
    covariance = rule.covariance(_deviations(rule.t))
    scale = jnp.stack([jnp.ones_like(mode), mode, 1 / mode])
    return _mean(*primals), scale * jnp.sum(covariance * (scale * tangents[0]), 1)
