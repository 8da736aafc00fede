"""Exponential families: the base class, natural domains, supports and ready-made families."""

from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._base_measure import BaseMeasureAsStatistic
from nnef_dists.families._beta import Beta
from nnef_dists.families._categorical import Categorical
from nnef_dists.families._closed_form import AbstractDrawFamily, AbstractNamedFamily
from nnef_dists.families._constraints import (
    AbstractConstraint,
    IntervalConstraint,
    interval,
    negative,
    positive,
    real,
)
from nnef_dists.families._counts import Binomial, ConwayMaxwellPoisson, Poisson
from nnef_dists.families._dirichlet import Dirichlet
from nnef_dists.families._dirichlet_prior import DirichletPrior
from nnef_dists.families._discrete import (
    AbstractDiscreteSupport,
    AbstractFiniteSupport,
    Bits,
    Categories,
    Counts,
    Spins,
)
from nnef_dists.families._domain import AbstractDomain, CoupledDomain, ProductDomain, domain
from nnef_dists.families._edges import ClosedDomain, edge
from nnef_dists.families._edges import edge_charts as edge_charts
from nnef_dists.families._edges import unconstrain_etas as unconstrain_etas
from nnef_dists.families._eta_law import (
    AbstractEtaLaw,
    ellipsoid_etas,
    nearby_etas,
    posterior_etas,
)
from nnef_dists.families._eta_law import EtaLaw as EtaLaw
from nnef_dists.families._eta_law import RangeEtas as RangeEtas
from nnef_dists.families._eta_law import as_eta_law as as_eta_law
from nnef_dists.families._fisher_bingham import FisherBingham
from nnef_dists.families._gamma import Gamma
from nnef_dists.families._gamma_functions import log_gamma
from nnef_dists.families._gamma_shape_prior import GammaShapePrior
from nnef_dists.families._gaussian import GaussianNatural1D
from nnef_dists.families._generalized_inverse_gaussian import GeneralizedInverseGaussian
from nnef_dists.families._half_space import Polyhedron, half_space
from nnef_dists.families._laplace_product import LaplaceProduct
from nnef_dists.families._lattice_phi4 import LatticePhi4
from nnef_dists.families._multivariate_normal import MinimalMultivariateNormal, MultivariateNormal
from nnef_dists.families._negative_definite import DefiniteConstraint, negative_definite
from nnef_dists.families._polynomial import Polynomial1D
from nnef_dists.families._positive_definite import PositiveDefinite
from nnef_dists.families._random_graph import AbstractRandomGraph, ExponentialRandomGraph
from nnef_dists.families._rectified_gaussian import RectifiedGaussian
from nnef_dists.families._spins import Ising, PairwiseBinary
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
from nnef_dists.families._support import ContinuousSupport as ContinuousSupport
from nnef_dists.families._support import continuous_support as continuous_support
from nnef_dists.families._support import fills_space as fills_space
from nnef_dists.families._support import is_discrete as is_discrete
from nnef_dists.families._support import restricted_logdensity as restricted_logdensity
from nnef_dists.families._support import support_point as support_point
from nnef_dists.families._symmetries import LocationScale, Permutation, Scaling, SignFlip
from nnef_dists.families._symmetry import AbstractSymmetry, check_symmetry
from nnef_dists.families._symmetry import Transformation as Transformation
from nnef_dists.families._symmetry import transformation as transformation
from nnef_dists.families._unconstrained import support_dim as support_dim
from nnef_dists.families._unconstrained import (
    unconstrained_logdensity as unconstrained_logdensity,
)
from nnef_dists.families._von_mises_fisher import VonMisesFisher
from nnef_dists.families._von_mises_harmonic import VonMisesHarmonic
from nnef_dists.families._wishart import InverseWishart, Wishart

__all__ = [
    "AbstractAngularSupport",
    "AbstractConstraint",
    "AbstractDiscreteSupport",
    "AbstractDomain",
    "AbstractDrawFamily",
    "AbstractEtaLaw",
    "AbstractFiniteSupport",
    "AbstractFlipFamily",
    "AbstractNamedFamily",
    "AbstractRandomGraph",
    "AbstractSteinFamily",
    "AbstractSupport",
    "AbstractSymmetry",
    "AdditiveLogRatio",
    "BaseMeasureAsStatistic",
    "Beta",
    "Binomial",
    "Bits",
    "Categorical",
    "Categories",
    "CircleProjection",
    "ClosedDomain",
    "ConwayMaxwellPoisson",
    "Counts",
    "CoupledDomain",
    "DefiniteConstraint",
    "Dirichlet",
    "DirichletPrior",
    "ExponentialFamily",
    "ExponentialRandomGraph",
    "FisherBingham",
    "Gamma",
    "GammaShapePrior",
    "GaussianNatural1D",
    "GeneralizedInverseGaussian",
    "IntervalConstraint",
    "InverseWishart",
    "Ising",
    "LaplaceProduct",
    "LatticePhi4",
    "LocationScale",
    "MinimalMultivariateNormal",
    "MultivariateNormal",
    "PairwiseBinary",
    "Permutation",
    "Poisson",
    "Polyhedron",
    "Polynomial1D",
    "PositiveDefinite",
    "ProductDomain",
    "RectifiedGaussian",
    "Scaling",
    "SignFlip",
    "SphereProjection",
    "Spins",
    "SteinFunctions",
    "VonMisesFisher",
    "VonMisesHarmonic",
    "Wishart",
    "check_symmetry",
    "domain",
    "edge",
    "ellipsoid_etas",
    "half_space",
    "interval",
    "log_gamma",
    "nearby_etas",
    "negative",
    "negative_definite",
    "positive",
    "posterior_etas",
    "real",
]
