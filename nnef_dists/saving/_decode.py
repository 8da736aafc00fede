"""Decoding of models from JSON and arrays."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np

from nnef_dists.families import ExponentialFamily
from nnef_dists.saving._closures import RECIPES, recipe_arguments
from nnef_dists.saving._encode import describe_family, encode, field_names, find_member
from nnef_dists.saving._family_probe import family_differences
from nnef_dists.saving._names import (
    ImportedNames,
    as_code,
    has_fields,
    is_named_tuple,
    is_own,
    is_same_name,
    name_of,
)
from nnef_dists.saving._numbers import (
    DTYPES,
    Node,
    Path,
    StructureError,
    decode_array,
    decode_scalar,
    is_close,
    special_float,
)
from nnef_dists.storage import join_lines

_ABSENT = object()


class Decoder:
    """Restores models from the descriptions of `encode`.

    Args:
        arrays: Arrays by name.
        known: Classes and functions by their names in files.
        families: Families of the caller. A family whose class is named in the description is
            compared with the description.
        verify: Whether families that are built from descriptions are compared with them, too.
            Defaults to True.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        known: Mapping[str, Any] | ImportedNames,
        families: Sequence[ExponentialFamily] = (),
        *,
        verify: bool = True,
    ):
        self.arrays, self.known, self.families, self.verify = arrays, known, families, verify

    def decode(self, node: Node, like: Any = _ABSENT, path: Path = ()) -> Any:
        """Restores a node and its children.

        Args:
            node: The description.
            like: Model that supplies unknown classes and functions. It is compared with the
                description.
            path: Path of the node in the model.

        Returns:
            The model.

        Raises:
            StructureError: If the description is malformed, names an unknown class or function, or
                differs from `like`.
        """
        if node is None or type(node) in (bool, int, str, float):
            return _checked_against(node, like, path)
        if isinstance(node, list):
            return self._container(tuple, node, like, path)
        kind = node.get("kind") if isinstance(node, dict) else None
        if kind == "float":
            return _checked_against(special_float(node.get("value"), path), like, path)
        if kind == "scalar":
            return _checked_against(decode_scalar(node, path), like, path)
        if kind == "dtype":
            dtype = DTYPES.get(str(node.get("name")))
            if dtype is None:
                raise StructureError(path, f"a dtype among {list(DTYPES)}", node.get("name"))
            return _checked_against(dtype, like, path)
        if kind == "array":
            value = decode_array(node, self.arrays, path)
            return _array_checked_against(value, like, path)
        if kind == "list":
            return self._container(list, node.get("items"), like, path)
        if kind == "dict":
            return self._container(dict, node.get("items"), like, path)
        if kind == "module":
            return self._module(node, like, path)
        if kind == "family":
            return self._family(node, like, path)
        if kind in ("class", "function", "member"):
            return self._named(kind, node, like, path)
        if kind == "partial":
            return self._partial(node, like, path)
        if kind == "closure":
            return self._closure(node, like, path)
        if kind == "opaque":
            return self._opaque(node, like, path)
        raise StructureError(path, "a known kind of node", repr(kind))

    def _find(self, name: Any, like: Any, path: Path, what: str) -> Any:
        """Returns the class or function of a name, from `like` if the name is unknown."""
        found = self.known.get(str(name))
        if found is not None:
            return found
        if like is _ABSENT:
            raise StructureError(path, f"a {what} that files may name", name)
        if not hasattr(like, "__qualname__") or name_of(like) != name:
            raise StructureError(path, f"{like!r} as in like", name)
        return like

    def _container(self, container: Any, items: Any, like: Any, path: Path) -> Any:
        if not isinstance(items, dict if container is dict else list):
            what = container.__name__
            raise StructureError(path, f"the items of a {what}", type(items).__name__)
        has_like = like is not _ABSENT
        if has_like and (type(like) is not container or len(like) != len(items)):
            raise StructureError(
                path,
                f"a {type(like).__name__} as in like",
                f"a {container.__name__} of {len(items)} items",
            )
        if has_like and container is dict and set(like) != set(items):
            raise StructureError(path, f"keys {list(like)} as in like", list(items))

        def item(index: Any, step: Any) -> Any:
            return self.decode(items[index], like[index] if has_like else _ABSENT, (*path, step))

        if container is dict:
            return {key: item(key, jax.tree_util.DictKey(key)) for key in items}
        return container(item(i, jax.tree_util.SequenceKey(i)) for i in range(len(items)))

    def _module(self, node: Node, like: Any, path: Path) -> Any:
        name, fields = node.get("class"), node.get("fields")
        if not isinstance(name, str) or not isinstance(fields, dict):
            raise StructureError(path, "the description of a module", node)
        like_class = _ABSENT if like is _ABSENT else type(like)
        cls = self._find(name, like_class, path, "class")
        if like is not _ABSENT and type(like) is not cls:
            raise StructureError(path, f"{as_code(name_of(type(like)))} as in like", as_code(name))
        if not isinstance(cls, type) or not has_fields(cls):
            raise StructureError(path, "a class with fields", as_code(name))
        declared = field_names(cls)
        if set(declared) != set(fields):
            raise StructureError(path, f"fields {declared} of {cls.__name__}", list(fields))
        values = {
            field: self.decode(
                fields[field],
                _ABSENT if like is _ABSENT else getattr(like, field),
                (*path, jax.tree_util.GetAttrKey(field)),
            )
            for field in declared
        }
        if is_named_tuple(cls):
            return tuple.__new__(cls, values.values())
        return _made(cls, values, path, check=issubclass(cls, eqx.Module) or is_own(name))

    def _family(self, node: Node, like: Any, path: Path) -> Any:
        name = node.get("class")
        if not isinstance(name, str):
            raise StructureError(path, "the description of a family", node)
        if like is not _ABSENT:
            if not isinstance(like, ExponentialFamily):
                raise StructureError(path, f"{like!r} as in like", as_code(name))
            return self._verified(node, like, path)
        given = [f for f in self.families if is_same_name(name_of(type(f)), name)]
        if given:
            given.sort(key=lambda family: bool(_differences(node, family)))
            return self._verified(node, given[0], path)
        family = self._module(node, _ABSENT, path)
        if not isinstance(family, ExponentialFamily):
            raise StructureError(path, "a family", as_code(name))
        return self._verified(node, family, path) if self.verify else family

    def _verified(self, node: Node, family: ExponentialFamily, path: Path) -> ExponentialFamily:
        found = _differences(node, family)
        if found:
            expected = f"the family of the file, {as_code(node['class'])},"
            raise StructureError(path, expected, f"{family!r}:\n{join_lines(found)}\n")
        return family

    def _named(self, kind: str, node: Node, like: Any, path: Path) -> Any:
        source = type(like) if kind == "member" and like is not _ABSENT else like
        found = self._find(node.get("class"), source, path, kind)
        if kind == "member":
            member = find_member(found, node.get("name"))
            if member is None:
                raise StructureError(path, f"a member of {found!r}", node.get("name"))
            found = member
        elif isinstance(found, type) != (kind == "class"):
            raise StructureError(path, f"a {kind}", node.get("class"))
        return _checked_against(found, like, path)

    def _partial(self, node: Node, like: Any, path: Path) -> Any:
        if like is not _ABSENT:
            if type(like) is not functools.partial:
                raise StructureError(path, f"{like!r} as in like", "a functools.partial")
            like = (like.func, like.args, like.keywords)
        parts = self.decode(node.get("items"), like, path)
        match parts:
            case (function, tuple() as args, dict() as keywords) if callable(function):
                return functools.partial(function, *args, **keywords)
        raise StructureError(path, "a function and its arguments", type(parts).__name__)

    def _closure(self, node: Node, like: Any, path: Path) -> Any:
        name, items = str(node.get("name")), node.get("items")
        recipe, asked = RECIPES.get(name), None
        if recipe is not None and like is not _ABSENT:
            self._opaque({**node, "captured": items}, like, path)
            asked = recipe_arguments(name, like)
        # Arguments may contain functions, which only `like` can supply.
        arguments = self.decode(items, _ABSENT if asked is None else asked, path)
        if recipe is None or not isinstance(arguments, dict):
            raise StructureError(path, "a closure that files may name", node.get("name"))
        try:
            return recipe.make(**arguments)
        except Exception as error:
            raise StructureError(path, "arguments of a closure", error) from error

    def _opaque(self, node: Node, like: Any, path: Path) -> Any:
        name = node.get("name")
        if like is _ABSENT:
            raise StructureError(path, "like= to supply a function that files cannot hold", name)
        arrays: dict[str, np.ndarray] = {}
        asked = encode(like, arrays, path)
        if not isinstance(asked, dict) or asked.get("name") != name:
            raise StructureError(path, f"{like!r} as in like", name)
        found = node.get("captured"), asked.get("captured", asked.get("items"))
        if not is_close(*found, self.arrays, arrays):
            raise StructureError(
                path, f"{as_code(str(name))} as in like", "one that captures other values"
            )
        return like


def _made(cls: Any, values: dict[str, Any], path: Path, *, check: bool) -> Any:
    """Makes an object from its fields, without `__init__` but with its checks."""
    made = object.__new__(cls)
    for field, value in values.items():
        object.__setattr__(made, field, value)
    name = "__check_init__" if isinstance(made, eqx.Module) else "__post_init__"
    for base in cls.__mro__ if check else ():
        method = base.__dict__.get(name)
        if method is None:
            continue
        try:
            method(made)
        except Exception as error:
            raise StructureError(path, f"a valid {cls.__name__}", error) from error
    return made


def _differences(node: Node, family: ExponentialFamily) -> list[str]:
    try:
        return family_differences(node, describe_family(family), source="the file")
    except Exception as error:
        # The fields of a family in the file may be invalid.
        return [f"family: {error}"]


def _array_checked_against(value: Any, like: Any, path: Path) -> Any:
    if like is not _ABSENT:
        dtype = getattr(like, "dtype", None)
        # Arrays in another byte order were saved in the native one.
        dtype = dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype
        wanted = tuple(getattr(like, "shape", ())), dtype, type(like)
        if wanted != (value.shape, value.dtype, type(value)):
            got = f"{value.dtype}{list(value.shape)}"
            raise StructureError(path, f"{wanted[1]}{list(wanted[0])} as in like", got)
    return value


def _checked_against(value: Any, like: Any, path: Path) -> Any:
    same = like is _ABSENT or (type(like) is type(value) and like == value)
    # NaN is the only static value that is not equal to itself.
    if not same and not (value != value and like != like):
        raise StructureError(path, f"{like!r} as in like", repr(value))
    return value
