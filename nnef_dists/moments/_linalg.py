"""Factorisations that are safe in programs with other work beside them.

On CPUs a batched factorisation waits, on a thread of the pool, for work given to the same pool: as
many of them at once as the pool has threads wait for ever. Here a batch is a loop of single ones,
which do not wait, and which are as fast.
"""

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float


@sequential_vmap
def cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Returns the lower Cholesky factor; NaN where the matrix is not positive definite."""
    return jnp.linalg.cholesky(matrix)


@sequential_vmap
def inverse_factor(factor: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Returns the inverse of a lower triangular matrix."""
    identity = jnp.eye(len(factor), dtype=factor.dtype)
    return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)


@sequential_vmap
def solve_definite(matrix: Float[Array, "n n"], right: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Solves matrix @ x = right for a positive definite matrix; NaN where it is not."""
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)
