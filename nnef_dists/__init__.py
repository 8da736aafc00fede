"""Name your sufficient statistics, get a distribution: exponential families without a name."""

from nnef_dists import bayes as bayes
from nnef_dists import distributions as distributions
from nnef_dists import families as families
from nnef_dists import flows as flows
from nnef_dists import inference as inference
from nnef_dists import moments as moments
from nnef_dists import networks as networks
from nnef_dists import posterior as posterior
from nnef_dists._job import Job as Job
from nnef_dists._job import MomentRequest as MomentRequest
from nnef_dists._job import Optimisation as Optimisation
from nnef_dists._job import read_job as read_job
from nnef_dists.bayes import *  # noqa: F403
from nnef_dists.distributions import *  # noqa: F403
from nnef_dists.families import *  # noqa: F403
from nnef_dists.flows import *  # noqa: F403
from nnef_dists.moments import *  # noqa: F403
from nnef_dists.networks import *  # noqa: F403
from nnef_dists.posterior import *  # noqa: F403

__version__ = "0.1.0"
