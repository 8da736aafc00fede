"""Supports: maps from unconstrained coordinates onto the points x."""

import math
from abc import abstractmethod
from typing import Any, ClassVar, TypeAlias, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection, Identity
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer
from nnef_dists.families._discrete import AbstractDiscreteSupport

# Standard deviation of log r, for the auxiliary radius r. It is wide enough for long HMC steps on
# the shell of unit radius, and narrow enough to keep the shell away from the origin.
_LOG_RADIUS_SD = 0.25
# Distances from the origin at which a support of all of R^n has points.
_FAR = (1.0, 1e2, 1e4)


class AbstractSupport(eqx.Module):
    """A map from unconstrained coordinates u in R^n onto the support of x.

    Use this class if a flowjax bijection is not possible. x may have another shape than u, and u
    may have auxiliary coordinates, on which x does not depend. For a density p on the support,

        p(x(u)) exp(log_det(u))

    is a density on R^n with an equal integral, under which x(u) has the density p. For a one-to-one
    map, `log_det` is the log Jacobian determinant. With auxiliary coordinates, it is the log
    Jacobian determinant of the completed map plus the log-density of the auxiliary coordinates.

    Attributes:
        shape: The shape of u.
        ill_conditioned: Whether x has fewer digits than u, for example if x is a nearly singular
            matrix. Labels are then computed in double precision. Defaults to False.
    """

    shape: eqx.AbstractVar[tuple[int, ...]]
    ill_conditioned: ClassVar[bool] = False

    @abstractmethod
    def transform_and_log_det(self, u: Float[Array, " n"]) -> tuple[Array, Float[Array, ""]]:
        """Returns the point x at coordinates u, and the log-weight of u, in nats."""

    @final
    def transform(self, u: Float[Array, " n"]) -> Array:
        """Returns the point x at coordinates u."""
        return self.transform_and_log_det(u)[0]


class AbstractAngularSupport(AbstractSupport):
    """A support with an angle as a coordinate, so that quadrature needs no auxiliary coordinate.

    The angle has period 2 pi and is the last coordinate. The other coordinates are real numbers.
    Almost every point of the support has coordinates, unique up to the period. A circle has only
    the angle. A sphere or a cylinder has one more coordinate.

    Attributes:
        coordinates: Number of coordinates.
    """

    coordinates: eqx.AbstractVar[int]

    @abstractmethod
    def at_angle(self, coordinates: Float[Array, " k"]) -> tuple[Array, Float[Array, ""]]:
        """Returns the point x at coordinates, the angle last, and its log-weight, in nats."""


ContinuousSupport: TypeAlias = AbstractBijection | AbstractSupport
Support: TypeAlias = ContinuousSupport | AbstractDiscreteSupport


def continuous_support(family: Any, user: str) -> ContinuousSupport:
    """Returns the support of a family for a method that needs a continuous support.

    Args:
        family: The exponential family.
        user: Name of the method, for the message.

    Raises:
        ValueError: If the support is discrete. The message has methods to use instead.
    """
    support = family.support
    if isinstance(support, AbstractDiscreteSupport):
        raise ValueError(
            f"Expected a family of continuous x for {user}; {family!r} has the support "
            f"{support!r}. {support.remedy}"
        )
    return support


def support_point(family: Any, u: Array) -> Array:
    """Returns the point of a continuous or discrete support for real numbers u."""
    support = family.support
    return (
        support.point(u) if isinstance(support, AbstractDiscreteSupport) else support.transform(u)
    )


def is_discrete(support: Support) -> bool:
    """Returns whether a support is one of discrete x."""
    return isinstance(support, AbstractDiscreteSupport)


def fills_space(support: Support) -> bool:
    """Returns whether a support is all of R^n, tested at points in many directions.

    A bijection without an inverse is assumed to fill it.
    """
    if isinstance(support, Identity) or not isinstance(support, AbstractBijection):
        return isinstance(support, Identity)
    directions = np.random.default_rng(0).normal(size=(8, *support.shape))
    x = np.concatenate([sign * far * directions for sign in (-1, 1) for far in _FAR])
    # The support is concrete, even under `jax.jit`.
    with jax.ensure_compile_time_eval():
        try:
            u = jax.vmap(support.inverse)(jnp.asarray(x, float))
        except NotImplementedError:
            return True
        back = np.asarray(jax.vmap(support.transform)(u))
    return np.allclose(back, x, 1e-2, 1e-2)


def restricted_logdensity(family: Any, eta: Array, x: Array) -> Float[Array, ""]:
    """Returns `family.unnormalized_logdensity(eta, x)`, in nats, or -inf outside the support.

    Supports other than bijections are left to the statistics and the base measure.

    Args:
        family: The exponential family.
        eta: Valid natural parameters, flat, not checked.
        x: One point, of shape `x_shape`. NaN gives NaN.
    """
    support = family.support
    if not isinstance(support, AbstractBijection) or isinstance(support, Identity):
        return family.unnormalized_logdensity(eta, x)
    try:
        u = support.inverse(x)
    except NotImplementedError:  # flowjax's bijections may have no inverse.
        return family.unnormalized_logdensity(eta, x)
    # An infinite u is the boundary.
    outside = jnp.any(jnp.isnan(u)) & ~jnp.any(jnp.isnan(x))
    known = support.transform(jnp.zeros(support.shape, x.dtype)).astype(x.dtype)
    logs = family.unnormalized_logdensity(eta, jnp.where(outside, known, x))
    return jnp.where(outside, -jnp.inf, logs)


@final
class CircleProjection(AbstractAngularSupport):
    """The circle, with angles in (-pi, pi]: theta = atan2(u1, u0) for u in R^2.

    Densities are with respect to d theta. The radius |u| is auxiliary. log |u| is normal, so that
    the density of u is smooth on the whole plane, also at angles of +-pi.
    """

    shape: ClassVar[tuple[int, ...]] = (2,)
    coordinates: ClassVar[int] = 1

    def transform_and_log_det(
        self, u: Float[Array, "2"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the angle of u, and the log-weight of u, in nats."""
        return jnp.atan2(u[1], u[0]), _log_radial_weight(u)[1]

    def at_angle(self, coordinates: Float[Array, "1"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the angle in (-pi, pi], and 0."""
        (angle,) = coordinates
        turns = jnp.round(angle / (2 * math.pi))
        return angle - 2 * math.pi * turns, jnp.zeros_like(angle)


@final
class SphereProjection(AbstractAngularSupport):
    """The unit sphere in R^n: x = u / |u| for u in R^n.

    Densities are with respect to the surface measure. The radius |u| is auxiliary. log |u| is
    normal, so that the density of u is smooth on the whole of R^n.

    Quadrature uses the coordinates of the Mercator projection, heights t and an angle. The last
    entry of x is tanh(t). The other entries are a point of the sphere of one dimension less,
    divided by cosh(t).

    Args:
        n: Dimension of the space around the sphere, at least 2.

    Raises:
        ValueError: If `n < 2`.
    """

    n: int = eqx.field(static=True)

    def __init__(self, n: int):
        self.n = check_integer("n", n, 2)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of u: `(n,)`."""
        return (self.n,)

    @property
    def coordinates(self) -> int:
        """The dimension of the sphere, n - 1."""
        return self.n - 1

    def transform_and_log_det(
        self, u: Float[Array, " n"]
    ) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """Returns the direction of u, `(n,)`, and the log-weight of u, in nats."""
        radius, log_weight = _log_radial_weight(u)
        return u / radius, log_weight

    def at_angle(
        self, coordinates: Float[Array, " k"]
    ) -> tuple[Float[Array, " n"], Float[Array, ""]]:
        """Returns the point at heights and an angle, `(n,)`, and their log-weight, in nats."""
        *heights, angle = coordinates
        x = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
        log_det = jnp.zeros_like(angle)
        for dim, height in enumerate(reversed(heights), start=2):
            log_sech = math.log(2.0) - jnp.logaddexp(height, -height)
            x = jnp.append(x * jnp.exp(log_sech), jnp.tanh(height))
            log_det = log_det + dim * log_sech
        return x, log_det


@final
class AdditiveLogRatio(AbstractSupport):
    """The open simplex in R^k: x = softmax(u1, ..., u_{k-1}, 0) for u in R^(k-1).

    Densities are with respect to the Lebesgue measure of the first k - 1 entries of x. The
    Jacobian determinant of these entries is the product of all k entries. Each entry is accurate
    to rounding, even if it is tiny.

    Args:
        k: Number of entries, at least 2.

    Raises:
        ValueError: If `k < 2`.

    Reference:
        Aitchison, *The Statistical Analysis of Compositional Data* (1986), section 6.2.
    """

    k: int = eqx.field(static=True)

    def __init__(self, k: int):
        self.k = check_integer("k", k, 2)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of u: `(k - 1,)`."""
        return (self.k - 1,)

    def transform_and_log_det(
        self, u: Float[Array, " n"]
    ) -> tuple[Float[Array, " k"], Float[Array, ""]]:
        """Returns the point of the simplex, `(k,)`, and the log Jacobian determinant, in nats."""
        logs = jax.nn.log_softmax(jnp.pad(u, (0, 1)))
        return jnp.exp(logs), jnp.sum(logs)


def _log_radial_weight(u: Float[Array, " n"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns r = |u| and the log of a weight w with integral of w(r) r^(n-1) dr equal to 1.

    w(r) r^(n-1) is the log-normal density of r, which is normalized in closed form. Unlike a normal
    density around r = 1, it vanishes with all derivatives at r = 0, where the direction is
    singular.
    """
    square = jnp.sum(u**2)
    square = jnp.maximum(square, jnp.finfo(square.dtype).tiny)  # finite at the origin itself
    log_radius = jnp.log(square) / 2
    log_weight = (
        -((log_radius / _LOG_RADIUS_SD) ** 2) / 2
        - u.shape[0] * log_radius
        - math.log(_LOG_RADIUS_SD * math.sqrt(2 * math.pi))
    )
    return jnp.sqrt(square), log_weight
