"""Figures: functions that return a matplotlib `Figure` and keep no global state.

Save a figure with `figure.savefig(path)`. In a notebook, make it the last value of a cell.
"""

from nnef_dists.plotting._component_errors import plot_component_errors
from nnef_dists.plotting._covariance_comparison import plot_covariance_comparison
from nnef_dists.plotting._densities import plot_densities
from nnef_dists.plotting._error_distribution import plot_error_distribution
from nnef_dists.plotting._expected_coverage import plot_expected_coverage
from nnef_dists.plotting._fisher_information import plot_fisher_information
from nnef_dists.plotting._learning_curves import plot_learning_curves
from nnef_dists.plotting._local_c2st import plot_local_c2st
from nnef_dists.plotting._moment_comparison import plot_moment_comparison
from nnef_dists.plotting._moment_diagnostics import plot_moment_diagnostics
from nnef_dists.plotting._posterior_predictive import plot_posterior_predictive
from nnef_dists.plotting._sbc_ranks import plot_sbc_ranks
from nnef_dists.plotting._tarp import plot_tarp

__all__ = [
    "plot_component_errors",
    "plot_covariance_comparison",
    "plot_densities",
    "plot_error_distribution",
    "plot_expected_coverage",
    "plot_fisher_information",
    "plot_learning_curves",
    "plot_local_c2st",
    "plot_moment_comparison",
    "plot_moment_diagnostics",
    "plot_posterior_predictive",
    "plot_sbc_ranks",
    "plot_tarp",
]
