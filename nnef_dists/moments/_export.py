"""Moment data in words, and as xarray holds it."""

import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._diagnostics import Rung, Status
from nnef_dists.sampling import HMCConfig

if TYPE_CHECKING:
    import xarray

    from nnef_dists.moments._dataset import MomentDataset


def summary(data: "MomentDataset") -> str:
    """Says how many labels are good, why others are not, and what the worst diagnostics are."""
    counts = {s: int(np.sum(data.status == s)) for s in Status}
    lines = [
        f"MomentDataset of {data.family!r}: {len(data)} etas, "
        f"{counts[Status.OK]} ok ({100 * counts[Status.OK] / max(len(data), 1):.1f} %)"
    ]
    lines += [
        f"  {counts[s]:6d} {s.name.lower()}: {s.reason}"
        for s in Status
        if s is not Status.OK and counts[s]
    ]
    if counts[Status.OK]:
        ok = data.only_ok()
        again = {rung: int(np.sum(ok.rung == rung)) for rung in Rung if rung is not Rung.HMC}
        if any(again.values()):
            rescued = ", ".join(f"{n} by {rung.method}" for rung, n in again.items() if n)
            lines.append(f"  of the ok, tried again: {rescued}")
        z = ok.label_z_error()
        lines.append(
            f"  of the ok: worst split R-hat {ok.rhat.max():.4f}, least ESS "
            f"{ok.ess.min():.0f}, median acceptance {np.median(ok.acceptance):.3f}"
        )
        lines.append(f"  standard error in z units: median {np.median(z):.2g}, worst {z.max():.2g}")
    return "\n".join(lines)


def as_xarray(
    family: ExponentialFamily, config: HMCConfig | None, arrays: Mapping[str, np.ndarray]
) -> "xarray.Dataset":
    """Names the axes of moment data.

    Args:
        family: The family.
        config: What the labels were sampled with, or None.
        arrays: The arrays by name, each with one leading axis.

    Returns:
        The `xarray.Dataset`.

    Raises:
        ImportError: Without xarray.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError(
            'Expected xarray to be installed; pip install "nnef_dists[arviz]" brings it'
        ) from error
    names = list(family.stat_names)
    axes = ("statistic", "statistic_")

    def dims(name: str, array: np.ndarray) -> tuple[str, ...]:
        shape = array.shape[1:]
        if shape in ((), (len(names),), (len(names),) * 2):
            return ("label", *axes[: len(shape)])
        return ("label", *(f"{name}_dim_{axis}" for axis in range(len(shape))))

    settings = {} if config is None else dataclasses.asdict(config)
    return xarray.Dataset(
        {name: (dims(name, array), array) for name, array in arrays.items()},
        coords=dict.fromkeys(axes, names),
        attrs={"family": repr(family), "config": json.dumps(settings)},
    )
