"""The Gaussian restricted to the positive half-line."""

import math
from typing import ClassVar, final

import jax
import jax.numpy as jnp
from flowjax.bijections import SoftPlus
from jaxtyping import Array, Float

from nnef_dists.families._boundary import log_indicator
from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._constraints import negative
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._symmetries import Scaling
from nnef_dists.families._symmetry import AbstractSymmetry
from nnef_dists.families._unimodal_rule import UnimodalRule, exp_remainder, unimodal_rule


@final
class RectifiedGaussian(AbstractNamedFamily):
    """The normal distribution truncated to x >= 0, for non-negative quantities.

        p(x | eta) proportional to exp(eta1 x + eta2 x^2) for x >= 0,    eta2 < 0

    Statistics `x` and `x2`. With z = eta1 / sqrt(-2 eta2), the normal CDF Phi and density phi,

        A = log(sqrt(pi / -eta2) Phi(z)) + z^2 / 2
        E[x] = (z + phi(z) / Phi(z)) / sqrt(-2 eta2)

    For eta1 = 0 this is the half-normal distribution. As z -> infinity the limit is a Gaussian. As
    z -> -infinity it is an exponential distribution with mean -1 / eta1, and z + phi / Phi loses
    all digits. So quadrature over log x around the mode gives A and its derivatives, accurate to
    rounding in both tails.

    The integrand is bounded at 0, so its tail decides. The integral exists for eta2 < 0 and every
    eta1, and is infinite for eta2 > 0. The edge eta2 = 0, an exponential distribution if eta1 < 0,
    is excluded, so that the domain is open and a product.

    The unconstrained coordinate is the inverse softplus of x. In this coordinate, the density has
    a Gaussian tail on one side and an exponential tail on the other.
    """

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain(x2=negative)

    @property
    def support(self) -> SoftPlus:
        """The positive half-line."""
        return SoftPlus()

    @property
    def symmetries(self) -> tuple[AbstractSymmetry, ...]:
        """Scale."""
        return (Scaling(x2=2),)

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns x and x^2."""
        return {"x": x, "x2": x**2}

    def log_base_measure(self, x: Array) -> Float[Array, ""]:
        """Returns 0, or -inf outside the support."""
        return log_indicator(x >= 0, x)

    @property
    def has_unit_base_measure(self) -> bool:
        """True: h is 1 on the support."""
        return True

    def log_partition(self, eta: Float[Array, "2"]) -> Float[Array, ""]:
        """Returns A = log(sqrt(pi / -eta2) Phi(z)) + z^2 / 2, in nats."""
        return _log_partition(self.check_eta(eta))

    def mean(self, eta: Float[Array, "2"]) -> Float[Array, "2"]:
        """Returns E[x] and E[x^2]."""
        return _mean(self.check_eta(eta))


def _drop(t: Float[Array, "*n"], bend: Float[Array, ""]) -> Float[Array, "*n"]:
    """Returns the log-density of log x at the mode minus the log-density at distance t."""
    return exp_remainder(t) + bend * jnp.expm1(t) ** 2


def _growth(t: Float[Array, ""], _: Array) -> Float[Array, ""]:
    """Returns the log of x^6, or of 1 near 0, a bound on products of up to three statistics."""
    return 6 * jnp.maximum(t, 0)


def _mode_and_rule(
    eta: Float[Array, "2"],
) -> tuple[Float[Array, ""], Float[Array, ""], UnimodalRule]:
    """Returns the mode m of the density of log x, as x, the bend -eta2 m^2, and the rule."""
    linear, curvature = eta[0], -eta[1]
    size = jnp.hypot(linear, jnp.sqrt(8 * curvature)) + jnp.abs(linear)
    mode = jnp.where(linear > 0, size / (4 * curvature), 2 / size)
    bend = curvature * mode * mode
    return mode, bend, unimodal_rule(_drop, _growth, (bend,), math.pi / 4)


def _deviations(t: Float[Array, " n"]) -> Float[Array, "2 n"]:
    """Returns the statistics relative to the mode: x and x^2."""
    return jnp.stack([jnp.expm1(t), jnp.expm1(2 * t)])


@jax.custom_jvp
def _log_partition(eta: Float[Array, "2"]) -> Float[Array, ""]:
    mode, bend, rule = _mode_and_rule(eta)
    return bend + jnp.log(mode) + (rule.log_integral - 1)


@_log_partition.defjvp
def _log_partition_jvp(primals, tangents):
    return _log_partition(*primals), jnp.sum(_mean(*primals) * tangents[0])


@jax.custom_jvp
def _mean(eta: Float[Array, "2"]) -> Float[Array, "2"]:
    mode, _, rule = _mode_and_rule(eta)
    return jnp.stack([mode, mode * mode]) * (1 + rule.mean(_deviations(rule.t)))


@_mean.defjvp
def _mean_jvp(primals, tangents):
    mode, _, rule = _mode_and_rule(*primals)
    scale = jnp.stack([mode, mode * mode])
    covariance = rule.covariance(_deviations(rule.t))
    return _mean(*primals), scale * jnp.sum(covariance * (scale * tangents[0]), 1)
