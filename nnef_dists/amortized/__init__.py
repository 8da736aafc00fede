"""A family and its trained network, as a distribution that one computes with."""

from nnef_dists.amortized._acquire import acquire
from nnef_dists.amortized._extrapolation import ExtrapolationWarning
from nnef_dists.amortized._family import AmortizedFamily
from nnef_dists.amortized._oracle import OracleReport, mean_or_oracle
from nnef_dists.amortized._sampler import AbstractSampler, HMCSampler, QuadratureSampler

__all__ = [
    "AbstractSampler",
    "AmortizedFamily",
    "ExtrapolationWarning",
    "HMCSampler",
    "OracleReport",
    "QuadratureSampler",
    "acquire",
    "mean_or_oracle",
]
