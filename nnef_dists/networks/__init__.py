"""Moment networks, eta -> E[T | eta], and the losses that train them."""

from nnef_dists.networks._base import (
    AbstractDirectNetwork,
    AbstractMomentNetwork,
    Standardization,
)
from nnef_dists.networks._calibration import calibration_ratio
from nnef_dists.networks._convex import ConvexLogPartitionNetwork
from nnef_dists.networks._correction import LinearCorrection
from nnef_dists.networks._fit_residual import fit_residual
from nnef_dists.networks._gated import GLUMomentNetwork, QuadraticMomentNetwork
from nnef_dists.networks._laplace import LaplaceBase
from nnef_dists.networks._log_partition import AbstractLogPartitionNetwork, LogPartitionNetwork
from nnef_dists.networks._losses import (
    entropy_loss,
    moment_loss,
    negative_elbo,
    negative_log_predictive,
    sobolev_loss,
)
from nnef_dists.networks._mlp import MLPMomentNetwork
from nnef_dists.networks._quadratic_potential import QuadraticPotential
from nnef_dists.networks._region import ErrorScales, TrainingRegion
from nnef_dists.networks._residual_process import ResidualProcess
from nnef_dists.networks._taylor import TaylorBase, choose_base
from nnef_dists.networks._terms import AbstractBase, BaseTerms
from nnef_dists.networks._variational import VariationalBase

__all__ = [
    "AbstractBase",
    "AbstractDirectNetwork",
    "AbstractLogPartitionNetwork",
    "AbstractMomentNetwork",
    "BaseTerms",
    "ConvexLogPartitionNetwork",
    "ErrorScales",
    "GLUMomentNetwork",
    "LaplaceBase",
    "LinearCorrection",
    "LogPartitionNetwork",
    "MLPMomentNetwork",
    "QuadraticMomentNetwork",
    "QuadraticPotential",
    "ResidualProcess",
    "Standardization",
    "TaylorBase",
    "TrainingRegion",
    "VariationalBase",
    "calibration_ratio",
    "choose_base",
    "entropy_loss",
    "fit_residual",
    "moment_loss",
    "negative_elbo",
    "negative_log_predictive",
    "sobolev_loss",
]
