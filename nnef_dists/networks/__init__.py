"""Moment networks, eta -> E[T | eta], and the losses that train them."""

from nnef_dists.networks._base import AbstractMomentNetwork, Standardisation
from nnef_dists.networks._calibration import calibration_ratio
from nnef_dists.networks._log_partition import (
    AbstractLogPartitionNetwork,
    LogPartitionNetwork,
    QuadraticPotential,
)
from nnef_dists.networks._losses import moment_loss, negative_elbo, sobolev_loss
from nnef_dists.networks._mlp import MLPMomentNetwork

__all__ = [
    "AbstractLogPartitionNetwork",
    "AbstractMomentNetwork",
    "LogPartitionNetwork",
    "MLPMomentNetwork",
    "QuadraticPotential",
    "Standardisation",
    "calibration_ratio",
    "moment_loss",
    "negative_elbo",
    "sobolev_loss",
]
