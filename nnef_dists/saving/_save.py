"""Saving and loading a model as one self-contained file that holds data only."""

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree

from nnef_dists.bayes import check_whole
from nnef_dists.saving._structure import decode, encode

_FORMAT = "nnef_dists.model"
_VERSION = "1"


def save(path: str | os.PathLike[str], model: PyTree) -> None:
    """Writes a model: arrays, laws, static fields and structure, in one file.

    The file is in the safetensors format. Each array is an entry of raw bytes, and the header's
    metadata hold the structure as JSON, a version and a SHA-256 of everything. It is written to
    a temporary file first, so that an interrupted call leaves an older file whole.

    Classes of this package, containers, numbers, strings and the usual activation functions are
    described in full. Of other classes the fields are described, and of values that cannot be
    written (a lambda, say) the type; `load` then needs `like=`.

    Args:
        path: Where to write; an existing file is replaced.
        model: A pytree of Equinox modules, lists, tuples, dicts and arrays.

    Raises:
        ValueError: If the model has a node or a dtype that cannot be described, or is one part of
            a split. Join the two parts with `unfreeze_all` first.
    """
    check_whole(model)
    arrays: dict[str, np.ndarray] = {}
    structure = json.dumps(encode(model, arrays), separators=(",", ":"))
    metadata = {
        "format": _FORMAT,
        "version": _VERSION,
        "structure": structure,
        "sha256": _digest(_VERSION, structure, arrays),
    }
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(safetensors.numpy.save(arrays, metadata))
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | os.PathLike[str], like: Any = None) -> Any:
    """Reads a model that `save` wrote: bit for bit the same, static fields included.

    Nothing is imported, evaluated or unpickled because a file says so. Classes of this package
    (and those given to `register_saveable`) are restored by name; any other class comes from
    `like`.

    Args:
        path: The file.
        like: A model of the same structure, such as a freshly made one. It supplies foreign
            classes and functions; wherever it differs from the file in class, static field,
            shape or dtype, loading fails. Its arrays' values are not used. None if the file
            needs none.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no file.
        ValueError: If the file is damaged, of another version, or does not match `like`.
    """
    metadata, arrays = _read(Path(path))
    if metadata.get("format") != _FORMAT:
        raise ValueError(f"Expected a file written by save; got format {metadata.get('format')}.")
    if metadata.get("version") != _VERSION:
        raise ValueError(f"Expected file version {_VERSION}; got {metadata.get('version')}.")
    structure = metadata.get("structure", "")
    if metadata.get("sha256") != _digest(_VERSION, structure, arrays):
        raise ValueError(f"Expected content that matches its checksum; got a damaged {path}.")
    try:
        node = json.loads(structure)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Expected a readable structure in {path}; got {error}.") from error
    try:
        return decode(node, arrays) if like is None else decode(node, arrays, like)
    except RecursionError as error:
        raise ValueError(f"Expected a structure of finite depth in {path}; got more.") from error


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    content = path.read_bytes()
    try:
        arrays = safetensors.numpy.load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"Expected a safetensors file; got a damaged {path}: {error}.") from error
    if any(array.dtype != np.uint8 or array.ndim != 1 for array in arrays.values()):
        raise ValueError(f"Expected entries of raw bytes in {path}; got other dtypes or shapes.")
    return metadata, arrays


def _digest(version: str, structure: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for part in (version.encode(), structure.encode()):
        digest.update(len(part).to_bytes(8, "little") + part)
    for name in sorted(arrays):
        content = arrays[name].tobytes()
        label = name.encode()
        digest.update(len(label).to_bytes(8, "little") + label)
        digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()
