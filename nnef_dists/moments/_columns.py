"""Named arrays with one leading axis: in memory, or read from a store when they are touched."""

import abc
from collections.abc import Mapping
from typing import Any, final

import numpy as np

from nnef_dists.moments._diagnostics import MomentLabel
from nnef_dists.moments._store import MomentStore


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
class ArrayColumns(AbstractColumns):
    """Arrays in memory.

    Args:
        arrays: The arrays, by name.
        eta_dim: The length of an eta.

    Raises:
        ValueError: If an array is missing, unknown or of another shape.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], eta_dim: int):
        _check_arrays(arrays, eta_dim)
        self._arrays = dict(arrays)
        self._eta_dim = eta_dim

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the arrays."""
        return tuple(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays["eta"])

    def read(self, name: str) -> np.ndarray:
        """Returns an array."""
        return self._arrays[name]

    def take(self, rows: Any) -> "ArrayColumns":
        """Returns the arrays of some rows."""
        taken = {name: array[rows] for name, array in self._arrays.items()}
        return ArrayColumns(taken, self._eta_dim)


@final
class StoreColumns(AbstractColumns):
    """Arrays of a store: read when touched, only the chunks that hold their rows, and kept.

    Args:
        store: The store.
        rows: The numbers of the rows.
    """

    def __init__(self, store: MomentStore, rows: np.ndarray):
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


def _check_arrays(arrays: Mapping[str, np.ndarray], eta_dim: int) -> None:
    names = {"eta", *MomentLabel._fields}
    if set(arrays) != names:
        wrong = sorted(names ^ set(arrays))
        raise ValueError(f"Expected arrays {sorted(names)}; got {wrong} missing or unknown")
    n = len(arrays["eta"])
    known: dict[str, tuple[int, ...]] = dict.fromkeys(
        ("covariance", "covariance_error"), (n, eta_dim, eta_dim)
    )
    known |= dict.fromkeys(("eta", "mean", "standard_error"), (n, eta_dim))
    for name, array in arrays.items():
        expected = known.get(name, (n, *array.shape[1:]))
        if array.shape != expected:
            raise ValueError(f"Expected {name} of shape {expected}; got {array.shape}")
