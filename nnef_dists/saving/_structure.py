"""A model as JSON plus arrays, and back."""

import dataclasses
import math
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nnef_dists.bayes import path_name
from nnef_dists.saving._registry import class_named, function_named, name_of_class, name_of_function

Node = dict[str, Any]
Path = tuple[Any, ...]

_ABSENT = object()
_SCALARS = (bool, int, str)
_DTYPES = {
    name: jnp.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    )
}


class StructureError(ValueError):
    """A structure that is not what was expected, named by its place in the model."""

    def __init__(self, path: Path, expected: Any, got: Any):
        place = path_name(path) or "the model itself"
        super().__init__(f"Expected {expected} at {place}; got {got}.")


def encode(value: Any, arrays: dict[str, np.ndarray], path: Path = ()) -> Node:
    """Describes a model by nested dicts that JSON can hold.

    Args:
        value: A pytree of modules, containers, arrays and static values.
        arrays: Receives the arrays by name.
        path: Where in the model `value` is.

    Returns:
        The description; it names the arrays it refers to.

    Raises:
        StructureError: If part of the model is a pytree node that cannot be described.
    """
    if value is None:
        return {"kind": "none"}
    if isinstance(value, _SCALARS) and type(value) in _SCALARS:
        return {"kind": type(value).__name__, "value": value}
    if type(value) is float:
        return {"kind": "float", "value": value.hex()}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _encode_array(value, arrays, path)
    if isinstance(value, eqx.Module) or name_of_class(type(value)):
        own = name_of_class(type(value))
        fields = {
            field.name: encode(
                getattr(value, field.name), arrays, (*path, jax.tree_util.GetAttrKey(field.name))
            )
            for field in dataclasses.fields(cast(Any, value))
        }
        name = own or _qualified_name(value)
        return {"kind": "module", "class": name, "own": own is not None, "fields": fields}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        items = [
            encode(item, arrays, (*path, jax.tree_util.SequenceKey(i)))
            for i, item in enumerate(value)
        ]
        return {"kind": type(value).__name__, "items": items}
    if type(value) is dict:
        if not all(type(key) is str for key in value):
            raise StructureError(path, "a dict with string keys", list(value))
        items = {
            key: encode(item, arrays, (*path, jax.tree_util.DictKey(key)))
            for key, item in value.items()
        }
        return {"kind": "dict", "items": items}
    if (name := name_of_function(value)) is not None:
        return {"kind": "function", "name": name}
    if not jax.tree_util.all_leaves([value]):
        raise StructureError(path, "a module, list, tuple or dict", type(value).__name__)
    return {"kind": "opaque", "type": _qualified_name(value)}


def decode(node: Any, arrays: dict[str, np.ndarray], like: Any = _ABSENT, path: Path = ()) -> Any:
    """Restores what `encode` described.

    Args:
        node: The description.
        arrays: The arrays by name.
        like: What to take foreign classes and opaque values from; checked against the
            description wherever it is given.
        path: Where in the model the node is.

    Returns:
        The model.

    Raises:
        StructureError: If the description is malformed or `like` differs from it.
    """
    kind = node.get("kind") if isinstance(node, dict) else None
    if kind == "none":
        return _checked_against(None, like, path)
    if kind in ("bool", "int", "str", "float"):
        return _checked_against(_decode_scalar(kind, node.get("value"), path), like, path)
    if kind == "array":
        return _decode_array(node, arrays, like, path)
    if kind == "module":
        return _decode_module(node, arrays, like, path)
    if kind in ("list", "tuple", "dict"):
        return _decode_container(kind, node.get("items"), arrays, like, path)
    if kind == "function":
        value = function_named(str(node.get("name")))
        if value is None:
            raise StructureError(path, "a function that files may name", node.get("name"))
        return _checked_against(value, like, path)
    if kind == "opaque":
        if like is _ABSENT:
            raise StructureError(path, "like= to supply a value that files cannot hold", "none")
        if _qualified_name(like) != node.get("type"):
            raise StructureError(path, node.get("type"), _qualified_name(like))
        return like
    raise StructureError(path, "a known kind of node", repr(kind))


def _qualified_name(value: Any) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _checked_against(value: Any, like: Any, path: Path) -> Any:
    same = like is _ABSENT or (type(like) is type(value) and like == value)
    # NaN is the one static value that is not itself.
    if not same and not (value != value and like != like):
        raise StructureError(path, f"{like!r} as in like", repr(value))
    return value


def _decode_scalar(kind: str, value: Any, path: Path) -> Any:
    if kind == "float":
        if not isinstance(value, str):
            raise StructureError(path, "a hexadecimal float", repr(value))
        try:
            return float.fromhex(value)
        except (ValueError, OverflowError):
            raise StructureError(path, "a hexadecimal float", repr(value)) from None
    if type(value) is not {"bool": bool, "int": int, "str": str}[kind]:
        raise StructureError(path, kind, repr(value))
    return value


def _encode_array(value: Any, arrays: dict[str, np.ndarray], path: Path) -> Node:
    node: Node = {"kind": "array", "holder": "jax" if isinstance(value, jax.Array) else "numpy"}
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        node["holder"], node["impl"] = "key", str(jax.random.key_impl(value))
        value = jax.random.key_data(value)
    array = np.asarray(value)
    name = f"{len(arrays):06d}:{path_name(path)}"
    if array.dtype.name not in _DTYPES:
        raise StructureError(path, f"a dtype among {list(_DTYPES)}", array.dtype.name)
    node |= {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    # Plain bytes hold every dtype, and bit for bit.
    arrays[name] = np.frombuffer(array.tobytes(), np.uint8)
    return node


def _decode_array(node: Node, arrays: dict[str, np.ndarray], like: Any, path: Path) -> Any:
    raw, dtype = arrays.get(str(node.get("name"))), _DTYPES.get(str(node.get("dtype")))
    shape: Any = node.get("shape")
    is_shape = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if raw is None or dtype is None or not is_shape:
        raise StructureError(path, "the description of an array in the file", node)
    if math.prod(shape) * dtype.itemsize != raw.size:
        raise StructureError(path, f"bytes for {dtype}{shape}", f"{raw.size} bytes")
    try:
        value = _hold(np.frombuffer(raw.tobytes(), dtype).reshape(shape).copy(), node, path)
    except (TypeError, OverflowError) as error:
        raise StructureError(path, "an array that can be made", error) from error
    if like is not _ABSENT:
        wanted = tuple(getattr(like, "shape", ())), getattr(like, "dtype", None), type(like)
        if wanted != (value.shape, value.dtype, type(value)):
            got = f"{value.dtype}{list(value.shape)}"
            raise StructureError(path, f"{wanted[1]}{list(wanted[0])} as in like", got)
    return value


def _hold(array: np.ndarray, node: Node, path: Path) -> Any:
    """Puts an array where it was: on the device, in NumPy, or as PRNG keys."""
    holder = node.get("holder")
    if holder == "numpy":
        return array
    if holder not in ("jax", "key"):
        raise StructureError(path, "an array of jax, numpy or keys", repr(holder))
    if array.dtype.itemsize == 8 and array.dtype.kind in "iuf" and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise StructureError(path, f"64-bit mode (JAX_ENABLE_X64=1) for {array.dtype}", "32-bit")
    value = jnp.asarray(array)
    if holder == "jax":
        return value
    impl = node.get("impl")
    if impl not in ("threefry2x32", "rbg", "unsafe_rbg"):
        raise StructureError(path, "a PRNG that JAX names", repr(impl))
    return jax.random.wrap_key_data(value, impl=impl)


def _decode_container(
    kind: str, items: Any, arrays: dict[str, np.ndarray], like: Any, path: Path
) -> Any:
    container: Any = {"list": list, "tuple": tuple, "dict": dict}[kind]
    if not isinstance(items, dict if kind == "dict" else list):
        raise StructureError(path, f"the items of a {kind}", type(items).__name__)
    has_like = like is not _ABSENT
    if has_like and (type(like) is not container or len(like) != len(items)):
        raise StructureError(path, f"a {kind} of {len(items)} items in like", type(like).__name__)
    if has_like and kind == "dict" and set(like) != set(items):
        raise StructureError(path, f"keys {list(like)} as in like", list(items))

    def item(index: Any, step: Any) -> Any:
        part = like[index] if has_like else _ABSENT
        return decode(items[index], arrays, part, (*path, step))

    if kind == "dict":
        return {key: item(key, jax.tree_util.DictKey(key)) for key in items}
    return container(item(i, jax.tree_util.SequenceKey(i)) for i in range(len(items)))


def _decode_module(node: Node, arrays: dict[str, np.ndarray], like: Any, path: Path) -> Any:
    name, fields = node.get("class"), node.get("fields")
    if not isinstance(name, str) or not isinstance(fields, dict):
        raise StructureError(path, "the description of a module", node)
    if like is not _ABSENT:
        like_name = name_of_class(type(like)) or _qualified_name(like)
        if like_name != name or not dataclasses.is_dataclass(like):
            raise StructureError(path, f"{like_name} as in like", name)
    cls = class_named(name) if node.get("own") is True else None
    if cls is None:
        if like is _ABSENT:
            raise StructureError(path, "like= to supply a class that files cannot name", name)
        cls = type(like)
    declared = [field.name for field in dataclasses.fields(cast(Any, cls))]
    if set(declared) != set(fields):
        raise StructureError(path, f"fields {declared} of {cls.__name__}", list(fields))
    module = object.__new__(cls)
    for field in declared:
        value = decode(
            fields[field],
            arrays,
            _ABSENT if like is _ABSENT else getattr(like, field),
            (*path, jax.tree_util.GetAttrKey(field)),
        )
        object.__setattr__(module, field, value)
    _check(module, path)
    return module


def _check(module: Any, path: Path) -> None:
    """Runs the checks that construction would have run."""
    name = "__check_init__" if isinstance(module, eqx.Module) else "__post_init__"
    for cls in type(module).__mro__:
        check = cls.__dict__.get(name)
        if check is None:
            continue
        try:
            check(module)
        except Exception as error:
            raise StructureError(path, f"a valid {type(module).__name__}", error) from error
