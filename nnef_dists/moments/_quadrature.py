"""Moments by quadrature: the oracle in one and two dimensions."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nnef_dists._ranges import check_integer, check_number
from nnef_dists.families import ExponentialFamily

# Beyond this many nats under the maximum, exp() is below float64's relative rounding.
_NEGLIGIBLE_NATS = 45.0


class QuadratureMoments(NamedTuple):
    """What quadrature finds for one eta.

    Attributes:
        mean: E[T], `(eta_dim,)`.
        covariance: Cov[T], `(eta_dim, eta_dim)`.
        log_partition: A(eta), in nats.
        error: The largest change of a mean, in z units, or of A, in nats, when every other grid
            point is left out: an upper bound of the discretisation error, which falls exponentially
            with the number of points. Infinite where the density goes on beyond the first grid: ask
            for more `reach`.
    """

    mean: Float[Array, " eta_dim"]
    covariance: Float[Array, "eta_dim eta_dim"]
    log_partition: Float[Array, ""]
    error: Float[Array, ""]


def quadrature_moments(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    *,
    points: int | None = None,
    zooms: int = 4,
    reach: float = 1e4,
) -> QuadratureMoments:
    """Computes E[T], Cov[T] and A(eta) by the trapezoidal rule, for x of one or two dimensions.

    The rule runs over a box in the unconstrained coordinates of the support. The box is found by
    zooming: from a grid that reaches `reach` either way (dense near 0) on to the smallest box that
    holds all grid points whose log-density is within 45 nats of the largest, several times. For
    smooth densities the rule converges exponentially in the number of points.

    For many etas use `jax.lax.map` with a `batch_size`, since each needs a grid of its own.

    Args:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.
        points: Grid points in each dimension, an odd number, at least 9; None is 2,001 in one
            dimension and 301 in two.
        zooms: How often the box is refined.
        reach: How far the first grid goes either way, in unconstrained coordinates.

    Returns:
        The moments, the log-partition and an error bound.

    Raises:
        ValueError: For more than two dimensions, for `points` that are even or too few, and what
            `family.check_eta` raises.

    Reference:
        Trefethen and Weideman, *The exponentially convergent trapezoidal rule*, SIAM Review 56
        (2014).
    """
    dim = math.prod(family.support.shape)
    if dim not in (1, 2):
        raise ValueError(f"Expected a family of one or two dimensions; {family!r} has {dim}")
    points = {1: 2001, 2: 301}[dim] if points is None else points
    points = check_integer("points", points, 1)
    zooms, reach = check_integer("zooms", zooms, 0), check_number("reach", reach, 0.0)
    if points % 2 == 0 or points < 9:
        raise ValueError(f"Expected an odd number of points >= 9; got {points}")
    return _quadrature(family, family.check_eta(jnp.asarray(eta)), points, zooms, reach)


class QuadratureGrid(NamedTuple):
    """The smallest box found that holds all of a density that matters, as a grid.

    Attributes:
        axes: The points of each dimension, in unconstrained coordinates, each `(points,)`.
        logs: The unnormalised log-density of the coordinates, `(points ** dim,)`, in nats.
        held: Whether the first grid held all of it.
    """

    axes: list[Float[Array, " points"]]
    logs: Float[Array, " n"]
    held: Bool[Array, ""]


def _on_grid(fn: Callable[[Array], Array], axes: list[Array]) -> Array:
    mesh = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    return jax.vmap(fn)(mesh)


def quadrature_grid(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    *,
    points: int,
    zooms: int = 4,
    reach: float = 1e4,
) -> QuadratureGrid:
    """Finds the grid of `quadrature_moments`, which explains the arguments; eta is not checked."""
    support = family.support
    dim = math.prod(support.shape)

    def logdensity(u):
        x, log_det = support.transform_and_log_det(u.reshape(support.shape))
        return family.unnormalized_logdensity(eta, x) + log_det.astype(eta.dtype)

    def logs_on(axes):
        logs = _on_grid(logdensity, axes)
        return jnp.where(jnp.isfinite(logs), logs, -jnp.inf)

    def zoom(axes):
        """Returns the smallest box that holds what matters, and whether the grid held all of it."""
        logs = logs_on(axes).reshape([len(axis) for axis in axes])
        matters = logs > jnp.max(logs) - _NEGLIGIBLE_NATS
        box, held = [], jnp.asarray(True)
        for i, axis in enumerate(axes):
            along = jnp.any(matters, axis=tuple(j for j in range(dim) if j != i))
            first, last = jnp.argmax(along), points - 1 - jnp.argmax(along[::-1])
            held &= ~(along[0] | along[-1])
            box.append((axis[jnp.maximum(first - 1, 0)], axis[jnp.minimum(last + 1, points - 1)]))
        return box, held

    spread = np.arcsinh(reach)
    axes = [jnp.sinh(jnp.linspace(-spread, spread, points, dtype=eta.dtype))] * dim
    box, held = zoom(axes)
    for _ in range(zooms - 1):
        axes = [jnp.linspace(low, high, points, dtype=eta.dtype) for low, high in box]
        box, _ = zoom(axes)
    axes = [jnp.linspace(low, high, points, dtype=eta.dtype) for low, high in box]
    return QuadratureGrid(axes, logs_on(axes), held)


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _quadrature(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    points: int,
    zooms: int,
    reach: float,
) -> QuadratureMoments:
    support = family.support
    dim = math.prod(support.shape)
    axes, logs, held = quadrature_grid(family, eta, points=points, zooms=zooms, reach=reach)
    stats = _on_grid(
        lambda u: family.sufficient_statistics(support.transform(u.reshape(support.shape))), axes
    )
    log_cell = sum(jnp.log((axis[-1] - axis[0]) / (points - 1)) for axis in axes)

    highest = jnp.max(logs)

    def integrate(logs, stats):
        weights = jax.nn.softmax(logs)[:, None]
        # Centred at the mode's statistics first, so that float32 keeps the digits of the spread.
        origin = stats[jnp.argmax(logs)]
        mean = jnp.sum(weights * (stats - origin), 0)
        centered = stats - origin - mean
        # Relative to the maximum, so that a change shows where A itself is large.
        log_sum = jax.nn.logsumexp(logs - highest)
        return log_sum, origin + mean, (weights * centered).T @ centered

    log_sum, mean, covariance = integrate(logs, stats)
    grid = (points,) * dim
    every_other = (slice(None, None, 2),) * dim
    coarse_log_sum, coarse, _ = integrate(
        logs.reshape(grid)[every_other].ravel(),
        stats.reshape(*grid, -1)[every_other].reshape(-1, stats.shape[-1]),
    )
    mean_error = jnp.max(jnp.abs(coarse - mean) / jnp.sqrt(jnp.diag(covariance)))
    log_error = jnp.abs(coarse_log_sum + dim * math.log(2.0) - log_sum)
    error = jnp.maximum(mean_error, log_error)
    return QuadratureMoments(
        mean=mean,
        covariance=covariance,
        log_partition=highest + log_sum + log_cell,
        error=jnp.where(held, error, jnp.inf),
    )
