"""Hamiltonian Monte Carlo for a lattice field, with standard errors and R-hat.

`lattice.py` imports this module. Given its neighbors, a site has one dimension. The estimates are
averages of conditional moments, E[x | neighbors], which vary much less than x. Gradients of the
log-density have mean 0 and serve as control variates: a regression on them reduces the error. The
evidence comes from thermodynamic integration from rows without coupling, with known log-partition.

Reference: Mira, Solgi and Imparato, *Zero variance Markov chain Monte Carlo for Bayesian
estimators*, Statistics and Computing 23 (2013). Gelman and Meng, *Simulating normalizing
constants*, Statistical Science 13 (1998).
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from lattice_rows import COUPLING, GRID

import nnef_dists as nd

# Grid of forces for the interpolation of conditional moments.
FORCES = np.linspace(-12, 12, 6_001)


class Lattice(nd.ExponentialFamily):
    """A field on a square with open edges, with x of each site and sums of x^4 and bonds."""

    size: int = eqx.field(static=True)
    natural_domain: ClassVar[nd.families.ProductDomain] = nd.domain(x4=nd.negative)

    def __init__(self, size: int):
        self.size = size

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of x, rows and columns."""
        return (self.size, self.size)

    def compute_stats(self, x):
        """Returns the sites and the sums."""
        across, down = jnp.sum(x[:, 1:] * x[:, :-1]), jnp.sum(x[1:] * x[:-1])
        return {"x": x, "x4": jnp.sum(x**4), "across": across, "down": down}


class Sampled(NamedTuple):
    """Moments from draws: E[x] and E[x^2] by site, and E[x y] across and down, as flat arrays.

    Attributes:
        mean: Four arrays of moments.
        error: Standard errors of `mean`, from the scatter of chains.
        rhat: Largest split R-hat of all statistics of `Lattice` in all runs.
        total: Sum of E[x y] down, and its standard error.
    """

    mean: list[np.ndarray]
    error: list[np.ndarray]
    rhat: float
    total: tuple[float, float]


def conditional_moments(force):
    """Returns E[x] and E[x^2] of a site under a force."""
    logs = FORCES[:, None] * GRID - GRID**4 / 4
    p = np.exp(logs - logs.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return np.interp(force, FORCES, p @ GRID), np.interp(force, FORCES, p @ GRID**2)


def observe(x, field, down):
    """Returns conditional moments at draws, `(draws, parts)`, and gradients, `(draws, sites)`."""
    force = np.broadcast_to(field, x.shape).copy()
    force[:, :, 1:] += COUPLING * x[:, :, :-1]
    force[:, :, :-1] += COUPLING * x[:, :, 1:]
    force[:, 1:] += down * x[:, :-1]
    force[:, :-1] += down * x[:, 1:]
    mean, square = conditional_moments(force)
    across = (x[:, :, 1:] * mean[:, :, :-1] + mean[:, :, 1:] * x[:, :, :-1]) / 2
    below = (x[:, 1:] * mean[:, :-1] + mean[:, 1:] * x[:, :-1]) / 2
    parts = [part.reshape(len(x), -1) for part in (mean, square, across, below)]
    return np.concatenate(parts, 1), (force - x**3).reshape(len(x), -1)


def sample(field, down, key, runs, draws, chains=64):
    """Returns averages over runs of many chains. `down` couples rows."""
    size = len(field)
    eta = jnp.asarray(np.concatenate([field.ravel(), [-0.25, COUPLING, down]]), float)
    config = nd.HMCConfig(chains=chains, warmup=240, global_moves=False, target_acceptance=0.8)
    values, slopes, rhats = [], [], []
    gram, cross = 0.0, 0.0
    for one in jax.random.split(key, runs):
        x, label = nd.moments.sample_hmc(one, Lattice(size), eta, chains * draws, config)
        rhats.append(float(jnp.max(label.rhat)))
        parts, gradient = observe(np.asarray(x, np.float64), field, down)
        gram, cross = gram + gradient.T @ gradient, cross + gradient.T @ (parts - parts.mean(0))
        values.append(parts.reshape(chains, draws, -1).mean(1))
        slopes.append(gradient.reshape(chains, draws, -1).mean(1))
    # Averages of each chain, less the regression on the gradients.
    values = np.concatenate(values) - np.concatenate(slopes) @ np.linalg.solve(gram, cross)
    n, ends = len(values), np.cumsum([size**2, size**2, size * (size - 1)])
    mean, error = values.mean(0), values.std(0, ddof=1) / np.sqrt(n)
    totals = values[:, ends[-1] :].sum(1)
    total = float(totals.mean()), float(totals.std(ddof=1) / np.sqrt(n))
    return Sampled(np.split(mean, ends), np.split(error, ends), max(rhats), total)


def log_evidence(field, log_partition, key, draws, nodes=4):
    """Returns the log-evidence and its standard error, in nats.

    Args:
        field: Field, `(size, size)`.
        log_partition: Sum of A over rows without coupling.
        key: PRNG key for the draws.
        draws: Number of draws of each of 64 chains at each node.
        nodes: Number of Gauss-Legendre nodes for the coupling of rows. Defaults to 4.
    """
    node, weight = np.polynomial.legendre.leggauss(nodes)
    node, weight = COUPLING * (node + 1) / 2, COUPLING * weight / 2
    keys = jax.random.split(key, nodes)
    found = np.array([sample(field, *one, 1, draws).total for one in zip(node, keys, strict=True)])
    return log_partition + weight @ found[:, 0], np.sqrt(weight**2 @ found[:, 1] ** 2)
