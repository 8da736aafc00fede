"""A small job, as files and options say it."""

import dataclasses

import numpy as np

import nnef_dists as nd
from tests.moment_data import data_of_arrays
from tests.moments.stores import COLUMNS, QUICK
from tests.moments.user_families import GammaPair

JOB = """
family: GaussianNatural1D
grid:
  training: {n: 20, ranges: {x: [-1, 1], x2: [-2, -0.5, log]}}
  validation: {n: 8, ranges: {x: [-1, 1], x2: [-2, -0.5]}}
sampling:
  tile: 8
  chunk: 16
  seed: 3
"""
SAMPLING = [
    f"--sampling.{name}={str(value).lower()}" for name, value in dataclasses.asdict(QUICK).items()
]

USERS = '''
"""Families of a user."""

import nnef_dists as nd


class Even(nd.ExponentialFamily):
    """An even power."""

    order: int = 4
    x_shape = ()
    natural_domain = nd.domain(top=nd.negative)

    def compute_stats(self, x):
        return {"top": x**self.order}
'''

NETWORKS = '''
"""Networks of a user."""

import equinox as eqx
import nnef_dists as nd


class Affine(nd.networks.AbstractDirectNetwork):
    """An affine map, with a number of one's own."""

    family: nd.ExponentialFamily = eqx.field(static=True)
    standardization: nd.networks.Standardization
    body: nd.BayesianLinear
    gain: float = eqx.field(static=True)

    def __init__(self, family, data, *, gain: float = 1.0, key):
        self.family, self.gain = family, gain
        self.standardization = nd.networks.Standardization.fit(data)
        inputs = self.standardization.input_dim
        self.body = nd.BayesianLinear(inputs, family.eta_dim, key=key)
'''


def chunk_files(store, name):
    """The files that hold the numbers of an array."""
    return [path for path in (store / name).rglob("*") if path.is_file() and not path.suffix]


def save_data_of_a_user(folder):
    """Saves data of a family that is none of the package's; the path."""
    n = 3
    arrays = {name: np.ones((n, 4), np.float32) for name in ("eta", "mean", "standard_error")}
    eyes = np.broadcast_to(np.eye(4, dtype=np.float32), (n, 4, 4))
    arrays |= dict.fromkeys(("covariance", "covariance_error"), eyes)
    arrays |= {name: np.ones((n, 4), np.float32) for name in ("ess", "rhat")}
    arrays |= {name: np.ones(n, np.float32) for name in set(COLUMNS) - set(arrays)}
    arrays["status"] = np.full(n, nd.Status.OK, np.int8)
    data_of_arrays(GammaPair(), QUICK, **arrays).save(folder / "user.zarr")
    return folder / "user.zarr"
