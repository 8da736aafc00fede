"""Constraints on the natural parameter of one statistic."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from nnef_dists._ranges import check_number


@final
class Range(eqx.Module):
    """A range `[low, high)` from which coefficients are drawn, uniformly or log-uniformly.

    Args:
        name: Name of the statistic, for messages.
        spec: `(low, high)` or `(low, high, "log")`, with bounds that broadcast to `shape`.
        shape: Shape of one draw.

    Attributes:
        name: Name of the statistic.
        low: Lower bounds, of shape `shape`.
        high: Upper bounds, of shape `shape`.
        log: Whether draws are log-uniform.

    Raises:
        ValueError: If `spec` has another form, or its bounds do not broadcast or are not finite
            with `low <= high`. For a log-uniform range, also if they are not of one sign.
    """

    name: str
    low: np.ndarray
    high: np.ndarray
    log: bool

    def __init__(self, name: str, spec: Sequence[Any] | float, shape: tuple[int, ...]):
        self.name = name
        spec = tuple(spec) if isinstance(spec, Sequence) else (spec,)
        if len(spec) not in (2, 3) or (len(spec) == 3 and spec[2] != "log"):
            raise ValueError(
                f"Expected the range of {name!r} as (low, high) or (low, high, 'log'); got {spec}"
            )
        try:
            self.low, self.high = (
                np.broadcast_to(np.asarray(bound, float), shape) for bound in spec[:2]
            )
        except ValueError as error:
            raise ValueError(
                f"Expected bounds of {name!r} that broadcast to shape {shape}; got {spec}"
            ) from error
        self.log = len(spec) == 3
        if not (np.isfinite(self.low) & np.isfinite(self.high) & (self.low <= self.high)).all():
            raise ValueError(f"Expected finite low <= high in the range of {name!r}; got {spec}")
        if self.log and not (self.low * self.high > 0).all():
            raise ValueError(
                f"Expected a log-uniform range of {name!r} with bounds of one sign; got {spec}"
            )

    def sample(self, key: PRNGKeyArray, dtype: DTypeLike) -> Array:
        """Draws one array of the range's shape."""
        if self.log and not (np.asarray([self.low, self.high], dtype) != 0).all():
            raise ValueError(
                f"Expected log-uniform bounds of {self.name!r} that {jnp.dtype(dtype)} can hold; "
                f"got ({self.low}, {self.high})"
            )
        low, high = jnp.asarray(self.low, dtype), jnp.asarray(self.high, dtype)
        uniform = jax.random.uniform(key, low.shape, dtype)
        if not self.log:
            return low + (high - low) * uniform
        log_low, log_high = jnp.log(jnp.abs(low)), jnp.log(jnp.abs(high))
        return jnp.sign(low) * jnp.exp(log_low + (log_high - log_low) * uniform)


class AbstractConstraint(eqx.Module):
    """The set of values that the natural parameter of one statistic may take.

    A constraint also has unconstrained coordinates `u` in R^m of this set.

    Attributes:
        description: The expected values in words, for error messages.
    """

    description: eqx.AbstractVar[str]

    @abstractmethod
    def contains(self, value: Array) -> Bool[Array, ""]:
        """Returns whether `value`, of the statistic's shape, is in the set. NaN never is."""

    @abstractmethod
    def unconstrained_dim(self, shape: tuple[int, ...]) -> int:
        """Returns the number m of unconstrained coordinates of a value of this shape."""

    @abstractmethod
    def constrain(self, u: Float[Array, " m"], shape: tuple[int, ...]) -> Array:
        """Returns the value of this shape with unconstrained coordinates `u`, `(m,)`."""

    @abstractmethod
    def unconstrain(self, value: Array) -> Float[Array, " m"]:
        """Returns the unconstrained coordinates, `(m,)`, of a valid value."""

    @abstractmethod
    def sample(
        self,
        key: PRNGKeyArray,
        name: str,
        shape: tuple[int, ...],
        spec: Sequence[Any] | float,
        dtype: DTypeLike,
    ) -> Array:
        """Draws a random value.

        Args:
            key: PRNG key.
            name: Name of the statistic, for messages.
            shape: Shape of the value.
            spec: Range of the value, `(low, high)` or `(low, high, "log")`.
            dtype: Floating dtype of the value.

        Returns:
            A value in the set and in the range.

        Raises:
            ValueError: If the range is malformed or not inside the set.
        """

    @abstractmethod
    def convex_features(self, value: Array) -> Float[Array, " k"]:
        """Returns convex functions of a valid value that grow without bound toward the edge."""

    @abstractmethod
    def quadratic_features(self, value: Array, linear: Float[Array, " n"]) -> Float[Array, " k"]:
        """Returns functions, convex in `(linear, value)`, that are quadratic in `linear`.

        Args:
            value: A valid value.
            linear: Other natural parameters, without constraints, `(n,)`.

        Returns:
            Squares of `linear` over the distances of `value` to the edge of the set, `(k,)`. k is
            0 if there is no edge, or if the sizes do not match.
        """


@final
class IntervalConstraint(AbstractConstraint):
    """The set of arrays with every entry in the open interval `(lower, upper)`.

    With finite bounds, an entry is `lower + exp(u)`, `upper - exp(u)` or
    `lower + (upper - lower) sigmoid(u)`. Without finite bounds, it is u.

    Args:
        lower: Lower bound, below `upper`, possibly infinite.
        upper: Upper bound, possibly infinite.

    Raises:
        ValueError: If a bound is not one concrete number, or the interval is empty.
    """

    lower: float
    upper: float

    def __init__(self, lower: float, upper: float):
        self.lower = check_number("lower", lower, closed="both")
        self.upper = check_number("upper", upper, closed="both")
        if not self.lower < self.upper:
            raise ValueError(f"Expected lower < upper; got ({lower}, {upper})")

    @property
    def description(self) -> str:
        """The expected values in words, for error messages."""
        known = {
            (-math.inf, math.inf): "finite",
            (0.0, math.inf): "positive",
            (-math.inf, 0.0): "negative",
        }
        bounds = (self.lower, self.upper)
        return known.get(bounds, f"inside the open interval {bounds}")

    def contains(self, value: Array) -> Bool[Array, ""]:
        """Returns whether every entry is finite and strictly inside the interval."""
        return jnp.all(jnp.isfinite(value) & (value > self.lower) & (value < self.upper))

    def unconstrained_dim(self, shape: tuple[int, ...]) -> int:
        """Returns the number of entries."""
        return math.prod(shape)

    def constrain(self, u: Float[Array, " m"], shape: tuple[int, ...]) -> Array:
        """Returns the value of this shape with unconstrained coordinates `u`, `(m,)`."""
        u = u.reshape(shape)
        match math.isfinite(self.lower), math.isfinite(self.upper):
            case False, False:
                return u
            case True, False:
                return self.lower + jnp.exp(u)
            case False, True:
                return self.upper - jnp.exp(u)
            case _:
                return self.lower + (self.upper - self.lower) * jax.nn.sigmoid(u)

    def unconstrain(self, value: Array) -> Float[Array, " m"]:
        """Returns the unconstrained coordinates, `(m,)`, of a valid value."""
        value = jnp.ravel(value)
        match math.isfinite(self.lower), math.isfinite(self.upper):
            case False, False:
                return value
            case True, False:
                return jnp.log(value - self.lower)
            case False, True:
                return jnp.log(self.upper - value)
            case _:
                return jnp.log(value - self.lower) - jnp.log(self.upper - value)

    def _distances(self, value: Array) -> Float[Array, " k"]:
        """Returns the distances of all entries to the finite bounds."""
        value = jnp.ravel(value)
        below = [value - self.lower] if math.isfinite(self.lower) else []
        above = [self.upper - value] if math.isfinite(self.upper) else []
        return jnp.concatenate([jnp.zeros(0, value.dtype), *below, *above])

    def convex_features(self, value: Array) -> Float[Array, " k"]:
        """Returns `-log` of the distance of each entry to each finite bound."""
        return -jnp.log(self._distances(value))

    def quadratic_features(self, value: Array, linear: Float[Array, " n"]) -> Float[Array, " k"]:
        """Returns `linear_i^2 / distance_j` for all i and j."""
        return jnp.ravel(linear[:, None] ** 2 / self._distances(value))

    def sample(
        self,
        key: PRNGKeyArray,
        name: str,
        shape: tuple[int, ...],
        spec: Sequence[Any] | float,
        dtype: DTypeLike,
    ) -> Array:
        """Draws independent entries, uniform or log-uniform in the range."""
        drawn = Range(name, spec, shape)
        if not ((drawn.low > self.lower) & (drawn.high < self.upper)).all():
            raise ValueError(f"Expected the range of {name!r} to be {self.description}; got {spec}")
        return drawn.sample(key, dtype)


real = IntervalConstraint(-math.inf, math.inf)
positive = IntervalConstraint(0.0, math.inf)
negative = IntervalConstraint(-math.inf, 0.0)


def interval(lower: float, upper: float) -> IntervalConstraint:
    """Returns the constraint that every entry lies in the open interval `(lower, upper)`.

    Args:
        lower: Lower bound, below `upper`, possibly infinite.
        upper: Upper bound, possibly infinite.

    Returns:
        The constraint.

    Raises:
        ValueError: If the interval is empty.
    """
    return IntervalConstraint(lower, upper)
