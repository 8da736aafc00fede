"""Tractable families that are evaluated at one eta per orbit of a symmetry."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._checks import check_instance
from nnef_dists.distributions._base import AbstractTractableFamily
from nnef_dists.distributions._curvature import covariance_and_mean
from nnef_dists.families import (
    AbstractSymmetry,
    ExponentialFamily,
    Transformation,
    check_symmetry,
    transformation,
)
from nnef_dists.sampling import AbstractSampler

# Largest rounding error that is known, in z units.
_MOST_ROUNDING = 0.1


@final
class SymmetricSampler(AbstractSampler):
    """A sampler that draws at the canonical eta, and moves the draws by the group.

    Attributes:
        sampler: The sampler of the canonical eta.
        symmetry: The symmetry.
    """

    sampler: AbstractSampler
    symmetry: AbstractSymmetry = eqx.field(static=True)

    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Float[Array, "n *x_shape"]:
        """Draws n points. See `AbstractSampler`."""
        g = self.symmetry.frame(family, eta)
        effect = transformation(family, self.symmetry, g, eta.dtype)
        z = self.sampler.sample(key, family, effect.matrix.T @ eta, n)
        return jax.vmap(lambda z: self.symmetry.act(g, z))(z)


@final
class Symmetric(AbstractTractableFamily):
    """A tractable family that is evaluated at one canonical eta for each orbit of a symmetry.

        A(eta) = A(M^T eta) + eta . c + constant,    mu(eta) = M mu(M^T eta) + c

    with M, c and the constant of the element `symmetry.frame(family, eta)`. Quadrature then avoids
    extreme scales. A network that is trained on canonical etas, or on labels of `moments.orbit`, is
    accurate on all their orbits. The result is exact if `q` is exact.

    Example:
        `nd.Symmetric(nd.Quadrature(family), nd.families.Scaling(x=1, inverse=-1))`

    Args:
        q: A tractable family. `Symmetric` can be nested for products of groups, as by
            `functools.reduce(nd.Symmetric, family.symmetries, q)`.
        symmetry: A symmetry of its family.

    Raises:
        ValueError: If the statistics are not closed under the symmetry.
    """

    q: AbstractTractableFamily
    symmetry: AbstractSymmetry = eqx.field(static=True)
    family: ExponentialFamily = eqx.field(static=True)
    sampler: AbstractSampler
    strict: bool = eqx.field(static=True)

    def __init__(self, q: AbstractTractableFamily, symmetry: AbstractSymmetry):
        check_instance(q, AbstractTractableFamily, "q")
        check_symmetry(q.family, symmetry)
        self.q, self.symmetry = q, symmetry
        self.family, self.strict = q.family, q.strict
        self.sampler = SymmetricSampler(q.sampler, symmetry)

    def _canonical(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, " eta_dim"], Transformation]:
        # The identities hold for each fixed g, so that all derivatives are correct, too.
        g: Any = jax.lax.stop_gradient(self.symmetry.frame(self.family, eta))
        effect = transformation(self.family, self.symmetry, g, eta.dtype)
        return effect.matrix.T @ eta, effect

    def _potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        canonical, effect = self._canonical(eta)
        return self.q._potential(canonical) + jnp.sum(eta * effect.shift) + effect.constant

    def _mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        canonical, effect = self._canonical(eta)
        return effect.matrix @ self.q._mean(canonical) + effect.shift

    def _potential_and_mean(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, " eta_dim"]]:
        canonical, effect = self._canonical(eta)
        potential, mean = self.q._potential_and_mean(canonical)
        potential += jnp.sum(eta * effect.shift) + effect.constant
        return potential, effect.matrix @ mean + effect.shift

    def _constant(self) -> Float[Array, ""] | float:
        return self.q._constant()

    def _is_inside(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        return self.q._is_inside(self._canonical(eta)[0])

    def _accuracy(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns the accuracy at the canonical eta, for the largest combination of its errors.

        To it is added the rounding of M^T eta, M and c, such as the cancellation for a normal far
        from 0.
        """
        canonical, effect = self._canonical(eta)
        covariance, mean = covariance_and_mean(self.q, canonical)
        size, eps = jnp.abs(effect.matrix), jnp.finfo(eta.dtype).eps.astype(eta.dtype)
        inner = jnp.sqrt(jnp.diagonal(covariance))
        outer = jnp.sqrt(jnp.diagonal(effect.matrix @ covariance @ effect.matrix.T))
        growth = jnp.max(size @ inner / outer)
        matrix_error = effect.matrix_error + eps * size
        shift_error = effect.shift_error + eps * jnp.abs(effect.shift)
        moved = jnp.abs(effect.matrix @ covariance) @ (matrix_error.T @ jnp.abs(eta))
        rounding = jnp.max((moved + matrix_error @ jnp.abs(mean) + shift_error) / outer)
        # Larger changes of the canonical eta do not move the mean in proportion.
        rounding = jnp.where(rounding <= _MOST_ROUNDING, rounding, jnp.inf)
        return self.q._accuracy(canonical) * jnp.maximum(growth, 1) + rounding

    def _predictive(
        self, eta: Float[Array, " eta_dim"], key: PRNGKeyArray, n: int
    ) -> tuple[Float[Array, " eta_dim"], Float[Array, " eta_dim"]]:
        canonical, effect = self._canonical(eta)
        mean, sd = self.q._predictive(canonical, key, n)
        # This is an upper limit, because errors of entries of the mean may be correlated.
        return effect.matrix @ mean + effect.shift, jnp.abs(effect.matrix) @ sd
