"""What is measured: families, the ranges of their etas, and exact moments."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests import truth
from tests.moments.exact import polynomial_moments


class Job(NamedTuple):
    """A family, where its etas are drawn from, and means and covariances of many etas."""

    family: nd.ExponentialFamily
    ranges: dict
    exact: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def each(one: Callable) -> Callable:
    """Turns a truth for one eta into means and covariances of many."""

    def many(etas):
        found = [one(eta) for eta in etas]
        return np.array([t.mean for t in found]), np.array([t.covariance for t in found])

    return many


def closed_form(family: nd.families.AbstractNamedFamily) -> Callable:
    """The family's own formulas."""
    both = jax.jit(jax.vmap(lambda eta: (family.mean(eta), family.covariance(eta))))

    def many(etas):
        mean, covariance = both(jnp.asarray(etas))
        return np.asarray(mean, np.float64), np.asarray(covariance, np.float64)

    return many


LATTICE = {"x": (-0.5, 0.5), "x2": (-1.0, 1.0), "x4": (-1.0, -0.2), "neighbors": (-0.5, 0.5)}
JOBS = {
    "quartic": Job(
        nd.Polynomial1D((1, 2, 4)),
        {"x": (-2.0, 2.0), "x2": (-2.0, 2.0), "x4": (-2.0, -0.1, "log")},
        polynomial_moments,
    ),
    "lattice10": Job(nd.LatticePhi4(10), LATTICE, each(lambda eta: truth.lattice_phi4(10, eta))),
    "lattice50": Job(nd.LatticePhi4(50), LATTICE, each(lambda eta: truth.lattice_phi4(50, eta))),
    "gamma_shape": Job(
        nd.GammaShapePrior(),
        {"alpha": (-2, 4), "log_gamma": (-5, -0.5)},
        each(truth.gamma_shape_prior),
    ),
    "dirichlet": Job(
        nd.DirichletPrior(3),
        {"alpha": (-6.0, -1.0), "log_beta": (-4.0, -1.0)},
        each(truth.dirichlet_prior),
    ),
    "normal3": Job(
        nd.MultivariateNormal(3),
        {"x": (-1.0, 1.0), "xxT": (-2.0, -0.3)},
        closed_form(nd.MultivariateNormal(3)),
    ),
    "laplace1": Job(
        nd.LaplaceProduct(1),
        {"minus": (-0.5, 3.0), "plus": (-0.5, 3.0)},
        each(truth.laplace_product),
    ),
}


class SeedJob(NamedTuple):
    """A job of the seed's network: where it is judged, and its own figures there.

    Attributes:
        job: What to train on. Etas are log-uniform in the ranges' second part, in which the widest
            distributions, of the largest moments, are not rare.
        held_out: The ranges of fresh etas, uniform.
        error: The mean squared error of the seed's network.
        invalid: How often it predicts no variance, or no covariance.
    """

    job: Job
    held_out: dict
    error: float
    invalid: float


SEED_JOBS = {
    "normal, 1-D": SeedJob(
        Job(
            nd.GaussianNatural1D(),
            {"x": (-20.0, 20.0), "x2": (-40.0, -1.0, "log")},
            closed_form(nd.GaussianNatural1D()),
        ),
        {"x": (-20.0, 20.0), "x2": (-40.0, -1.0)},
        0.665,
        0.177,
    ),
    "normal, 3-D": SeedJob(
        Job(
            nd.MultivariateNormal(3),
            {"x": (-4.0, 4.0), "xxT": (-4.0, -0.04, "log")},
            closed_form(nd.MultivariateNormal(3)),
        ),
        {"x": (-4.0, 4.0), "xxT": (-4.0, -0.04)},
        621.0,
        0.45,
    ),
}
