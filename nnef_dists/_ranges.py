"""Range checks of numbers and arrays: errors for concrete values, NaN for traced values."""

import math
import operator
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

_T = TypeVar("_T")

# Ends that belong to the range.
Closed = Literal["neither", "low", "high", "both"]


def check_range(
    name: str,
    value: _T,
    low: float | int = -math.inf,
    high: float | int = math.inf,
    *,
    closed: Closed = "neither",
) -> _T:
    """Returns a parameter if all its entries are in a range.

        low < value < high

    Python numbers, NumPy scalars and arrays, concrete `jax.Array`s and lists of these raise if an
    entry is out of range or NaN. Infinity is out of a range that is open at this end. Traced arrays
    (under `jax.jit`, `jax.vmap` and `jax.grad`) are NaN in entries that are out of range. There is
    no host callback. A traced integer cannot be NaN, and is returned unchanged.

    Args:
        name: Name of the parameter, for the message.
        value: A number or an array of any shape.
        low: Lower end of the range. Defaults to minus infinity.
        high: Upper end of the range. Defaults to infinity.
        closed: Ends that belong to the range. Defaults to neither.

    Returns:
        The value. A concrete one is returned unchanged.

    Raises:
        ValueError: If a concrete entry is out of range, NaN or not a number. The message names the
            parameter, the range and the value.
    """
    leaves = jax.tree.leaves(value)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        traced: Any = jnp.asarray(value)
        if not jnp.issubdtype(traced.dtype, jnp.inexact):
            return traced
        guarded: Any = jnp.where(_inside(traced, low, high, closed), traced, jnp.nan)
        return guarded
    try:
        # NumPy results are concrete, also inside a compiled program. Floating arrays keep their
        # dtype, so that the ends are rounded as in a traced comparison.
        array = np.asarray(value)
        if not jnp.issubdtype(array.dtype, jnp.floating):
            array = array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"Expected {name} as a number or an array; got {value!r}") from None
    with np.errstate(invalid="ignore"):
        inside = np.asarray(_inside(array, low, high, closed))
    if not inside.all():
        index = tuple(int(i) for i in np.argwhere(~inside)[0])
        entry = np.asarray(value)[index]
        where = f" at {name}[{', '.join(map(str, index))}]" if index else ""
        raise ValueError(f"Expected {_requirement(name, low, high, closed)}; got {entry!s}{where}")
    return value


def check_number(
    name: str,
    value: Any,
    low: float | int = -math.inf,
    high: float | int = math.inf,
    *,
    closed: Closed = "neither",
) -> float:
    """Returns one concrete number as a Python float if it is in a range.

    The arguments are described in `check_range`. Use this function for configurations, which are
    static and hashed.

    Raises:
        ValueError: If `value` is out of range, NaN, traced or not one number.
    """
    if isinstance(value, Tracer) or np.ndim(value) != 0:
        raise ValueError(f"Expected {name} as one concrete number; got {value!r}")
    # In Python, bool is a subclass of int.
    if isinstance(value, bool | np.bool_):
        raise ValueError(f"Expected {name} as a number; got {value!r}")
    return float(check_range(name, value, low, high, closed=closed))


def check_integer(name: str, value: Any, low: int, high: int | None = None) -> int:
    """Returns a size, a count or a power as a Python integer if it is in a range.

        low <= value <= high

    Python and NumPy integers and concrete integer `jax.Array`s of shape `()` are accepted.
    Booleans, floats and traced values are not, since sizes are static in JAX.

    Args:
        name: Name of the parameter, for the message.
        value: The integer.
        low: Smallest value.
        high: Largest value. By default, there is none.

    Returns:
        The integer.

    Raises:
        ValueError: If `value` is not a concrete integer, or is out of range.
    """
    if isinstance(value, Tracer):
        raise ValueError(
            f"Expected {name} as a static integer; got a traced one. Pass a Python integer, or "
            "mark it static (static_argnames of jax.jit)"
        )
    bound = f"{name} >= {low}" if high is None else f"{low} <= {name} <= {high}"
    try:
        if isinstance(value, bool | np.bool_) or np.asarray(value).dtype.kind == "b":
            raise TypeError
        integer = operator.index(value)
    except TypeError:
        raise ValueError(f"Expected an integer {bound}; got {value!r}") from None
    if integer < low or (high is not None and integer > high):
        raise ValueError(f"Expected {bound}; got {value}")
    return integer


def _inside(value: Any, low: float | int, high: float | int, closed: Closed) -> Any:
    """Returns whether each entry is in the range. NaN compares as False."""
    above = value >= low if closed in ("low", "both") else value > low
    below = value <= high if closed in ("high", "both") else value < high
    return above & below


def _requirement(name: str, low: float | int, high: float | int, closed: Closed) -> str:
    if low == -math.inf and high == math.inf:
        return f"finite {name}" if closed == "neither" else f"{name} that is not NaN"
    left = "<=" if closed in ("low", "both") else "<"
    right = "<=" if closed in ("high", "both") else "<"
    if high == math.inf and right == "<=":
        return f"{name} {'>=' if left == '<=' else '>'} {low:g}"
    if low == -math.inf:
        return f"{name} {right} {high:g}"
    return f"{low:g} {left} {name} {right} {high:g}"
