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
# Distances from the mean at which the density's widths are measured, and the largest width, all
# relative to the normal approximation.
_DISTANCES, _WIDEST = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0), 6.0


class Normal(NamedTuple):
    """A normal approximation of a density. Its draws are mean + z factor, with z ~ N(0, I).

    Attributes:
        mean: The mean, `(n,)`.
        height: The log-density there.
        factor: A triangular square root of the covariance, factor^T factor, `(n, n)`.
    """

    mean: Float[Array, " n"]
    height: Float[Array, ""]
    factor: Float[Array, "n n"]


class Integral(NamedTuple):
    """The integral of a density, and a mean.

    Attributes:
        log: The logarithm of the integral of the density, divided by its value at the mean.
        error: Standard error of `log`.
        mean: The mean of a function, `(k,)`.
    """

    log: Float[Array, ""]
    error: Float[Array, ""]
    mean: Float[Array, " k"]


def importance_sample(
    logdensity: Callable[[Array], Array],
    function: Callable[[Array], Array],
    normal: Normal,
    key: PRNGKeyArray,
) -> Integral:
    """Integrates a density with one peak by importance sampling.

    Points are u = m + F^T s(z) 2 sinh(z / 2) for normal z, with m the mean of a normal
    approximation and F its factor. The widths s of the density, on either side of m along each
    axis, are

        s = max over d = 1, ..., 6 of d / sqrt(2 (l(m) - l(m + d axis)))

    The z are images of 512 Sobol points, shifted 16 times at random. Use a new key for each
    density, so that their errors are independent.

    Args:
        logdensity: Maps u, `(n,)`, to a log-density in nats.
        function: Maps u to values, `(k,)`.
        normal: A normal approximation of the density.
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
    center, height, factor = normal
    n, dtype = len(center), center.dtype

    def to_point(whitened):
        return center + product(whitened, factor)

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
    log_volume = n * math.log(2 * math.pi) / 2 + jnp.sum(jnp.log(jnp.diagonal(factor)))
    values = jax.vmap(lambda w: function(to_point(w)))(whitened)
    origin = function(center)
    moved = jnp.where(weights[:, None] > 0, weights[:, None] * (values - origin), 0)
    mean = origin + jnp.sum(moved, 0) / jnp.sum(weights)
    return Integral(highest + jnp.log(average) + log_volume, jnp.hypot(error, rounding), mean)


@functools.cache
def _sobol(n: int) -> np.ndarray:
    """Returns the first points of the Sobol sequence, `(k, n)`."""
    from scipy.stats import qmc

    return qmc.Sobol(n, scramble=False).random_base2(_LOG_POINTS)
