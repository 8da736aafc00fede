"""Interfaces of posteriors in diagnostics, and ranks among their draws."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import at_least_float32, check_concrete, guard
from nnef_dists._ranges import check_integer

_T = TypeVar("_T")
_P = ParamSpec("_P")


@runtime_checkable
class PosteriorSampler(Protocol):
    """A sampler of theta given x, such as a trained head, an exact posterior or a wrapped chain.

    Diagnostics call `sample` under `jax.vmap` over keys and observations.
    """

    def sample(self, key: PRNGKeyArray, x: Array, n: int, /) -> Array:
        """Returns n draws given one observation x, `(n, theta_dim)`."""
        ...


@runtime_checkable
class PosteriorDensity(PosteriorSampler, Protocol):
    """A sampler with a density, up to a constant that may depend on x."""

    def log_prob(self, theta: Array, x: Array, /) -> Array:
        """Returns the log-density of one theta `(theta_dim,)` given one x, in nats."""
        ...


def compiled_and_checked(fn: Callable[_P, _T]) -> Callable[_P, _T]:
    """Compiles a diagnostic of posterior draws, and raises if its result has NaN.

    Under `jax.jit`, the result is NaN instead, without a host callback.
    """
    compiled: Callable[_P, _T] = eqx.filter_jit(fn)

    @functools.wraps(fn)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        result = compiled(*args, **kwargs)
        floats = [leaf for leaf in jax.tree.leaves(result) if eqx.is_inexact_array(leaf)]
        return check_concrete(
            result,
            ~jnp.any(jnp.stack([jnp.any(jnp.isnan(leaf)) for leaf in floats])),
            "Expected draws and densities of a posterior",
            "NaN",
            "Check posterior.sample and posterior.log_prob at these observations.",
            error=RuntimeError,
        )

    return call


def as_parameters(theta: Array) -> Float[Array, "m theta_dim"]:
    """Returns parameters as a floating matrix.

    Args:
        theta: Parameters, `(m, theta_dim)`, of a floating or integer dtype.

    Returns:
        The parameters. Integers are converted to the default floating dtype.

    Raises:
        ValueError: If `theta` does not have two axes.
    """
    if jnp.ndim(theta) != 2:
        raise ValueError(
            f"Expected theta of shape (m, theta_dim); got {jnp.shape(theta)}. Use theta[:, None] "
            "for one parameter."
        )
    floating = jnp.issubdtype(theta.dtype, jnp.floating)
    return theta if floating else theta.astype(jnp.result_type(float))


def draw_posterior(
    posterior: PosteriorSampler, key: PRNGKeyArray, x: Array, n: int, dim: int
) -> Float[Array, "n dim"]:
    """Returns n posterior draws given one observation.

    Args:
        posterior: Posterior with `sample(key, x, n)`.
        key: PRNG key.
        x: One observation.
        n: Number of draws.
        dim: Number of parameters.

    Returns:
        The draws, `(n, dim)`.

    Raises:
        ValueError: If the draws are of another shape.
    """
    draws = posterior.sample(key, x, n)
    if jnp.shape(draws) != (n, dim):
        raise ValueError(
            f"Expected posterior.sample(key, x, n) to return draws of shape (n, theta_dim) = "
            f"{(n, dim)}; got {jnp.shape(draws)}. It takes one observation x."
        )
    return draws


def map_pairs(
    statistic: Callable[..., _T],
    key: PRNGKeyArray,
    theta: Float[Array, "m theta_dim"],
    *others: Array,
    batch_size: int,
) -> _T:
    """Evaluates `statistic(key, theta, *others)` for m pairs, with a separate key per pair.

    Args:
        statistic: Function of one pair.
        key: PRNG key.
        theta: Parameters, `(m, theta_dim)`.
        *others: Arrays with m as their first axis, such as the observations.
        batch_size: Number of pairs evaluated at a time, which bounds the memory.

    Returns:
        The results, with m as their first axis.

    Raises:
        ValueError: If first axes differ or are empty, or `batch_size` is not positive.
    """
    m = theta.shape[0]
    if m == 0 or any(other.shape[:1] != (m,) for other in others):
        raise ValueError(
            f"Expected as many observations as parameters, at least 1; got {m} parameters and "
            f"observations of shapes {[other.shape for other in others]}"
        )
    batch_size = check_integer("batch_size", batch_size, 1)
    blocks = -(-m // batch_size)
    size = -(-m // blocks)
    # Blocks of equal size compile once. The last block is filled up with the first pairs.
    rows = (jnp.arange(blocks * size) % m).reshape(blocks, size)
    arrays = (jax.random.split(key, m), theta, *others)
    results = jax.lax.map(
        lambda block: jax.vmap(statistic)(*(array[block] for array in arrays)), rows
    )
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:m], results)


def normalized_ranks(
    draw: Callable[..., tuple[Array, Array]],
    key: PRNGKeyArray,
    n: int,
    theta: Float[Array, "m theta_dim"],
    *others: Array,
    batch_size: int,
) -> Float[Array, "m *k"]:
    """Returns normalized ranks of true values among n draws, in (0, 1).

        r = (#{draws < truth} + u (#{draws = truth} + 1)) / (n + 1),    u uniform on (0, 1)

    is uniform on (0, 1) if the true value and the draws are exchangeable. This holds for every n,
    also for distributions with atoms.

    Args:
        draw: Function `draw(key, theta, *others)` of one pair. It returns the true values, `(*k,)`,
            and the values of n draws, `(n, *k)`.
        key: PRNG key.
        n: Number of draws, at least 1.
        theta: Parameters, `(m, theta_dim)`.
        *others: Arrays with m as their first axis, such as the observations.
        batch_size: Number of pairs evaluated at a time.

    Returns:
        Normalized ranks, `(m, *k)`. A rank is NaN if one of its values is NaN.

    Raises:
        ValueError: If first axes differ, or a count is not positive.
    """
    check_draws(n)
    key_pairs, key_ties = jax.random.split(key)

    def count(*pair: Array) -> tuple[Array, Array, Array]:
        truth, draws = draw(*pair)
        bad = jnp.any(jnp.isnan(draws), 0) | jnp.isnan(truth)
        return jnp.sum(draws < truth, 0), jnp.sum(draws == truth, 0), bad

    below, equal, bad = map_pairs(count, key_pairs, theta, *others, batch_size=batch_size)
    u = jax.random.uniform(key_ties, below.shape, theta.dtype)
    ranks = (below.astype(u.dtype) + u * (equal + 1).astype(u.dtype)) / (n + 1)
    return jnp.where(bad, jnp.nan, ranks)


def as_ranks(ranks: Any) -> Float[Array, "m *k"]:
    """Returns normalized ranks as an array, at least in float32.

    Args:
        ranks: Numbers in [0, 1], `(m, *k)`.

    Returns:
        The ranks.

    Raises:
        ValueError: If there are no ranks, or concrete ones outside of [0, 1]. Traced ones give NaN.
    """
    ranks = at_least_float32(ranks)
    if ranks.ndim == 0:
        raise ValueError(
            f"Expected ranks of shape (m, ...); got {ranks.shape}. Use a list of ranks."
        )
    if ranks.size == 0:
        raise ValueError("Expected at least one rank; got none")
    return guard(
        ranks,
        jnp.all((ranks >= 0) & (ranks <= 1)),
        "Expected ranks from 0 to 1",
        f"{jnp.min(ranks)} to {jnp.max(ranks)}",
        "Divide ranks among n draws by n + 1, or use sbc_ranks.",
    )


def check_draws(n: int) -> None:
    """Checks the number of draws.

    Raises:
        ValueError: If `n` is not an integer of at least 1.
    """
    check_integer("n", n, 1)
