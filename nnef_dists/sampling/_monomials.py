"""Sums over all binary words by fast transforms, for statistics with few monomials."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

# Largest number of bits in a monomial, of monomials, and of bits in a word.
_ORDER, _MOST_MONOMIALS, MOST_BITS = 4, 1024, 22
# Largest difference that is rounding, relative to the size of the terms.
SAME = 2.0**-44
# Largest ratio of coefficients of one statistic. Beside larger ones, errors of others are not seen.
_MOST_RATIO = 2.0**30
# Number of bits per axis of a transform, which is a product with a matrix of 2^5 rows.
_AXIS = 5


class Monomials(NamedTuple):
    """Statistics as polynomials in bits.

        T(x) = sum over sets S of coefficients[:, S] prod_{i in S} b_i,    b_i = 0 or 1

    Attributes:
        masks: The sets S as bit masks, with bit i for site i, `(k,)`. The empty set is first. All
            subsets of each set are included.
        coefficients: The coefficients, `(eta_dim, k)`, in double precision.
    """

    masks: Int[Array, " k"]
    coefficients: Float[Array, "eta_dim k"]


def candidate_masks(bits: int) -> np.ndarray:
    """Returns the masks of all sets of at most four bits, smaller sets first."""
    sets = itertools.chain.from_iterable(
        itertools.combinations(range(bits), order) for order in range(_ORDER + 1)
    )
    return np.array([sum(1 << i for i in chosen) for chosen in sets], np.int32)


def find_monomials(masks: np.ndarray, stats: Float[np.ndarray, "n eta_dim"]) -> Monomials | None:
    """Returns the polynomials that are equal to T at all words of `candidate_masks`.

    Args:
        masks: The words, from `candidate_masks`.
        stats: T at each word, `(n, eta_dim)`.

    Returns:
        The polynomials, or None if they have too many terms or terms of very different size. Words
        with more bits are not checked.
    """
    place = {int(mask): number for number, mask in enumerate(masks)}
    coefficients, size = np.array(stats), np.abs(stats)
    for number, mask in enumerate(masks.tolist()):
        subsets = [mask]
        while subsets[-1]:
            subsets.append((subsets[-1] - 1) & mask)
        terms = coefficients[[place[subset] for subset in subsets[1:]]]
        coefficients[number] -= terms.sum(0)
        size[number] = np.maximum(size[number], np.abs(terms).max(0, initial=0))
    coefficients[np.abs(coefficients) <= SAME * size] = 0
    size = np.abs(coefficients)
    if np.any(size.max(0) > _MOST_RATIO * size.min(0, where=size > 0, initial=np.inf)):
        return None
    used, kept = masks[np.any(coefficients != 0, 1)].tolist(), {0}
    for mask in used:
        subset = mask
        while subset:
            kept.add(subset)
            subset = (subset - 1) & mask
    if len(kept) > _MOST_MONOMIALS:
        return None
    rows = sorted(place[mask] for mask in kept)
    return Monomials(jnp.asarray(masks[rows]), jnp.asarray(coefficients[rows].T))


def polynomial_values(
    monomials: Monomials, weights: Float[Array, " eta_dim"], bits: int
) -> Float[Array, " n"]:
    """Returns weights . T of all words, in the dtype of the weights, `(2^bits,)`."""
    coefficients = jnp.asarray(monomials.coefficients, weights.dtype)
    terms = jnp.zeros(2**bits, weights.dtype).at[monomials.masks].set(weights @ coefficients)
    return _transform(terms, bits, over_supersets=False)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def sum_monomials(
    bits: int, monomials: Monomials, eta: Float[Array, " eta_dim"]
) -> tuple[Float[Array, ""], Float[Array, " eta_dim"]]:
    """Returns A(eta) and E[T], in the dtype of eta. Derivatives are exact, to any order."""
    return monomial_moments(bits, monomials, eta)[:2]


@sum_monomials.defjvp
def _sum_monomials_jvp(bits, primals, tangents):
    monomials, eta = primals
    log_partition, mean, covariance = monomial_moments(bits, monomials, eta)
    # One covariance serves all tangents.
    return (log_partition, mean), (mean @ tangents[1], covariance @ tangents[1])


def monomial_moments(
    bits: int, monomials: Monomials, eta: Float[Array, " eta_dim"]
) -> tuple[Float[Array, ""], Float[Array, " eta_dim"], Float[Array, "eta_dim eta_dim"]]:
    """Returns A(eta), E[T] and Cov[T] by two transforms of 2^bits numbers.

    The expectation of a product of bits is the sum of probabilities over supersets, and products of
    products are products. Bits are flipped relative to the most probable word, so that small
    variances keep their digits.

    Args:
        bits: Number of bits of a word.
        monomials: The statistics.
        eta: Natural parameters, `(eta_dim,)`.

    Reference:
        Bjorklund, Husfeldt, Kaski and Koivisto, *Fourier meets Mobius: fast subset convolution*,
        STOC (2007), section 2.2, for the transforms.
    """
    logs = polynomial_values(monomials, eta, bits)
    highest = jnp.argmax(lax.stop_gradient(logs)).astype(jnp.int32)
    # In this order, the most probable word is word 0.
    logs = logs[jnp.arange(2**bits, dtype=jnp.int32) ^ highest]
    log_partition = logs[0] + jnp.log(jnp.sum(jnp.exp(logs - logs[0])))
    products = _transform(jnp.exp(logs - log_partition), bits, over_supersets=True)
    masks = monomials.masks
    # In each product, bits b that are 1 in the most probable word are replaced by 1 - b'.
    row, column = masks[:, None], masks[None]
    is_term = ((column & ~row) == 0) & ((row & ~column & ~highest) == 0)
    sign = 1 - 2 * (lax.population_count(column & highest) & 1)
    expansion = jnp.where(is_term, sign, 0).astype(eta.dtype)
    of_stats = jnp.matmul(
        jnp.asarray(monomials.coefficients, eta.dtype), expansion, precision="highest"
    )
    center, of_stats, masks = of_stats[:, 0], of_stats[:, 1:], masks[1:]
    shift = jnp.matmul(of_stats, products[masks], precision="highest")
    second = products[masks[:, None] | masks[None]]
    second = jnp.linalg.multi_dot([of_stats, second, of_stats.T], precision="highest")
    return log_partition, center + shift, second - jnp.outer(shift, shift)


def _transform(
    values: Float[Array, " n"], bits: int, *, over_supersets: bool
) -> Float[Array, " n"]:
    """Returns the sums of values over all subsets, or supersets, of each set of bits."""
    sizes = [min(_AXIS, bits - start) for start in range(0, bits, _AXIS)][::-1]
    found = values.reshape([2**size for size in sizes])
    for axis, size in enumerate(sizes):
        word = np.arange(2**size)
        matrix = (word[:, None] & word) == word[:, None]
        matrix = jnp.asarray(matrix if over_supersets else matrix.T, values.dtype)
        # Products with matrices, because loops over strided pairs are slow on all devices.
        summed = jnp.tensordot(matrix, found, (1, axis), precision="highest")
        found = jnp.moveaxis(summed, 0, axis)
    return found.reshape(-1)
