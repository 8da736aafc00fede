"""Every concrete family, network, bijection and posterior head, once: what drives property tests.

A public final class that is missing here makes `test_registry.py` fail.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.stats
from flowjax.bijections import Chain, Exp, TriangularAffine

import nnef_dists as nd
from tests.flows.cases import BIJECTIONS
from tests.posterior.cases import HEADS


@dataclasses.dataclass(frozen=True, eq=False)
class FamilyCase:
    """A family, and where its etas are drawn from.

    `reference` gives SciPy's frozen distribution of x for an eta in dict form (as NumPy arrays in
    float64): independent truth for families with a closed form.
    """

    name: str
    make: Callable[[], nd.ExponentialFamily]
    ranges: Mapping[str, tuple]
    reference: Callable[[dict[str, np.ndarray]], Any] | None = None

    def __str__(self) -> str:
        return self.name

    @property
    def has_closed_form(self) -> bool:
        """Whether the family itself knows its moments."""
        return isinstance(self.make(), nd.families.AbstractNamedFamily)

    @property
    def has_quadrature(self) -> bool:
        """Whether quadrature finds its moments."""
        return math.prod(self.make().support.shape) <= 2


@dataclasses.dataclass(frozen=True, eq=False)
class ConstraintCase:
    """A constraint on a parameter of some shape; a range within, and values that do not belong."""

    name: str
    constraint: nd.families.AbstractConstraint
    shape: tuple[int, ...]
    range: tuple
    outside: tuple

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, eq=False)
class DomainCase:
    """A natural domain for statistics of given shapes, with ranges that meet it."""

    name: str
    make: Callable[[], nd.families.AbstractDomain]
    shapes: Mapping[str, tuple[int, ...]]
    ranges: Mapping[str, tuple]

    def __str__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True, eq=False)
class NetworkCase:
    """A small moment network of a family, its standardization set from data."""

    name: str
    make: Callable[[nd.ExponentialFamily, nd.MomentDataset, Any], nd.networks.AbstractMomentNetwork]

    def __str__(self) -> str:
        return self.name


def _normal_1d(eta):
    variance = -1 / (2 * eta["x2"])
    return scipy.stats.norm(eta["x"] * variance, np.sqrt(variance))


def _normal(eta):
    covariance = np.linalg.inv(-(eta["xxT"] + eta["xxT"].T))
    return scipy.stats.multivariate_normal(covariance @ eta["x"], covariance)


def _minimal_normal(eta):
    d = len(eta["x"])
    lower = np.zeros((d, d))
    lower[np.tril_indices(d)] = eta["xxT_lower"]
    return _normal({"x": eta["x"], "xxT": (lower + lower.T) / 2})


class _Dirichlet:
    """SciPy's Dirichlet, for one point a row; its last entry is what the others leave."""

    def __init__(self, eta):
        self.frozen = scipy.stats.dirichlet(eta["log_x"] + 1)

    def logpdf(self, xs):
        return self.frozen.logpdf(xs[:, :-1].T)

    def rvs(self, n, random_state):
        return self.frozen.rvs(n, random_state)


class _Wishart:
    """SciPy's Wishart distributions, for one matrix a row."""

    def __init__(self, law, df, scale):
        self.frozen = law(df, scale)

    def logpdf(self, xs):
        return self.frozen.logpdf(np.moveaxis(xs, 0, -1))

    def rvs(self, n, random_state):
        return self.frozen.rvs(n, random_state)


def _wishart(eta):
    scale = np.linalg.inv(-2 * (eta["x"] + eta["x"].T) / 2)
    return _Wishart(scipy.stats.wishart, 2 * eta["log_det"] + 3, scale)


def _inverse_wishart(eta):
    scale = -2 * (eta["inverse"] + eta["inverse"].T) / 2
    return _Wishart(scipy.stats.invwishart, -2 * eta["log_det"] - 3, scale)


def _generalized_inverse_gaussian(eta):
    a, b = -2 * eta["x"], -2 * eta["inverse"]
    return scipy.stats.geninvgauss(eta["log_x"] + 1, np.sqrt(a * b), scale=np.sqrt(b / a))


def _rectified_normal(eta):
    sd = np.sqrt(-0.5 / eta["x2"])
    mean = eta["x"] * sd**2
    return scipy.stats.truncnorm(-mean / sd, np.inf, mean, sd)


class _VonMisesFisher:
    """SciPy's von Mises-Fisher distribution, whose points are unit vectors to double precision."""

    def __init__(self, eta):
        kappa: Any = np.linalg.norm(eta["x"])
        self.frozen = scipy.stats.vonmises_fisher(eta["x"] / kappa, kappa)

    def logpdf(self, xs):
        return self.frozen.logpdf(xs / np.linalg.norm(xs, axis=-1, keepdims=True))

    def rvs(self, n, random_state):
        return self.frozen.rvs(n, random_state=random_state)


def _ordered_pair():
    """0 < eta1 < eta2, as the image of the plane."""
    triangle = TriangularAffine(jnp.zeros(2), jnp.array([[1.0, 0.0], [1.0, 1.0]]))
    return nd.families.CoupledDomain(Chain([Exp((2,)), triangle]), "0 < eta1 < eta2")


def _categorical(eta):
    p = np.exp(np.append(eta["is"], 0.0))
    return scipy.stats.rv_discrete(values=(np.arange(len(p)), p / p.sum()))


FAMILIES = (
    FamilyCase(
        "GaussianNatural1D",
        lambda: nd.GaussianNatural1D(),
        {"x": (-2.0, 2.0), "x2": (-2.0, -0.2, "log")},
        _normal_1d,
    ),
    FamilyCase(
        "MultivariateNormal",
        lambda: nd.MultivariateNormal(3),
        {"x": (-1.0, 1.0), "xxT": (-2.0, -0.3)},
        _normal,
    ),
    FamilyCase(
        "MinimalMultivariateNormal",
        lambda: nd.families.MinimalMultivariateNormal(3),
        {"x": (-1.0, 1.0), "xxT_lower": (-2.0, -0.3)},
        _minimal_normal,
    ),
    FamilyCase(
        "Polynomial1D",
        lambda: nd.Polynomial1D((1, 2, 4)),
        {"x": (-2.0, 2.0), "x2": (-2.0, 2.0), "x4": (-2.0, -0.1, "log")},
    ),
    FamilyCase(
        "Gamma",
        lambda: nd.Gamma(),
        {"log_x": (-0.5, 4.0), "x": (-3.0, -0.3, "log")},
        lambda eta: scipy.stats.gamma(eta["log_x"] + 1, scale=-1 / eta["x"]),
    ),
    FamilyCase(
        "Beta",
        lambda: nd.Beta(),
        {"log_x": (-0.2, 4.0), "log_1mx": (0.0, 4.0)},
        lambda eta: scipy.stats.beta(eta["log_x"] + 1, eta["log_1mx"] + 1),
    ),
    FamilyCase("Dirichlet", lambda: nd.Dirichlet(3), {"log_x": (-0.5, 4.0)}, _Dirichlet),
    FamilyCase(
        "Wishart",
        lambda: nd.families.Wishart(2),
        {"log_det": (0.0, 4.0), "x": (-3.0, -0.5)},
        _wishart,
    ),
    FamilyCase(
        "InverseWishart",
        lambda: nd.families.InverseWishart(2),
        {"log_det": (-7.0, -4.0), "inverse": (-3.0, -0.5)},
        _inverse_wishart,
    ),
    FamilyCase(
        "DirichletPrior",
        lambda: nd.DirichletPrior(2),
        {"alpha": (-6.0, -1.0), "log_beta": (-4.0, -1.0)},
    ),
    FamilyCase("FisherBingham", lambda: nd.FisherBingham(), {"x": (-2, 2), "harmonics": (-2, 2)}),
    FamilyCase(
        "GammaShapePrior", lambda: nd.GammaShapePrior(), {"alpha": (-2, 4), "log_gamma": (-5, -0.5)}
    ),
    FamilyCase(
        "LaplaceProduct", lambda: nd.LaplaceProduct(2), {"minus": (-0.5, 3.0), "plus": (-0.5, 3.0)}
    ),
    FamilyCase(
        "LatticePhi4",
        lambda: nd.LatticePhi4(4),
        {"x": (-0.5, 0.5), "x2": (-1.0, 1.0), "x4": (-1.0, -0.2), "neighbors": (-0.5, 0.5)},
    ),
    FamilyCase(
        "RectifiedGaussian",
        lambda: nd.RectifiedGaussian(),
        {"x": (-2, 2), "x2": (-2.0, -0.2)},
        _rectified_normal,
    ),
    FamilyCase(
        "GeneralizedInverseGaussian",
        lambda: nd.families.GeneralizedInverseGaussian(),
        {"log_x": (-3.0, 3.0), "x": (-3.0, -0.3, "log"), "inverse": (-3.0, -0.3, "log")},
        _generalized_inverse_gaussian,
    ),
    FamilyCase(
        "VonMisesFisher", lambda: nd.families.VonMisesFisher(3), {"x": (-3, 3)}, _VonMisesFisher
    ),
    FamilyCase(
        "VonMisesHarmonic", lambda: nd.VonMisesHarmonic(2), {"cos": (-2, 2), "sin": (-2, 2)}
    ),
)

# Families whose support is discrete.
DISCRETE = (
    FamilyCase(
        "ConwayMaxwellPoisson",
        lambda: nd.families.ConwayMaxwellPoisson(),
        {"x": (-1.0, 3.0), "log_factorial": (-3.0, -0.3)},
    ),
    FamilyCase(
        "Poisson",
        lambda: nd.families.Poisson(),
        {"x": (-2.0, 3.0)},
        lambda eta: scipy.stats.poisson(np.exp(eta["x"])),
    ),
    FamilyCase(
        "Binomial",
        lambda: nd.families.Binomial(7),
        {"x": (-2.0, 2.0)},
        lambda eta: scipy.stats.binom(7, 1 / (1 + np.exp(-eta["x"]))),
    ),
    FamilyCase(
        "Categorical", lambda: nd.families.Categorical(4), {"is": (-2.0, 2.0)}, _categorical
    ),
    FamilyCase(
        "Ising", lambda: nd.families.Ising((3, 4)), {"x": (-0.5, 0.5), "neighbors": (-0.3, 0.5)}
    ),
    FamilyCase(
        "PairwiseBinary", lambda: nd.families.PairwiseBinary(5), {"x": (-2, 1), "xx": (-1, 1)}
    ),
    FamilyCase(
        "ExponentialRandomGraph",
        lambda: nd.families.ExponentialRandomGraph(
            5, ("edges", "two_stars", "triangles", "shared_partners")
        ),
        {
            "edges": (-2.0, 1.0),
            "two_stars": (-0.3, 0.3),
            "triangles": (-0.3, 0.3),
            "shared_partners": (-0.3, 0.3),
        },
    ),
)

CONSTRAINTS = (
    ConstraintCase("real", nd.families.real, (2, 3), (-3.0, 3.0), (np.inf, -np.inf)),
    ConstraintCase("positive", nd.positive, (), (0.1, 20.0, "log"), (0.0, -1.0, np.inf)),
    ConstraintCase("negative", nd.negative, (3,), (-20.0, -0.1, "log"), (0.0, 1.0, -np.inf)),
    ConstraintCase("interval", nd.interval(-1.0, 3.0), (2,), (-0.9, 2.9), (-1.0, 3.0, 4.0)),
    ConstraintCase(
        "negative_definite",
        nd.negative_definite,
        (3, 3),
        (-3.0, -0.1),
        (np.zeros((3, 3)), np.diag([-1.0, -1.0, 1.0]), -np.ones((3, 3)) - 2 * np.eye(3)[::-1]),
    ),
    ConstraintCase(
        "negative_definite_packed",
        nd.negative_definite,
        (3,),
        (-3.0, -0.1),
        (np.zeros(3), np.array([-1.0, 2.5, -1.0]), np.array([-1.0, 0.0, 1.0])),
    ),
)

DOMAINS = (
    DomainCase(
        "ProductDomain",
        lambda: nd.domain(b=nd.negative, c=nd.negative_definite),
        {"a": (2,), "b": (), "c": (2, 2)},
        {"a": (-1.0, 1.0), "b": (-2.0, -0.5), "c": (-2.0, -0.5)},
    ),
    DomainCase(
        "CoupledDomain",
        _ordered_pair,
        {"a": (), "b": ()},
        {"a": (0.1, 2.0), "b": (0.1, 2.0)},
    ),
    DomainCase(
        "Polyhedron",
        lambda: nd.half_space([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 1.0, 0.0]], [0, 0, 1]),
        {"a": (), "b": (2,)},
        {"a": (-2.0, 2.0), "b": (-3.0, 1.0)},
    ),
    DomainCase(
        "ClosedDomain",
        lambda: nd.domain(b=nd.negative) | nd.edge(a=nd.positive, b=0.0),
        {"a": (2,), "b": ()},
        {"a": (-2.0, 2.0), "b": (-3.0, -0.5)},
    ),
)

NETWORKS = (
    NetworkCase(
        "MLPMomentNetwork",
        lambda family, data, key: nd.MLPMomentNetwork(family, data, width=8, depth=2, key=key),
    ),
    NetworkCase(
        "GLUMomentNetwork",
        lambda family, data, key: nd.networks.GLUMomentNetwork(
            family, data, width=8, depth=2, key=key
        ),
    ),
    NetworkCase(
        "QuadraticMomentNetwork",
        lambda family, data, key: nd.networks.QuadraticMomentNetwork(
            family, data, width=8, depth=2, key=key
        ),
    ),
    NetworkCase(
        "LogPartitionNetwork",
        lambda family, data, key: nd.LogPartitionNetwork(
            family, data, base=None, width=8, depth=2, key=key
        ),
    ),
    NetworkCase(
        "ConvexLogPartitionNetwork",
        lambda family, data, key: nd.ConvexLogPartitionNetwork(family, data, width=8, key=key),
    ),
)

# Public final classes that are parts of the above and have tests of their own.
PARTS = (
    nd.families.Bits,
    nd.families.Categories,
    nd.Counts,
    nd.Spins,
    nd.families.Permutation,
    nd.families.Scaling,
    nd.families.SignFlip,
    nd.families.SteinFunctions,
    nd.families.AdditiveLogRatio,
    nd.families.BaseMeasureAsStatistic,
    nd.flows.BoundedScale,
    nd.BoxSupport,
    nd.families.CircleProjection,
    nd.flows.ConditionalFlow,
    nd.flows.DirectionConditioner,
    nd.flows.DropoutConditioner,
    nd.flows.FlowSampler,
    nd.flows.FourierFeatures,
    nd.networks.LaplaceBase,
    nd.networks.LinearCorrection,
    nd.diagnostics.LocalC2ST,
    nd.families.LocationScale,
    nd.posterior.MaskedVectorEmbedding,
    nd.posterior.Mixture,
    nd.posterior.Normal,
    nd.posterior.ObservationRegion,
    nd.posterior.PosteriorCoordinates,
    nd.networks.QuadraticPotential,
    nd.networks.ResidualProcess,
    nd.posterior.SeriesEmbedding,
    nd.posterior.SetEmbedding,
    nd.families.PositiveDefinite,
    nd.families.SphereProjection,
    nd.networks.Standardization,
    nd.networks.TaylorBase,
    nd.networks.TrainingRegion,
    nd.posterior.TruncatedNormal,
    nd.posterior.TruncatedPrior,
    nd.posterior.Trunk,
    nd.networks.VariationalBase,
)

ROOMS = (nd.families, nd.networks, nd.flows, nd.posterior)


def class_of(name: str) -> type:
    """The public class that the name of a case begins with."""
    found = name.split()[0].split("(")[0]
    (room,) = (room for room in ROOMS if found in room.__all__)
    return getattr(room, found)


def registered_classes(families=FAMILIES) -> set[type]:
    """The classes that the registry covers."""
    covered = {type(case.make()) for case in (*families, *DISCRETE, *DOMAINS)}
    covered |= {type(case.constraint) for case in CONSTRAINTS}
    cases = (*NETWORKS, *BIJECTIONS, *HEADS)
    named = {class_of(case.name) for case in cases}
    return covered | named | set(PARTS)
