"""Moment networks, eta -> E[T | eta], and the losses that train them."""

from nnef_dists.networks._base import (
    AbstractDirectNetwork,
    AbstractMomentNetwork,
    Standardization,
)
from nnef_dists.networks._calibration import calibration_ratio
from nnef_dists.networks._convex import ConvexLogPartitionNetwork
from nnef_dists.networks._gated import GLUMomentNetwork, QuadraticMomentNetwork
from nnef_dists.networks._log_partition import (
    AbstractLogPartitionNetwork,
    LogPartitionNetwork,
    QuadraticPotential,
)
from nnef_dists.networks._losses import (
    entropy_loss,
    moment_loss,
    negative_elbo,
    negative_log_predictive,
    sobolev_loss,
)
from nnef_dists.networks._mlp import MLPMomentNetwork
from nnef_dists.networks._region import TrainingRegion

__all__ = [
    "AbstractDirectNetwork",
    "AbstractLogPartitionNetwork",
    "AbstractMomentNetwork",
    "ConvexLogPartitionNetwork",
    "GLUMomentNetwork",
    "LogPartitionNetwork",
    "MLPMomentNetwork",
    "QuadraticMomentNetwork",
    "QuadraticPotential",
    "Standardization",
    "TrainingRegion",
    "calibration_ratio",
    "entropy_loss",
    "moment_loss",
    "negative_elbo",
    "negative_log_predictive",
    "sobolev_loss",
]
