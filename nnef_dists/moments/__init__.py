"""Labels: estimates of E[T | eta] and Cov[T | eta] by sampling or quadrature, and their data."""

from nnef_dists.moments._batch import MomentBatch
from nnef_dists.moments._check_family import FamilyReport as FamilyReport
from nnef_dists.moments._check_family import check_family
from nnef_dists.moments._dataset import MomentDataset
from nnef_dists.moments._diagnostics import MomentLabel, Rung, Status
from nnef_dists.moments._diagnostics import missing_labels as missing_labels
from nnef_dists.moments._discrete import has_exact_sum as has_exact_sum
from nnef_dists.moments._discrete import sample_gibbs
from nnef_dists.moments._estimate import check_etas as check_etas
from nnef_dists.moments._estimate import estimate_moments, sample_hmc
from nnef_dists.moments._estimate import label_etas as label_etas
from nnef_dists.moments._export import to_xarray
from nnef_dists.moments._family_finding import FamilyFinding as FamilyFinding
from nnef_dists.moments._files import MOMENT_DATA as MOMENT_DATA
from nnef_dists.moments._label_checks import check_dtype as check_dtype
from nnef_dists.moments._log_partition import LogPartitionEstimate, estimate_log_partition
from nnef_dists.moments._log_partition import exact_log_partition as exact_log_partition
from nnef_dists.moments._orbit import orbit
from nnef_dists.moments._quadrature import QuadratureMoments as QuadratureMoments
from nnef_dists.moments._quadrature import quadrature_moments

__all__ = [
    "LogPartitionEstimate",
    "MomentBatch",
    "MomentDataset",
    "MomentLabel",
    "Rung",
    "Status",
    "check_family",
    "estimate_log_partition",
    "estimate_moments",
    "orbit",
    "quadrature_moments",
    "sample_gibbs",
    "sample_hmc",
    "to_xarray",
]
