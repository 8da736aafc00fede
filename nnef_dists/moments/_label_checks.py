"""Checks of labels from any source: shapes, dtypes and values."""

from typing import Any

import numpy as np

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._diagnostics import MomentLabel


def check_shapes(family: ExponentialFamily, eta: Any, label: MomentLabel) -> None:
    """Checks the shapes of etas and of all arrays of their labels.

    Raises:
        ValueError: If an array has another shape.
    """
    n, d = eta.shape[0], family.eta_dim
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(MomentLabel._fields, (n,))
    expected |= dict.fromkeys(("eta", "mean", "standard_error", "ess", "rhat"), (n, d))
    expected |= dict.fromkeys(("covariance", "covariance_error"), (n, d, d))
    for name, array in {"eta": eta, **label._asdict()}.items():
        if array.shape != expected[name]:
            raise ValueError(f"Expected {name} of shape {expected[name]}; got {array.shape}")


def check_values(data: Any) -> None:
    """Checks that the labels of status OK can be learned from, unlike labels of other sources.

    Args:
        data: A `MomentDataset`.

    Raises:
        ValueError: If an eta or a moment is infinite or NaN, or a variance is 0 or less, naming
            the first such label.
    """
    rows = np.flatnonzero(data.ok)
    variances = np.diagonal(data.covariance, axis1=1, axis2=2)
    requirements = [
        (name, "finite", values, np.isfinite(values))
        for name, values in (
            ("eta", data.eta),
            ("mean", data.mean),
            ("covariance", data.covariance),
        )
    ]
    requirements.append(("variances", "positive", variances, variances > 0))
    for name, requirement, values, valid in requirements:
        wrong = rows[~valid[rows].reshape(len(rows), -1).all(1)]
        if len(wrong):
            raise ValueError(
                f"Expected {requirement} {name} of all labels with status OK; got "
                f"{values[wrong[0]].tolist()} of label {wrong[0]} ({len(wrong)} such labels). "
                "Leave these labels out, or give them another status, such as Status.NOT_FINITE."
            )


def check_dtype(dtype: Any) -> None:
    """Checks the dtype of etas to label.

    Raises:
        ValueError: If it is not float32 or float64. The samplers and their diagnostics need at
            least single precision.
    """
    if np.dtype(dtype).name not in ("float32", "float64"):
        raise ValueError(
            f"Expected etas of dtype float32 or float64; got {np.dtype(dtype).name}. "
            "Convert them with .astype(jnp.float32)."
        )
