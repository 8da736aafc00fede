"""Networks that are exact, up to a constant and to a shift of the moments of known uncertainty."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd
from tests.moment_data import data_of_arrays
from tests.networks.data import exact_data

CONSTANT = 7.0
STDV = 0.02


class ExactPotential(nd.networks.AbstractLogPartitionNetwork):
    """The exact log-partition plus a constant plus shift . eta."""

    family: nd.families.AbstractNamedFamily = eqx.field(static=True)
    standardization: nd.networks.Standardization
    shift: nd.AbstractParameter

    def potential(self, eta):
        return self.family.log_partition(eta) + CONSTANT + jnp.sum(self.shift.mean * eta)


class ExactMoments(nd.networks.AbstractMomentNetwork):
    """The exact moments plus a shift plus twist @ eta, which makes the Jacobian what one likes."""

    family: nd.families.AbstractNamedFamily = eqx.field(static=True)
    standardization: nd.networks.Standardization
    shift: nd.AbstractParameter
    twist: nd.AbstractParameter

    def __call__(self, eta, *, key=None, sample=None):
        net = nd.bayes.draw_or_mean(self, key=key, sample=sample)
        return self.family.mean(eta) + net.shift.mean + net.twist.mean @ eta


CASES = {
    "GaussianNatural1D": (nd.GaussianNatural1D(), {"x": (-2.0, 2.0), "x2": (-2.0, -0.2, "log")}),
    "Gamma": (nd.Gamma(), {"log_x": (0.5, 4.0), "x": (-3.0, -0.3, "log")}),
    "MultivariateNormal": (nd.MultivariateNormal(2), {"x": (-1.0, 1.0), "xxT": (-2.0, -0.3)}),
}


@functools.cache
def etas_of(name, n=256, seed=0, dtype=None):
    """Random etas of a case."""
    family, ranges = CASES[name]
    draw = jax.jit(lambda key: family.sample_eta(key, n, ranges, dtype=dtype))
    return draw(jax.random.key(seed))


@functools.cache
def data_of(name, dtype=None):
    """Exact labels of them."""
    return exact_data(CASES[name][0], etas_of(name, dtype=dtype))


def uncertain(values, stdv=STDV):
    """A Gaussian law around given means."""
    return nd.GaussianParameter.from_stdv(values, stdv)


@functools.cache
def potential_of(name, dtype=None):
    """The exact log-partition network of a case."""
    data = data_of(name, dtype)
    shift = uncertain(jnp.zeros(data.family.eta_dim, data.eta.dtype))
    return ExactPotential(data.family, nd.networks.Standardization.fit(data), shift)


def moments_of(name, twist=None):
    """The exact direct network of a case, with `twist` added to its Jacobian."""
    data = data_of(name)
    d, dtype = data.family.eta_dim, data.eta.dtype
    twist = jnp.zeros((d, d), dtype) if twist is None else jnp.asarray(twist, dtype)
    shift = uncertain(jnp.zeros(d, dtype))
    return ExactMoments(
        data.family, nd.networks.Standardization.fit(data), shift, nd.DeterministicParameter(twist)
    )


@functools.cache
def family_of(name, dtype=None, **options):
    """The amortized family of the exact log-partition."""
    return nd.AmortizedFamily(CASES[name][0], potential_of(name, dtype), **options)


def labeled(network, etas):
    """A network, made without coordinates, with those of its own moments at some etas."""
    known = data_of("GaussianNatural1D")[: len(etas)]
    n, d = etas.shape
    mean, covariance = jax.jit(jax.vmap(lambda eta: (network(eta), jax.jacfwd(network)(eta))))(etas)
    arrays = known.label._asdict()
    arrays |= {name: np.ones((n, d), etas.dtype) for name in ("ess", "rhat", "standard_error")}
    arrays |= {"eta": np.asarray(etas), "mean": np.asarray(mean)}
    arrays |= {"covariance": np.asarray(covariance), "covariance_error": np.zeros_like(covariance)}
    data = data_of_arrays(network.family, None, **arrays)
    return dataclasses.replace(network, standardization=nd.networks.Standardization.fit(data))


# One program for all batches of one size.
inverted = jax.jit(lambda q, mu: jax.vmap(lambda mu: q.natural_parameters(mu, throw=False))(mu))


def held_out(name, n=64):
    """Other etas of the same range, and their exact moments."""
    etas = etas_of(name, n, seed=1)
    return etas, jax.jit(jax.vmap(CASES[name][0].mean))(etas)


def relative_error(found, etas):
    """Of each eta, by Euclidean norms."""
    difference = np.asarray(found, np.float64) - np.asarray(etas, np.float64)
    return np.linalg.norm(difference, axis=1) / np.linalg.norm(etas, axis=1)
