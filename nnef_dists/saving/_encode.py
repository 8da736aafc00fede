"""Encoding of models as JSON and arrays."""

import dataclasses
import enum
import functools
import operator
import re
import types
from collections.abc import Mapping, Sequence, Set
from typing import Any

import jax
import numpy as np

from nnef_dists.families import ExponentialFamily
from nnef_dists.saving._closures import recipe_arguments
from nnef_dists.saving._family_probe import Description, probe
from nnef_dists.saving._names import has_fields, is_importable, is_named_tuple, name_of
from nnef_dists.saving._numbers import (
    DTYPES,
    Node,
    Path,
    StructureError,
    encode_array,
    encode_float,
    encode_scalar,
)

_REMEDY = (
    "Files hold modules, dataclasses, named tuples, lists, tuples, dicts, arrays, numbers, "
    "strings, classes and functions. Make its class a frozen dataclass or an equinox.Module"
)


def encode(value: Any, arrays: dict[str, np.ndarray], path: Path = ()) -> Node:
    """Describes a model as a JSON value.

    Finite numbers, strings and None are unchanged, and tuples become lists. All other values become
    objects with a `kind`.

    Args:
        value: Pytree of modules, containers, arrays and static values.
        arrays: Dict that receives the arrays by name.
        path: Path of `value` in the model.

    Returns:
        The description, which refers to the arrays by name.

    Raises:
        StructureError: If part of the model cannot be described.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return encode_float(value)
    if isinstance(value, jax.Array | np.ndarray):
        return encode_array(value, arrays, path)
    if isinstance(value, np.generic):
        return encode_scalar(value, path)
    if isinstance(value, ExponentialFamily):
        return _encode_family(value, path)
    if isinstance(value, enum.Enum):
        return _encode_member(value, path)
    if isinstance(value, type):
        return {"kind": "class", "class": name_of(value)}
    if isinstance(value, np.dtype) and value == DTYPES.get(value.name):
        return {"kind": "dtype", "name": value.name}
    if has_fields(type(value)):
        return _encode_fields("module", value, arrays, path)
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items = [
            encode(item, arrays, (*path, jax.tree_util.SequenceKey(i)))
            for i, item in enumerate(value)
        ]
        return items if type(value) is tuple else {"kind": "list", "items": items}
    if type(value) is dict:
        if not all(type(key) is str for key in value):
            raise StructureError(path, "a dict with string keys", list(value))
        items = {
            key: encode(item, arrays, (*path, jax.tree_util.DictKey(key)))
            for key, item in value.items()
        }
        return {"kind": "dict", "items": items}
    if type(value) is functools.partial:
        parts = (value.func, value.args, value.keywords)
        return {"kind": "partial", "items": encode(parts, arrays, path)}
    if callable(value) and hasattr(value, "__qualname__") and hasattr(value, "__module__"):
        return _encode_function(value, arrays, path)
    if type(value) is object:
        # A marker, such as the one of a StateIndex in Equinox.
        return {"kind": "opaque", "name": "builtins:object", "captured": []}
    advice = ", or call its own method save" if hasattr(type(value), "save") else ""
    raise StructureError(
        path,
        "a value that a file can hold",
        f"{type(value).__module__}.{type(value).__qualname__}. {_REMEDY}{advice}",
    )


def describe_family(family: ExponentialFamily) -> Description:
    """Describes a family as a JSON value.

    Args:
        family: The exponential family.

    Returns:
        A dict with the `class`, the `fields`, the shapes of the `statistics` by name, and a
        `probe`. A class is named as in `mine:Quartic`. The probe holds the first entries of T, and
        log h, at fixed points. It reveals changes of the formulas.

    Raises:
        ValueError: If a field cannot be described.
    """
    return _encode_family(family, ())


def _encode_family(family: ExponentialFamily, path: Path) -> Description:
    arrays: dict[str, np.ndarray] = {}
    try:
        node = _encode_fields("family", family, arrays, path)
    except StructureError as error:
        raise ValueError(
            f"{error} It is a field of {type(family).__name__}. Declare it as numbers, strings and "
            "tuples."
        ) from error
    if arrays:
        raise ValueError(
            f"Expected fields of {type(family).__name__} without arrays; got a function with "
            f"{next(iter(arrays.values())).size} bytes of array data. Pass tuples of numbers."
        )
    shapes = {name: list(shape) for name, shape in family.stat_shapes.items()}
    return {**node, "statistics": shapes, "probe": list(probe(family))}


def _encode_fields(kind: str, value: Any, arrays: dict[str, np.ndarray], path: Path) -> Node:
    _check_restorable(value, path)
    fields = {}
    for field in field_names(type(value)):
        place = (*path, jax.tree_util.GetAttrKey(field))
        if not hasattr(value, field):
            raise StructureError(place, f"a value of {field!r}", "none, since it was never set")
        fields[field] = encode(getattr(value, field), arrays, place)
    return {"kind": kind, "class": name_of(type(value)), "fields": fields}


def _encode_member(value: enum.Enum, path: Path) -> Node:
    """Describes a member of an enumeration. A combination of flags has a name such as "A|B"."""
    cls, name = type(value), value.name or ""
    if find_member(cls, name) is not value:
        raise StructureError(path, f"a member of {cls.__qualname__}", repr(value))
    return {"kind": "member", "class": name_of(cls), "name": name}


def find_member(cls: Any, name: Any) -> Any:
    """Returns the member of an enumeration, or the combination of flags, of a name.

    Args:
        cls: The enumeration. There is no member if it is anything else.
        name: Name in a file, such as "A" or "A|B".

    Returns:
        The member, or None if there is none.
    """
    if not isinstance(cls, enum.EnumMeta) or not isinstance(name, str):
        return None
    members: Mapping[str, Any] = cls.__members__
    if not issubclass(cls, enum.Flag) or name in members:
        return members.get(name)
    flags = [members.get(part) for part in name.split("|") if part]
    return None if None in flags else functools.reduce(operator.or_, flags, cls(0))


def _check_restorable(value: Any, path: Path) -> None:
    """Raises if an object has other data than its fields, since files hold only fields."""
    cls = type(value)
    expected = f"a {cls.__qualname__} whose fields are all of its data"
    if not is_named_tuple(cls):
        try:
            object.__new__(cls)
        except TypeError:
            base = getattr(cls.__base__, "__name__", "another class")
            got = f"a subclass of {base}. Make the {base} a field"
            raise StructureError(path, expected, got) from None
    names = set(getattr(value, "__dict__", ())) - set(field_names(cls))
    others = [
        name
        for name in sorted(names)
        if not isinstance(getattr(cls, name, None), functools.cached_property)
    ]
    if others:
        got = f"other attributes: {', '.join(others)}. Declare them as fields"
        raise StructureError(path, expected, got)


def field_names(cls: Any) -> list[str]:
    """Returns the names of the fields of a dataclass or a named tuple."""
    if is_named_tuple(cls):
        return list(cls._fields)
    return [field.name for field in dataclasses.fields(cls)]


def _encode_function(value: Any, arrays: dict[str, np.ndarray], path: Path) -> Node:
    """Describes a function by its name, or otherwise by the values that it captures."""
    name = name_of(value)
    if is_importable(value):
        return {"kind": "function", "class": name}
    if (arguments := recipe_arguments(name, value)) is not None:
        return {"kind": "closure", "name": name, "items": encode(arguments, arrays, path)}
    captured = [_encode_captured(item, arrays, path) for item in _captured(value)]
    return {"kind": "opaque", "name": name, "captured": captured}


def _captured(function: Any) -> list[Any]:
    """Returns the values, besides its code, that determine the results of a function."""
    layers = _layers(function)
    found = []
    for layer in layers:
        if not hasattr(layer, "__qualname__"):
            # An object or a partial that a wrapper such as jax.jit calls.
            found.append(layer)
            continue
        for cell in getattr(layer, "__closure__", None) or ():
            try:
                found.append(cell.cell_contents)
            except ValueError:  # An empty cell.
                found.append(None)
        owner = getattr(layer, "__self__", None)
        found += [] if owner is None or isinstance(owner, types.ModuleType) else [owner]
        found += getattr(layer, "__defaults__", None) or ()
        found += (getattr(layer, "__kwdefaults__", None) or {}).values()
    # A recursive function captures itself, and a wrapper what it wraps.
    own = {id(layer) for layer in layers if hasattr(layer, "__qualname__")}
    return [value for value in found if id(value) not in own]


def _layers(function: Any) -> list[Any]:
    """Returns a function, and the functions that it wraps by `functools.wraps`."""
    layers = [function]
    while (inner := getattr(layers[-1], "__wrapped__", None)) is not None:
        if any(inner is layer for layer in layers):
            break
        layers.append(inner)
    return layers


def _encode_captured(value: Any, arrays: dict[str, np.ndarray], path: Path) -> Node:
    """Describes a captured value, which is only compared, so that its text may suffice."""
    own = dict(arrays)
    try:
        node = encode(value, own, path)
    except ValueError:
        if hasattr(value, "__qualname__"):
            raise  # A function that captures what no file can compare.
        return _encode_unknown(value, arrays, path)
    arrays |= own
    return node


def _encode_unknown(value: Any, arrays: dict[str, np.ndarray], path: Path) -> Node:
    name = f"{type(value).__module__}:{type(value).__qualname__}"
    node: dict[str, Any] = {"kind": "unknown", "type": name}
    parts = _parts(value)
    if parts is not None:
        return node | {"items": [_encode_captured(part, arrays, path) for part in parts]}
    text = value.__name__ if isinstance(value, types.ModuleType) else repr(value)
    if re.search(r"\bat 0x[0-9a-fA-F]+", text):
        raise StructureError(
            path,
            "a function that captures values which a file can compare",
            f"one that captures {text}. Make the class of this value a frozen dataclass or an "
            "equinox.Module, or give it a __repr__ that shows its values",
        )
    return node | {"text": text}


def _parts(value: Any) -> list[Any] | None:
    """Returns the parts of a container in an order that is equal in all processes, or None."""
    if isinstance(value, str | bytes | bytearray | range):
        return None
    if has_fields(type(value)):
        return [getattr(value, name, None) for name in field_names(type(value))]
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, slice):
        return [value.start, value.stop, value.step]
    if isinstance(value, np.ndarray):
        return value.tolist() if value.ndim else [value.item()]
    if isinstance(value, Set):
        return sorted(value, key=repr)
    if isinstance(value, Mapping):
        return [part for pair in value.items() for part in pair]
    return list(value) if isinstance(value, Sequence) else None
