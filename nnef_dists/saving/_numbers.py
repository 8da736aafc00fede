"""Encoding of arrays and numbers as JSON and bytes, and decoding."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nnef_dists.bayes import path_name

Node = Any
Path = tuple[Any, ...]

DTYPES = {
    name: jnp.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
    )
}

# Dtypes that JAX would narrow in 32-bit mode.
_WIDE = ("int64", "uint64", "float64", "complex128")


class StructureError(ValueError):
    """An unexpected structure, named by its place in the model."""

    def __init__(self, path: Path, expected: Any, got: Any):
        place = path_name(path) or "the model itself"
        super().__init__(f"Expected {expected} at {place}; got {got}.")


def encode_array(value: Any, arrays: dict[str, np.ndarray], path: Path) -> Node:
    """Describes an array, and adds its bytes to `arrays`."""
    node: dict[str, Any] = {"kind": "array"}
    node["holder"] = "jax" if isinstance(value, jax.Array) else "numpy"
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        node["holder"], node["impl"] = "key", str(jax.random.key_impl(value))
        value = jax.random.key_data(value)
    elif isinstance(value, np.ndarray) and type(value) not in (np.ndarray, np.memmap):
        # Only the numbers would be written, without a mask or other data of the class.
        raise StructureError(path, "a plain numpy.ndarray", f"a {type(value).__name__}")
    array = np.asarray(value)
    name = f"{len(arrays):06d}:{path_name(path)}"
    if array.dtype.name not in DTYPES:
        raise StructureError(path, f"a dtype among {list(DTYPES)}", array.dtype.name)
    node |= {"name": name, "dtype": array.dtype.name, "shape": list(array.shape)}
    # Plain bytes preserve every dtype bitwise, in native byte order.
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    arrays[name] = np.frombuffer(native.tobytes(), np.uint8)
    return node


def encode_scalar(value: np.generic, path: Path) -> Node:
    """Describes a scalar of NumPy, such as `np.float32(0.1)`, which a static field may hold."""
    if value.dtype.name not in DTYPES or value.dtype.kind == "c":
        raise StructureError(path, "a real number", repr(value))
    return {"kind": "scalar", "dtype": value.dtype.name, "value": encode_float(value.item())}


def encode_float(value: Any) -> Node:
    """Describes a Python number. JSON has no infinities and no NaN."""
    if type(value) is float and not math.isfinite(value):
        return {"kind": "float", "value": str(value)}
    return value


def special_float(value: Any, path: Path) -> float:
    """Returns the infinity or NaN that `encode_float` described."""
    if value not in ("inf", "-inf", "nan"):
        raise StructureError(path, "inf, -inf or nan", repr(value))
    return float(value)


def decode_scalar(node: Node, path: Path) -> np.generic:
    """Returns the scalar that `encode_scalar` described."""
    value, dtype = node.get("value"), DTYPES.get(str(node.get("dtype")))
    if isinstance(value, dict):
        value = special_float(value.get("value"), path)
    if dtype is None or type(value) not in (bool, int, float):
        raise StructureError(path, "the description of a scalar", node)
    try:
        return dtype.type(value)
    except OverflowError as error:
        raise StructureError(path, f"a number of {dtype}", error) from error


def _hold(array: np.ndarray, node: Node, path: Path) -> Any:
    """Returns an array in its original container: JAX, NumPy or PRNG keys."""
    holder = node.get("holder")
    if holder == "numpy":
        return array
    if holder not in ("jax", "key"):
        raise StructureError(path, "an array of jax, numpy or keys", repr(holder))
    if array.dtype.name in _WIDE and not jax.config.jax_enable_x64:  # pyright: ignore[reportAttributeAccessIssue]
        raise StructureError(path, f"64-bit mode (JAX_ENABLE_X64=1) for {array.dtype}", "32-bit")
    value = jnp.asarray(array)
    if holder == "jax":
        return value
    impl = node.get("impl")
    if impl not in ("threefry2x32", "rbg", "unsafe_rbg"):
        raise StructureError(path, "a PRNG that JAX names", repr(impl))
    return jax.random.wrap_key_data(value, impl=impl)


def decode_array(node: Node, arrays: Mapping[str, np.ndarray], path: Path) -> Any:
    """Returns the array that `encode_array` described."""
    raw, dtype = arrays.get(str(node.get("name"))), DTYPES.get(str(node.get("dtype")))
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
    return value


def is_close(one: Node, two: Node, arrays: Any, others: Any) -> bool:
    """Returns whether descriptions agree, with arrays up to the rounding of another backend."""
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(
            is_close(a, b, arrays, others) for a, b in zip(one, two, strict=True)
        )
    if not isinstance(one, dict) or not isinstance(two, dict):
        return type(one) is type(two) and one == two
    if set(one) != set(two):
        return False
    if one.get("kind") != "array":
        return all(is_close(one[name], two[name], arrays, others) for name in one)
    if any(one[name] != two[name] for name in one if name != "name"):
        return False
    dtype = DTYPES[two["dtype"]]
    raw, other = arrays.get(str(one["name"])), others[two["name"]]
    if raw is None or raw.size != other.size:
        return False
    a, b = (np.frombuffer(part.tobytes(), dtype).astype(complex) for part in (raw, other))
    return bool(np.allclose(a, b, 1e-4, 1e-6, equal_nan=True))
