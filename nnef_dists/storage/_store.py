"""Stores of rows on disk: one Zarr group, written and checked chunk by chunk.

Properties that make a store safe to kill at any instant:

- It is created under another name, complete with metadata, and renamed.
- Every file is written under another name in its folder, and renamed.
- The status of a chunk is written last. If it is missing, the chunk is missing.
- Chunks have crc32c checksums. The attributes have a SHA-256 of all metadata.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np

Spec = dict[str, Any]


class StoreError(ValueError):
    """Damaged or missing data in a store, named by their file."""


class _FormatError(StoreError):
    """A folder of another format."""


@dataclasses.dataclass(frozen=True)
class StoreKind:
    """Kind of data in a store, for its format and for messages.

    Attributes:
        name: Name of the format.
        version: Version of the format.
        content: Name of the data.
        rows: Name of the rows.
        maker: Name of the function that makes the data.
        count: Function from a spec to its number of rows.
    """

    name: str
    version: int
    content: str
    rows: str
    maker: str
    count: Callable[[Spec], int]

    @property
    def format(self) -> dict[str, Any]:
        """The format, as recorded in the attributes."""
        return {"name": self.name, "version": self.version}


@final
class Store:
    """An existing store. `create_store` makes it, and `Store(path, kind)` opens it.

    Args:
        path: The folder.
        kind: Expected kind of data.
        writable: Whether to open the store for writing. Defaults to False.

    Attributes:
        path: Absolute path of the folder.
        kind: Kind of data.
        attributes: Attributes of the Zarr group.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If `path` is a file.
        StoreError: If the folder is not a store, or its metadata are damaged.
    """

    def __init__(self, path: str | os.PathLike[str], kind: StoreKind, *, writable: bool = False):
        self.path, self.kind = Path(path).absolute(), kind
        if not self.path.exists():
            raise FileNotFoundError(f"Expected {kind.content} at {self.path}; got nothing there")
        if not self.path.is_dir():
            raise ValueError(f"Expected a folder of {kind.content}; got the file {self.path}")
        remedy = (
            f"Delete the folder {self.path} and run the same command or {kind.maker} call again, "
            f"which makes the {kind.content} again, or choose another path"
        )
        try:
            self.attributes: dict[str, Any] = _read_attributes(self.path, kind)
            group = _open_group(self.path, "r+" if writable else "r")
        except _FormatError:
            # Do not advise to delete intact data of another kind.
            raise
        except StoreError as fault:
            raise StoreError(f"{fault}. {remedy}") from None
        self._arrays: dict[str, Any] = {
            # Also write chunks that contain only the fill value, since a missing file is a fault.
            name: group[name].with_config({"write_empty_chunks": True})  # pyright: ignore[reportAttributeAccessIssue]
            for name in self.columns
        }

    @property
    def spec(self) -> Spec:
        """The description of the requested rows."""
        return self.attributes["spec"]

    @property
    def environments(self) -> list[dict[str, Any]]:
        """The possible environments of the rows."""
        return self.attributes["environments"]

    @property
    def columns(self) -> list[str]:
        """The names of the arrays, in the order in which they are written."""
        return self.spec["columns"]

    @property
    def n(self) -> int:
        """The number of rows."""
        return self.kind.count(self.spec)

    @property
    def chunk(self) -> int:
        """The number of rows per chunk."""
        return self.attributes["chunk"]

    @property
    def n_chunks(self) -> int:
        """The number of chunks."""
        return -(-self.n // self.chunk)

    def bounds(self, number: int) -> tuple[int, int]:
        """Returns the numbers of the first row of a chunk and of the row after its last."""
        return number * self.chunk, min(self.n, (number + 1) * self.chunk)

    def size(self, number: int) -> int:
        """Returns the number of rows in a chunk."""
        start, stop = self.bounds(number)
        return stop - start

    def shape_and_dtype(self, name: str, n: int) -> tuple[tuple[int, ...], np.dtype]:
        """Returns the shape of n rows of an array, and its dtype."""
        array = self._arrays[name]
        return (n, *array.shape[1:]), array.dtype

    def file_of(self, name: str, number: int) -> Path:
        """Returns the file of a chunk of an array."""
        array = self._arrays[name]
        index = (number, *(0 for _ in array.shape[1:]))
        return self.path / name / array.metadata.encode_chunk_key(index)

    def is_done(self, number: int) -> bool:
        """Returns whether a chunk is completed."""
        return self.file_of("status", number).exists()

    def missing(self) -> list[int]:
        """Returns the numbers of the chunks that are not completed."""
        return [number for number in range(self.n_chunks) if not self.is_done(number)]

    def write(self, number: int, columns: Mapping[str, np.ndarray]) -> None:
        """Writes a chunk, with its status last.

        Raises:
            ValueError: If shapes or dtypes of arrays are not as declared.
            OSError: If the chunk cannot be written. Completed chunks are kept.
        """
        start, stop = self.bounds(number)
        for name in self.columns:
            array, value = self._arrays[name], columns[name]
            expected = (stop - start, *array.shape[1:])
            if (value.shape, value.dtype) != (expected, array.dtype):
                raise ValueError(
                    f"Expected {name} of shape {expected} and dtype {array.dtype}; got "
                    f"{value.shape}, {value.dtype}"
                )
        try:
            for name in self.columns:
                self._arrays[name][start:stop] = columns[name]
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror} while writing chunk {number} of {self.n_chunks}; the chunks "
                "that are done are kept: see to it and call again, to resume",
                str(self.path),
            ) from error

    def read(self, name: str, number: int) -> np.ndarray:
        """Reads a chunk of an array.

        Raises:
            StoreError: If the chunk is missing or damaged.
        """
        start, stop = self.bounds(number)
        file = self.file_of(name, number)
        fault = "is missing"
        if file.exists():
            try:
                return self._arrays[name][start:stop]
            except ValueError as error:
                fault = f"is damaged ({error})"
        raise StoreError(
            f"chunk {number} ({self.kind.rows} {start} to {stop - 1}): {file} {fault}; "
            f"{self.kind.maker} with the same arguments makes it again"
        )

    def faults(self, number: int) -> list[str]:
        """Checks every checksum of a completed chunk, and returns the faults."""
        found = []
        for name in self.columns:
            try:
                values = self.read(name, number)
            except StoreError as fault:
                found.append(str(fault))
            else:
                if name == "status" and not values.all():
                    file = self.file_of(name, number)
                    found.append(f"chunk {number}: {file} marks rows as missing")
        return found

    def to_do(self) -> list[int]:
        """Returns the missing and damaged chunks, after discarding the damaged ones."""
        numbers = []
        for number in range(self.n_chunks):
            if self.is_done(number) and self.faults(number):
                self.discard(number)
            if not self.is_done(number):
                numbers.append(number)
        return numbers

    def discard(self, number: int) -> None:
        """Deletes the files of a chunk, with its status first."""
        for name in reversed(self.columns):
            self.file_of(name, number).unlink(missing_ok=True)

    def remove_partial_files(self) -> None:
        """Removes the partial files of killed writers."""
        for file in self.path.rglob("*.partial"):
            file.unlink(missing_ok=True)

    def add_environment(self, environment: dict[str, Any]) -> None:
        """Adds a possible environment of the rows to the attributes."""
        attributes = {**self.attributes, "environments": [*self.environments, environment]}
        attributes["metadata_sha256"] = metadata_digest(self.path, attributes)
        _open_group(self.path, "r+").attrs.put(attributes)
        self.attributes = attributes


def _read_attributes(path: Path, kind: StoreKind) -> dict[str, Any]:
    # Every store has an array of this name, so that a store without its format is told apart.
    is_store = (path / "status").is_dir()
    try:
        content = _read_json(path / "zarr.json")
    except StoreError as fault:
        if is_store:
            raise
        raise _FormatError(f"{fault}. Choose another path") from None
    found = content.get("attributes")
    attributes = found if isinstance(found, dict) else {}
    form = attributes.get("format")
    if form != kind.format:
        message = f"Expected {kind.content} of format {kind.format} in {path}; got {form}"
        if form is None and is_store:
            raise StoreError(message)
        raise _FormatError(f"{message}. {_advice(kind, form)}")
    if metadata_digest(path, attributes) != attributes.get("metadata_sha256"):
        raise StoreError(
            f"Expected metadata that match their SHA-256; got a damaged zarr.json in {path} (its "
            "own or one of an array)"
        )
    return attributes


def _advice(kind: StoreKind, form: Any) -> str:
    """Returns advice for intact data of another format."""
    version = form.get("version") if isinstance(form, dict) else None
    if version is None or form.get("name") != kind.name:
        return "Choose another path, or open it with the function of its format"
    is_newer = isinstance(version, int) and version > kind.version
    remedy = "Upgrade nnef_dists" if is_newer else "Read it with the nnef_dists that wrote it"
    return f"{remedy}, or choose another path"


def metadata_digest(path: Path, attributes: dict[str, Any]) -> str:
    """Returns the SHA-256 of all metadata: other attributes, and zarr.json of every array."""
    rest = {name: value for name, value in attributes.items() if name != "metadata_sha256"}
    spec = rest.get("spec")
    names = spec.get("columns", []) if isinstance(spec, dict) else []
    arrays = {name: _read_json(path / name / "zarr.json") for name in names}
    return digest({"attributes": rest, "arrays": arrays})


def digest(value: Any) -> str:
    """Returns the SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _open_group(path: Path, mode: Literal["r", "r+"]) -> Any:
    # This import is local, since it takes a tenth of the import time of the package.
    import zarr

    try:
        return zarr.open_group(path, mode=mode, use_consolidated=False)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
        # Other entries than the attributes have no checksum.
        raise StoreError(
            f"Expected a Zarr group of format 3; got a damaged {path / 'zarr.json'} ({error})"
        ) from None


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise StoreError(f"Expected a store; got a folder where {file} is missing") from None
    except (ValueError, RecursionError, IsADirectoryError, NotADirectoryError) as error:
        raise StoreError(f"Expected a store; got a damaged {file} ({error})") from None
    if not isinstance(content, dict):
        raise StoreError(f"Expected a store; got a damaged {file} (no JSON object)")
    return content
