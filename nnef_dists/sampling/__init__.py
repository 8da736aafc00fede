"""Draws from one density, by Hamiltonian Monte Carlo, importance, tempering; quadrature's grids."""

from nnef_dists.sampling._chains import Chains as Chains
from nnef_dists.sampling._chains import Modes as Modes
from nnef_dists.sampling._chains import SamplerInfo as SamplerInfo
from nnef_dists.sampling._config import HMCConfig
from nnef_dists.sampling._density import ROUNDING as ROUNDING
from nnef_dists.sampling._density import Density as Density
from nnef_dists.sampling._density import drop_of_draws as drop_of_draws
from nnef_dists.sampling._density import finite_or_lowest as finite_or_lowest
from nnef_dists.sampling._hmc import sample_chains as sample_chains
from nnef_dists.sampling._importance import importance_chains as importance_chains
from nnef_dists.sampling._importance import pareto_k
from nnef_dists.sampling._line import quadrature_dim as quadrature_dim
from nnef_dists.sampling._line import transform as transform
from nnef_dists.sampling._proposal import Whitening as Whitening
from nnef_dists.sampling._proposal import cholesky as cholesky
from nnef_dists.sampling._proposal import inverse_factor as inverse_factor
from nnef_dists.sampling._proposal import solve_definite as solve_definite
from nnef_dists.sampling._quadrature import QuadratureGrid as QuadratureGrid
from nnef_dists.sampling._quadrature import on_grid as on_grid
from nnef_dists.sampling._quadrature import quadrature_grids as quadrature_grids
from nnef_dists.sampling._rule import line_quantiles as line_quantiles
from nnef_dists.sampling._rule import line_rule as line_rule
from nnef_dists.sampling._sampler import AbstractSampler
from nnef_dists.sampling._tempered import tempered_chains as tempered_chains

# What is not listed is for the other rooms of the package alone, here and in every room.
__all__ = ["AbstractSampler", "HMCConfig", "pareto_k"]
