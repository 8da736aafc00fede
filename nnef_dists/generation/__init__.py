"""Generation of moment data on disk: in chunks, on workers, from a call or a YAML file."""

from nnef_dists.generation._advice import explain as explain
from nnef_dists.generation._compiled import keep_compiled
from nnef_dists.generation._etas import RandomEtas
from nnef_dists.generation._generate import generate_moments
from nnef_dists.generation._job import Job as Job
from nnef_dists.generation._job import MomentRequest as MomentRequest
from nnef_dists.generation._job import job_of as job_of
from nnef_dists.generation._job import job_parser as job_parser
from nnef_dists.generation._job import read_job
from nnef_dists.generation._verify import StoreReport as StoreReport
from nnef_dists.generation._verify import verify_moments

__all__ = [
    "RandomEtas",
    "generate_moments",
    "keep_compiled",
    "read_job",
    "verify_moments",
]
