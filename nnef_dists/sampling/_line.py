"""The log-density of a family of one dimension along its coordinate, with its slope."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nnef_dists.families import AbstractAngularSupport, ExponentialFamily, continuous_support

# Log-density, in nats, of points without density: far below any other, and finite.
NOWHERE = -1e30
_USER = "quadrature"


class OnLine(NamedTuple):
    """A log-density and its parts at points of a line.

    Attributes:
        stats: T, `(eta_dim, *points)`. 0 without density.
        logs: eta . T + log h + log|dx/du|, in nats, `(*points,)`. `NOWHERE` without density.
        slopes: Derivative of `logs` in u, `(*points,)`. 0 without density.
        rounding: Rounding error of `logs`, in nats, `(*points,)`.
        slope_rounding: Rounding error of `slopes`, `(*points,)`.
    """

    stats: Float[Array, "eta_dim *points"]
    logs: Float[Array, "*points"]
    slopes: Float[Array, "*points"]
    rounding: Float[Array, "*points"]
    slope_rounding: Float[Array, "*points"]

    @property
    def is_nowhere(self) -> Bool[Array, "*points"]:
        """Whether there is no density."""
        return self.logs <= NOWHERE


class Line(NamedTuple):
    """A family of one dimension at one eta, in a coordinate u.

    Attributes:
        family: The exponential family.
        eta: Natural parameters, `(eta_dim,)`.
        log_base: The log base measure as a function of x, in nats.
    """

    family: ExponentialFamily
    eta: Float[Array, " eta_dim"]
    log_base: Callable[[Array], Any]

    def __call__(self, u: Float[Array, "*points"]) -> OnLine:
        """Returns statistics, log-density and slope at all points u."""
        dtype = self.eta.dtype

        def parts(u):
            x, log_det = transform(self.family, u)
            base = jnp.asarray(self.log_base(x), dtype) + log_det.astype(dtype)
            return self.family.sufficient_statistics(x), base

        def with_slopes(u):
            return jax.jvp(parts, (u,), (jnp.ones_like(u),))

        values, slopes = jax.vmap(with_slopes, out_axes=-1)(u.ravel())
        return on_line(self.eta, values, slopes, u.shape)

    def is_unknown(self, u: Float[Array, "*points"]) -> Bool[Array, "*points"]:
        """Returns whether the log-density is NaN at points u."""

        def one(u):
            x, _ = transform(self.family, u)
            logs = jnp.sum(self.eta * self.family.sufficient_statistics(x))
            return jnp.isnan(logs + jnp.asarray(self.log_base(x), self.eta.dtype))

        return jax.vmap(one)(u.ravel()).reshape(u.shape)


def on_line(
    eta: Float[Array, " eta_dim"],
    parts: tuple[Float[Array, "eta_dim n"], Float[Array, " n"]],
    slopes: tuple[Float[Array, "eta_dim n"], Float[Array, " n"]],
    shape: tuple[int, ...],
) -> OnLine:
    """Returns a log-density from its parts.

    Args:
        eta: Natural parameters, `(eta_dim,)`.
        parts: Statistics, `(eta_dim, n)`, and log h + log|dx/du|, `(n,)`.
        slopes: Derivatives of both along the line.
        shape: Shape of the points, n in all.
    """
    (stats, base), (stat_slopes, base_slopes) = parts, slopes
    terms, slope_terms = eta[:, None] * stats, eta[:, None] * stat_slopes
    logs, slope = jnp.sum(terms, 0) + base, jnp.sum(slope_terms, 0) + base_slopes
    exists = jnp.isfinite(logs) & jnp.isfinite(slope)
    eps = jnp.finfo(eta.dtype).eps

    def where_exists(values, otherwise=0.0):
        return jnp.where(exists, values, otherwise).reshape(*values.shape[:-1], *shape)

    return OnLine(
        where_exists(stats),
        where_exists(jnp.maximum(logs, NOWHERE), NOWHERE),
        where_exists(slope),
        where_exists(eps * (jnp.sum(jnp.abs(terms), 0) + jnp.abs(base))),
        where_exists(eps * (jnp.sum(jnp.abs(slope_terms), 0) + jnp.abs(base_slopes))),
    )


def transform(
    family: ExponentialFamily, u: Float[Array, "*coordinates"]
) -> tuple[Array, Float[Array, ""]]:
    """Returns the point x at quadrature coordinates u, and log|dx/du|, in nats."""
    support = continuous_support(family, _USER)
    if isinstance(support, AbstractAngularSupport):
        return support.at_angle(u.reshape(support.coordinates))
    return support.transform_and_log_det(u.reshape(support.shape))


def quadrature_dim(family: ExponentialFamily) -> int:
    """Returns the number of coordinates that quadrature needs, without auxiliary ones."""
    support = continuous_support(family, _USER)
    return (
        support.coordinates
        if isinstance(support, AbstractAngularSupport)
        else math.prod(support.shape)
    )
