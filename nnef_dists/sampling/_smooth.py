"""Smoothness of a function by its traced program: no comparisons, no |x| and no max(x)."""

import os
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, auto
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array

# Primitives whose values or slopes may jump.
_BREAKING = {
    "abs",
    "argmax",
    "argmin",
    "ceil",
    "clamp",
    "cond",
    "floor",
    "ge",
    "gt",
    "le",
    "lt",
    "max",
} | {"min", "reduce_max", "reduce_min", "rem", "round", "sign", "sort"}
# Smooth functions of JAX and of this package that use these primitives, and their folders. The
# first two jump if two modes are equally high.
_SMOOTH = {
    "find_mode",
    "find_normal",
    "log_beta",
    "log_factorial",
    "log_gamma",
    "log_ndtr",
    "logaddexp",
    "logaddexp2",
}
_FOLDERS = f"{Path(jax.__file__).parent}{os.sep}", f"{Path(__file__).parents[1]}{os.sep}"
# Primitives with positive values, and primitives that keep positive inputs positive.
_POSITIVE = {"exp", "exp2", "logistic", "square"}
_KEEPING_SIGN = {
    "add",
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "mul",
    "reduce_sum",
} | {"reshape", "squeeze", "transpose"}
# Primitives whose results jump between NaN and other values.
_ASKING = {"eq", "is_finite", "ne"}
# Primitives that change no value.
_COPYING = {"broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze"}


class _Kind(Enum):
    """The kind of a variable of a program, as a function of the argument."""

    CONSTANT = auto()
    NAN = auto()
    SMOOTH = auto()
    POSITIVE = auto()  # and smooth
    GUARDED = auto()  # smooth where it is not NaN
    BROKEN = auto()


def is_smooth(
    function: Callable[[Array], Any],
    x: jax.ShapeDtypeStruct,
    breaking: frozenset[str] = frozenset(),
) -> bool:
    """Returns whether the traced program of a function has no primitive that may break smoothness.

    A comparison that makes values NaN on one side, as in checks of arguments, is allowed.

    Args:
        function: The function.
        x: The shape and the dtype of its argument.
        breaking: Further primitives that break smoothness, such as `eq` for integer arguments.
            Defaults to none.

    Returns:
        Whether the function is smooth. False also for smooth functions that use comparisons.
    """
    found = _kinds(jax.make_jaxpr(function)(x), [_Kind.SMOOTH], _BREAKING | breaking)
    return _Kind.BROKEN not in found


def _kinds(
    program: ClosedJaxpr, inputs: Sequence[_Kind], breaking: frozenset[str] | set[str]
) -> list[_Kind]:
    """Returns the kinds of the results of a program."""
    jaxpr = program.jaxpr
    known = dict(zip(jaxpr.invars, inputs, strict=True))

    def kind_of(variable):
        if not isinstance(variable, Literal):
            return known.get(variable, _Kind.CONSTANT)
        value = variable.val
        is_nan = np.issubdtype(np.result_type(value), np.inexact) and np.isnan(value).all()
        return _Kind.NAN if is_nan else _Kind.CONSTANT

    for equation in jaxpr.eqns:
        kinds = [kind_of(variable) for variable in equation.invars]
        found = _kinds_after(equation, kinds, breaking)
        known.update(zip(equation.outvars, found, strict=True))
    return [kind_of(variable) for variable in jaxpr.outvars]


def _kinds_after(
    equation: Any, kinds: list[_Kind], breaking: frozenset[str] | set[str]
) -> list[_Kind]:
    """Returns the kinds of the results of one equation."""
    name, n = equation.primitive.name, len(equation.outvars)
    fixed = {_Kind.CONSTANT, _Kind.NAN}
    if fixed.issuperset(kinds):
        return [kinds[0] if name in _COPYING else _Kind.CONSTANT] * n
    smooth = _Kind.GUARDED if _Kind.GUARDED in kinds else _Kind.SMOOTH
    if name == "stop_gradient":
        # A constant shift, as in logsumexp.
        return [smooth]
    is_choice = name == "select_n" and len(kinds) == 3
    if is_choice and _Kind.NAN in kinds[1:] and _Kind.BROKEN not in kinds[1:]:
        return [_Kind.GUARDED]
    inner = list(_inner_programs(equation.params))
    if name == "cond" and kinds[0] in fixed:
        # The choice of the branch, for example by platform, does not depend on the argument.
        branches = zip(*(_kinds(one, kinds[1:], breaking) for one in inner), strict=True)
        return [_either(set(branch)) for branch in branches]
    # A loop feeds its results back as inputs. Branches and `while` loops order inputs differently.
    shape = len(kinds), n
    is_call = [(len(one.jaxpr.invars), len(one.jaxpr.outvars)) == shape for one in inner]
    if is_call == [True] and name != "scan" and not _is_smooth_by_name(inner[0]):
        return _kinds(inner[0], kinds, breaking)
    if _Kind.BROKEN in kinds:
        return [_Kind.BROKEN] * n
    is_positive = all(kind is _Kind.POSITIVE for kind in kinds)
    if name in _POSITIVE or (name in _KEEPING_SIGN and is_positive):
        return [_Kind.POSITIVE] * n
    if name in breaking and not (name in ("abs", "sign") and is_positive):
        return [_Kind.BROKEN] * n
    if (name in _ASKING and smooth is _Kind.GUARDED) or _truncates(equation, breaking):
        return [_Kind.BROKEN] * n
    for one in inner:
        every = [_Kind.SMOOTH] * len(one.jaxpr.invars)
        if not _is_smooth_by_name(one) and _Kind.BROKEN in _kinds(one, every, breaking):
            return [_Kind.BROKEN] * n
    return [smooth] * n


def _either(kinds: set[_Kind]) -> _Kind:
    """Returns the kind of a variable that has one of several kinds."""
    if len(kinds) == 1:
        return kinds.pop()
    if _Kind.BROKEN in kinds:
        return _Kind.BROKEN
    return _Kind.GUARDED if kinds & {_Kind.GUARDED, _Kind.NAN} else _Kind.SMOOTH


def _truncates(equation: Any, breaking: frozenset[str] | set[str]) -> bool:
    """Returns whether an equation converts floating-point numbers to integers."""
    if equation.primitive.name != "convert_element_type" or "floor" not in breaking:
        return False
    before, after = equation.invars[0].aval.dtype, equation.outvars[0].aval.dtype
    return jnp.issubdtype(before, jnp.inexact) and jnp.issubdtype(after, jnp.integer)


def _is_smooth_by_name(program: ClosedJaxpr) -> bool:
    info = program.jaxpr.debug_info
    path = info.func_src_info.rpartition(" at ")[2]
    return info.func_name in _SMOOTH and path.startswith(_FOLDERS)


def _inner_programs(params: dict[str, Any]) -> Iterator[ClosedJaxpr]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one
            elif isinstance(one, Jaxpr):
                yield ClosedJaxpr(one, ())
