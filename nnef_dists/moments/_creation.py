"""Creating a store all at once, and comparing one with what is asked for."""

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from nnef_dists.moments._family_spec import differences, family_differences, join_lines
from nnef_dists.moments._lock import exclusively
from nnef_dists.moments._store import MomentStore, Spec, digest, metadata_digest


def create_store(
    path: Path,
    spec: Spec,
    environment: dict[str, Any],
    chunk: int,
    columns: Mapping[str, Any],
    kind: type[MomentStore] = MomentStore,
) -> None:
    """Creates a store without rows: all at once, or not at all.

    Args:
        path: Where nothing is, or an empty folder.
        spec: What is asked for; it gains the names of the columns.
        environment: Where the rows will come from.
        chunk: How many rows in a chunk.
        columns: By name, whatever has the shape and dtype of an array; the leading axis is ignored.
        kind: The class of the store.

    Raises:
        OSError: If it cannot be written.
    """
    names = [*(name for name in columns if name != "status"), "status"]
    spec = {**spec, "columns": names}
    n = kind.rows_of(spec)
    attributes = {
        "format": kind.FORMAT,
        "spec": spec,
        "chunk": chunk,
        "environments": [environment],
        "zarr": zarr.__version__,
        "config_sha256": digest(spec),
    }
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.creating"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_unfinished(path)
        temporary.mkdir()
        with exclusively(temporary):
            group = zarr.open_group(temporary, mode="w-", zarr_format=3)
            for name in names:
                dtype = np.dtype(columns[name].dtype)
                group.create_array(
                    name,
                    shape=(n, *columns[name].shape[1:]),
                    chunks=(min(chunk, n), *columns[name].shape[1:]),
                    dtype=dtype,
                    filters=None,
                    compressors=[Crc32cCodec()],
                    fill_value=np.nan if dtype.kind == "f" else 0,
                )
            attributes["metadata_sha256"] = metadata_digest(temporary, attributes)
            group.attrs.put(attributes)
            temporary.replace(path)
    except OSError as error:
        message = f"{error.strerror} while creating {kind.CONTENT}"
        raise OSError(error.errno, message, str(path)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_differences(store: MomentStore, spec: Spec, chunk: int | None) -> None:
    """Checks that a store is what is asked for.

    Args:
        store: The store.
        spec: What is asked for.
        chunk: Etas in a chunk; None if it does not matter.

    Raises:
        ValueError: If it is not; with the differences.
    """
    found = family_differences(store.spec["family"], spec["family"])
    compared = ("config", "key", "etas", "dtype")
    stored, asked = ({name: s[name] for name in compared} for s in (store.spec, spec))
    if chunk is not None:
        stored["chunk"], asked["chunk"] = store.chunk, chunk
    found += differences(stored, asked)
    if found:
        raise ValueError(
            f"Expected the moment data in {store.path} to be what is asked for; they differ in\n"
            f"{join_lines(found)}\nChoose another path, or delete that folder first"
        )


def _remove_unfinished(path: Path) -> None:
    for folder in path.parent.iterdir():
        if folder.name.startswith(f".{path.name}.") and folder.name.endswith(".creating"):
            try:
                with exclusively(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            except ValueError:
                continue  # Its creator is alive.
