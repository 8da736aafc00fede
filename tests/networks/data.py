"""Moment data without sampling: closed forms, with noise of a stated size."""

import functools

import jax
import numpy as np

import nnef_dists as nd

GAUSSIAN = nd.GaussianNatural1D()
GAUSSIAN_RANGES = {"x": (-2.0, 2.0), "x2": (-2.0, -0.2, "log")}
GAMMA = nd.Gamma()
GAMMA_RANGES = {"log_x": (-0.5, 4.0), "x": (-3.0, -0.3, "log")}
OTHER = nd.Polynomial1D((2, 4))


def exact_data(family, etas, *, z_error: float = 1e-3, seed: int | None = None):
    """Labels of a closed-form family; with a seed, with noise of `z_error` standard deviations."""
    exact = jax.jit(jax.vmap(lambda eta: (family.mean(eta), family.covariance(eta))))(etas)
    mean, covariance = (np.asarray(leaf) for leaf in exact)
    standard_error = z_error * np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    if seed is not None:
        noise = np.random.default_rng(seed).normal(size=mean.shape)
        mean = mean + (standard_error * noise).astype(mean.dtype)
    n, d = mean.shape
    ones = np.ones((n, d), mean.dtype)
    return nd.MomentDataset(
        family=family,
        config=None,
        eta=np.asarray(etas),
        mean=mean,
        covariance=covariance,
        standard_error=standard_error.astype(mean.dtype),
        ess=1_000 * ones,
        rhat=ones,
        acceptance=ones[:, 0],
        divergences=0 * ones[:, 0],
        jumps=0 * ones[:, 0],
        status=np.full(n, nd.Status.OK, np.int8),
        rung=np.full(n, nd.Rung.HMC, np.int8),
    )


@functools.cache
def gaussian_data(n: int = 64, seed: int = 0, dtype: str | None = None, noisy: bool = False):
    """Labels of random one-dimensional Gaussians."""
    etas = GAUSSIAN.sample_eta(jax.random.key(seed), n, GAUSSIAN_RANGES, dtype=dtype)
    return exact_data(GAUSSIAN, etas, seed=seed if noisy else None)


@functools.cache
def gamma_data(n: int = 64, seed: int = 0):
    """Exact labels of random gamma distributions, whose moments no network has built in."""
    return exact_data(GAMMA, GAMMA.sample_eta(jax.random.key(seed), n, GAMMA_RANGES))
