"""Name your sufficient statistics, get a distribution: exponential families without closed forms.

The main names are here. Further names are in subpackages, such as `nnef_dists.diagnostics`.
"""

from nnef_dists import bayes as bayes
from nnef_dists import diagnostics as diagnostics
from nnef_dists import distributions as distributions
from nnef_dists import families as families
from nnef_dists import flows as flows
from nnef_dists import generation as generation
from nnef_dists import inference as inference
from nnef_dists import moments as moments
from nnef_dists import networks as networks
from nnef_dists import posterior as posterior
from nnef_dists import sampling as sampling
from nnef_dists import saving as saving
from nnef_dists import storage as storage
from nnef_dists.bayes import (
    AbstractParameter,
    BayesianLinear,
    BayesianMLP,
    DeterministicParameter,
    GaussianParameter,
    LaplacianParameter,
    Module,
    bayesianize,
    flatten_means,
    flatten_stdvs,
    freeze_means,
    freeze_params,
    freeze_stdvs,
    gaussian_entropy,
    get_parameter_count,
    get_parameter_groups,
    get_parameters,
    kl_divergence,
    laplacian_entropy,
    make_parameter,
    partition_trainable,
    sample_all_parameters,
    unfreeze_all,
)
from nnef_dists.distributions import (
    AmortizedFamily,
    ClosedForm,
    Enumeration,
    Quadrature,
    Summation,
    Symmetric,
    mean_or_oracle,
    validate,
)
from nnef_dists.families import (
    Beta,
    Counts,
    Dirichlet,
    DirichletPrior,
    ExponentialFamily,
    FisherBingham,
    Gamma,
    GammaShapePrior,
    GaussianNatural1D,
    LaplaceProduct,
    LatticePhi4,
    MultivariateNormal,
    Polynomial1D,
    RectifiedGaussian,
    Spins,
    VonMisesHarmonic,
    domain,
    edge,
    half_space,
    interval,
    negative,
    negative_definite,
    positive,
    posterior_etas,
)
from nnef_dists.generation import (
    generate_moments,
)
from nnef_dists.moments import (
    MomentBatch,
    MomentDataset,
    Status,
    check_family,
    estimate_moments,
    quadrature_moments,
)
from nnef_dists.networks import (
    ConvexLogPartitionNetwork,
    LogPartitionNetwork,
    MLPMomentNetwork,
    moment_loss,
    negative_elbo,
    negative_log_predictive,
    sobolev_loss,
)
from nnef_dists.posterior import (
    BoxSupport,
    ExponentialFamilyPosterior,
    FlowPosterior,
    GaussianPosterior,
    MixturePosterior,
    Simulations,
    nll_loss,
    simulate,
)
from nnef_dists.sampling import (
    HMCConfig,
)
from nnef_dists.saving import (
    load,
    save,
)

__version__ = "0.2.0"

__all__ = [
    "AbstractParameter",
    "AmortizedFamily",
    "BayesianLinear",
    "BayesianMLP",
    "Beta",
    "BoxSupport",
    "ClosedForm",
    "ConvexLogPartitionNetwork",
    "Counts",
    "DeterministicParameter",
    "Dirichlet",
    "DirichletPrior",
    "Enumeration",
    "ExponentialFamily",
    "ExponentialFamilyPosterior",
    "FisherBingham",
    "FlowPosterior",
    "Gamma",
    "GammaShapePrior",
    "GaussianNatural1D",
    "GaussianParameter",
    "GaussianPosterior",
    "HMCConfig",
    "LaplaceProduct",
    "LaplacianParameter",
    "LatticePhi4",
    "LogPartitionNetwork",
    "MLPMomentNetwork",
    "MixturePosterior",
    "Module",
    "MomentBatch",
    "MomentDataset",
    "MultivariateNormal",
    "Polynomial1D",
    "Quadrature",
    "RectifiedGaussian",
    "Simulations",
    "Spins",
    "Status",
    "Summation",
    "Symmetric",
    "VonMisesHarmonic",
    "bayesianize",
    "check_family",
    "domain",
    "edge",
    "estimate_moments",
    "flatten_means",
    "flatten_stdvs",
    "freeze_means",
    "freeze_params",
    "freeze_stdvs",
    "gaussian_entropy",
    "generate_moments",
    "get_parameter_count",
    "get_parameter_groups",
    "get_parameters",
    "half_space",
    "interval",
    "kl_divergence",
    "laplacian_entropy",
    "load",
    "make_parameter",
    "mean_or_oracle",
    "moment_loss",
    "negative",
    "negative_definite",
    "negative_elbo",
    "negative_log_predictive",
    "nll_loss",
    "partition_trainable",
    "positive",
    "posterior_etas",
    "quadrature_moments",
    "sample_all_parameters",
    "save",
    "simulate",
    "sobolev_loss",
    "unfreeze_all",
    "validate",
]
