"""Families as a user would write them."""

import jax.numpy as jnp
from flowjax.bijections import Exp

import nnef_dists as nd


class GammaPair(nd.ExponentialFamily):
    """Two independent Gamma variables: p(x) proportional to exp(a log x - b x), x > 0."""

    x_shape = (2,)
    natural_domain = nd.domain(logx=nd.interval(-1.0, float("inf")), x=nd.negative)
    support = Exp((2,))

    def compute_stats(self, x):
        return {"logx": jnp.log(x), "x": x}


class MatrixNormal(nd.ExponentialFamily):
    """A normal on 2 x 1 matrices, with a statistic of each shape: scalar and matrix."""

    x_shape = (2, 1)
    natural_domain = nd.domain(norm=nd.negative)

    def compute_stats(self, x):
        return {"x": x, "norm": jnp.sum(x**2)}


class NotANumber(nd.ExponentialFamily):
    """A mistaken base measure, whose logarithm does not exist."""

    x_shape = ()
    natural_domain = nd.domain(x2=nd.negative)

    def compute_stats(self, x):
        return {"x2": x**2}

    def log_base_measure(self, x):
        return jnp.log(-1 - x**2)
