"""Diagnostics of posteriors: ranks, coverage, random points, classifiers and predictions."""

from nnef_dists.diagnostics._coverage import (
    central_levels,
    expected_coverage,
    highest_density_levels,
)
from nnef_dists.diagnostics._local_c2st import LocalC2ST, local_c2st
from nnef_dists.diagnostics._predictive_check import posterior_predictive, predictive_p_value
from nnef_dists.diagnostics._ranks import sbc_ranks, uniformity_p_value
from nnef_dists.diagnostics._sampler import PosteriorDensity, PosteriorSampler
from nnef_dists.diagnostics._tarp import tarp_levels

__all__ = [
    "LocalC2ST",
    "PosteriorDensity",
    "PosteriorSampler",
    "central_levels",
    "expected_coverage",
    "highest_density_levels",
    "local_c2st",
    "posterior_predictive",
    "predictive_p_value",
    "sbc_ranks",
    "tarp_levels",
    "uniformity_p_value",
]
