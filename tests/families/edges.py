"""Families with declared edges, whose densities on an edge have a closed form."""

import math

import jax.numpy as jnp
from flowjax.bijections import Exp

import nnef_dists as nd
from nnef_dists.families import real


class Quartic(nd.ExponentialFamily):
    """A normal density where eta4 = 0."""

    x_shape = ()
    natural_domain = nd.domain(x4=nd.negative) | nd.edge(x4=0.0, x2=nd.negative)

    def compute_stats(self, x):
        return {"x": x, "x2": x**2, "x4": x**4}


class InverseGaussian(nd.ExponentialFamily):
    """The generalized one: a gamma density where the coefficient of 1/x is 0, and the reverse."""

    x_shape = ()
    natural_domain = (
        nd.domain(x=nd.negative, inverse=nd.negative)
        | nd.edge(inverse=0.0, log=nd.interval(-1.0, math.inf), x=nd.negative)
        | nd.edge(x=0.0, log=nd.interval(-math.inf, -1.0), inverse=nd.negative)
    )

    @property
    def support(self):
        return Exp()

    def compute_stats(self, x):
        return {"log": jnp.log(x), "x": x, "inverse": 1 / x}


class HalfNormal(nd.ExponentialFamily):
    """exp(eta1 x + eta2 x^2) for x > 0: exponential where eta2 = 0."""

    x_shape = ()
    natural_domain = nd.domain(x2=nd.negative) | nd.edge(x2=0.0, x=nd.negative)

    @property
    def support(self):
        return Exp()

    def compute_stats(self, x):
        return {"x": x, "x2": x**2}


class WrongGamma(nd.ExponentialFamily):
    """Powers of x alone, on the edge x = 0, are not integrable."""

    x_shape = ()
    natural_domain = nd.domain(log=nd.interval(-1.0, math.inf), x=nd.negative) | nd.edge(
        x=0.0, log=real
    )

    @property
    def support(self):
        return Exp()

    def compute_stats(self, x):
        return {"log": jnp.log(x), "x": x}
