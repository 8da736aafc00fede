"""Moments E[T | eta] and Cov[T | eta]: Hamiltonian Monte Carlo, quadrature, and their data."""

from nnef_dists.moments._check_family import FamilyReport, check_family
from nnef_dists.moments._config import HMCConfig
from nnef_dists.moments._dataset import MomentBatch, MomentDataset
from nnef_dists.moments._diagnostics import MomentLabel, Rung, Status, pareto_k
from nnef_dists.moments._estimate import check_etas, estimate_moments, sample_hmc
from nnef_dists.moments._etas import RandomEtas
from nnef_dists.moments._family_finding import FamilyFinding
from nnef_dists.moments._generate import generate_moments
from nnef_dists.moments._log_partition import (
    LogPartitionEstimate,
    estimate_log_partition,
    exact_log_partition,
)
from nnef_dists.moments._quadrature import QuadratureMoments, quadrature_moments
from nnef_dists.moments._sampler import AbstractSampler
from nnef_dists.moments._verify import StoreReport, verify_moments

__all__ = [
    "AbstractSampler",
    "FamilyFinding",
    "FamilyReport",
    "HMCConfig",
    "LogPartitionEstimate",
    "MomentBatch",
    "MomentDataset",
    "MomentLabel",
    "QuadratureMoments",
    "RandomEtas",
    "Rung",
    "Status",
    "StoreReport",
    "check_etas",
    "check_family",
    "estimate_log_partition",
    "estimate_moments",
    "exact_log_partition",
    "generate_moments",
    "pareto_k",
    "quadrature_moments",
    "sample_hmc",
    "verify_moments",
]
