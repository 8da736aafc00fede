"""The multivariate normal, in its full (over-complete) and its minimal form."""

from abc import abstractmethod
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._checks import guard
from nnef_dists._factorizations import cholesky, inverse_factor, product
from nnef_dists._ranges import check_integer
from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._gamma_functions import HALF_LOG_TWO_PI
from nnef_dists.families._negative_definite import DefiniteConstraint, negative_definite


class _AbstractMultivariateNormal(AbstractNamedFamily):
    """The base class of both forms.

        p(x | eta) proportional to exp(eta1 . x + x . H x)

    H is minus half the precision.
    """

    d: eqx.AbstractVar[int]
    quadratic_name: eqx.AbstractClassVar[str]

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one point: `(d,)`."""
        return (self.d,)

    @abstractmethod
    def quadratic_stats(self, x: Float[Array, " d"]) -> Array:
        """Returns the statistics of second order."""

    @final
    def compute_stats(self, x: Float[Array, " d"]) -> dict[str, Array]:
        """Returns x and its products of second order."""
        return {"x": x, self.quadratic_name: self.quadratic_stats(x)}

    @final
    def log_partition(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns the log-partition, in nats.

            A = m . P m / 2 - log det(P) / 2 + d log(2 pi) / 2

        with P = -2 H and m = P^-1 eta1.
        """
        linear, inverse = self._linear_and_inverse_factor(eta)
        half_log_det = jnp.sum(jnp.log(jnp.diag(inverse)))
        return jnp.sum(product(inverse, linear) ** 2) / 2 + half_log_det + self.d * HALF_LOG_TWO_PI

    @final
    def mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        """Returns m and E[x x^T] = Cov[x] + m m^T, in the layout of the statistics."""
        mean, covariance = self.to_mean_covariance(eta)
        second = covariance + jnp.outer(mean, mean)
        quadratic = second
        if len(self.stat_shapes[self.quadratic_name]) == 1:
            quadratic = second[jnp.tril_indices(self.d)]
        return self.flatten_stats_or_eta({"x": mean, self.quadratic_name: quadratic})

    @final
    def to_mean_covariance(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """Returns the mean `(d,)` and the covariance matrix `(d, d)` of x."""
        linear, inverse = self._linear_and_inverse_factor(eta)
        return product(inverse.T, product(inverse, linear)), product(inverse.T, inverse)

    @final
    def to_natural(
        self, mean: Float[Array, " d"], covariance: Float[Array, "d d"]
    ) -> Float[Array, " eta_dim"]:
        """Returns the symmetric eta for a mean and a covariance.

        Args:
            mean: The mean of x, `(d,)`.
            covariance: The covariance of x, `(d, d)`, positive definite.

        Returns:
            The flat eta, `(eta_dim,)`.

        Raises:
            ValueError: If the covariance is not positive definite. Under `jax.jit` eta is NaN
                instead.
        """
        covariance = guard(
            covariance,
            negative_definite.contains(-covariance),
            "Expected a positive definite covariance",
            covariance,
            "Check its eigenvalues with jnp.linalg.eigvalsh.",
        )
        inverse = inverse_factor(cholesky(covariance))
        precision = product(inverse.T, inverse)
        quadratic = DefiniteConstraint.parameter(
            -precision / 2, self.stat_shapes[self.quadratic_name]
        )
        return self.flatten_stats_or_eta(
            {"x": product(precision, mean), self.quadratic_name: quadratic}
        )

    def _linear_and_inverse_factor(
        self, eta: Array
    ) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        parts = self.unflatten_stats_or_eta(self.check_eta(eta))
        precision = -2 * DefiniteConstraint.matrix(parts[self.quadratic_name])
        return parts["x"], inverse_factor(cholesky(precision))


@final
class MultivariateNormal(_AbstractMultivariateNormal):
    """The normal on R^d with every product x_i x_j as a statistic: d + d^2 natural parameters.

        p(x | eta) proportional to exp(eta1 . x + sum_ij eta2_ij x_i x_j)

    Statistics `x`, shape `(d,)`, and `xxT`, shape `(d, d)`. The form is over-complete: the density
    depends only on the symmetric part of eta2, which must be negative definite. `to_natural` and
    `sample_eta` return a symmetric eta2. For d = 3 there are 12 parameters, and 9 in
    `MinimalMultivariateNormal`.

    Args:
        d: Dimension, at least 1.

    Raises:
        ValueError: If `d < 1`.
    """

    d: int = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain(xxT=negative_definite)
    quadratic_name: ClassVar[str] = "xxT"

    def __init__(self, d: int):
        self.d = check_integer("d", d, 1)

    def quadratic_stats(self, x: Float[Array, " d"]) -> Float[Array, "d d"]:
        """Returns the outer product x x^T."""
        return jnp.outer(x, x)


@final
class MinimalMultivariateNormal(_AbstractMultivariateNormal):
    """The normal on R^d with each pair counted once: d + d (d + 1) / 2 natural parameters.

        p(x | eta) proportional to exp(eta1 . x + sum_{i >= j} eta2_ij x_i x_j)

    Statistics `x`, shape `(d,)`, and `xxT_lower`, shape `(d (d + 1) / 2,)`: the lower triangle of
    x x^T row by row, (0,0), (1,0), (1,1), (2,0), ... An off-diagonal pair is counted once, so its
    parameter is twice the entry of the symmetric matrix H = -precision / 2 in x . H x.

    Args:
        d: Dimension, at least 1.

    Raises:
        ValueError: If `d < 1`.
    """

    d: int = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain(xxT_lower=negative_definite)
    quadratic_name: ClassVar[str] = "xxT_lower"

    def __init__(self, d: int):
        self.d = check_integer("d", d, 1)

    def quadratic_stats(self, x: Float[Array, " d"]) -> Float[Array, " pairs"]:
        """Returns the lower triangle of x x^T, row by row."""
        return jnp.outer(x, x)[jnp.tril_indices(self.d)]
