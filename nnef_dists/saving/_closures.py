"""Descriptions of the two closures in flows of flowjax."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import paramax
from flowjax.bijections import RationalQuadraticSpline
from flowjax.utils import get_ravelled_pytree_constructor


class Recipe(NamedTuple):
    """Description of a closure by the arguments of a function that makes it.

    Attributes:
        arguments: Function of the captured values by name, and of the closure itself. It returns
            the arguments of `make`.
        make: Function that makes the closure.
    """

    arguments: Callable[[dict[str, Any], Any], dict[str, Any]]
    make: Callable[..., Any]


def recipe_arguments(name: str, function: Any) -> dict[str, Any] | None:
    """Returns the arguments that make a closure again, or None if there is no recipe.

    Args:
        name: Name of the closure in files.
        function: The closure.
    """
    if name not in RECIPES:
        return None
    recipe, captured = RECIPES[name], inspect.getclosurevars(function).nonlocals
    try:
        arguments = recipe.arguments(dict(captured), function)
        again = inspect.getclosurevars(recipe.make(**arguments)).nonlocals
    except (KeyError, TypeError, ValueError):  # Another version of flowjax.
        return None
    # Functions are not compared by value. They have separate descriptions.
    return arguments if bool(eqx.tree_equal(_data(again), _data(captured))) else None


def _data(captured: Mapping[str, Any]) -> Any:
    return {name: eqx.filter(value, eqx.is_array_like) for name, value in captured.items()}


def _make_constructor(bijection: Any) -> Any:
    return get_ravelled_pytree_constructor(
        bijection,
        filter_spec=eqx.is_inexact_array,
        is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable),
    )[0]


def _make_slope(min_derivative: Any) -> Any:
    spline = RationalQuadraticSpline(knots=1, interval=1, min_derivative=min_derivative)
    return getattr(spline.derivatives, "fn")  # noqa: B009


RECIPES = {
    "flowjax.utils:get_ravelled_pytree_constructor.<locals>.constructor": Recipe(
        lambda captured, function: {"bijection": function(jnp.zeros_like(captured["init"]))},
        _make_constructor,
    ),
    "flowjax.bijections.rational_quadratic_spline:RationalQuadraticSpline.__init__.<locals>"
    ".<lambda>": Recipe(
        lambda captured, _: {"min_derivative": captured["min_derivative"]}, _make_slope
    ),
}
