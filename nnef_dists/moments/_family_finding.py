"""One fault of a family."""

import dataclasses
from typing import Literal

import numpy as np

from nnef_dists.families import ExponentialFamily


@dataclasses.dataclass(frozen=True)
class FamilyFinding:
    """One fault of a family.

    Attributes:
        name: A short name of the kind of fault.
        severity: `"error"` if moments would be wrong or missing, `"warning"` otherwise.
        message: The fault, in words.
        eta: The flat natural parameters at which it was found, or None.
        x: The point at which it was found, or None.
        remedy: The correction to make, in words.
    """

    name: str
    severity: Literal["error", "warning"]
    message: str
    eta: np.ndarray | None
    x: np.ndarray | np.floating | None
    remedy: str

    def __str__(self) -> str:
        places = [
            f"{name} = {np.array2string(np.asarray(value), precision=4, threshold=12)}"
            for name, value in (("eta", self.eta), ("x", self.x))
            if value is not None
        ]
        where = "\n    where: " + ", ".join(places).replace("\n", "") if places else ""
        return f"{self.severity}: {self.name}: {self.message}{where}\n    remedy: {self.remedy}"


def stat_labels(family: ExponentialFamily) -> list[str]:
    return [f"T[{name!r}]" for name in family.stat_names] + ["log h"]
