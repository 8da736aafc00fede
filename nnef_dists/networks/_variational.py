"""The variational normal approximation as a base."""

import functools
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nnef_dists._factorizations import product
from nnef_dists.families import ExponentialFamily, unconstrained_logdensity
from nnef_dists.networks._climb import climb, tangent_of_maximum
from nnef_dists.networks._importance import Normal
from nnef_dists.networks._laplace import LaplaceBase
from nnef_dists.networks._normal_base import AbstractNormalBase, check_smooth
from nnef_dists.networks._sphere_rule import sphere_rule

# Standard deviations of the starts of the search, relative to Laplace's approximation.
_SIZES = (1.0, 0.5, 0.25, 0.125, 0.0625)


@final
class VariationalBase(AbstractNormalBase):
    """The variational normal approximation, with the next order of its log-partition.

        q = N(m, S),    (m, S) = argmax E_q[l] + log det(S) / 2

    with l the log-density in unconstrained coordinates. `LaplaceBase` has the equations of the
    other terms, with u* instead of m. Expectations over q are sums over its fixed nodes.

    The mean and the covariance depend on l within a few standard deviations. Laplace's covariance
    depends on the curvature at the mode alone, and is too large if the density is flat between
    steep sides. This base takes longer, because the maximum has n + n (n + 1) / 2 coordinates. The
    search for it starts at Laplace's approximation, so the base exists only if the log-density has
    a mode.

    Args:
        family: The exponential family. Its log-density must be smooth.

    Raises:
        ValueError: If the family is not smooth.

    Reference:
        Opper and Archambeau, *The variational Gaussian approximation revisited*, Neural Computation
        21 (2009).
    """

    family: ExponentialFamily = eqx.field(static=True)

    def __init__(self, family: ExponentialFamily):
        self.family = check_smooth(family)

    def normal(self, eta: Float[Array, " eta_dim"]) -> Normal:
        """Returns the variational normal distribution, or NaN if no maximum is found."""
        mean, factor = find_normal(self.family, eta)
        return Normal(mean, unconstrained_logdensity(self.family, eta, mean), factor)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def find_normal(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"]
) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Returns the mean and the factor of the variational normal distribution.

    Coordinates of a normal distribution are a shift a and a lower triangular B, relative to a mean
    m and a factor F:

        m + a F,    B F

    Both are NaN if the log-density has no mode, or no maximum is found.

    The search uses Laplace's m and F. The derivatives use m and F of the maximum, at which a = 0
    and B = 1, because the curvatures in these coordinates are of order one.
    """
    mean, _, factor = LaplaceBase(family).normal(eta)
    height = functools.partial(_bound, family, mean, factor, eta)
    sizes = jnp.asarray(_SIZES, eta.dtype)[:, None]
    starts = sizes * _identity(len(mean), eta.dtype)
    heights = jax.vmap(height)(starts)
    best = jnp.argmax(jnp.where(jnp.isfinite(heights), heights, -jnp.inf))
    return _normal_at(mean, factor, climb(height, starts[best]).point)


@find_normal.defjvp
def _(family, primals, tangents):
    (eta,), (tangent,) = primals, tangents
    mean, factor = find_normal(family, eta)
    identity = _identity(len(mean), eta.dtype)
    height = functools.partial(_bound, family, mean, factor)
    found = tangent_of_maximum(height, eta, identity, tangent)
    moved = jax.jvp(functools.partial(_normal_at, mean, factor), (identity,), (found,))[1]
    # Batched loops need these primal outputs. Other ones may have another batch axis.
    return (mean, factor), moved


def _identity(n: int, dtype: jnp.dtype) -> Float[Array, " k"]:
    """Returns a = 0 and B = 1 in one vector."""
    return jnp.concatenate([jnp.zeros(n, dtype), jnp.eye(n, dtype=dtype)[np.tril_indices(n)]])


def _normal_at(mean, factor, point):
    """Returns the mean and the factor of coordinates relative to `mean` and `factor`."""
    n = len(mean)
    relative = jnp.zeros((n, n), mean.dtype).at[np.tril_indices(n)].set(point[n:])
    return mean + product(point[:n], factor), product(relative, factor)


def _bound(family, mean, factor, eta, point):
    """Returns E_q[l] + log det(S) / 2 up to a constant, or -inf if a diagonal entry is negative."""
    at, root = _normal_at(mean, factor, point)
    nodes, weight = sphere_rule(len(mean))
    logdensity = functools.partial(unconstrained_logdensity, family, eta)
    values = jax.vmap(logdensity)(at + product(jnp.asarray(nodes, mean.dtype), root))
    average = weight * jnp.sum(values) + (1 - weight * len(nodes)) * logdensity(at)
    diagonal = jnp.diagonal(root) / jnp.diagonal(factor)
    is_positive = jnp.all(diagonal > 0)
    volume = jnp.sum(jnp.log(jnp.where(is_positive, diagonal, 1)))
    return jnp.where(is_positive, average + volume, -jnp.inf)
