"""The arrays of moment data: for losses, in memory, and on disk."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
from jaxtyping import Array, Float

from nnef_dists.moments._diagnostics import MomentLabel
from nnef_dists.storage import (
    AbstractColumns,
    Spec,
    Store,
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


class MomentBatch(NamedTuple):
    """What a loss needs of moment data: a pytree of arrays with one leading axis.

    Attributes:
        eta: Natural parameters, `(n, eta_dim)`.
        mean: E[T], `(n, eta_dim)`.
        covariance: Cov[T], `(n, eta_dim, eta_dim)`.
        standard_error: Standard error of the mean, in units of T, `(n, eta_dim)`.
        covariance_error: Standard error of each entry of the covariance, `(n, eta_dim, eta_dim)`.
    """

    eta: Float[Array, "n eta_dim"]
    mean: Float[Array, "n eta_dim"]
    covariance: Float[Array, "n eta_dim eta_dim"]
    standard_error: Float[Array, "n eta_dim"]
    covariance_error: Float[Array, "n eta_dim eta_dim"]


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


def write_arrays(path: Path, spec: Spec, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a new store.

    Args:
        path: Where nothing is.
        spec: What they are.
        arrays: The arrays, by name.

    Raises:
        OSError: If they cannot be written.
    """
    create_store(path, MOMENT_DATA, spec, describe_environment(), 1024, arrays)
    store = Store(path, MOMENT_DATA, writable=True)
    for number in range(store.n_chunks):
        rows = slice(*store.bounds(number))
        store.write(number, {name: array[rows] for name, array in arrays.items()})


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
