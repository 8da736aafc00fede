"""Whether a function is smooth as far as its program shows: without comparisons, |x| or max(x)."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
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
# Smooth functions that are written with them.
_SMOOTH = {"logaddexp", "logaddexp2", "log_ndtr", "log_factorial"}
# Primitives with positive values, and those that keep the sign of all inputs.
_POSITIVE = {"exp", "exp2", "logistic", "square"}
_KEEPING_SIGN = {
    "add",
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "mul",
    "reduce_sum",
} | {"reshape", "squeeze", "transpose"}


def is_smooth(
    function: Callable[[Array], Any],
    x: jax.ShapeDtypeStruct,
    breaking: frozenset[str] = frozenset(),
) -> bool:
    """Returns whether the program of a function has no primitive that may break it.

    Args:
        function: The function.
        x: The shape and the dtype of its argument.
        breaking: More primitives that break it, such as `eq`, which counts on whole numbers.

    Returns:
        Whether it is smooth. False also for smooth functions that are written with comparisons.
    """
    jaxpr = jax.make_jaxpr(function)(x).jaxpr
    return _is_smooth(jaxpr, [True] * len(jaxpr.invars), _BREAKING | breaking)


def _is_smooth(jaxpr: Jaxpr, varies: list[bool], breaking: frozenset[str] | set[str]) -> bool:
    varying = {v for v, does in zip(jaxpr.invars, varies, strict=True) if does}
    positive, live = set(), _live_equations(jaxpr)
    for index, equation in enumerate(jaxpr.eqns):
        name, variables = equation.primitive.name, equation.invars
        inputs = [not isinstance(v, Literal) and v in varying for v in variables]
        if not any(inputs):
            continue
        varying.update(equation.outvars)
        is_positive = all(not isinstance(v, Literal) and v in positive for v in variables)
        if name in _POSITIVE or (name in _KEEPING_SIGN and is_positive):
            positive.update(equation.outvars)
        if index not in live or (name in ("abs", "sign") and is_positive):
            continue
        if name in breaking:
            return False
        for inner in _inner_jaxprs(equation.params):
            if inner.debug_info.func_name in _SMOOTH:
                continue
            # Loops and branches order their inputs differently.
            is_call = len(inner.invars) == len(inputs)
            taken = inputs if is_call else [True] * len(inner.invars)
            if not _is_smooth(inner, taken, breaking):
                return False
    return True


def _live_equations(jaxpr: Jaxpr) -> set[int]:
    """Returns the equations that the result depends on, but for shifts without a derivative."""
    wanted = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    live = set()
    for index in reversed(range(len(jaxpr.eqns))):
        equation = jaxpr.eqns[index]
        if wanted.isdisjoint(equation.outvars):
            continue
        live.add(index)
        if equation.primitive.name != "stop_gradient":
            wanted.update(v for v in equation.invars if not isinstance(v, Literal))
    return live


def _inner_jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                yield one.jaxpr
            elif isinstance(one, Jaxpr):
                yield one
