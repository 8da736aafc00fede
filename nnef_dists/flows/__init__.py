"""Analytic bijections, radial flows and flows conditioned on eta, all flowjax bijections."""

from nnef_dists.flows._analytic import AbstractAnalyticBijection, BoundedScale
from nnef_dists.flows._conditional_flow import ConditionalFlow, free_energy
from nnef_dists.flows._conditioned import ConditionedBijection, conditioner_size
from nnef_dists.flows._conditioners import (
    DirectionConditioner,
    DropoutConditioner,
    FourierFeatures,
    draw_dropout,
)
from nnef_dists.flows._cubic_conjugation import CubicConjugation
from nnef_dists.flows._cubic_rational import CubicRational
from nnef_dists.flows._importance import ImportanceEstimate
from nnef_dists.flows._importance import importance_estimate as importance_estimate
from nnef_dists.flows._radial import Radial, RadialConditional
from nnef_dists.flows._ray import RayTransform
from nnef_dists.flows._sampler import FlowSampler
from nnef_dists.flows._sinh_conjugation import SinhConjugation

__all__ = [
    "AbstractAnalyticBijection",
    "BoundedScale",
    "ConditionalFlow",
    "ConditionedBijection",
    "CubicConjugation",
    "CubicRational",
    "DirectionConditioner",
    "DropoutConditioner",
    "FlowSampler",
    "FourierFeatures",
    "ImportanceEstimate",
    "Radial",
    "RadialConditional",
    "RayTransform",
    "SinhConjugation",
    "conditioner_size",
    "draw_dropout",
    "free_energy",
]
