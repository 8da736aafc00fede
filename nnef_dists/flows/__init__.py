"""Analytic bijections, radial flows and flows conditioned on eta, all flowjax bijections."""

from nnef_dists.flows._analytic import AbstractAnalyticBijection, BoundedScale
from nnef_dists.flows._conditional_flow import ConditionalFlow, reverse_kl
from nnef_dists.flows._conditioned import Conditioned, parameter_count
from nnef_dists.flows._conditioners import (
    DirectionConditioner,
    DropoutConditioner,
    FourierFeatures,
    draw_dropout,
)
from nnef_dists.flows._cubic_conjugation import CubicConjugation
from nnef_dists.flows._cubic_rational import CubicRational
from nnef_dists.flows._importance import ImportanceEstimate, importance_estimate
from nnef_dists.flows._radial import Radial, RadialConditional
from nnef_dists.flows._ray import RayTransform
from nnef_dists.flows._sampler import FlowSampler
from nnef_dists.flows._sinh_conjugation import SinhConjugation

__all__ = [
    "AbstractAnalyticBijection",
    "BoundedScale",
    "ConditionalFlow",
    "Conditioned",
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
    "draw_dropout",
    "importance_estimate",
    "parameter_count",
    "reverse_kl",
]
