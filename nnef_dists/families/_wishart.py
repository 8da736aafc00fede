"""Wishart and inverse Wishart distributions of positive definite matrices."""

import math
from abc import abstractmethod
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jax.scipy.special import digamma, gammaln
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer
from nnef_dists.families._boundary import log_indicator
from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._constraints import interval
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._negative_definite import negative_definite
from nnef_dists.families._support import AbstractSupport


@final
class PositiveDefinite(AbstractSupport):
    """Symmetric positive definite d x d matrices: X = L L^T, with L lower triangular.

    The coordinates are the entries of L row by row, those of the diagonal as logarithms. Densities
    are with respect to the Lebesgue measure of the lower triangle of X.

    Args:
        d: The number of rows, at least 1.

    Raises:
        ValueError: If `d < 1`.

    Reference:
        Muirhead, *Aspects of Multivariate Statistical Theory* (1982), theorem 2.1.9.
    """

    d: int = eqx.field(static=True)

    def __init__(self, d: int):
        self.d = check_integer("d", d, 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of u: `(d (d + 1) / 2,)`."""
        return (self.d * (self.d + 1) // 2,)

    def transform_and_log_det(
        self, u: Float[Array, " n"]
    ) -> tuple[Float[Array, "d d"], Float[Array, ""]]:
        """Returns the matrix, `(d, d)`, and the log Jacobian determinant, in nats."""
        lower = jnp.zeros((self.d, self.d), u.dtype).at[jnp.tril_indices(self.d)].set(u)
        logs = jnp.diag(lower)
        factor = jnp.tril(lower, -1) + jnp.diag(jnp.exp(logs))
        # The determinant of L -> X is 2^d prod L_ii^(d - i), i from 0 on; L_ii = exp(u_ii) adds 1.
        powers = jnp.arange(self.d + 1, 1, -1, dtype=u.dtype)
        return factor @ factor.T, jnp.sum(powers * logs) + self.d * math.log(2)


class _AbstractWishart(AbstractNamedFamily):
    """What both share: exp(eta1 log det X + tr(H Y)), with Y = X or its inverse."""

    d: eqx.AbstractVar[int]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one point: `(d, d)`."""
        return (self.d, self.d)

    @property
    def support(self) -> PositiveDefinite:
        """Positive definite matrices."""
        return PositiveDefinite(self.d)

    def log_base_measure(self, x: Float[Array, "d d"]) -> Float[Array, ""]:
        """Returns 0, and -inf for matrices that are not positive definite."""
        return log_indicator(jnp.all(jnp.isfinite(jnp.linalg.cholesky(x))), x[0, 0])

    @property
    def has_unit_base_measure(self) -> bool:
        """True: h is 1 on the support."""
        return True

    @abstractmethod
    def _shape_and_factor(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, "d d"]]:
        """Returns a, where det(Y)^(a - (d + 1) / 2) is a factor of the density of Y, and chol(-H).

        With it E[log det Y] = digamma_d(a) - log det(-H), and E[Y] = a (-H)^-1.
        """

    @final
    def log_partition(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns A = log Gamma_d(a) - a log det(-H), in nats."""
        a, factor = self._shape_and_factor(eta)
        gammas = jnp.sum(gammaln(a - jnp.arange(self.d) / 2)) + self._log_pi
        return gammas - 2 * a * jnp.sum(jnp.log(jnp.diag(factor)))

    @property
    def _log_pi(self) -> float:
        return self.d * (self.d - 1) / 4 * math.log(math.pi)

    @final
    def _log_det_and_mean(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, "d d"]]:
        """Returns E[log det Y] and E[Y]."""
        a, factor = self._shape_and_factor(eta)
        log_det = jnp.sum(digamma(a - jnp.arange(self.d) / 2))
        log_det = log_det - 2 * jnp.sum(jnp.log(jnp.diag(factor)))
        inverse = cho_solve((factor, True), jnp.eye(self.d, dtype=factor.dtype))
        return log_det, a * (inverse + inverse.T) / 2


@final
class Wishart(_AbstractWishart):
    """The Wishart distribution of positive definite d x d matrices X.

        p(X | eta) proportional to exp(eta1 log det X + tr(H X)),    eta1 > -1

    Statistics `log_det` and `x`, `(d, d)`; H is the symmetric part of the eta of `x`, negative
    definite. The degrees of freedom are 2 eta1 + d + 1 > d - 1 and the scale matrix (-2 H)^-1. In
    one dimension it is a gamma distribution.

    Args:
        d: The number of rows, at least 1.

    Raises:
        ValueError: If `d < 1`.
    """

    d: int = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain(
        log_det=interval(-1.0, math.inf), x=negative_definite
    )

    def __init__(self, d: int):
        self.d = check_integer("d", d, 1)

    def compute_stats(self, x: Float[Array, "d d"]) -> dict[str, Array]:
        """Returns log det X and X."""
        return {"log_det": _log_det(x), "x": x}

    def mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        """Returns E[log det X] and E[X]."""
        log_det, mean = self._log_det_and_mean(eta)
        return self.flatten_stats_or_eta({"log_det": log_det, "x": mean})

    def _shape_and_factor(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, "d d"]]:
        parts = self.unflatten_stats_or_eta(self.check_eta(eta))
        factor = jnp.linalg.cholesky(-negative_definite.matrix(parts["x"]))
        return parts["log_det"] + (self.d + 1) / 2, factor


@final
class InverseWishart(_AbstractWishart):
    """The distribution of the inverse X of a Wishart matrix.

        p(X | eta) proportional to exp(eta1 log det X + tr(H X^-1)),    eta1 < -d

    Statistics `log_det` and `inverse`, `(d, d)`; H is the symmetric part of the eta of `inverse`,
    negative definite. The degrees of freedom are -2 eta1 - d - 1 > d - 1 and the scale matrix -2 H.

    Args:
        d: The number of rows, at least 1.

    Raises:
        ValueError: If `d < 1`.
    """

    d: int = eqx.field(static=True)

    def __init__(self, d: int):
        self.d = check_integer("d", d, 1)

    @property
    def natural_domain(self) -> ProductDomain:
        """eta1 < -d, and a negative definite H."""
        return domain(log_det=interval(-math.inf, -float(self.d)), inverse=negative_definite)

    def compute_stats(self, x: Float[Array, "d d"]) -> dict[str, Array]:
        """Returns log det X and the inverse of X."""
        factor = jnp.linalg.cholesky(x)
        inverse = cho_solve((factor, True), jnp.eye(self.d, dtype=x.dtype))
        return {"log_det": _log_det(x), "inverse": inverse}

    def mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        """Returns E[log det X] and E[X^-1]."""
        log_det, mean = self._log_det_and_mean(eta)
        return self.flatten_stats_or_eta({"log_det": -log_det, "inverse": mean})

    def _shape_and_factor(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, "d d"]]:
        parts = self.unflatten_stats_or_eta(self.check_eta(eta))
        factor = jnp.linalg.cholesky(-negative_definite.matrix(parts["inverse"]))
        return -parts["log_det"] - (self.d + 1) / 2, factor


def _log_det(x: Float[Array, "d d"]) -> Float[Array, ""]:
    return 2 * jnp.sum(jnp.log(jnp.diag(jnp.linalg.cholesky(x))))
