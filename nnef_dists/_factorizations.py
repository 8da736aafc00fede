"""Factorizations that cannot deadlock in programs with concurrent work.

On CPUs, a batched factorization occupies a thread of the pool while it waits for work in the same
pool. If as many of them run at once as the pool has threads, they deadlock. Here, a batch is a loop
of single factorizations on CPUs. They do not wait, and are equally fast. On other platforms, it is
one batched factorization.

Derivatives of `cholesky` and `inverse_factor`, of any order and in both modes, are products of
matrices. Products have the precision of their dtype on all platforms.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap, sequential_vmap
from jaxtyping import Array, Float


def _loop_on_cpus(one: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function whose batches are loops on CPUs, and one call on other platforms."""
    loop = sequential_vmap(one)

    @custom_vmap
    def either(*args):
        return one(*args)

    @either.def_vmap
    def batch(size, is_batched, *args):
        axes = [0 if is_mapped else None for is_mapped in is_batched]
        # An outer batch becomes a batch of each branch.
        found = lax.platform_dependent(*args, cpu=jax.vmap(loop, axes), default=jax.vmap(one, axes))
        return found, jax.tree.map(lambda _: True, found)

    return either


def product(*factors: Array) -> Array:
    """Returns the product of matrices and vectors, in the precision of their dtype."""
    return functools.reduce(functools.partial(jnp.matmul, precision="highest"), factors)


@jax.custom_jvp
def cholesky(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Returns the lower Cholesky factor, or NaN if the matrix is not positive definite.

    Reference:
        Murray, *Differentiation of the Cholesky decomposition* (2016), for the derivative.
    """
    return _cholesky(matrix)


@cholesky.defjvp
def _(primals, tangents):
    (matrix,), (moved,) = primals, tangents
    factor = cholesky(matrix)
    inverse = inverse_factor(factor)
    between = jnp.tril(product(inverse, (moved + moved.T) / 2, inverse.T))
    return factor, product(factor, between - jnp.diag(jnp.diagonal(between)) / 2)


@jax.custom_jvp
def inverse_factor(factor: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Returns the inverse of a lower triangular matrix."""
    return _inverse_factor(factor)


@inverse_factor.defjvp
def _(primals, tangents):
    (factor,), (moved,) = primals, tangents
    inverse = inverse_factor(factor)
    return inverse, -product(inverse, jnp.tril(moved), inverse)


@_loop_on_cpus
def _cholesky(matrix):
    return jnp.linalg.cholesky(matrix)


@_loop_on_cpus
def _inverse_factor(factor):
    identity = jnp.eye(len(factor), dtype=factor.dtype)
    return jax.scipy.linalg.solve_triangular(factor, identity, lower=True)


@_loop_on_cpus
def solve_definite(matrix: Float[Array, "n n"], right: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Solves matrix @ x = right for a positive definite matrix. Otherwise, x is NaN.

    The solution has no derivatives in reverse mode.
    """
    return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)


@_loop_on_cpus
def eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Returns the eigenvalues of a symmetric matrix, ascending, and its eigenvectors as columns.

    Eigenvalues and eigenvectors have no derivatives in reverse mode.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return values, vectors
