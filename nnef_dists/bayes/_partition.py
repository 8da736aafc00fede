"""Splitting a model into the part that an optimizer sees and the rest."""

import dataclasses
import enum
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import paramax
from jaxtyping import PyTree

from ._introspection import get_parameters, path_name
from ._parameter import is_fixed, is_mean_path, is_parameter

_Model = TypeVar("_Model")


class _Role(enum.Enum):
    """What a leaf of a model is."""

    MEAN = enum.auto()
    WIDTH = enum.auto()
    PLAIN = enum.auto()
    FIXED = enum.auto()


_TRAINABLE = frozenset({_Role.MEAN, _Role.WIDTH, _Role.PLAIN})


def freeze_stdvs(model: _Model) -> tuple[_Model, _Model]:
    """Splits off the widths: the stage that trains means (MAP).

    Args:
        model: Any pytree with parameters.

    Returns:
        `(dynamic, static)`. Dynamic: means (deterministic ones too) and plain floating arrays.
        Static: widths, buffers (`paramax.NonTrainable`) and all else. `unfreeze_all` joins them.
    """
    return _partition(model, lambda role, _: role in (_Role.MEAN, _Role.PLAIN))


def freeze_means(model: _Model) -> tuple[_Model, _Model]:
    """Splits off the means: the stage that trains widths (variational inference).

    Args:
        model: Any pytree with parameters.

    Returns:
        `(dynamic, static)`. Dynamic: the widths. Static: everything else.
    """
    return _partition(model, lambda role, _: role is _Role.WIDTH)


def freeze_params(model: _Model, names: Sequence[str]) -> tuple[_Model, _Model]:
    """Splits off the named parameters.

    Args:
        model: Any pytree with parameters.
        names: Names as `get_parameters` gives them, such as `["layers[0].W"]`.

    Returns:
        `(dynamic, static)`. Dynamic: all that is trainable but the named parameters. Static:
        those, buffers and all else.

    Raises:
        ValueError: If a name is no parameter's.
    """
    known = get_parameters(model)
    unknown = [name for name in names if name not in known]
    if isinstance(names, str) or unknown:
        raise ValueError(
            f"Expected a sequence of names among {list(known)}; got "
            f"{names if isinstance(names, str) else unknown!r}."
        )
    frozen = frozenset(names)
    return _partition(model, lambda role, name: role in _TRAINABLE and name not in frozen)


def partition_trainable(model: _Model) -> tuple[_Model, _Model]:
    """Splits off what is never trained: the stage that trains means and widths jointly.

    Args:
        model: Any pytree with parameters.

    Returns:
        `(dynamic, static)`. Dynamic: means, widths and plain floating arrays. Static: buffers
        (`paramax.NonTrainable`) and all else.
    """
    return _partition(model, lambda role, _: role in _TRAINABLE)


def unfreeze_all(dynamic: _Model, static: _Model) -> _Model:
    """Joins the two parts of a split again."""
    return eqx.combine(dynamic, static)


def check_whole(model: PyTree) -> None:
    """Checks that a model is not one part of a split, such as `freeze_stdvs` returns.

    Args:
        model: Any pytree with parameters.

    Raises:
        ValueError: If a parameter, or a buffer, lacks its array.
    """

    def is_leaf(node: Any) -> bool:
        return is_parameter(node) or isinstance(node, paramax.NonTrainable)

    for path, node in jax.tree_util.tree_leaves_with_path(model, is_leaf=is_leaf):
        missing = _missing_field(node)
        if missing is not None:
            place = path_name((*path, jax.tree_util.GetAttrKey(missing)))
            raise ValueError(
                f"Expected a whole model; got one part of a split (there is no {place}). Join the "
                "two parts first: nd.unfreeze_all(dynamic, static)."
            )


def _missing_field(node: Any) -> str | None:
    """Returns the field of a parameter or buffer from which a split has taken the array."""
    if isinstance(node, paramax.NonTrainable):
        return "tree" if node.tree is None else None
    if not is_parameter(node):
        return None
    for field in dataclasses.fields(node):
        # A field may be declared as optional.
        optional = field.default is None or "None" in str(field.type)
        if getattr(node, field.name) is None and not optional:
            return field.name
    return None


def _partition(model: _Model, is_dynamic: Callable[[_Role, str], bool]) -> tuple[_Model, _Model]:
    """Splits by each leaf's role and the name of the parameter it belongs to."""

    def choose(path: tuple[Any, ...], node: Any) -> PyTree:
        if is_parameter(node):
            name = path_name(path)
            return jax.tree.map(lambda role: is_dynamic(role, name), _roles(node))
        plain = eqx.is_inexact_array(node)
        return is_dynamic(_Role.PLAIN if plain else _Role.FIXED, path_name(path))

    def is_leaf(node: Any) -> bool:
        return is_parameter(node) or is_fixed(node)

    spec = jax.tree_util.tree_map_with_path(choose, model, is_leaf=is_leaf)
    return eqx.partition(model, spec)


def _roles(parameter: Any) -> PyTree[_Role]:
    def role(path: tuple[Any, ...], leaf: Any) -> _Role:
        if not eqx.is_inexact_array(leaf):
            return _Role.FIXED
        return _Role.MEAN if is_mean_path(path) else _Role.WIDTH

    return jax.tree_util.tree_map_with_path(role, parameter, is_leaf=is_fixed)
