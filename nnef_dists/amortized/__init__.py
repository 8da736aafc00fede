"""A family and its trained network, as a distribution that one computes with."""

from nnef_dists.amortized._acquire import acquire
from nnef_dists.amortized._extrapolation import ExtrapolationWarning
from nnef_dists.amortized._family import AmortizedFamily
from nnef_dists.amortized._oracle import OracleReport, mean_or_oracle
from nnef_dists.amortized._report import ValidationReport
from nnef_dists.amortized._sampler import HMCSampler, QuadratureSampler
from nnef_dists.amortized._validation import ValidationWarning, validate

__all__ = [
    "AmortizedFamily",
    "ExtrapolationWarning",
    "HMCSampler",
    "OracleReport",
    "QuadratureSampler",
    "ValidationReport",
    "ValidationWarning",
    "acquire",
    "mean_or_oracle",
    "validate",
]
