"""Lazily read arrays of a store."""

from typing import Any, final

import numpy as np

from nnef_dists.storage._store import Store


@final
class StoredArray:
    """Rows of a stored array, which `np.asarray` reads.

    Only the chunks with these rows are read, and only once.

    Args:
        store: The store.
        name: Name of the array.
        rows: Numbers of the rows, `(n,)`.

    Attributes:
        shape: Shape of the rows, with a leading axis of n.
        dtype: Dtype of the array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __init__(self, store: Store, name: str, rows: np.ndarray):
        self._store, self._name, self._rows = store, name, rows
        self.shape, self.dtype = store.shape_and_dtype(name, len(rows))
        self._read: np.ndarray | None = None

    def __getitem__(self, rows: Any) -> "np.ndarray | StoredArray":
        """Returns the rows of a slice, a mask or indices, without reading them."""
        if self._read is not None:
            return self._read[rows]
        return StoredArray(self._store, self._name, self._rows[rows])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Reads the rows."""
        if self._read is None:
            self._read = self._gather()
        return np.array(self._read, dtype, copy=copy)

    def _gather(self) -> np.ndarray:
        out = np.empty(self.shape, self.dtype)
        chunks = self._rows // self._store.chunk
        order = np.argsort(chunks, kind="stable")
        numbers, starts = np.unique(chunks[order], return_index=True)
        for number, places in zip(numbers, np.split(order, starts)[1:], strict=True):
            first, _ = self._store.bounds(int(number))
            out[places] = self._store.read(self._name, int(number))[self._rows[places] - first]
        return out
