"""Factorizations beside other work: never batched on CPUs, and differentiable."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import nnef_dists as nd
from nnef_dists._factorizations import cholesky, eigh, inverse_factor, solve_definite
from nnef_dists.networks import LaplaceBase


def _batched_calls(function, *args):
    """Returns the batched calls of LAPACK and BLAS in the program of a function."""
    text = jax.jit(function).lower(*args).as_text()
    calls = [line for line in text.splitlines() if re.search("@(lapack|blas)_", line)]
    assert calls
    return [line for line in calls if 'num_batch_dims = "0"' not in line]


@pytest.fixture(scope="module")
def matrices():
    root = jax.random.normal(jax.random.key(0), (3, 5, 5))
    return root @ root.swapaxes(1, 2) + jnp.eye(5)


def test_batches_are_loops_on_cpus(matrices):
    if jax.default_backend() != "cpu":
        pytest.skip("Batched factorizations wait for one another on CPUs alone.")
    assert _batched_calls(jax.vmap(jnp.linalg.cholesky), matrices)

    def every(a):
        return cholesky(a), inverse_factor(jnp.tril(a)), solve_definite(a, a), eigh(a)

    assert not _batched_calls(jax.vmap(every), matrices)
    assert not _batched_calls(jax.vmap(jax.vmap(every)), matrices[None])
    assert not _batched_calls(jax.vmap(jax.hessian(lambda a: cholesky(a)[1, 0])), matrices)


@pytest.mark.parametrize(
    ("family", "function"),
    [
        (nd.LatticePhi4(4), lambda family: LaplaceBase(family)),
        (nd.MultivariateNormal(3), lambda family: jax.value_and_grad(family.log_partition)),
        (nd.families.Wishart(3), lambda family: jax.value_and_grad(family.log_partition)),
        (nd.MultivariateNormal(3), lambda family: family.check_eta),
    ],
)
def test_programs_of_families_have_no_batched_factorization(family, function):
    etas = jnp.zeros((4, family.eta_dim))
    assert not _batched_calls(jax.vmap(function(family)), etas)


def test_values_are_those_of_numpy(matrices):
    for matrix in matrices:
        factor = np.linalg.cholesky(np.asarray(matrix, float))
        np.testing.assert_allclose(cholesky(matrix), factor, atol=1e-5)
        np.testing.assert_allclose(inverse_factor(cholesky(matrix)) @ factor, np.eye(5), atol=1e-5)
        solved = solve_definite(matrix, jnp.eye(5))
        np.testing.assert_allclose(solved, np.linalg.inv(matrix), atol=1e-5)
        values, vectors = jax.jit(eigh)(matrix)
        np.testing.assert_allclose((vectors * values) @ vectors.T, matrix, atol=2e-5)
    assert np.isnan(jax.vmap(cholesky)(-matrices)).any((1, 2)).all()


def test_derivatives_of_both_modes_to_second_order(matrices):
    with jax.enable_x64(True):
        matrix = jnp.asarray(matrices[0], float)
        check_grads(lambda a: cholesky(jnp.asarray(a)), (matrix,), order=2)
        check_grads(lambda a: inverse_factor(cholesky(jnp.asarray(a))), (matrix,), order=2)

        def through_jax(a):
            return jnp.sum(jnp.sin(jnp.linalg.cholesky(a)))

        def through_ours(a):
            return jnp.sum(jnp.sin(cholesky(a)))

        for transform in (jax.grad, jax.hessian):
            ours = jax.vmap(transform(through_ours))(matrices)
            theirs = jax.vmap(transform(through_jax))(matrices)
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-5)
