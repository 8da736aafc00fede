"""Integrals of densities with one peak, by importance sampling."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._factorizations import product

# Number of blocks of Sobol points, and the binary logarithm of their size.
_BLOCKS, _LOG_POINTS = 16, 9
# Scale c of the points c sinh(z / c) for normal z, whose tails are longer than normal.
_TAIL = 2.0
# Distances from the mode at which the density's widths are measured, and the largest width, all
# relative to the curvature at the mode.
_DISTANCES, _WIDEST = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), 6.0


class Peak(NamedTuple):
    """The mode of a log-density.

    Attributes:
        mode: The mode, `(n,)`.
        height: The log-density at the mode.
        inverse_factor: The inverse of the Cholesky factor of minus its Hessian, `(n, n)`.
    """

    mode: Float[Array, " n"]
    height: Float[Array, ""]
    inverse_factor: Float[Array, "n n"]


class Integral(NamedTuple):
    """The integral of a density, and a mean.

    Attributes:
        log: The logarithm of the integral of the density divided by its height.
        error: Standard error of `log`.
        mean: The mean of a function, `(k,)`.
    """

    log: Float[Array, ""]
    error: Float[Array, ""]
    mean: Float[Array, " k"]


def importance_sample(
    logdensity: Callable[[Array], Array],
    function: Callable[[Array], Array],
    peak: Peak,
    key: PRNGKeyArray,
) -> Integral:
    """Integrates a density with one peak by importance sampling.

    Points are u = mode + L^-T s(z) 2 sinh(z / 2) for normal z, with L the Cholesky factor of the
    curvature. The widths s of the density, on either side of the mode along each axis, are

        s = max over d = 1, ..., 6 of d / sqrt(2 (l(mode) - l(mode + d axis)))

    The z are images of 512 Sobol points, shifted 16 times at random. Use a new key for each
    density, so that their errors are independent.

    Args:
        logdensity: Maps u, `(n,)`, to a log-density in nats.
        function: Maps u to values, `(k,)`.
        peak: The mode of the density.
        key: PRNG key of the shifts.

    Returns:
        The integral. Its standard error includes the scatter of the 16 averages, and the rounding
        of the log-density. It does not include a missed second mode. To detect one, compare `mean`
        with another estimate.

    Reference:
        Geweke, *Bayesian inference in econometric models using Monte Carlo integration*,
        Econometrica 57 (1989), for the widths. Cranley and Patterson, *Randomization of number
        theoretic methods for multiple integration*, SIAM Journal on Numerical Analysis 13 (1976),
        for the shifts.
    """
    mode, height, inverse = peak
    n, dtype = len(mode), mode.dtype

    def to_point(whitened):
        return mode + product(whitened, inverse)

    def fall(whitened):
        found = height - logdensity(to_point(whitened))
        return jnp.where(jnp.isnan(found), jnp.inf, found)

    distances = jnp.asarray(_DISTANCES, dtype)
    axes = jnp.concatenate([jnp.eye(n, dtype=dtype), -jnp.eye(n, dtype=dtype)])
    falls = jax.vmap(jax.vmap(fall))(distances[:, None, None] * axes)
    least = (distances / _WIDEST) ** 2 / 2
    widths = distances[:, None] / jnp.sqrt(2 * jnp.maximum(falls, least[:, None]))
    above, below = jnp.split(jnp.max(widths, 0), 2)

    shifts = jax.random.uniform(key, (_BLOCKS, 1, n), dtype)
    uniform = (jnp.asarray(_sobol(n), dtype) + shifts).reshape(-1, n) % 1
    eps = jnp.finfo(dtype).eps
    z = jax.scipy.special.ndtri(jnp.clip(uniform, eps, 1 - eps))
    width = jnp.where(z > 0, above, below)
    whitened = width * _TAIL * jnp.sinh(z / _TAIL)
    logs = -jax.vmap(fall)(whitened)
    logs += jnp.sum(z**2 / 2 + jnp.log(jnp.cosh(z / _TAIL)) + jnp.log(width), 1)
    highest = jnp.max(logs)
    weights = jnp.exp(logs - highest)
    averages = jnp.mean(weights.reshape(_BLOCKS, -1), 1)
    average = jnp.mean(averages)
    error = jnp.std(averages) / average / math.sqrt(_BLOCKS - 1)
    rounding = jnp.finfo(dtype).eps * jnp.abs(height)
    log_volume = n * math.log(2 * math.pi) / 2 + jnp.sum(jnp.log(jnp.diagonal(inverse)))
    values = jax.vmap(lambda w: function(to_point(w)))(whitened)
    origin = function(mode)
    moved = jnp.where(weights[:, None] > 0, weights[:, None] * (values - origin), 0)
    mean = origin + jnp.sum(moved, 0) / jnp.sum(weights)
    return Integral(highest + jnp.log(average) + log_volume, jnp.hypot(error, rounding), mean)


@functools.cache
def _sobol(n: int) -> np.ndarray:
    """Returns the first points of the Sobol sequence, `(k, n)`."""
    from scipy.stats import qmc

    return qmc.Sobol(n, scramble=False).random_base2(_LOG_POINTS)
