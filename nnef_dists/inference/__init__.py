"""Variational message passing with tractable families: the energy is the graph."""

from nnef_dists.inference._check import EnergyReport, check_energy
from nnef_dists.inference._node import Node, expected_statistics
from nnef_dists.inference._step import elbo, message, step

__all__ = [
    "EnergyReport",
    "Node",
    "check_energy",
    "elbo",
    "expected_statistics",
    "message",
    "step",
]
