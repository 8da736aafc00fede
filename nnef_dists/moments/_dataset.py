"""Moment data: what `estimate_moments` returns and networks are trained on."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._config import HMCConfig
from nnef_dists.moments._diagnostics import Status


class MomentBatch(NamedTuple):
    """What a loss needs of moment data: a pytree of arrays with one leading axis.

    Attributes:
        eta: Natural parameters, `(n, eta_dim)`.
        mean: E[T], `(n, eta_dim)`.
        covariance: Cov[T], `(n, eta_dim, eta_dim)`.
        standard_error: Standard error of the mean, in units of T, `(n, eta_dim)`.
    """

    eta: Float[Array, "n eta_dim"]
    mean: Float[Array, "n eta_dim"]
    covariance: Float[Array, "n eta_dim eta_dim"]
    standard_error: Float[Array, "n eta_dim"]


@dataclasses.dataclass(frozen=True, repr=False)
class MomentDataset:
    """Labelled etas of one family, on the host, with the diagnostics of every label.

    Attributes:
        family: The family of all etas.
        config: What they were sampled with; None where the data has another source.
        eta: Natural parameters, `(n, eta_dim)`.
        mean: E[T], `(n, eta_dim)`; NaN unless the status is OK.
        covariance: Cov[T], `(n, eta_dim, eta_dim)`; NaN unless the status is OK.
        standard_error: Standard error of the mean, in units of T, `(n, eta_dim)`; NaN unless the
            status is OK.
        ess: Split-chain effective sample size of every statistic, `(n, eta_dim)`.
        rhat: Split R-hat of every statistic, `(n, eta_dim)`.
        acceptance: Mean acceptance of the HMC transitions, `(n,)`.
        divergences: Fraction of transitions that diverged, `(n,)`.
        jumps: Fraction of global moves that were accepted, `(n,)`.
        status: `Status` of every label, `(n,)`.

    Raises:
        ValueError: If an array has another shape.
    """

    family: ExponentialFamily
    config: HMCConfig | None
    eta: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    standard_error: np.ndarray
    ess: np.ndarray
    rhat: np.ndarray
    acceptance: np.ndarray
    divergences: np.ndarray
    jumps: np.ndarray
    status: np.ndarray

    def __post_init__(self):
        n, d = self.eta.shape
        expected = {
            "eta": (n, self.family.eta_dim),
            "mean": (n, d),
            "covariance": (n, d, d),
            "standard_error": (n, d),
            "ess": (n, d),
            "rhat": (n, d),
            "acceptance": (n,),
            "divergences": (n,),
            "jumps": (n,),
            "status": (n,),
        }
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(
                    f"Expected {name} of shape {shape}; got {getattr(self, name).shape}"
                )

    def __len__(self) -> int:
        return len(self.eta)

    def __getitem__(self, rows: Any) -> "MomentDataset":
        """Returns the labels of the given rows.

        Args:
            rows: A slice, a boolean mask, an array of indices or one index.

        Returns:
            A dataset of these rows.
        """
        if isinstance(rows, int | np.integer):
            rows = [rows]
        return self._map(lambda leaf: leaf[rows])

    def __repr__(self) -> str:
        """Summarises how many labels are good, why others are not, and the worst diagnostics."""
        counts = {s: int(np.sum(self.status == s)) for s in Status}
        lines = [
            f"MomentDataset of {self.family!r}: {len(self)} etas, "
            f"{counts[Status.OK]} ok ({100 * counts[Status.OK] / max(len(self), 1):.1f} %)"
        ]
        lines += [
            f"  {counts[s]:6d} {s.name.lower()}: {s.reason}"
            for s in Status
            if s is not Status.OK and counts[s]
        ]
        if counts[Status.OK]:
            ok = self.only_ok()
            z = self.label_z_error()
            lines.append(
                f"  of the ok: worst split R-hat {ok.rhat.max():.4f}, least ESS "
                f"{ok.ess.min():.0f}, median acceptance {np.median(ok.acceptance):.3f}"
            )
            lines.append(
                f"  standard error in z units: median {np.median(z):.4f}, worst {z.max():.4f}"
            )
        return "\n".join(lines)

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
        leaves: tuple[Any, ...] = (self.eta, self.mean, self.covariance, self.standard_error)
        return MomentBatch(*leaves)

    def _map(self, fn: Callable[[np.ndarray], np.ndarray]) -> "MomentDataset":
        arrays: dict[str, Any] = {
            field.name: fn(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if field.name not in ("family", "config")
        }
        return dataclasses.replace(self, **arrays)
