"""Tractable families: exponential families whose log-partition and mean can be computed."""

from nnef_dists.distributions._acquire import acquire
from nnef_dists.distributions._amortized import AmortizedFamily
from nnef_dists.distributions._base import AbstractTractableFamily
from nnef_dists.distributions._closed_form import ClosedForm
from nnef_dists.distributions._distribution import Distribution
from nnef_dists.distributions._enumeration import Enumeration
from nnef_dists.distributions._extrapolation import ExtrapolationWarning
from nnef_dists.distributions._oracle import OracleReport, mean_or_oracle
from nnef_dists.distributions._quadrature import Quadrature
from nnef_dists.distributions._report import ValidationReport
from nnef_dists.distributions._sampler import (
    DirectSampler,
    EnumerationSampler,
    GibbsSampler,
    HMCSampler,
    QuadratureSampler,
    SummationSampler,
)
from nnef_dists.distributions._summation import Summation
from nnef_dists.distributions._symmetric import Symmetric
from nnef_dists.distributions._validation import ValidationWarning, validate
from nnef_dists.families import fills_space as fills_space
from nnef_dists.families import is_discrete as is_discrete

__all__ = [
    "AbstractTractableFamily",
    "AmortizedFamily",
    "ClosedForm",
    "DirectSampler",
    "Distribution",
    "Enumeration",
    "EnumerationSampler",
    "ExtrapolationWarning",
    "GibbsSampler",
    "HMCSampler",
    "OracleReport",
    "Quadrature",
    "QuadratureSampler",
    "Summation",
    "SummationSampler",
    "Symmetric",
    "ValidationReport",
    "ValidationWarning",
    "acquire",
    "mean_or_oracle",
    "validate",
]
