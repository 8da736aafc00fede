"""Labels: moments E[T | eta] and Cov[T | eta] from draws or by quadrature, and their data."""

from nnef_dists.moments._batch import MomentBatch
from nnef_dists.moments._check_family import FamilyReport, check_family
from nnef_dists.moments._dataset import MomentDataset
from nnef_dists.moments._diagnostics import MomentLabel, Rung, Status
from nnef_dists.moments._diagnostics import missing_labels as missing_labels
from nnef_dists.moments._estimate import check_etas, estimate_moments, sample_hmc
from nnef_dists.moments._estimate import label_etas as label_etas
from nnef_dists.moments._export import to_xarray
from nnef_dists.moments._family_finding import FamilyFinding
from nnef_dists.moments._files import MOMENT_DATA as MOMENT_DATA
from nnef_dists.moments._log_partition import (
    LogPartitionEstimate,
    estimate_log_partition,
    exact_log_partition,
)
from nnef_dists.moments._quadrature import QuadratureMoments, quadrature_moments

__all__ = [
    "FamilyFinding",
    "FamilyReport",
    "LogPartitionEstimate",
    "MomentBatch",
    "MomentDataset",
    "MomentLabel",
    "QuadratureMoments",
    "Rung",
    "Status",
    "check_etas",
    "check_family",
    "estimate_log_partition",
    "estimate_moments",
    "exact_log_partition",
    "quadrature_moments",
    "sample_hmc",
    "to_xarray",
]
