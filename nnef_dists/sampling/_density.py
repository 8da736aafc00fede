"""Target densities of samplers, in coordinates without heavy tails."""

import math
from typing import NamedTuple, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

from nnef_dists.families import (
    ExponentialFamily,
    continuous_support,
    support_dim,
    unconstrained_logdensity,
)

# Standard deviation of one rounding, in units of the machine epsilon.
ROUNDING = 0.25


class Tails(NamedTuple):
    """Coordinates v that compress heavy tails: u = c + s sinh((v - c) / s), entry by entry.

    A tail |u|^-a becomes exp(-(a - 1) |v| / s), under which all polynomials have moments. Entries
    without heavy tails are unchanged.

    Attributes:
        center: c, `(n,)`.
        scale: s, `(n,)`.
        is_heavy: Whether each entry is compressed, `(n,)`.
        integrable: Whether all tails decay fast enough for the integral to exist and be sampled.
    """

    center: Float[Array, " n"]
    scale: Float[Array, " n"]
    is_heavy: Bool[Array, " n"]
    integrable: Bool[Array, ""]

    @classmethod
    def none(cls, dim: int, dtype: DTypeLike) -> "Tails":
        """Returns the coordinates v = u."""
        zeros, ones = jnp.zeros(dim, dtype), jnp.ones(dim, dtype)
        return cls(zeros, ones, jnp.zeros(dim, bool), jnp.asarray(True))

    def to_u(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        """Returns the point of coordinates v."""
        return jnp.where(self.is_heavy, self.center + self.scale * jnp.sinh(self._arc(v)), v)

    def to_v(self, u: Float[Array, " n"]) -> Float[Array, " n"]:
        """Returns the coordinates of the point u."""
        t = jnp.arcsinh((u - self.center) / self.scale)
        return jnp.where(self.is_heavy, self.center + self.scale * t, u)

    def log_det(self, v: Float[Array, " n"]) -> Float[Array, ""]:
        """Returns the log Jacobian determinant of `to_u`, in nats."""
        t = jnp.abs(self._arc(v))
        return jnp.sum(t + jnp.log1p(jnp.exp(-2 * t)) - math.log(2.0))

    def _arc(self, v: Float[Array, " n"]) -> Float[Array, " n"]:
        return jnp.where(self.is_heavy, (v - self.center) / self.scale, 0)


class ModeMasses(NamedTuple):
    """Separate modes of a density, and the approximate mass around each.

    Attributes:
        point: The modes, `(k, n)`, in the coordinates v.
        mass: Masses by Laplace's method, `(k,)`, with sum 1. 0 for repetitions of a mode.
        factor: The Cholesky factor of the mean covariance within modes, `(n, n)`.
    """

    point: Float[Array, "k n"]
    mass: Float[Array, " k"]
    factor: Float[Array, "n n"]

    @classmethod
    def one(cls, dim: int, dtype: DTypeLike) -> "ModeMasses":
        """Returns a single mode at the origin."""
        return cls(jnp.zeros((1, dim), dtype), jnp.ones(1, dtype), jnp.eye(dim, dtype=dtype))


@final
class Density(eqx.Module):
    """The unnormalized density of one member of a family, in flat coordinates v on R^n.

    The coordinates v are the unconstrained coordinates u of the support, with heavy tails
    compressed.

    Attributes:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.
        tails: The coordinates.
        modes: Separate modes of the density, as far as they are known.
    """

    family: ExponentialFamily = eqx.field(static=True)
    eta: Float[Array, " eta_dim"]
    tails: Tails
    modes: ModeMasses

    @classmethod
    def unconstrained(cls, family: ExponentialFamily, eta: Float[Array, " eta_dim"]) -> "Density":
        """Returns the density in the unconstrained coordinates u themselves."""
        dim, dtype = support_dim(family), eta.dtype
        return cls(family, eta, Tails.none(dim, dtype), ModeMasses.one(dim, dtype))

    def __call__(self, v: Float[Array, " n"]) -> Float[Array, ""]:
        """Returns the log-density, in nats, up to a constant."""
        value = unconstrained_logdensity(self.family, self.eta, self.tails.to_u(v))
        return value + self.tails.log_det(v)

    def point(self, v: Float[Array, " n"]) -> Array:
        """Returns the point x of the support."""
        support = continuous_support(self.family, "Hamiltonian Monte Carlo")
        return support.transform(self.tails.to_u(v).reshape(support.shape))

    def stats(self, v: Float[Array, " n"]) -> Float[Array, " eta_dim"]:
        """Returns T(x), `(eta_dim,)`."""
        return self.family.sufficient_statistics(self.point(v))

    def rounding(self, v: Float[Array, " n"]) -> Float[Array, ""]:
        """Returns a bound of the log-density's rounding error, in nats."""
        stats = self.stats(v)
        eps = max(float(jnp.finfo(a.dtype).eps) for a in (stats, self.eta))
        return eps * jnp.sum(jnp.abs(self.eta * stats))


def finite_or_lowest(logs: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Returns log-densities, with -inf in place of NaN and infinity, so that none is drawn."""
    return jnp.where(jnp.isfinite(logs), logs, -jnp.inf)


def drop_of_draws(dim: int) -> float:
    """Returns a bound of the distance of draws below the highest log-density, in nats.

    Half a chi-squared variable of n degrees of freedom exceeds n / 2 + sqrt(2 n x) + 2 x with a
    probability of at most exp(-2 x). The result is three times the bound at x = 11, because tails
    may be heavier than normal.

    Reference:
        Laurent and Massart, *Adaptive estimation of a quadratic functional by model selection*,
        Ann. Statist. 28 (2000), lemma 1.
    """
    return 3 * (dim / 2 + (22 * dim) ** 0.5 + 22)
