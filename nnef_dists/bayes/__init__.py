"""Bayesian neural networks in Equinox: parameters, layers, freezing, sampling and entropy.

All models are pytrees, and all functions of models are pure. Training loops are user code.
"""

from ._bayesianize import Bayesianized, bayesianize
from ._deterministic import DeterministicParameter
from ._entropy import entropy, gaussian_entropy, kl_divergence, laplacian_entropy, log_prior
from ._gaussian import GaussianParameter
from ._introspection import (
    flatten_means,
    flatten_raw_stdvs,
    flatten_stdvs,
    get_parameter_count,
    get_parameter_groups,
    get_parameters,
)
from ._introspection import path_name as path_name
from ._laplacian import LaplacianParameter
from ._linear import BayesianLinear
from ._make_parameter import make_parameter
from ._mlp import BayesianMLP
from ._module import Module
from ._parameter import (
    AbstractAbsoluteMoment,
    AbstractElementwiseParameter,
    AbstractParameter,
    AbstractPriorLaw,
    is_parameter,
)
from ._partition import (
    check_whole,
    freeze_means,
    freeze_params,
    freeze_stdvs,
    partition_trainable,
    unfreeze_all,
)
from ._positivity import (
    AbstractPositivity,
    ExponentialPositivity,
    SoftplusPositivity,
    SquaredPositivity,
)
from ._predictive import predictive_draws, predictive_moments, predictive_quantiles
from ._sample import draw_or_mean, drawing_key, sample_all_parameters
from ._scores import central_interval, crps, gaussian_crps, interval_coverage

__all__ = [
    "AbstractAbsoluteMoment",
    "AbstractElementwiseParameter",
    "AbstractParameter",
    "AbstractPositivity",
    "AbstractPriorLaw",
    "BayesianLinear",
    "BayesianMLP",
    "Bayesianized",
    "DeterministicParameter",
    "ExponentialPositivity",
    "GaussianParameter",
    "LaplacianParameter",
    "Module",
    "SoftplusPositivity",
    "SquaredPositivity",
    "bayesianize",
    "central_interval",
    "check_whole",
    "crps",
    "draw_or_mean",
    "drawing_key",
    "entropy",
    "flatten_means",
    "flatten_raw_stdvs",
    "flatten_stdvs",
    "freeze_means",
    "freeze_params",
    "freeze_stdvs",
    "gaussian_crps",
    "gaussian_entropy",
    "get_parameter_count",
    "get_parameter_groups",
    "get_parameters",
    "interval_coverage",
    "is_parameter",
    "kl_divergence",
    "laplacian_entropy",
    "log_prior",
    "make_parameter",
    "partition_trainable",
    "predictive_draws",
    "predictive_moments",
    "predictive_quantiles",
    "sample_all_parameters",
    "unfreeze_all",
]
