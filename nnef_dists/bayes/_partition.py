"""Splits of a model into a trainable part and the rest."""

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
    """The role of a leaf in a model."""

    MEAN = enum.auto()
    WIDTH = enum.auto()
    PLAIN = enum.auto()
    FIXED = enum.auto()


_TRAINABLE = frozenset({_Role.MEAN, _Role.WIDTH, _Role.PLAIN})


def freeze_stdvs(model: _Model) -> tuple[_Model, _Model]:
    """Freezes the scales, to train the means (MAP).

    Args:
        model: Any pytree with parameters.

    Returns:
        `(dynamic, static)`. The dynamic part has the means, also of deterministic parameters, and
        plain floating arrays. The static part has the scales, buffers (`paramax.NonTrainable`) and
        all other leaves. `unfreeze_all` joins the two parts.
    """
    return _partition(model, lambda role, _: role in (_Role.MEAN, _Role.PLAIN))


def freeze_means(model: _Model) -> tuple[_Model, _Model]:
    """Freezes the means, to train the scales (variational inference).

    Args:
        model: Any pytree with parameters.

    Returns:
        `(dynamic, static)`. The dynamic part has the scales, the static part all other leaves.
    """
    return _partition(model, lambda role, _: role is _Role.WIDTH)


def freeze_params(model: _Model, names: Sequence[str]) -> tuple[_Model, _Model]:
    """Freezes the named parameters.

    Args:
        model: Any pytree with parameters.
        names: Names from `get_parameters`, such as `["layers[0].W"]`.

    Returns:
        `(dynamic, static)`. The dynamic part has all trainable arrays except the named parameters.
        The static part has the named parameters, buffers and all other leaves.

    Raises:
        ValueError: If a name is unknown, or `names` is one string.
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
    """Freezes the leaves that are never trained, to train means and scales jointly.

    Args:
        model: Any pytree with parameters.

    Returns:
        `(dynamic, static)`. The dynamic part has means, scales and plain floating arrays. The
        static part has buffers (`paramax.NonTrainable`) and all other leaves.
    """
    return _partition(model, lambda role, _: role in _TRAINABLE)


def unfreeze_all(dynamic: _Model, static: _Model) -> _Model:
    """Joins the two parts of a split.

    Args:
        dynamic: The trained part.
        static: The other part, from the same split.

    Returns:
        The whole model.

    Raises:
        ValueError: If both parts have a leaf, or a parameter is in neither.
    """

    def check_one(path: tuple[Any, ...], first: Any, second: Any) -> None:
        if first is not None and second is not None:
            raise ValueError(
                f"Expected the two parts of one split; got {path_name(path)} in both. Join the "
                "dynamic part with the static part that was returned beside it."
            )

    jax.tree_util.tree_map_with_path(check_one, dynamic, static, is_leaf=lambda leaf: leaf is None)
    whole = eqx.combine(dynamic, static)
    check_whole(whole)
    return whole


def check_whole(model: PyTree) -> None:
    """Checks that a model is not one part of a split, such as from `freeze_stdvs`.

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
        # None is a valid value of an optional field, whose type is written in one of two ways.
        written = str(field.type)
        optional = field.default is None or "None" in written or "Optional[" in written
        if getattr(node, field.name) is None and not optional:
            return field.name
    return None


def _partition(model: _Model, is_dynamic: Callable[[_Role, str], bool]) -> tuple[_Model, _Model]:
    """Splits a model by the role of each leaf and the name of its parameter."""

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
