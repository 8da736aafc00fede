"""Moment data in the formats of other libraries."""

import dataclasses
import json
from typing import TYPE_CHECKING

from nnef_dists.moments._dataset import MomentDataset
from nnef_dists.moments._diagnostics import MomentLabel

if TYPE_CHECKING:
    import xarray


def to_xarray(data: MomentDataset) -> "xarray.Dataset":
    """Returns moment data as an `xarray.Dataset`, for ArviZ, plots and tables.

    Args:
        data: The moment data.

    Returns:
        The arrays by name, with dimensions `label`, `statistic` (with the names
        `family.stat_names`) and, for the second index of covariances, `statistic_`. The attributes
        hold the family and the configuration.

    Raises:
        ImportError: If xarray is not installed. Install it by `pip install "nnef_dists[arviz]"`.
    """
    try:
        import xarray
    except ImportError as error:
        raise ImportError(
            'Expected xarray to be installed; pip install "nnef_dists[arviz]" brings it'
        ) from error
    axes, names = ("label", "statistic", "statistic_"), list(data.family.stat_names)
    arrays = {name: getattr(data, name) for name in ("eta", *MomentLabel._fields)}
    settings = {} if data.config is None else dataclasses.asdict(data.config)
    return xarray.Dataset(
        {name: (axes[: array.ndim], array) for name, array in arrays.items()},
        coords={axes[1]: names, axes[2]: names},
        attrs={"family": repr(data.family), "config": json.dumps(settings)},
    )
