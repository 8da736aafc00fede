"""Saving and loading of models as self-contained files that hold only data."""

import hashlib
import importlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PyTree

from nnef_dists._checks import check_instance
from nnef_dists.bayes import check_whole
from nnef_dists.families import ExponentialFamily
from nnef_dists.saving._decode import Decoder
from nnef_dists.saving._encode import encode
from nnef_dists.saving._names import as_code, match_names, own_things
from nnef_dists.saving._needs import Needs, family_call, find_needs
from nnef_dists.saving._numbers import Node

_FORMAT = "nnef_dists.model"
_VERSION = 2


def save(path: str | os.PathLike[str], model: PyTree) -> None:
    """Writes a model to one file, with its arrays, distributions, static fields and structure.

    The file is in the safetensors format. Each array is an entry of raw bytes, and the header's
    metadata hold the structure as JSON, a version and a SHA-256 of all contents. The contents are
    written to a temporary file first, so that an interrupted call leaves an older file intact.

    The file records classes and functions by name. It records a family with its fields, and its
    formulas at some points. `load` resolves the names of this package, flowjax, `equinox.nn` and
    paramax. All other classes and functions are arguments of `load`.

    Args:
        path: The file. An existing file is replaced.
        model: A pytree of modules, dataclasses, named tuples, lists, tuples, dicts and arrays.

    Raises:
        ValueError: If the model has a value that no file can hold, or is one part of a split. Join
            the two parts with `unfreeze_all` first.
    """
    check_whole(model)
    arrays: dict[str, np.ndarray] = {}
    structure = json.dumps(encode(model, arrays), separators=(",", ":"))
    metadata = {
        "format": _FORMAT,
        "version": str(_VERSION),
        "writer": f"nnef_dists {importlib.import_module('nnef_dists').__version__}",
        "structure": structure,
    }
    metadata["sha256"] = _digest(metadata, arrays)
    target = Path(path)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(safetensors.numpy.save(arrays, metadata))
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(
    path: str | os.PathLike[str],
    *,
    family: ExponentialFamily | Sequence[ExponentialFamily] | None = None,
    classes: Sequence[type] = (),
    functions: Sequence[Callable[..., Any]] = (),
    like: Any = None,
) -> Any:
    """Reads a model that `save` wrote, bitwise identical and with all static fields.

    Loading never imports, evaluates or unpickles anything that the file names. If the file needs
    more than the path, the error shows the call that loads it.

    Example:
        ```python
        q = nd.load("q.safetensors", family=Quartic())
        net = nd.load("net.safetensors", classes=(MyLayer,), functions=(my_activation,))
        ```

    Args:
        path: The file.
        family: Custom family in the file, or a sequence of several. It is compared with the
            description in the file. Families of this package need no argument.
        classes: Custom classes in the file, and classes of other libraries. Instances are made from
            their fields, without `__init__`.
        functions: Custom functions in the file, such as an activation.
        like: Model of the same structure, such as a newly made one. It supplies all values that a
            name cannot: lambdas, closures and markers. It may also replace the other arguments. The
            call raises if a class, static field, shape or dtype differs from the file. The values
            of its arrays are not used.

    Returns:
        The model.

    Raises:
        FileNotFoundError: If there is no file at `path`.
        ValueError: If the file is damaged or of another version, needs an argument that is missing,
            or does not match `family` or `like`.
    """
    families = _as_families(family)
    _check_given(classes, functions)
    path = Path(path)
    metadata, arrays = _read(path)
    _check_version(path, metadata)
    if metadata.get("sha256") != _digest(metadata, arrays):
        raise ValueError(f"Expected content that matches its checksum; got a damaged {path}.")
    try:
        node = json.loads(metadata["structure"])
        known = own_things()
        needs = find_needs(node, families, known)
        names = [name for name in (*needs.classes, *needs.functions) if name not in known]
        known |= match_names(names, [*classes, *functions])
        _check_unused(path, needs)
        if like is None:
            _check_needs(path, node, needs.missing(known), [*classes, *functions])
        decoder = Decoder(arrays, known, families)
        return decoder.decode(node) if like is None else decoder.decode(node, like)
    except json.JSONDecodeError as error:
        raise ValueError(f"Expected a readable structure in {path}; got {error}.") from error
    except RecursionError as error:
        raise ValueError(f"Expected a structure of finite depth in {path}; got more.") from error


def _as_families(family: Any) -> tuple[ExponentialFamily, ...]:
    if family is None:
        return ()
    families = tuple(family) if isinstance(family, list | tuple) else (family,)
    for one in families:
        check_instance(one, ExponentialFamily, "family")
    return families


def _check_given(classes: Any, functions: Any) -> None:
    for name, things in (("classes", classes), ("functions", functions)):
        if not isinstance(things, list | tuple):
            raise ValueError(f"Expected a tuple of {name}; got {things!r}. Write {name}=(...,).")
    for thing in classes:
        if not isinstance(thing, type):
            raise ValueError(f"Expected classes; got {thing!r}. Functions go to functions=.")
        if issubclass(thing, ExponentialFamily):
            name = thing.__name__
            raise ValueError(f"Expected family={name}(...) for a family; got classes=({name},).")
    for thing in functions:
        if isinstance(thing, type) or not callable(thing):
            raise ValueError(f"Expected functions; got {thing!r}. Classes go to classes=.")


def _check_unused(path: Path, needs: Needs) -> None:
    """Raises if a family of the caller is not in the file."""
    if needs.unused:
        expected = " or ".join(map(family_call, needs.families)) or "no other family="
        raise ValueError(f"Expected {expected} for {path}; got family={needs.unused[0]!r}.")


def _check_needs(path: Path, node: Node, missing: Needs, given: list[Any]) -> None:
    """Raises if the file needs more arguments. The message shows the call that loads it."""
    if not missing:
        return
    call = f"nd.load({str(path)!r}, {missing.arguments()})"
    got = ", ".join(getattr(thing, "__qualname__", repr(thing)) for thing in given) or "none"
    if missing.opaque:
        root = as_code(str(node.get("class"))) if isinstance(node, dict) else "pytree"
        advice = (
            f"A file holds no lambda and no closure. Make a {root} as the saved one was made, and "
            f"call {call} with it. If the functions are your own, define them by def at the top "
            "of a module, and save again."
        )
    else:
        advice = f"Nothing is imported because a file says so. Import them and call {call}."
    raise ValueError(f"Expected {missing}, which {path} needs; got {got}. {advice}")


def _check_version(path: Path, metadata: dict[str, str]) -> None:
    if metadata.get("format") != _FORMAT:
        raise ValueError(
            f"Expected a file written by save; got format {metadata.get('format')} of {path}."
        )
    version = metadata.get("version", "")
    writer = metadata.get("writer", "an older nnef_dists")
    if not version.isdecimal():
        raise ValueError(f"Expected a file version; got {version!r} in {path}, which is damaged.")
    if int(version) > _VERSION:
        raise ValueError(
            f"Expected a file of version {_VERSION}; got the newer version {version} in {path}, "
            f"written by {writer}. Upgrade nnef_dists to load it."
        )
    if int(version) < _VERSION:
        raise ValueError(
            f"Expected a file of version {_VERSION}; got the older version {version} in {path}, "
            f"written by {writer}. Load it with that nnef_dists, or train again."
        )


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


def _digest(metadata: dict[str, str], arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    parts = [metadata.get(name, "").encode() for name in ("version", "writer", "structure")]
    for name in sorted(arrays):
        parts += [name.encode(), arrays[name].tobytes()]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
