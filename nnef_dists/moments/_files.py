"""Moment data on disk: one store, with an array per field of a label."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nnef_dists.moments._diagnostics import MomentLabel
from nnef_dists.storage import (
    Spec,
    Store,
    StoredArray,
    StoreKind,
    create_store,
    describe_environment,
)

MOMENT_DATA = StoreKind(
    name="nnef_dists.moments",
    version=2,
    content="moment data",
    rows="etas",
    maker="generate_moments",
    count=lambda spec: spec["etas"]["n"],
)
_CHUNK = 1024


def open_arrays(path: Path, *, partial: bool) -> tuple[Spec, StoredArray, MomentLabel]:
    """Opens the arrays of a store without reading them.

    Args:
        path: The folder.
        partial: Whether chunks may be missing. Their rows are left out.

    Returns:
        The spec of the store, the etas, and the labels, whose leaves are `StoredArray`s.

    Raises:
        FileNotFoundError: If `path` does not exist.
        ValueError: If the folder is not moment data or is damaged, or chunks are missing.
    """
    store = Store(path, MOMENT_DATA)
    rows = np.arange(store.n)
    missing = store.missing()
    if missing and not partial:
        raise ValueError(
            f"Expected finished moment data in {store.path}; got {len(missing)} of "
            f"{store.n_chunks} chunks missing, such as {store.file_of('status', missing[0])}. "
            "Call generate_moments with the same arguments to resume, or open the rest with "
            "partial=True"
        )
    rows = rows[~np.isin(rows // store.chunk, missing)]
    # The type of labels in memory.
    leaves: list[Any] = [StoredArray(store, name, rows) for name in MomentLabel._fields]
    return store.spec, StoredArray(store, "eta", rows), MomentLabel(*leaves)


def write_arrays(path: Path, spec: Spec, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a new store.

    Args:
        path: New folder. Must not exist.
        spec: Description of the data.
        arrays: The arrays, by name.

    Raises:
        OSError: If they cannot be written.
    """
    create_store(path, MOMENT_DATA, spec, describe_environment(), _CHUNK, arrays)
    store = Store(path, MOMENT_DATA, writable=True)
    for number in range(store.n_chunks):
        rows = slice(*store.bounds(number))
        store.write(number, {name: array[rows] for name, array in arrays.items()})
