"""Atomic creation of stores, and exclusive access for one writer."""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnef_dists.storage._store import Spec, StoreKind, digest, metadata_digest

try:
    import fcntl
except ImportError:  # Windows has no such lock, so callers must prevent a second writer.
    fcntl = None


def create_store(
    path: Path,
    kind: StoreKind,
    spec: Spec,
    environment: dict[str, Any],
    chunk: int,
    columns: Mapping[str, Any],
) -> None:
    """Creates a store without rows atomically.

    Args:
        path: New path, or an empty folder.
        kind: Kind of the store.
        spec: Description of the requested rows. The names of the columns are added.
        environment: Environment of the rows.
        chunk: Number of rows per chunk.
        columns: Arrays by name, or objects with their shape and dtype. The leading axis is ignored.

    Raises:
        OSError: If the store cannot be written.
    """
    import zarr
    from zarr.codecs import Crc32cCodec

    names = [*(name for name in columns if name != "status"), "status"]
    spec = {**spec, "columns": names}
    n = kind.count(spec)
    attributes = {
        "format": kind.format,
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
        message = f"{error.strerror} while creating {kind.content}"
        raise OSError(error.errno, message, str(path)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def exclusively(folder: Path) -> Iterator[None]:
    """Locks a folder for this process. The system releases the lock when the process ends.

    Args:
        folder: Existing folder.

    Raises:
        ValueError: If another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Expected {folder} to be free; another process is writing it"
            ) from None
        except OSError as error:
            # Some network file systems cannot lock.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield
    finally:
        os.close(handle)


def _remove_unfinished(path: Path) -> None:
    for folder in path.parent.iterdir():
        if folder.name.startswith(f".{path.name}.") and folder.name.endswith(".creating"):
            try:
                with exclusively(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            except ValueError:
                continue  # The process that creates it is alive.
