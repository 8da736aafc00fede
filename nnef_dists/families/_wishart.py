"""Wishart and inverse Wishart distributions of positive definite matrices."""

import math
from abc import abstractmethod
from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._factorizations import cholesky
from nnef_dists._ranges import check_integer
from nnef_dists.families._boundary import log_indicator
from nnef_dists.families._closed_form import AbstractDrawFamily, AbstractNamedFamily
from nnef_dists.families._constraints import interval
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._gamma_functions import (
    HALF_LOG_TWO_PI,
    digamma_remainder,
    log_gamma_remainder,
    log_ratio,
)
from nnef_dists.families._negative_definite import negative_definite
from nnef_dists.families._positive_definite import PositiveDefinite, invert_definite


class _AbstractWishart(AbstractNamedFamily, AbstractDrawFamily):
    """The base class of densities exp(eta1 log det X + tr(H Y)), with Y = X or its inverse."""

    d: eqx.AbstractVar[int]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one point: `(d, d)`."""
        return (self.d, self.d)

    def log_base_measure(self, x: Float[Array, "d d"]) -> Float[Array, ""]:
        """Returns 0, or -inf for matrices that are not symmetric or not positive definite."""
        return log_indicator(invert_definite(x)[2], x)

    @property
    def has_unit_base_measure(self) -> bool:
        """True: h is 1 on the support."""
        return True

    @abstractmethod
    def _shape_and_form(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, "d d"]]:
        """Returns a, where det(Y)^(a - (d + 1) / 2) is a factor of the density of Y, and -H."""

    @final
    def log_partition(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns A = log Gamma_d(a) - a log det(-H), in nats.

        Here a = eta1 + (d + 1) / 2, and a = -eta1 - (d + 1) / 2 for the inverse.
        """
        a, form = self._shape_and_form(eta)
        shapes, rates = self._shapes(a), jnp.diag(cholesky(form)) ** 2
        # Each term is A of a gamma distribution, one chi-square of the Bartlett decomposition.
        terms = shapes * (log_ratio(shapes, rates) - 1) - jnp.log(shapes) / 2
        terms = terms + log_gamma_remainder(shapes) - (a - shapes) * jnp.log(rates)
        return jnp.sum(terms) + self.d * HALF_LOG_TWO_PI + self._log_pi

    @property
    def _log_pi(self) -> float:
        return self.d * (self.d - 1) / 4 * math.log(math.pi)

    def _shapes(self, a: Float[Array, ""]) -> Float[Array, " d"]:
        return a - jnp.arange(self.d, dtype=a.dtype) / 2

    @final
    def _draw_factors(
        self, key: PRNGKeyArray, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
        """Returns F and B, lower triangular, where Y = F^-T B B^T F^-1 is a draw of Y.

        Reference:
            Smith and Hocking, *Wishart variate generator*, Appl. Statist. 21 (1972).
        """
        a, form = self._shape_and_form(eta)
        key_diagonal, key_others = jax.random.split(key)
        logs = jax.random.loggamma(key_diagonal, self._shapes(a), (self.d,), a.dtype)
        normal = jax.random.normal(key_others, (self.d, self.d), a.dtype)
        factor = jnp.tril(normal, -1) / math.sqrt(2) + jnp.diag(jnp.exp(logs / 2))
        return cholesky(form), factor

    @final
    def _log_det_and_mean(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, "d d"]]:
        """Returns E[log det Y] = digamma_d(a) - log det(-H), and E[Y] = a (-H)^-1."""
        a, form = self._shape_and_form(eta)
        shapes, rates = self._shapes(a), jnp.diag(cholesky(form)) ** 2
        log_det = jnp.sum(digamma_remainder(shapes) + log_ratio(shapes, rates))
        return log_det, a * invert_definite(form)[0]


@final
class Wishart(_AbstractWishart):
    """The Wishart distribution of positive definite d x d matrices X.

        p(X | eta) proportional to exp(eta1 log det X + tr(H X)),    eta1 > -1

    Statistics `log_det` and `x`, `(d, d)`. H is the symmetric part of the parameter of `x`,
    negative definite. The degrees of freedom are 2 eta1 + d + 1 > d - 1 and the scale matrix is
    (-2 H)^-1. In one dimension this is a gamma distribution.

    With few degrees of freedom (eta1 < 0), a fraction of about eps^(eta1 + 1) of the matrices is
    singular to rounding. They have density 0, HMC rejects them, and `draw` returns NaN. Labels are
    computed in double precision.

    Args:
        d: Number of rows, at least 1.

    Raises:
        ValueError: If `d < 1`.
    """

    d: int = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain(
        log_det=interval(-1.0, math.inf), x=negative_definite
    )

    def __init__(self, d: int):
        self.d = check_integer("d", d, 1)

    @property
    def support(self) -> PositiveDefinite:
        """Positive definite matrices."""
        return PositiveDefinite(self.d)

    def compute_stats(self, x: Float[Array, "d d"]) -> dict[str, Array]:
        """Returns log det X and X."""
        return {"log_det": invert_definite(x)[1], "x": x}

    def mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        """Returns E[log det X] and E[X]."""
        log_det, mean = self._log_det_and_mean(eta)
        return self.flatten_stats_or_eta({"log_det": log_det, "x": mean})

    def draw(self, key: PRNGKeyArray, eta: Float[Array, " eta_dim"]) -> Float[Array, "d d"]:
        """Draws one matrix by the Bartlett decomposition, or NaN if it is singular to rounding."""
        form, factor = self._draw_factors(key, eta)
        root = solve_triangular(form, factor, trans=1, lower=True)
        return _square(root)

    def _shape_and_form(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, "d d"]]:
        parts = self.unflatten_stats_or_eta(self.check_eta(eta))
        return parts["log_det"] + (self.d + 1) / 2, -negative_definite.matrix(parts["x"])


@final
class InverseWishart(_AbstractWishart):
    """The distribution of the inverse X of a Wishart matrix.

        p(X | eta) proportional to exp(eta1 log det X + tr(H X^-1)),    eta1 < -d

    Statistics `log_det` and `inverse`, `(d, d)`. H is the symmetric part of the parameter of
    `inverse`, negative definite. The degrees of freedom are -2 eta1 - d - 1 > d - 1 and the scale
    matrix is -2 H. With few degrees of freedom, some matrices are singular to rounding, as for
    `Wishart`.

    Args:
        d: Number of rows, at least 1.

    Raises:
        ValueError: If `d < 1`.
    """

    d: int = eqx.field(static=True)

    def __init__(self, d: int):
        self.d = check_integer("d", d, 1)

    @property
    def natural_domain(self) -> ProductDomain:
        """The set of eta with eta1 < -d and a negative definite H."""
        return domain(log_det=interval(-math.inf, -float(self.d)), inverse=negative_definite)

    @property
    def support(self) -> PositiveDefinite:
        """Positive definite matrices, with coordinates from the factors of their inverses."""
        return PositiveDefinite(self.d, inverse=True)

    def compute_stats(self, x: Float[Array, "d d"]) -> dict[str, Array]:
        """Returns log det X and the inverse of X."""
        inverse, log_det, _ = invert_definite(x)
        return {"log_det": log_det, "inverse": inverse}

    def mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        """Returns E[log det X] and E[X^-1]."""
        log_det, mean = self._log_det_and_mean(eta)
        return self.flatten_stats_or_eta({"log_det": -log_det, "inverse": mean})

    def draw(self, key: PRNGKeyArray, eta: Float[Array, " eta_dim"]) -> Float[Array, "d d"]:
        """Draws the inverse of a Wishart matrix, or NaN if it is singular to rounding."""
        form, factor = self._draw_factors(key, eta)
        root = solve_triangular(factor, form.T, lower=True)  # transposed
        return _square(root.T)

    def _shape_and_form(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, "d d"]]:
        parts = self.unflatten_stats_or_eta(self.check_eta(eta))
        return -parts["log_det"] - (self.d + 1) / 2, -negative_definite.matrix(parts["inverse"])


def _square(root: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Returns root root^T, exactly symmetric, or NaN if rounding has made it singular."""
    x = jnp.sum(root[:, None] * root[None], -1)
    return jnp.where(invert_definite(x)[2], x, jnp.nan)
