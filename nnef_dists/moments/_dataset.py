"""Moment data: what `estimate_moments` returns, a store holds and networks are trained on."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import jax
import numpy as np
from jaxtyping import Array, Int, PRNGKeyArray

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._arrays import MOMENT_DATA, ArrayColumns, MomentBatch, write_arrays
from nnef_dists.moments._diagnostics import Status
from nnef_dists.moments._export import as_xarray, summary
from nnef_dists.sampling import HMCConfig
from nnef_dists.saving import describe_family, restore_family
from nnef_dists.storage import (
    AbstractColumns,
    Store,
    StoreColumns,
)

if TYPE_CHECKING:
    import xarray


@final
class MomentDataset:
    """Labelled etas of one family, on the host, with the diagnostics of every label.

    The arrays are `eta` and the fields of `MomentLabel`, with a leading axis. Those of data that
    were opened from a store are read when first touched (only the rows that are asked for), and
    kept.

    Args:
        family: The family of all etas.
        config: What they were sampled with; None where the data has another source.
        **arrays: `eta` and every field of `MomentLabel`.

    Attributes:
        family: The family of all etas.
        config: What they were sampled with; None where the data has another source.
        eta: Natural parameters, `(n, eta_dim)`.
        mean: E[T], `(n, eta_dim)`; NaN unless the status is OK.
        covariance: Cov[T], `(n, eta_dim, eta_dim)`; NaN unless the status is OK.
        standard_error: Standard error of the mean, in units of T, `(n, eta_dim)`; NaN unless the
            status is OK.
        covariance_error: Standard error of each entry of the covariance, `(n, eta_dim, eta_dim)`;
            NaN unless the status is OK.
        ess: Split-chain effective sample size of every statistic, `(n, eta_dim)`.
        rhat: Split R-hat of every statistic, `(n, eta_dim)`.
        acceptance: Mean acceptance of the HMC transitions, `(n,)`.
        divergences: Fraction of transitions that diverged, `(n,)`.
        jumps: Fraction of global moves that were accepted, `(n,)`.
        influence: The largest share of one draw in the sum of squared deviations that a mean, or a
            covariance, is estimated from, `(n,)`.
        pareto_k: The largest shape of a tail of T, `(n,)`: a diagnostic.
        status: `Status` of every label, `(n,)`.
        rung: `Rung` of every label, `(n,)`.

    Raises:
        ValueError: If an array is missing, unknown or of another shape.
    """

    family: ExponentialFamily
    config: HMCConfig | None
    eta: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    standard_error: np.ndarray
    covariance_error: np.ndarray
    ess: np.ndarray
    rhat: np.ndarray
    acceptance: np.ndarray
    divergences: np.ndarray
    jumps: np.ndarray
    influence: np.ndarray
    pareto_k: np.ndarray
    status: np.ndarray
    rung: np.ndarray

    def __init__(self, family: ExponentialFamily, config: HMCConfig | None, **arrays: np.ndarray):
        self.family, self.config = family, config
        self._columns: AbstractColumns = ArrayColumns(arrays, family.eta_dim)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        family: ExponentialFamily | None = None,
        partial: bool = False,
    ) -> "MomentDataset":
        """Opens moment data that `generate_moments` or `save` wrote, without reading the arrays.

        Args:
            path: The folder.
            family: The family; needed unless it is one of nnef_dists (nothing is imported because
                a file says so).
            partial: Whether to open unfinished data too: the rows of the chunks that are done.

        Returns:
            The data. A chunk that turns out to be damaged when it is read is a `ValueError` that
            names the chunk and its file; `generate_moments` with the same arguments mends it.

        Raises:
            FileNotFoundError: If there is nothing.
            ValueError: If it is no moment data, its metadata are damaged, chunks are missing, or
                the family is another.
        """
        store = Store(path, MOMENT_DATA)
        family = restore_family(store.spec["family"], family)
        rows = np.arange(store.n)
        missing = store.missing()
        if missing and not partial:
            raise ValueError(
                f"Expected finished moment data in {store.path}; got {len(missing)} of "
                f"{store.n_chunks} chunks missing, such as {store.file_of('status', missing[0])}. "
                "Call generate_moments with the same arguments to resume, or open the rest with "
                "partial=True"
            )
        if missing:
            rows = rows[~np.isin(rows // store.chunk, missing)]
        config = store.spec["config"]
        config = None if config is None else HMCConfig(**config)
        return cls._of(family, config, StoreColumns(store, rows))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the data to a new folder that `open` reads.

        Args:
            path: Where nothing is.

        Raises:
            FileExistsError: If something is there.
            OSError: If it cannot be written.
            ValueError: If the family cannot be described by numbers, strings and tuples.
        """
        path = Path(path).absolute()
        if path.exists():
            raise FileExistsError(f"Expected a path where nothing is; got {path}")
        spec = {
            "family": describe_family(self.family),
            "config": None if self.config is None else dataclasses.asdict(self.config),
            "key": None,
            "etas": {"kind": "saved", "n": len(self)},
            "dtype": self.eta.dtype.name,
        }
        write_arrays(path, spec, self._columns.read_all())

    def __len__(self) -> int:
        return len(self._columns)

    def __getattr__(self, name: str) -> Any:
        # The fields of MomentLabel are attributes, whatever they are.
        if not name.startswith("_") and name in self._columns.names:
            return self._columns.read(name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __getitem__(self, rows: Any) -> "MomentDataset":
        """Returns the labels of the given rows.

        Args:
            rows: A slice, a boolean mask, an array of indices or one index.

        Returns:
            A dataset of these rows.
        """
        if isinstance(rows, int | np.integer):
            rows = [rows]
        return self._of(self.family, self.config, self._columns.take(rows))

    def __repr__(self) -> str:
        """Summarises how many labels are good, why others are not, and the worst diagnostics."""
        return summary(self)

    @property
    def ok(self) -> np.ndarray:
        """Which labels are good: a boolean mask `(n,)`."""
        return self.status == Status.OK

    def only_ok(self) -> "MomentDataset":
        """Returns the good labels alone; the others have NaN moments, which a loss must not see."""
        return self[self.ok]

    def label_z_error(self) -> np.ndarray:
        """Returns the good labels' errors in z units: standard_error / sd(T | eta)."""
        ok = self.only_ok()
        variances = np.diagonal(ok.covariance, axis1=1, axis2=2)
        return ok.standard_error / np.sqrt(variances)

    def arrays(self) -> MomentBatch:
        """Returns the arrays of all labels, for a training loop.

        Returns:
            The batch of all n labels, as NumPy arrays.

        Raises:
            ValueError: If a label is not OK; choose with `only_ok()` first.
        """
        if not self.ok.all():
            raise ValueError(
                f"Expected good labels only; got {int((~self.ok).sum())} of {len(self)} that are "
                "not (their moments are NaN). Select with data.only_ok() first"
            )
        # A batch is typed by what losses see of it inside a compiled step: JAX arrays.
        leaves: list[Any] = [getattr(self, name) for name in MomentBatch._fields]
        return MomentBatch(*leaves)

    @staticmethod
    def concatenate(parts: Sequence["MomentDataset"]) -> "MomentDataset":
        """Joins labels of one family, such as those of several rounds of labelling.

        Args:
            parts: The datasets, at least one, of one family and dtype.

        Returns:
            All their labels, in memory, in their order. The config is that of the parts if all
            have the same, else None.

        Raises:
            ValueError: For no parts, and for parts of different families or dtypes.
        """
        if not parts:
            raise ValueError("Expected at least one dataset; got none")
        first = parts[0]
        for part in parts:
            if part.family != first.family or part.eta.dtype != first.eta.dtype:
                raise ValueError(
                    f"Expected data of {first.family!r} with {first.eta.dtype} etas; got data of "
                    f"{part.family!r} with {part.eta.dtype} etas"
                )
        config = first.config if all(part.config == first.config for part in parts) else None
        columns = [part._columns.read_all() for part in parts]
        arrays = {name: np.concatenate([c[name] for c in columns]) for name in columns[0]}
        return MomentDataset(first.family, config, **arrays)

    def split(self, fractions: Sequence[float], key: PRNGKeyArray) -> tuple["MomentDataset", ...]:
        """Splits the labels at random, such as into those to train on and those to test with.

        Args:
            fractions: The share of each part; positive, with sum 1.
            key: PRNG key.

        Returns:
            A dataset for each fraction: disjoint, together all labels, each in the old order.

        Raises:
            ValueError: If the fractions are anything else.
        """
        shares = np.asarray(fractions, float)
        if shares.ndim != 1 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
            raise ValueError(f"Expected positive fractions with sum 1; got {fractions}")
        order = np.asarray(jax.random.permutation(key, len(self)))
        stops = np.rint(np.cumsum(shares)[:-1] * len(self)).astype(int)
        return tuple(self[np.sort(rows)] for rows in np.split(order, stops))

    def batch_indices(
        self, key: PRNGKeyArray, batch_size: int
    ) -> Int[Array, "n_batches batch_size"]:
        """Returns the rows of an epoch's batches, for a loop inside a compiled program.

        Args:
            key: PRNG key, one for each epoch.
            batch_size: How many labels in a batch.

        Returns:
            Each row of the data at most once, at random; those beyond the last whole batch are
            left out of this epoch.

        Raises:
            ValueError: If there are fewer labels than a batch has.
        """
        if not 1 <= batch_size <= len(self):
            raise ValueError(f"Expected 1 <= batch_size <= {len(self)}; got {batch_size}")
        n_batches = len(self) // batch_size
        order = jax.random.permutation(key, len(self))
        return order[: n_batches * batch_size].reshape(n_batches, batch_size)

    def batches(self, key: PRNGKeyArray, batch_size: int) -> Iterator[MomentBatch]:
        """Yields the batches of one epoch, those of `batch_indices`.

        Args:
            key: PRNG key, one for each epoch.
            batch_size: How many labels in a batch.

        Returns:
            An iterator of batches of NumPy arrays. The moments are in memory meanwhile.

        Raises:
            ValueError: What `batch_indices` and `arrays` raise.
        """
        whole = self.arrays()
        indices = np.asarray(self.batch_indices(key, batch_size))
        return (MomentBatch(*(leaf[rows] for leaf in whole)) for rows in indices)

    def to_xarray(self) -> "xarray.Dataset":
        """Returns the data as an `xarray.Dataset`, as ArviZ, plots and tables like it.

        Returns:
            The arrays by name, with dimensions `label`, `statistic` (labelled by
            `family.stat_names`) and, for the second index of covariances, `statistic_`.

        Raises:
            ImportError: Without xarray, which `pip install "nnef_dists[arviz]"` brings.
        """
        return as_xarray(self.family, self.config, self._columns.read_all())

    @classmethod
    def _of(
        cls, family: ExponentialFamily, config: HMCConfig | None, columns: AbstractColumns
    ) -> "MomentDataset":
        data = object.__new__(cls)
        data.family, data.config, data._columns = family, config, columns
        return data
