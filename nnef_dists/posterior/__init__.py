"""Neural posterior estimation: simulations, posterior heads and losses."""

from nnef_dists.posterior._base import AbstractLaw, AbstractPosterior
from nnef_dists.posterior._box import BoxSupport
from nnef_dists.posterior._categorical import CategoricalPosterior
from nnef_dists.posterior._coordinates import PosteriorCoordinates
from nnef_dists.posterior._embeddings import (
    AbstractEmbedding,
    MaskedVectorEmbedding,
    SeriesEmbedding,
    SetEmbedding,
)
from nnef_dists.posterior._ensemble import EnsemblePosterior
from nnef_dists.posterior._exponential_family import ExponentialFamilyPosterior, NaturalLaw
from nnef_dists.posterior._flow import FlowPosterior
from nnef_dists.posterior._gaussian import GaussianPosterior, MixturePosterior
from nnef_dists.posterior._losses import nll_elbo_loss, nll_loss
from nnef_dists.posterior._mask import masked_observation
from nnef_dists.posterior._mixed import MixedParameters, MixedPosterior
from nnef_dists.posterior._normal import Mixture, Normal, TruncatedNormal
from nnef_dists.posterior._prior import Prior
from nnef_dists.posterior._region import ObservationRegion
from nnef_dists.posterior._simulate import open_simulations, simulate
from nnef_dists.posterior._simulations import SimulationBatch, Simulations
from nnef_dists.posterior._truncated import (
    ImportanceWeights,
    TruncatedPrior,
    importance_weights,
    truncate_prior,
)
from nnef_dists.posterior._trunk import Trunk

__all__ = [
    "AbstractEmbedding",
    "AbstractLaw",
    "AbstractPosterior",
    "BoxSupport",
    "CategoricalPosterior",
    "EnsemblePosterior",
    "ExponentialFamilyPosterior",
    "FlowPosterior",
    "GaussianPosterior",
    "ImportanceWeights",
    "MaskedVectorEmbedding",
    "MixedParameters",
    "MixedPosterior",
    "Mixture",
    "MixturePosterior",
    "NaturalLaw",
    "Normal",
    "ObservationRegion",
    "PosteriorCoordinates",
    "Prior",
    "SeriesEmbedding",
    "SetEmbedding",
    "SimulationBatch",
    "Simulations",
    "TruncatedNormal",
    "TruncatedPrior",
    "Trunk",
    "importance_weights",
    "masked_observation",
    "nll_elbo_loss",
    "nll_loss",
    "open_simulations",
    "simulate",
    "truncate_prior",
]
