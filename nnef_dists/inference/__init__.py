"""Variational message passing with tractable families, for a model given by its energy."""

from nnef_dists.inference._check import EnergyReport, check_energy
from nnef_dists.inference._conjugate import StatisticsSum, conjugate_update, evidence
from nnef_dists.inference._natural_posterior import NaturalPosterior, sample_natural_posterior
from nnef_dists.inference._node import Node, expected_statistics
from nnef_dists.inference._nonconjugate import Projection, cvi_message, project
from nnef_dists.inference._status import NodeStatus, status
from nnef_dists.inference._step import elbo, message, step

__all__ = [
    "EnergyReport",
    "NaturalPosterior",
    "Node",
    "NodeStatus",
    "Projection",
    "StatisticsSum",
    "check_energy",
    "conjugate_update",
    "cvi_message",
    "elbo",
    "evidence",
    "expected_statistics",
    "message",
    "project",
    "sample_natural_posterior",
    "status",
    "step",
]
