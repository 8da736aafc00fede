"""Moment data without sampling: closed forms, with noise of a stated size."""

import functools

import jax
import numpy as np

import nnef_dists as nd
from tests.moment_data import data_of_arrays

GAUSSIAN = nd.GaussianNatural1D()
GAUSSIAN_RANGES = {"x": (-2.0, 2.0), "x2": (-2.0, -0.2, "log")}
GAMMA = nd.Gamma()
GAMMA_RANGES = {"log_x": (-0.5, 4.0), "x": (-3.0, -0.3, "log")}
OTHER = nd.Polynomial1D((2, 4))


def exact_data(family, etas, *, z_error: float = 1e-3, seed: int | None = None):
    """Labels of a closed-form family; with a seed, with noise of `z_error` standard deviations."""
    exact = jax.jit(jax.vmap(lambda eta: (family.mean(eta), family.covariance(eta))))(etas)
    mean, covariance = (np.asarray(leaf) for leaf in exact)
    if seed is not None:
        sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
        noise = z_error * np.random.default_rng(seed).normal(size=mean.shape)
        mean = mean + (sd * noise).astype(mean.dtype)
    return labeled(family, etas, mean, covariance, z_error=z_error)


def labeled(family, etas, mean, covariance, *, z_error: float = 1e-3):
    """Moment data of given moments, whose labels claim errors of `z_error`."""
    etas = np.asarray(etas)
    mean, covariance = np.asarray(mean, etas.dtype), np.asarray(covariance, etas.dtype)
    n, d = etas.shape
    ones = np.ones((n, d), etas.dtype)
    standard_error = z_error * np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    return data_of_arrays(
        family=family,
        config=None,
        eta=etas,
        mean=mean,
        covariance=covariance,
        standard_error=standard_error.astype(etas.dtype),
        covariance_error=np.zeros_like(covariance),
        ess=1_000 * ones,
        rhat=ones,
        acceptance=ones[:, 0],
        divergences=0 * ones[:, 0],
        jumps=0 * ones[:, 0],
        effective_fraction=ones[:, 0],
        influence=0 * ones[:, 0],
        pareto_k=0 * ones[:, 0],
        status=np.full(n, nd.Status.OK, np.int8),
        rung=np.full(n, nd.moments.Rung.HMC, np.int8),
    )


@functools.cache
def gaussian_data(n: int = 64, seed: int = 0, dtype: str | None = None, noisy: bool = False):
    """Labels of random one-dimensional Gaussians."""
    draw = jax.jit(lambda key: GAUSSIAN.sample_eta(key, n, GAUSSIAN_RANGES, dtype=dtype))
    etas = draw(jax.random.key(seed))
    return exact_data(GAUSSIAN, etas, seed=seed if noisy else None)


@functools.cache
def gamma_data(n: int = 64, seed: int = 0):
    """Exact labels of random gamma distributions, whose moments no network has built in."""
    draw = jax.jit(lambda key: GAMMA.sample_eta(key, n, GAMMA_RANGES))
    return exact_data(GAMMA, draw(jax.random.key(seed)))
