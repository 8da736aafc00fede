"""Exponential families: what they are, where their parameters live, and those that are shipped."""

from nnef_dists.families._base import ClosedFormFamily, ExponentialFamily
from nnef_dists.families._constraints import (
    AbstractConstraint,
    Interval,
    NegativeDefinite,
    interval,
    negative,
    negative_definite,
    positive,
    real,
)
from nnef_dists.families._domain import AbstractDomain, CoupledDomain, ProductDomain, domain
from nnef_dists.families._gaussian import GaussianNatural1D
from nnef_dists.families._multivariate_normal import MinimalMultivariateNormal, MultivariateNormal
from nnef_dists.families._polynomial import Polynomial1D

__all__ = [
    "AbstractConstraint",
    "AbstractDomain",
    "ClosedFormFamily",
    "CoupledDomain",
    "ExponentialFamily",
    "GaussianNatural1D",
    "Interval",
    "MinimalMultivariateNormal",
    "MultivariateNormal",
    "NegativeDefinite",
    "Polynomial1D",
    "ProductDomain",
    "domain",
    "interval",
    "negative",
    "negative_definite",
    "positive",
    "real",
]
