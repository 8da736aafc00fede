"""Name your sufficient statistics, get a distribution: exponential families without a name."""

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
from nnef_dists.bayes import *  # noqa: F403
from nnef_dists.diagnostics import *  # noqa: F403
from nnef_dists.distributions import *  # noqa: F403
from nnef_dists.families import *  # noqa: F403
from nnef_dists.flows import *  # noqa: F403
from nnef_dists.generation import *  # noqa: F403
from nnef_dists.moments import *  # noqa: F403
from nnef_dists.networks import *  # noqa: F403
from nnef_dists.posterior import *  # noqa: F403
from nnef_dists.sampling import *  # noqa: F403
from nnef_dists.saving import *  # noqa: F403

__version__ = "0.1.0"
