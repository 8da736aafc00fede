"""Exponential families: what they are, where their parameters live, and those that are shipped."""

from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._base_measure import BaseMeasureAsStatistic
from nnef_dists.families._beta import Beta
from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._constraints import (
    AbstractConstraint,
    IntervalConstraint,
    interval,
    negative,
    positive,
    real,
)
from nnef_dists.families._dirichlet import Dirichlet
from nnef_dists.families._dirichlet_prior import DirichletPrior
from nnef_dists.families._domain import AbstractDomain, CoupledDomain, ProductDomain, domain
from nnef_dists.families._fisher_bingham import FisherBingham
from nnef_dists.families._gamma import Gamma
from nnef_dists.families._gamma_shape_prior import GammaShapePrior
from nnef_dists.families._gaussian import GaussianNatural1D
from nnef_dists.families._half_space import Polyhedron, half_space
from nnef_dists.families._laplace_product import LaplaceProduct
from nnef_dists.families._lattice_phi4 import LatticePhi4
from nnef_dists.families._multivariate_normal import MinimalMultivariateNormal, MultivariateNormal
from nnef_dists.families._negative_definite import DefiniteConstraint, negative_definite
from nnef_dists.families._polynomial import Polynomial1D
from nnef_dists.families._rectified_gaussian import RectifiedGaussian
from nnef_dists.families._stein_functions import (
    AbstractFlipFamily,
    AbstractSteinFamily,
    SteinFunctions,
)
from nnef_dists.families._support import (
    AbstractAngularSupport,
    AbstractSupport,
    AdditiveLogRatio,
    CircleProjection,
    SphereProjection,
)
from nnef_dists.families._unconstrained import support_dim as support_dim
from nnef_dists.families._unconstrained import (
    unconstrained_logdensity as unconstrained_logdensity,
)
from nnef_dists.families._von_mises_harmonic import VonMisesHarmonic

__all__ = [
    "AbstractAngularSupport",
    "AbstractConstraint",
    "AbstractDomain",
    "AbstractFlipFamily",
    "AbstractNamedFamily",
    "AbstractSteinFamily",
    "AbstractSupport",
    "AdditiveLogRatio",
    "BaseMeasureAsStatistic",
    "Beta",
    "CircleProjection",
    "CoupledDomain",
    "DefiniteConstraint",
    "Dirichlet",
    "DirichletPrior",
    "ExponentialFamily",
    "FisherBingham",
    "Gamma",
    "GammaShapePrior",
    "GaussianNatural1D",
    "IntervalConstraint",
    "LaplaceProduct",
    "LatticePhi4",
    "MinimalMultivariateNormal",
    "MultivariateNormal",
    "Polyhedron",
    "Polynomial1D",
    "ProductDomain",
    "RectifiedGaussian",
    "SphereProjection",
    "SteinFunctions",
    "VonMisesHarmonic",
    "domain",
    "half_space",
    "interval",
    "negative",
    "negative_definite",
    "positive",
    "real",
]
