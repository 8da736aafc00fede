"""Supports of discrete x: counts, spins, bits and categories."""

import math
from abc import abstractmethod
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Int

from nnef_dists._checks import as_point, check_concrete
from nnef_dists._ranges import check_integer

# Median count above the lower bound, of `Counts.point` at normal u.
_TYPICAL_COUNT = 4.0


class AbstractDiscreteSupport(eqx.Module):
    """A countable set of points x, with densities with respect to counting measure.

    Densities are probabilities, and the base measure h is relative to counting measure. With h = 1
    each point has the weight exp(eta . T(x)). Statistics take one point, as a floating array of
    whole numbers (an integer array for `Categories`). Samples are integers.

    Methods for continuous x raise for a discrete support: Hamiltonian Monte Carlo, Laplace's
    approximation, quadrature and flows.

    Attributes:
        shape: The shape of x.
        values: Values of each entry of x, in ascending order. None if there is no largest value.
    """

    shape: eqx.AbstractVar[tuple[int, ...]]
    values: eqx.AbstractVar[range | tuple[int, ...] | None]
    # Remedy in error messages: the methods that accept this support.
    _remedy: ClassVar[str]

    @property
    def sites(self) -> int:
        """The number of entries of x."""
        return math.prod(self.shape)

    @property
    def log2_states(self) -> float:
        """The logarithm to base 2 of the number of points, infinite without a largest value."""
        return math.inf if self.values is None else self.sites * math.log2(len(self.values))

    @property
    def remedy(self) -> str:
        """A sentence for error messages, with the methods that accept this support."""
        return self._remedy

    def dtype(self, dtype: DTypeLike) -> Any:
        """Returns the dtype of points, by default the floating dtype of the statistics."""
        return dtype

    @abstractmethod
    def contains(self, x: Array) -> Bool[Array, ""]:
        """Returns whether x, of the support's shape, is a point of the support."""

    def as_integers(self, x: Array) -> Int[Array, "*shape"]:
        """Returns points as integers."""
        return jnp.asarray(x).astype(int)

    @abstractmethod
    def point(self, u: Array) -> Array:
        """Returns the point for real numbers u, of the support's shape.

        Each point is the image of some u. Random checks use normal u, whose points are well spread.
        """


@final
class Counts(AbstractDiscreteSupport):
    """The whole numbers from `lower` on, or from `lower` to `upper`.

    Args:
        lower: Smallest number, at least 0. Defaults to 0.
        upper: Largest number, above `lower`. Defaults to None, for no upper bound.

    Raises:
        ValueError: If the bounds are not integers, `lower < 0`, or `upper <= lower`.
    """

    shape: ClassVar[tuple[int, ...]] = ()
    lower: int = eqx.field(static=True)
    upper: int | None = eqx.field(static=True)
    _remedy: ClassVar[str] = "Use nd.Summation(family), or labels of nd.estimate_moments."

    def __init__(self, lower: int = 0, upper: int | None = None):
        self.lower = check_integer("lower", lower, 0)
        self.upper = None if upper is None else check_integer("upper", upper, self.lower + 1)

    @property
    def values(self) -> range | None:
        """The numbers, or None if there is no largest number."""
        return None if self.upper is None else range(self.lower, self.upper + 1)

    def contains(self, x: Array) -> Bool[Array, ""]:
        """Returns whether x is one of the numbers."""
        inside = (x == jnp.round(x)) & (x >= self.lower)
        return inside if self.upper is None else inside & (x <= self.upper)

    def point(self, u: Array) -> Array:
        """Returns about 4 exp(u) above the lower bound, or the upper bound if this is smaller."""
        x = self.lower + jnp.floor(_TYPICAL_COUNT * jnp.exp(u))
        return x if self.upper is None else jnp.minimum(x, self.upper)


class AbstractFiniteSupport(AbstractDiscreteSupport):
    """A discrete support in which every entry of x has one of finitely many values."""

    _remedy: ClassVar[str] = (
        "Use nd.Enumeration(family) for up to 2^24 points, and labels of nd.estimate_moments for "
        "more."
    )

    def contains(self, x: Array) -> Bool[Array, ""]:
        """Returns whether all entries are among the values."""
        values = jnp.asarray(self.values)
        return jnp.all(jnp.any(jnp.asarray(x)[..., None] == values, -1))

    def point(self, u: Array) -> Array:
        """Returns the values whose rank is the normal CDF at u times the number of values."""
        values = jnp.asarray(self.values)
        rank = jnp.floor(jax.scipy.special.ndtr(u) * len(values)).astype(int)
        return values[jnp.clip(rank, 0, len(values) - 1)].astype(self.dtype(u.dtype))


@final
class Spins(AbstractFiniteSupport):
    """Arrays with entries -1 and 1.

    Args:
        shape: Shape of x. An integer n is `(n,)`. Defaults to `()`.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    values: ClassVar[tuple[int, ...]] = (-1, 1)

    def __init__(self, shape: int | tuple[int, ...] = ()):
        self.shape = _check_shape(shape)


@final
class Bits(AbstractFiniteSupport):
    """Arrays with entries 0 and 1.

    Args:
        shape: Shape of x. An integer n is `(n,)`. Defaults to `()`.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    values: ClassVar[tuple[int, ...]] = (0, 1)

    def __init__(self, shape: int | tuple[int, ...] = ()):
        self.shape = _check_shape(shape)


@final
class Categories(AbstractFiniteSupport):
    """Arrays with entries 0, ..., k - 1, as integers that statistics can use as indices.

    Args:
        k: Number of categories, at least 2.
        shape: Shape of x. An integer n is `(n,)`. Defaults to `()`.

    Raises:
        ValueError: If `k < 2`.
    """

    k: int = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, k: int, shape: int | tuple[int, ...] = ()):
        self.k, self.shape = check_integer("k", k, 2), _check_shape(shape)

    @property
    def values(self) -> range:
        """The categories."""
        return range(self.k)

    def dtype(self, dtype: DTypeLike) -> Any:
        """Returns an integer dtype."""
        return jnp.int32


def _check_shape(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, int):
        shape = (shape,)
    return tuple(check_integer("an entry of shape", size, 1) for size in shape)


def point_of(family: Any, x: Array) -> Array:
    """Returns x as one point of a family, with the dtype that the statistics expect.

    Args:
        family: The exponential family.
        x: One point, of shape `x_shape`.

    Returns:
        A floating array, or an integer array for `Categories`.

    Raises:
        ValueError: If `x` has another shape.
    """
    x, support = as_point(x, family.x_shape, family), family.support
    return x.astype(support.dtype(x.dtype)) if isinstance(support, AbstractDiscreteSupport) else x


def inside_support(family: Any, x: Array) -> tuple[Bool[Array, ""] | None, Array]:
    """Returns whether x is in a discrete support, and a point at which statistics exist.

    Args:
        family: The exponential family.
        x: One point, of shape `x_shape`.

    Returns:
        Whether x is inside, or None for a continuous support. And x, or another point of the
        support if x is outside.
    """
    support = family.support
    if not isinstance(support, AbstractDiscreteSupport):
        return None, point_of(family, x)
    given = as_point(x, family.x_shape, family)
    inside, known = support.contains(given), support.point(jnp.zeros(family.x_shape, given.dtype))
    return inside, jnp.where(inside, point_of(family, x), known)


def check_categories(family: Any, x: Array, stats: Array) -> Array:
    """Returns statistics at x, which are NaN if x is none of `Categories`.

    Such x cannot be an index: conversion to an integer would make NaN the first category.

    Args:
        family: The exponential family.
        x: One point, of shape `x_shape`.
        stats: The statistics, `(eta_dim,)`.

    Raises:
        ValueError: If x is concrete, and none of the categories.
    """
    support = family.support
    if not isinstance(support, Categories):
        return stats
    x = as_point(x, family.x_shape, family)
    remedy = "Leave out missing values, or give them a category of their own."
    expected = f"Expected x with entries among 0, ..., {support.k - 1}"
    inside = support.contains(x)
    # Not a factor, which XLA does not apply to zeros that were booleans.
    stats = jnp.where(inside, stats, jnp.nan)
    return check_concrete(stats, inside, expected, x, remedy)
