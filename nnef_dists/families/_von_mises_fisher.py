"""The von Mises-Fisher distribution."""

import math
from typing import ClassVar, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer
from nnef_dists.families._boundary import log_indicator
from nnef_dists.families._closed_form import AbstractDrawFamily, AbstractNamedFamily
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._support import SphereProjection
from nnef_dists.families._unimodal_rule import UnimodalRule, cosh_remainder, unimodal_rule

# Largest difference between 1 and the length of a point of the sphere.
_LENGTH_TOLERANCE = 1e-3
_SERIES_TERMS = 17


@final
class VonMisesFisher(AbstractNamedFamily, AbstractDrawFamily):
    """The von Mises-Fisher distribution of directions, on the unit sphere in R^d.

        p(x | eta) proportional to exp(eta . x),    |x| = 1

    Densities are with respect to the surface measure. Statistic `x`, shape `(d,)`. Every eta is
    valid. The direction of eta is the mean direction, and the length kappa is the concentration.
    With the modified Bessel function I of the first kind,

        A = log((2 pi)^(d/2) I_{d/2-1}(kappa) / kappa^(d/2-1))
        E[x] = (eta / kappa) I_{d/2}(kappa) / I_{d/2-1}(kappa)

    In two dimensions this is the von Mises distribution. Quadrature over x . eta around the mode
    gives A and its derivatives, accurate to rounding for any concentration, including 0. The
    entries of E[x] have relative errors of a few roundings. Beyond concentrations of 1e5, float32
    cannot resolve the spread of x along eta, of about d / kappa.

    Args:
        d: Dimension of the space around the sphere, at least 2.

    Raises:
        ValueError: If `d < 2`.

    Reference:
        Mardia and Jupp, *Directional Statistics* (2000), section 9.3.2; Wood, *Simulation of the
        von Mises-Fisher distribution*, Commun. Stat. Simul. Comput. 23 (1994), for the draws.
    """

    d: int = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain()

    def __init__(self, d: int):
        self.d = check_integer("d", d, 2)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one point: `(d,)`."""
        return (self.d,)

    @property
    def support(self) -> SphereProjection:
        """The unit sphere."""
        return SphereProjection(self.d)

    def compute_stats(self, x: Float[Array, " d"]) -> dict[str, Array]:
        """Returns x."""
        return {"x": x}

    def log_base_measure(self, x: Float[Array, " d"]) -> Float[Array, ""]:
        """Returns 0, or -inf if the length of x differs from 1 by more than 0.001."""
        return log_indicator(jnp.abs(jnp.sum(x**2) - 1) <= 2 * _LENGTH_TOLERANCE, x)

    @property
    def has_unit_base_measure(self) -> bool:
        """True: h is 1 on the support."""
        return True

    def log_partition(self, eta: Float[Array, " d"]) -> Float[Array, ""]:
        """Returns A = log((2 pi)^(d/2) I_{d/2-1}(kappa) / kappa^(d/2-1)), in nats."""
        return _log_partition(self.check_eta(eta))

    def mean(self, eta: Float[Array, " d"]) -> Float[Array, " d"]:
        """Returns E[x], the mean direction times the mean resultant length."""
        return _mean(self.check_eta(eta))

    def draw(self, key: PRNGKeyArray, eta: Float[Array, " d"]) -> Float[Array, " d"]:
        """Draws one point, by rejection along eta and a uniform direction across it."""
        eta = self.check_eta(eta)
        kappa = _length(eta)
        key_along, key_across = jax.random.split(key)
        short = _draw_short(key_along, kappa, self.d)
        normal = jax.random.normal(key_across, (self.d,), eta.dtype)
        first = jnp.arange(self.d) == 0
        axis = jnp.where(kappa > 0, eta / jnp.where(kappa > 0, kappa, 1), first.astype(eta.dtype))
        # The loop runs twice, because one subtraction leaves a rounding error along the axis.
        for _ in range(2):
            normal = normal - axis * jnp.sum(axis * normal)
        across = normal / _length(normal) * jnp.sqrt(short * (2 - short))
        return axis * (1 - short) + across

    def to_natural(self, direction: Float[Array, " d"], kappa: Float[Array, ""]) -> Array:
        """Returns eta for a mean direction, of any length but 0, and a concentration."""
        return self.check_eta(direction / _length(direction) * kappa)


class _Radial(NamedTuple):
    """The distribution of s = x . eta / kappa, which has a density on [-1, 1].

    In the coordinate t = artanh(s) the mode is m = tanh(t0), with 1 - m^2 = (d - 1) m / kappa.

    Attributes:
        mode: m.
        slope: m / kappa.
        stretch: The ratio of cosh(t) and cosh(t0) at the nodes.
        rule: The nodes and their weights.
    """

    mode: Float[Array, ""]
    slope: Float[Array, ""]
    stretch: Float[Array, " n"]
    rule: UnimodalRule

    @classmethod
    def of(cls, kappa: Float[Array, ""], d: int) -> "_Radial":
        q = float(d - 1)
        slope = 2 / (q + jnp.hypot(q, 2 * kappa))
        mode = kappa * slope
        short = q * slope / (1 + mode)  # 1 - m

        def drop(t, mode, short):
            # q (phi(w) + (cosh t - 1) / (1 + w)), where 1 + w is the stretch.
            stretch = _stretch(t, short)
            rise = cosh_remainder(t)
            return q * (_log_remainder(rise + mode * jnp.sinh(t), stretch) + rise / stretch)

        def growth(t, mode, short):
            # The log of a bound on |s - m|^3, which is at most (1 - m)^3 right of the mode.
            return 3 * jnp.minimum(2 * jnp.maximum(-t, 0), jnp.log(2 / short))

        # The essential singularities at +-i pi / 2 have an effect up to a distance that grows with
        # kappa, from 0 to pi / 4. As kappa grows, the density also becomes narrower.
        rule = unimodal_rule(drop, growth, (mode, short), 3 * math.pi / 8)
        return cls(mode, slope, _stretch(rule.t, short), rule)

    def moments(self, kappa: Float[Array, ""], d: int) -> tuple[Array, Array, Array]:
        """Returns E[s], E[s] / kappa and Var[s]."""
        narrow = (d - 1) * self.slope  # 1 - m^2
        beyond = narrow * jnp.sinh(self.rule.t) / self.stretch  # s - m
        length = self.mode + self.rule.mean(beyond[None])[0]
        # Integration by parts: E[s] / kappa = E[1 - s^2] / (d - 1), accurate for small kappa.
        by_parts = self.slope * self.rule.mean((1 / self.stretch**2)[None])[0]
        is_large = kappa > d
        ratio = jnp.where(is_large, length / jnp.where(is_large, kappa, 1), by_parts)
        length = jnp.where(is_large, length, kappa * by_parts)
        return length, ratio, self.rule.covariance(beyond[None])[0, 0]


def _draw_short(key: PRNGKeyArray, kappa: Float[Array, ""], d: int) -> Float[Array, ""]:
    """Draws 1 - s, which is accurate if s is nearly 1."""
    q = float(d - 1)
    b = q / (2 * kappa + jnp.hypot(2 * kappa, q))

    def log_ratio(short):
        """Returns the log ratio of the density and the proposal density, up to a constant."""
        return -kappa * short + q * jnp.log(2 * b + short * (1 - b))

    # The ratio is largest at s0 = (1 - b) / (1 + b).
    most = log_ratio(2 * b / (1 + b))

    def propose(state):
        key, _, _ = state
        key, key_beta, key_accept = jax.random.split(key, 3)
        z = jax.random.beta(key_beta, q / 2, q / 2, dtype=kappa.dtype)
        short = 2 * b * z / (1 - (1 - b) * z)
        log_u = jnp.log1p(-jax.random.uniform(key_accept, dtype=kappa.dtype))
        # NaN is accepted, so that it ends the loop.
        return key, short, (log_ratio(short) - most < log_u)

    start = propose((key, kappa, True))
    return jax.lax.while_loop(lambda state: state[2], propose, start)[1]


def _stretch(t: Float[Array, "*n"], short: Float[Array, ""]) -> Float[Array, "*n"]:
    """Returns cosh(t0 + t) / cosh(t0), where `short` is 1 - tanh(t0)."""
    return (1 - short / 2) * jnp.exp(t) + short / 2 * jnp.exp(-t)


def _log_remainder(w: Float[Array, "*n"], plus_one: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns log(1 + w) - w / (1 + w), given 1 + w too, for w > -1."""
    near = jnp.abs(w) < 0.5
    small = jnp.where(near, w, 0)
    r = small / (2 + small)
    total = jnp.zeros_like(w)
    for k in range(_SERIES_TERMS, 0, -1):
        total = total * r**2 + 1 / (2 * k + 1)
    series = 2 * r**2 * (1 / (1 + r) + r * total)
    far = jnp.where(near, 1, plus_one)
    return jnp.where(near, series, jnp.log(far) + 1 / far - 1)


def _length(eta: Float[Array, " d"]) -> Float[Array, ""]:
    """Returns |eta|, without overflow and with a derivative of zero at zero."""
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(eta)))
    is_zero = largest == 0
    scale = jnp.where(is_zero, 1, largest)
    square = jnp.sum((eta / scale) ** 2)
    return jnp.where(is_zero, 0, scale * jnp.sqrt(jnp.where(is_zero, 1, square)))


@jax.custom_jvp
def _log_partition(eta: Float[Array, " d"]) -> Float[Array, ""]:
    d, kappa = len(eta), _length(eta)
    radial = _Radial.of(kappa, d)
    # Log of the surface area of the sphere of one dimension less.
    log_surface = math.log(2) + (d - 1) / 2 * math.log(math.pi) - math.lgamma((d - 1) / 2)
    bend = jnp.log1p(kappa * radial.mode / (d - 1))  # -log(1 - m^2)
    at_mode = kappa * radial.mode - (d - 1) / 2 * bend
    return at_mode + (radial.rule.log_integral + log_surface)


@_log_partition.defjvp
def _log_partition_jvp(primals, tangents):
    return _log_partition(*primals), jnp.sum(_mean(*primals) * tangents[0])


@jax.custom_jvp
def _mean(eta: Float[Array, " d"]) -> Float[Array, " d"]:
    kappa = _length(eta)
    return eta * _Radial.of(kappa, len(eta)).moments(kappa, len(eta))[1]


@_mean.defjvp
def _mean_jvp(primals, tangents):
    (eta,), (change,) = primals, tangents
    kappa = _length(eta)
    _, across, along = _Radial.of(kappa, len(eta)).moments(kappa, len(eta))
    direction = eta / jnp.where(kappa > 0, kappa, 1)
    radial = direction * jnp.sum(direction * change)
    return _mean(eta), across * (change - radial) + along * radial
