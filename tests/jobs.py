"""A small job, as files and options say it."""

import dataclasses

from tests.moments.stores import QUICK

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
