"""Moment data: the labels of many etas, from `estimate_moments` or a store, to train networks."""

import dataclasses
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._batch import MomentBatch
from nnef_dists.moments._diagnostics import MomentLabel, Rung, Status
from nnef_dists.moments._files import open_arrays, write_arrays
from nnef_dists.moments._label_checks import check_shapes, check_values
from nnef_dists.sampling import HMCConfig
from nnef_dists.saving import describe_family, restore_family
from nnef_dists.storage import StoredArray


@final
class MomentDataset:
    """Labeled etas of one family, on the host, with the diagnostics of each label.

    Data from a store read each array at its first use, only the selected rows, and keep it in
    memory.

    Args:
        family: The family of all etas.
        config: The configuration of the sampler. None if the labels have another source.
        eta: Natural parameters, `(n, eta_dim)`.
        label: The labels, each array with a leading axis of n.

    Raises:
        ValueError: If an array has another shape.
    """

    def __init__(
        self,
        family: ExponentialFamily,
        config: HMCConfig | None,
        eta: Float[Array, "n eta_dim"] | np.ndarray | StoredArray,
        label: MomentLabel,
    ):
        check_shapes(family, eta, label)
        self.family: ExponentialFamily = family
        self.config: HMCConfig | None = config
        # Arrays of any kind. The properties below convert them to NumPy arrays.
        self._eta: Any = eta
        self._label: Any = label
        self._batch: MomentBatch | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        family: ExponentialFamily | None = None,
        partial: bool = False,
    ) -> "MomentDataset":
        """Opens moment data that `generate_moments` or `save` wrote, without reading the arrays.

        Reading a damaged chunk later raises `ValueError` with the chunk and its file. To regenerate
        the chunk, call `generate_moments` with the same arguments.

        Args:
            path: The folder.
            family: The family. Required for a custom family, since files never import code.
            partial: Whether unfinished data are opened too, without the missing chunks. By default
                they raise.

        Returns:
            The data.

        Raises:
            FileNotFoundError: If `path` does not exist.
            ValueError: If the folder is not moment data, its metadata are damaged, chunks are
                missing, or the family differs.
        """
        spec, eta, label = open_arrays(Path(path), partial=partial)
        config = None if spec["config"] is None else HMCConfig(**spec["config"])
        return cls(restore_family(spec["family"], family), config, eta, label)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the data to a new folder that `open` reads.

        Args:
            path: New folder. Must not exist.

        Raises:
            FileExistsError: If `path` exists.
            OSError: If the folder cannot be written.
            ValueError: If the family cannot be described by numbers, strings and tuples.
        """
        path = Path(path).absolute()
        if path.exists():
            raise FileExistsError(f"Expected a path that does not exist; got {path}")
        spec = {
            "family": describe_family(self.family),
            "config": None if self.config is None else dataclasses.asdict(self.config),
            "key": None,
            "etas": {"kind": "saved", "n": len(self)},
            "dtype": self.eta.dtype.name,
        }
        write_arrays(path, spec, {"eta": self.eta, **self.label._asdict()})

    @property
    def eta(self) -> np.ndarray:
        """Natural parameters, `(n, eta_dim)`."""
        return np.asarray(self._eta)

    @property
    def mean(self) -> np.ndarray:
        """E[T], `(n, eta_dim)`. NaN unless the status is OK."""
        return np.asarray(self._label.mean)

    @property
    def covariance(self) -> np.ndarray:
        """Cov[T], `(n, eta_dim, eta_dim)`. NaN unless the status is OK."""
        return np.asarray(self._label.covariance)

    @property
    def standard_error(self) -> np.ndarray:
        """Standard error of the mean, in units of T, `(n, eta_dim)`. NaN unless OK."""
        return np.asarray(self._label.standard_error)

    @property
    def covariance_error(self) -> np.ndarray:
        """Standard error of the covariance, `(n, eta_dim, eta_dim)`. NaN unless OK."""
        return np.asarray(self._label.covariance_error)

    @property
    def ess(self) -> np.ndarray:
        """Split-chain effective sample size of each statistic, `(n, eta_dim)`."""
        return np.asarray(self._label.ess)

    @property
    def rhat(self) -> np.ndarray:
        """Split R-hat of each statistic, `(n, eta_dim)`."""
        return np.asarray(self._label.rhat)

    @property
    def acceptance(self) -> np.ndarray:
        """Mean acceptance of the HMC transitions, `(n,)`. NaN if the sampler makes none."""
        return np.asarray(self._label.acceptance)

    @property
    def divergences(self) -> np.ndarray:
        """Fraction of HMC transitions that diverged, `(n,)`."""
        return np.asarray(self._label.divergences)

    @property
    def jumps(self) -> np.ndarray:
        """Fraction of global moves that were accepted, `(n,)`."""
        return np.asarray(self._label.jumps)

    @property
    def effective_fraction(self) -> np.ndarray:
        """Effective fraction of the draws, `(n,)`. 1 for equal weights."""
        return np.asarray(self._label.effective_fraction)

    @property
    def influence(self) -> np.ndarray:
        """Largest share of one draw in the squared deviations of a mean or covariance, `(n,)`."""
        return np.asarray(self._label.influence)

    @property
    def pareto_k(self) -> np.ndarray:
        """Largest Pareto k of the tails of T, `(n,)`: a diagnostic."""
        return np.asarray(self._label.pareto_k)

    @property
    def status(self) -> np.ndarray:
        """`Status` of each label, `(n,)`."""
        return np.asarray(self._label.status)

    @property
    def rung(self) -> np.ndarray:
        """`Rung` of each label, `(n,)`: the sampler that made it."""
        return np.asarray(self._label.rung)

    @property
    def label(self) -> MomentLabel:
        """All arrays but `eta`, as one `MomentLabel` with a leading axis of n."""
        return jax.tree.map(np.asarray, self._label)

    def __len__(self) -> int:
        return self._eta.shape[0]

    def __getitem__(self, rows: Any) -> "MomentDataset":
        """Returns some of the labels, given by a slice, a mask, indices or one index."""
        if np.ndim(rows) == 0 and np.asarray(rows).dtype.kind in "iu":
            rows = [int(rows)]
        label = MomentLabel(*(leaf[rows] for leaf in self._label))
        return MomentDataset(self.family, self.config, self._eta[rows], label)

    def __repr__(self) -> str:
        """Counts the labels by status, and lists the worst diagnostics of the valid ones."""
        ok, share = self.only_ok(), 100 * np.sum(self.ok) / max(len(self), 1)
        lines = [
            f"MomentDataset of {self.family!r}: {len(self)} etas, {len(ok)} ok ({share:.1f} %)",
            *(f"  {n:6d} {s.name.lower()}: {s.reason}" for s, n in self._rejected().items()),
        ]
        if len(ok):
            again = {rung: int(np.sum(ok.rung == rung)) for rung in Rung if not rung.is_first}
            if any(again.values()):
                rescued = ", ".join(f"{n} by {rung.method}" for rung, n in again.items() if n)
                lines.append(f"  of the ok, tried again: {rescued}")
            with np.errstate(all="ignore"):
                z = ok.standard_error / np.sqrt(np.diagonal(ok.covariance, axis1=1, axis2=2))
            lines += [
                f"  of the ok: worst split R-hat {ok.rhat.max():.4f}, least ESS {ok.ess.min():.0f}",
                f"  standard error in z units: median {np.median(z):.2g}, worst {z.max():.2g}",
            ]
        return "\n".join(lines)

    @property
    def ok(self) -> np.ndarray:
        """Boolean mask of the valid labels, `(n,)`."""
        return self.status == Status.OK

    def only_ok(self) -> "MomentDataset":
        """Returns the valid labels. The others have NaN moments, so a loss must not use them."""
        return self if self.ok.all() else self[self.ok]

    def batch(self) -> MomentBatch:
        """Returns the valid labels, for a training loop.

        The first call makes the batch. Later calls return this batch.

        Returns:
            The batch of all labels that are OK, as JAX arrays.

        Raises:
            ValueError: If no label is OK, or an OK label has an infinite or NaN eta, mean or
                covariance, or a variance of 0 or less.

        Warns:
            UserWarning: If some labels are not OK, with their number and reasons.
        """
        if self._batch is None:
            rejected = ", ".join(f"{n} {s.name.lower()}" for s, n in self._rejected().items())
            ok = self.only_ok()
            if not len(self):
                raise ValueError(
                    "Expected at least one label; got an empty dataset. Check the rows that were "
                    "selected from the data."
                )
            if not len(ok):
                found = f"Expected at least one valid label; got {len(self)}: {rejected}"
                raise ValueError(f"{found}. Check the family with nd.check_family")
            if rejected:
                warnings.warn(
                    f"{len(self) - len(ok)} of {len(self)} labels are not valid and left out: "
                    f"{rejected}. Select with data.only_ok() to accept this",
                    stacklevel=2,
                )
            check_values(self)
            # Concrete arrays, even if the first call is inside of a traced function.
            with jax.ensure_compile_time_eval():
                names = [f.name for f in dataclasses.fields(MomentBatch) if f.name != "base"]
                self._batch = MomentBatch(*(jnp.asarray(getattr(ok, name)) for name in names))
        return self._batch

    @staticmethod
    def concatenate(parts: Sequence["MomentDataset"]) -> "MomentDataset":
        """Joins labels of one family, for example from several rounds of labeling.

        Args:
            parts: The datasets, at least one, of one family and dtype.

        Returns:
            All their labels, in memory and in this order. The config of the parts is kept if all
            configs are equal, otherwise it is None.

        Raises:
            ValueError: If there are no parts, or their families or dtypes differ.
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
        label = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(p.label for p in parts))
        return MomentDataset(first.family, config, np.concatenate([p.eta for p in parts]), label)

    def split(self, fractions: Sequence[float], key: PRNGKeyArray) -> tuple["MomentDataset", ...]:
        """Splits the labels at random, for example into training and held-out labels.

        Args:
            fractions: The share of each part, positive, with sum 1.
            key: PRNG key.

        Returns:
            A dataset per fraction. They are disjoint, hold all labels, and keep their order.

        Raises:
            ValueError: If the fractions are not positive, or their sum is not 1.
        """
        shares = np.asarray(fractions, float)
        if shares.ndim != 1 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-6:
            raise ValueError(f"Expected positive fractions with sum 1; got {fractions}")
        order = np.asarray(jax.random.permutation(key, len(self)))
        stops = np.rint(np.cumsum(shares)[:-1] * len(self)).astype(int)
        return tuple(self[np.sort(rows)] for rows in np.split(order, stops))

    def _rejected(self) -> dict[Status, int]:
        """Returns the number of labels with each status except OK, without zeros."""
        counts = {s: int(np.sum(self.status == s)) for s in Status if s is not Status.OK}
        return {s: n for s, n in counts.items() if n}
