"""Moments E[T | eta] and Cov[T | eta]: Hamiltonian Monte Carlo, quadrature, and their data."""

from nnef_dists.moments._config import HMCConfig
from nnef_dists.moments._dataset import MomentBatch, MomentDataset
from nnef_dists.moments._diagnostics import MomentLabel, Status
from nnef_dists.moments._estimate import estimate_moments, sample_hmc
from nnef_dists.moments._quadrature import QuadratureMoments, quadrature_moments

__all__ = [
    "HMCConfig",
    "MomentBatch",
    "MomentDataset",
    "MomentLabel",
    "QuadratureMoments",
    "Status",
    "estimate_moments",
    "quadrature_moments",
    "sample_hmc",
]
