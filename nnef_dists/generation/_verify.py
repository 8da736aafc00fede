"""Verification of moment data on disk."""

import dataclasses
import os
from typing import Any

import numpy as np

from nnef_dists.moments import MOMENT_DATA, Status
from nnef_dists.saving import family_call
from nnef_dists.storage import Store, StoreError


@dataclasses.dataclass(frozen=True)
class StoreReport:
    """Report of `verify_moments`, in a form to print.

    Attributes:
        path: Folder of the data.
        attributes: Family, config, key, versions and all other records. Empty if the metadata are
            damaged.
        n: Number of etas.
        chunks: Number of chunks.
        missing: Numbers of the chunks that are not completed.
        faults: Damaged parts, each named by its file.
        statuses: Number of labels per status, in the intact chunks.
    """

    path: str
    attributes: dict[str, Any]
    n: int
    chunks: int
    missing: tuple[int, ...]
    faults: tuple[str, ...]
    statuses: dict[Status, int]

    @property
    def finished(self) -> bool:
        """Whether every chunk is completed and none is damaged."""
        return not self.missing and not self.faults

    def __str__(self) -> str:
        """Returns a summary of the data, their progress and their damage."""
        lines = [f"Moment data in {self.path}"]
        if self.attributes:
            lines += self._described()
        lines += [f"  damaged: {fault}" for fault in self.faults]
        if self.finished:
            lines.append("  finished; all checksums match")
        elif self.missing:
            lines.append(f"  unfinished: {len(self.missing)} of {self.chunks} chunks are missing")
        return "\n".join(lines)

    def _described(self) -> list[str]:
        spec, environments = self.attributes["spec"], self.attributes["environments"]
        config = spec["config"] or {}
        lines = [
            f"  family: {family_call(spec['family'])}",
            f"  etas: {self.n} ({spec['etas']['kind']}), {spec['dtype']}, "
            f"{self.chunks} chunks of {self.attributes['chunk']}",
            f"  key: {spec['key']}",
            f"  config: {', '.join(f'{name}={value}' for name, value in config.items())}",
        ]
        for environment in environments:
            versions = ", ".join(f"{n} {v}" for n, v in environment["versions"].items())
            lines.append(
                f"  made with: {versions}; {environment['backend']} ({environment['device']}), "
                f"{environment['cpus']} CPUs"
            )
        lines += [
            f"  {count:8d} {status.name.lower()}: {status.reason}"
            for status, count in self.statuses.items()
            if count
        ]
        return lines


def verify_moments(path: str | os.PathLike[str]) -> StoreReport:
    """Checks every checksum of moment data on disk.

    Args:
        path: Folder of the data.

    Returns:
        The report of completed, missing and damaged chunks.

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If `path` is not a folder.
    """
    try:
        store = Store(path, MOMENT_DATA)
    except StoreError as fault:
        return StoreReport(str(path), {}, 0, 0, (), (str(fault),), {})
    missing = store.missing()
    faults: list[str] = []
    counts = np.zeros(max(Status) + 1, int)
    for number in range(store.n_chunks):
        if number in missing:
            continue
        found = store.faults(number)
        faults += found
        if not found:
            counts += np.bincount(store.read("status", number), minlength=len(counts))
    return StoreReport(
        str(store.path),
        store.attributes,
        store.n,
        store.n_chunks,
        tuple(missing),
        tuple(faults),
        {status: int(counts[status]) for status in Status},
    )
