"""Sums over all points of a finite support, by a table of distinct statistics or by blocks."""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import eval_context
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nnef_dists.families import AbstractDiscreteSupport, ExponentialFamily
from nnef_dists.sampling._cells import are_same, row_keys
from nnef_dists.sampling._monomials import (
    MOST_BITS,
    SAME,
    Monomials,
    candidate_masks,
    find_monomials,
    monomial_moments,
    polynomial_values,
    sum_monomials,
)

MOST_STATES = 2**24
# Largest number of cells of a table, and of numbers in a table.
_MOST_CELLS, _MOST_NUMBERS = 2**20, 2**24
# Largest number of entries in a block of states, T included.
_BLOCK = 2**20

_Carry = TypeVar("_Carry")


class StatesTable(NamedTuple):
    """The distinct statistics of all states, in double precision.

    Attributes:
        stats: T in each cell, `(cells, eta_dim)`.
        log_weights: Logarithm of the number of states in each cell, plus log h, `(cells,)`.
    """

    stats: Float[Array, "cells eta_dim"]
    log_weights: Float[Array, " cells"]


class StatesSum(NamedTuple):
    """Moments at one eta by a sum over all states.

    Attributes:
        mean: E[T], `(eta_dim,)`.
        covariance: Cov[T], `(eta_dim, eta_dim)`.
        log_partition: A(eta), in nats.
    """

    mean: Float[Array, " eta_dim"]
    covariance: Float[Array, "eta_dim eta_dim"]
    log_partition: Float[Array, ""]


def count_states(family: ExponentialFamily) -> int:
    """Returns the number of points of a finite support.

    Raises:
        ValueError: If the support is continuous, or has more than 2^24 points.
    """
    support = family.support
    if not isinstance(support, AbstractDiscreteSupport):
        raise ValueError(
            f"Expected a family with a finite support for enumeration; {family!r} has {support!r}. "
            "Use nd.Quadrature(family) in one or two dimensions, and a trained "
            "nd.AmortizedFamily(family, network) otherwise."
        )
    if support.log2_states > math.log2(MOST_STATES):
        size, remedy = "infinitely many", support.remedy
        if math.isfinite(support.log2_states):
            size = f"2^{support.log2_states:.4g}"
            remedy = "Use a trained nd.AmortizedFamily(family, network)."
        raise ValueError(
            f"Expected at most 2^24 points for enumeration; {family!r} has {size}. {remedy}"
        )
    assert support.values is not None
    return len(support.values) ** support.sites


def state_at(family: ExponentialFamily, index: Int[Array, ""]) -> Array:
    """Returns the point with an index from 0 to `count_states(family) - 1`, by its digits."""
    support = family.support
    assert isinstance(support, AbstractDiscreteSupport)
    assert support.values is not None
    values = jnp.asarray(support.values)
    base = len(support.values)
    powers = jnp.asarray([base**i for i in range(support.sites)], index.dtype)
    digits = (index // powers) % base
    return values[digits].reshape(family.x_shape).astype(support.dtype(jnp.result_type(float)))


@functools.cache
def states_table(family: ExponentialFamily) -> StatesTable | Monomials | None:
    """Returns the table of a family, or its polynomials if it has too many distinct statistics.

    Each cell has one T and log h. For example, the 2^21 graphs with seven nodes have 110 different
    numbers of edges and triangles. Polynomials are tried for at most 22 two-valued sites and h = 1,
    and are compared with T at all points. If both fail, the result is None.

    Args:
        family: A family with a finite support of at most 2^24 points.

    Raises:
        ValueError: If T is not finite at a point of the support, which the message names, or if
            `count_states` raises.
    """
    n = count_states(family)
    with jax.enable_x64(True), eval_context():
        rows = jax.jit(functools.partial(_rows, family))
        size = _block_size(family)
        first, counts = np.zeros((0, family.eta_dim + 1)), np.zeros(0, np.int64)
        keys = np.zeros(0, np.uint64)
        for start in range(0, n, size):
            found = _finite_rows(family, rows, np.arange(start, min(start + size, n)))
            merged = np.concatenate([first, found])
            keys = np.concatenate([keys, row_keys(found)])
            keys, at, inverse = np.unique(keys, return_index=True, return_inverse=True)
            is_large = len(keys) > _MOST_CELLS or keys.size * merged.shape[1] > _MOST_NUMBERS
            if is_large or not are_same(merged, at[inverse]):
                return _monomials(family, rows)
            first = merged[at]
            ones = np.concatenate([counts, np.ones(len(found), np.int64)])
            counts = np.bincount(inverse, ones, len(keys)).astype(np.int64)
        return StatesTable(jnp.asarray(first[:, :-1]), jnp.asarray(first[:, -1] + np.log(counts)))


def _monomials(family: ExponentialFamily, rows: Callable[[Any], Array]) -> Monomials | None:
    """Returns T as polynomials in the digits of states, or None if T has too many terms."""
    n = count_states(family)
    bits = n.bit_length() - 1
    support = family.support
    assert isinstance(support, AbstractDiscreteSupport)
    assert support.values is not None
    if len(support.values) != 2 or bits > MOST_BITS or not family.has_unit_base_measure:
        return None
    masks = candidate_masks(bits)
    monomials = find_monomials(masks, _finite_rows(family, rows, masks)[:, :-1])
    if monomials is None:
        return None
    # The polynomials are checked at all states, by a random combination of statistics.
    size = np.asarray(jnp.abs(monomials.coefficients))
    weights = np.random.default_rng(2).uniform(1, 2, len(size)) / np.where(
        size.any(1), size.max(1), 1
    )
    expected = np.asarray(polynomial_values(monomials, jnp.asarray(weights), bits))
    # Rounding depends on the size of the terms at a state.
    sizes = Monomials(monomials.masks, jnp.asarray(size))
    tolerance = SAME * np.asarray(polynomial_values(sizes, jnp.asarray(weights), bits))
    block = _block_size(family)
    for start in range(0, n, block):
        part = slice(start, start + block)
        found = _finite_rows(family, rows, np.arange(n)[part])[:, :-1] @ weights
        if not np.all(np.abs(found - expected[part]) <= tolerance[part]):
            return None
    return monomials


def sum_states(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    table: StatesTable | Monomials | None,
) -> StatesSum:
    """Sums T and its products over all states, in the dtype of eta.

    Args:
        family: A family with a finite support of at most 2^24 points.
        eta: Valid natural parameters, `(eta_dim,)`.
        table: The `states_table` of the family. None makes two passes over all states, by blocks.

    Returns:
        The moments. Derivatives in eta are exact, to any order.
    """
    if isinstance(table, Monomials):
        bits = count_states(family).bit_length() - 1
        log_partition, mean = sum_monomials(bits, table, eta)
        return StatesSum(mean, monomial_moments(bits, table, eta)[2], log_partition)
    if table is not None:
        stats, log_weights = (jnp.asarray(part, eta.dtype) for part in table)
        logs = stats @ eta + log_weights
        top = lax.stop_gradient(jnp.max(logs))
        center = stats[jnp.argmax(logs)]
        return _finish(top, center, *_sums(stats - center, jnp.exp(logs - top)))
    fixed = lax.stop_gradient(eta)

    def highest(carry, stats, logs, index):
        best, center = carry
        at = jnp.argmax(logs)
        is_higher = logs[at] > best
        return jnp.where(is_higher, logs[at], best), jnp.where(is_higher, stats[at], center)

    start = jnp.full((), -jnp.inf, eta.dtype), jnp.zeros_like(eta)
    top, center = _over_blocks(family, fixed, highest, start)

    def add(carry, stats, logs, index):
        return jax.tree.map(jnp.add, carry, _sums(stats - center, jnp.exp(logs - top)))

    zeros = jnp.zeros((family.eta_dim, family.eta_dim), eta.dtype)
    start = zeros[0, 0], zeros[0], zeros
    return _finish(top, center, *_over_blocks(family, eta, add, start))


def draw_states(
    key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
) -> Int[Array, "n *x_shape"]:
    """Draws points by inverting the CDF of their indices, in two passes over all states.

    Args:
        key: PRNG key.
        family: A family with a finite support of at most 2^24 points.
        eta: Valid natural parameters, `(eta_dim,)`.
        n: Number of draws.

    Returns:
        Independent draws, `(n, *x_shape)`.
    """
    key_uniform, key_order = jax.random.split(key)

    def total(carry, stats, logs, index):
        return jnp.logaddexp(carry, jax.nn.logsumexp(logs))

    log_partition = _over_blocks(family, eta, total, jnp.full((), -jnp.inf, eta.dtype))
    uniform = jnp.sort(jax.random.uniform(key_uniform, (n,), eta.dtype))

    def invert(carry, stats, logs, index):
        below, found = carry
        cumulative = below + jnp.cumsum(jnp.exp(logs - log_partition))
        place = jnp.searchsorted(cumulative, uniform, side="right")
        chosen = index[jnp.minimum(place, len(index) - 1)]
        # The last point of the block with a probability. Later blocks replace it, if they have any.
        last = index[jnp.argmax(jnp.where(jnp.isfinite(logs), jnp.arange(len(index)), -1))]
        here = jnp.where(place < len(index), chosen, last)
        return cumulative[-1], jnp.where(uniform >= below, here, found)

    start = jnp.zeros((), eta.dtype), jnp.zeros(n, int)
    _, found = _over_blocks(family, eta, invert, start)
    support = family.support
    assert isinstance(support, AbstractDiscreteSupport)
    order = jax.random.permutation(key_order, n)
    return support.as_integers(jax.vmap(functools.partial(state_at, family))(found[order]))


def _sums(
    centered: Float[Array, "n eta_dim"], weights: Float[Array, " n"]
) -> tuple[Float[Array, ""], Float[Array, " eta_dim"], Float[Array, "eta_dim eta_dim"]]:
    return jnp.sum(weights), weights @ centered, centered.T @ (weights[:, None] * centered)


def _finish(
    top: Float[Array, ""],
    center: Float[Array, " eta_dim"],
    total: Float[Array, ""],
    first: Float[Array, " eta_dim"],
    second: Float[Array, "eta_dim eta_dim"],
) -> StatesSum:
    shift = first / total
    covariance = second / total - jnp.outer(shift, shift)
    return StatesSum(center + shift, covariance, top + jnp.log(total))


def _rows(family: ExponentialFamily, index: Int[Array, " n"]) -> Float[Array, "n k"]:
    """Returns T and log h of states, in one matrix."""

    def one(index):
        x = state_at(family, index)
        return jnp.append(family.sufficient_statistics(x), family.log_base_measure(x))

    return jax.vmap(one)(index)


def _finite_rows(
    family: ExponentialFamily, rows: Callable[[Any], Array], index: np.ndarray
) -> np.ndarray:
    found = np.asarray(rows(jnp.asarray(index)))
    finite = np.isfinite(found[:, :-1])
    if not finite.all():
        row = int(np.argmin(finite.all(1)))
        name = family.stat_names[int(np.argmin(finite[row]))]
        raise ValueError(
            f"Expected statistics of {family!r} that are finite on {family.support!r}; got "
            f"{name!r} that is not at x = {state_at(family, jnp.asarray(index[row])).tolist()}. "
            "Write T so that it is finite on the support."
        )
    # Points with h = 0 do not count.
    return found[found[:, -1] > -np.inf]


def _block_size(family: ExponentialFamily) -> int:
    n, width = count_states(family), family.eta_dim + math.prod(family.x_shape)
    return min(n, 2 ** int(math.log2(max(_BLOCK // width, 64))))


def _over_blocks(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    step: Callable[[_Carry, Array, Array, Array], _Carry],
    start: _Carry,
) -> _Carry:
    """Folds `step(carry, stats, log_densities, indices)` over blocks of states."""
    n, size = count_states(family), _block_size(family)

    @jax.checkpoint
    def fold(carry, block):
        index = block * size + jnp.arange(size)
        rows = _rows(family, jnp.minimum(index, n - 1))
        stats = rows[:, :-1]
        logs = jnp.where(index < n, stats @ eta + rows[:, -1], -jnp.inf)
        return step(carry, stats, logs, index), None

    return lax.scan(fold, start, jnp.arange(-(-n // size)))[0]
