"""Samplers of one density (HMC, importance, tempering, Gibbs), quadrature rules and sums."""

from nnef_dists.sampling._annealing import annealed_log_sum as annealed_log_sum
from nnef_dists.sampling._chains import Chains as Chains
from nnef_dists.sampling._chains import Modes as Modes
from nnef_dists.sampling._chains import SamplerInfo as SamplerInfo
from nnef_dists.sampling._config import HMCConfig
from nnef_dists.sampling._count_panels import counts_of as counts_of
from nnef_dists.sampling._count_panels import first_panels as first_panels
from nnef_dists.sampling._counts import draw_counts as draw_counts
from nnef_dists.sampling._counts import sum_counts as sum_counts
from nnef_dists.sampling._density import ROUNDING as ROUNDING
from nnef_dists.sampling._density import Density as Density
from nnef_dists.sampling._density import drop_of_draws as drop_of_draws
from nnef_dists.sampling._density import finite_or_lowest as finite_or_lowest
from nnef_dists.sampling._gibbs import GibbsDraws as GibbsDraws
from nnef_dists.sampling._gibbs import gibbs_chains as gibbs_chains
from nnef_dists.sampling._gibbs_plan import finite_support as finite_support
from nnef_dists.sampling._gibbs_plan import gibbs_plan as gibbs_plan
from nnef_dists.sampling._hmc import sample_chains as sample_chains
from nnef_dists.sampling._importance import importance_chains as importance_chains
from nnef_dists.sampling._importance import pareto_k
from nnef_dists.sampling._line import quadrature_dim as quadrature_dim
from nnef_dists.sampling._line import transform as transform
from nnef_dists.sampling._monomials import Monomials as Monomials
from nnef_dists.sampling._plane import plane_rule as plane_rule
from nnef_dists.sampling._proposal import Whitening as Whitening
from nnef_dists.sampling._rule import line_quantiles as line_quantiles
from nnef_dists.sampling._rule import line_rule as line_rule
from nnef_dists.sampling._sampler import AbstractSampler
from nnef_dists.sampling._states import StatesTable as StatesTable
from nnef_dists.sampling._states import count_states as count_states
from nnef_dists.sampling._states import draw_states as draw_states
from nnef_dists.sampling._states import states_table as states_table
from nnef_dists.sampling._states import sum_states as sum_states
from nnef_dists.sampling._tempered import tempered_chains as tempered_chains

# Names that are not listed are private to the package, here and in every subpackage.
__all__ = ["AbstractSampler", "HMCConfig", "pareto_k"]
