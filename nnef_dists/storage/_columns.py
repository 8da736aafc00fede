"""Named arrays with one leading axis; those of a store are read when they are touched."""

import abc
from typing import Any, final

import numpy as np

from nnef_dists.storage._store import Store


class AbstractColumns(abc.ABC):
    """Arrays by name, with a common leading axis."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """The names of the arrays."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the length of the leading axis."""

    @abc.abstractmethod
    def read(self, name: str) -> np.ndarray:
        """Returns an array."""

    def read_all(self) -> dict[str, np.ndarray]:
        """Returns all arrays, by name."""
        return {name: self.read(name) for name in self.names}

    @abc.abstractmethod
    def take(self, rows: Any) -> "AbstractColumns":
        """Returns the arrays of some rows: a slice, a mask or indices."""


@final
class StoreColumns(AbstractColumns):
    """Arrays of a store: read when touched, only the chunks that hold their rows, and kept.

    Args:
        store: The store.
        rows: The numbers of the rows.
    """

    def __init__(self, store: Store, rows: np.ndarray):
        self._store = store
        self._rows = rows
        self._cache: dict[str, np.ndarray] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(self._store.columns)

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, name: str) -> np.ndarray:
        """Returns an array."""
        if name not in self._cache:
            self._cache[name] = self._gather(name)
        return self._cache[name]

    def take(self, rows: Any) -> "StoreColumns":
        """Returns the arrays of some rows."""
        taken = StoreColumns(self._store, self._rows[rows])
        taken._cache = {name: array[rows] for name, array in self._cache.items()}
        return taken

    def _gather(self, name: str) -> np.ndarray:
        out = np.empty(*self._store.shape_and_dtype(name, len(self)))
        chunks = self._rows // self._store.chunk
        order = np.argsort(chunks, kind="stable")
        numbers, starts = np.unique(chunks[order], return_index=True)
        for number, places in zip(numbers, np.split(order, starts)[1:], strict=True):
            first, _ = self._store.bounds(int(number))
            out[places] = self._store.read(name, int(number))[self._rows[places] - first]
        return out
