"""Natural parameters that are negative definite quadratic forms."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from nnef_dists._factorizations import cholesky, inverse_factor, product
from nnef_dists.families._constraints import AbstractConstraint, Range


@final
class DefiniteConstraint(AbstractConstraint):
    """A negative definite quadratic form.

    The parameter is a matrix of shape `(d, d)` or a packed lower triangle of shape
    `(d (d + 1) / 2,)`, row by row. Only the symmetric part of a matrix has an effect. In a packed
    triangle, an off-diagonal entry is the coefficient of the pair x_i x_j, counted once. So the
    matrix of the form has half of this entry.

    The unconstrained coordinates are the lower Cholesky factor L of the negated form, with
    logarithms of the diagonal entries.
    """

    description: ClassVar[str] = "negative definite"

    @staticmethod
    def matrix(value: Array) -> Float[Array, "d d"]:
        """Returns the symmetric matrix H of the form x.H.x = sum of parameter times statistic.

        Args:
            value: The parameter, `(d, d)` or `(d (d + 1) / 2,)`.

        Returns:
            H, `(d, d)`.

        Raises:
            ValueError: If the length of a packed triangle is not d (d + 1) / 2.
        """
        if value.ndim == 2:
            return (value + value.T) / 2
        d = _side(value.shape)
        lower = jnp.zeros((d, d), value.dtype).at[jnp.tril_indices(d)].set(value)
        return (lower + lower.T) / 2

    @staticmethod
    def parameter(matrix: Float[Array, "d d"], shape: tuple[int, ...]) -> Array:
        """Returns the parameter whose form has a given matrix: the inverse of `matrix`.

        Args:
            matrix: The symmetric H, `(d, d)`.
            shape: The parameter's shape, `(d, d)` or `(d (d + 1) / 2,)`.

        Returns:
            The parameter.

        Raises:
            ValueError: If the length of a packed triangle is not d (d + 1) / 2.
        """
        if len(shape) == 2:
            return matrix
        d = _side(shape)
        pairs_once = 2 * matrix - jnp.diag(jnp.diag(matrix))
        return pairs_once[jnp.tril_indices(d)]

    def contains(self, value: Array) -> Bool[Array, ""]:
        """Returns whether the form is finite and negative definite (its Cholesky factor exists)."""
        factor = cholesky(-self.matrix(value))
        return jnp.all(jnp.isfinite(value)) & jnp.all(jnp.isfinite(factor))

    def unconstrained_dim(self, shape: tuple[int, ...]) -> int:
        """Returns d (d + 1) / 2."""
        d = _side(shape)
        return d * (d + 1) // 2

    def constrain(self, u: Float[Array, " m"], shape: tuple[int, ...]) -> Array:
        """Returns the value of this shape with unconstrained coordinates `u`, `(m,)`."""
        d = _side(shape)
        factor = jnp.zeros((d, d), u.dtype).at[jnp.tril_indices(d)].set(u)
        factor = jnp.tril(factor, -1) + jnp.diag(jnp.exp(jnp.diag(factor)))
        return self.parameter(-factor @ factor.T, shape)

    def unconstrain(self, value: Array) -> Float[Array, " m"]:
        """Returns the unconstrained coordinates, `(m,)`, of a valid value."""
        factor = cholesky(-self.matrix(value))
        logs = jnp.tril(factor, -1) + jnp.diag(jnp.log(jnp.diag(factor)))
        return logs[jnp.tril_indices(factor.shape[0])]

    def convex_features(self, value: Array) -> Float[Array, " k"]:
        """Returns `-log det(-H)`, for the form's matrix H: one number."""
        factor = cholesky(-self.matrix(value))
        return -2 * jnp.sum(jnp.log(jnp.diag(factor)), keepdims=True)

    def quadratic_features(self, value: Array, linear: Float[Array, " n"]) -> Float[Array, " k"]:
        """Returns `linear . (-H)^-1 linear`, one number, or none if the sizes do not match.

        Reference:
            Boyd and Vandenberghe, *Convex Optimization* (2004), example 3.4, for the convexity.
        """
        matrix = -self.matrix(value)
        if len(linear) != len(matrix):
            return jnp.zeros(0, linear.dtype)
        factor = cholesky(matrix)
        half = product(inverse_factor(factor), linear)
        return jnp.sum(half**2, keepdims=True)

    def sample(
        self,
        key: PRNGKeyArray,
        name: str,
        shape: tuple[int, ...],
        spec: Sequence[Any] | float,
        dtype: DTypeLike,
    ) -> Array:
        """Draws eigenvalues from the range, and eigenvectors uniform over rotations (Haar)."""
        d = _side(shape)
        drawn = Range(name, spec, (d,))
        if not (drawn.high < 0).all():
            raise ValueError(
                f"Expected the eigenvalue range of {name!r} to be negative; got {spec}"
            )
        key_values, key_vectors = jax.random.split(key)
        eigenvalues = drawn.sample(key_values, dtype)
        vectors = jax.random.orthogonal(key_vectors, d, dtype=dtype)
        return self.parameter((vectors * eigenvalues) @ vectors.T, shape)


def _side(shape: tuple[int, ...]) -> int:
    """Returns d, of a form given as a matrix or as its packed lower triangle."""
    match shape:
        case (rows, columns) if rows == columns >= 1:
            return rows
        case (length,) if length >= 1:
            d = (math.isqrt(8 * length + 1) - 1) // 2
            if d * (d + 1) // 2 == length:
                return d
    raise ValueError(f"Expected shape (d, d) or (d * (d + 1) / 2,); got {shape}")


negative_definite = DefiniteConstraint()
