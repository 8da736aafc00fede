"""Grids for quadrature in two dimensions: all of a density that matters."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nnef_dists.families import ExponentialFamily, support_dim, unconstrained_logdensity
from nnef_dists.sampling._density import finite_or_lowest

# Beyond this many nats under the maximum, exp() is below float64's relative rounding.
_NEGLIGIBLE_NATS = 45.0
# The density has to fall by so many nats before numbers overflow, which they do beyond this t.
_LEAST_FALL = 32.0
_FAR = 20.0
# What is within so many nats of the maximum sets the scale of the last grid.
_BULK_NATS = 1.0
# How many times fewer points those grids have that look for the place of the last one.
_SCAN = 2
_LEAST_SCAN = 70
# How often the box of the bulk is refined, and how far the first grid is dense either way.
_ZOOMS, _REACH = 4, 1e4


class QuadratureGrid(NamedTuple):
    """The smallest box found that holds all of a density that matters, as a grid.

    Attributes:
        axes: The points of each dimension, in unconstrained coordinates, each `(points,)`.
        logs: The unnormalized log-density of the coordinates, `(points ** dim,)`, in nats.
        log_weights: The logarithms of the rule's weights, of the same shape.
        held: Whether the density is negligible at the ends of the grid.
    """

    axes: list[Float[Array, " points"]]
    logs: Float[Array, " n"]
    log_weights: Float[Array, " n"]
    held: Bool[Array, ""]


def on_grid(fn: Callable[[Array], Array], axes: list[Array]) -> Array:
    """Returns a function's values at all points of a grid, the last dimension the fastest."""
    mesh = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))
    return jax.vmap(fn)(mesh)


def _log_cosh(t: Array) -> Array:
    return jnp.logaddexp(t, -t) - math.log(2.0)


def _outer_sum(parts: list[Array]) -> Array:
    total = parts[0]
    for part in parts[1:]:
        total = total[..., None] + part
    return total.ravel()


def quadrature_grids(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    *,
    points: int,
) -> tuple[QuadratureGrid, QuadratureGrid]:
    """Finds the grids of `quadrature_moments`: one with sinh spacing, one with even spacing.

    Args:
        family: The exponential family.
        eta: Natural parameters, not checked.
        points: Grid points in each dimension.

    Returns:
        Both grids.
    """
    dim, dtype = support_dim(family), eta.dtype
    scan = max(points // _SCAN // 2 * 2, _LEAST_SCAN) + 1

    def logs_on(axes):
        return finite_or_lowest(
            on_grid(functools.partial(unconstrained_logdensity, family, eta), axes)
        )

    def ends_of(is_inside, axis):
        """Returns the first and the last index along an axis of what is inside."""
        along = jnp.any(is_inside, axis=tuple(j for j in range(dim) if j != axis))
        index = jnp.arange(len(along))
        return jnp.min(jnp.where(along, index, len(along) - 1)), jnp.max(jnp.where(along, index, 0))

    def box_of(axes, logs, nats):
        """Returns the smallest box of all points within `nats` of the maximum, and a point more."""
        size = len(axes[0])
        matters = (logs > jnp.max(logs) - nats).reshape([size] * dim)
        box = []
        for i, axis in enumerate(axes):
            first, last = ends_of(matters, i)
            low, high = jnp.maximum(first - 1, 0), jnp.minimum(last + 1, size - 1)
            box.append((axis[low], axis[high]))
        return box

    # The bulk first, from a grid that is dense near 0 and thin up to the largest numbers.
    near = np.arcsinh(_REACH) * np.linspace(-1, 1, scan)
    far = math.log(float(jnp.finfo(dtype).max)) / 6
    stretched = near + (far - np.arcsinh(_REACH)) * (near / np.arcsinh(_REACH)) ** 9
    axes = [jnp.sinh(jnp.asarray(stretched, dtype))] * dim
    box = box_of(axes, logs_on(axes), _BULK_NATS)

    def zoom(_, box):
        axes = [jnp.linspace(low, high, scan, dtype=dtype) for low, high in box]
        return box_of(axes, logs_on(axes), _BULK_NATS)

    # Loops, so that the density is compiled fewer times.
    box = jax.lax.fori_loop(0, _ZOOMS - 1, zoom, box)
    center = [(low + high) / 2 for low, high in box]
    scale = [jnp.maximum((high - low) / 2, jnp.finfo(dtype).tiny) for low, high in box]
    # Then everything that matters, from the bulk outwards, as far as numbers go.
    reach_t = math.log(float(jnp.finfo(dtype).max)) / 2
    spread = np.linspace(-1, 1, scan)
    t = [jnp.asarray(4 * spread + (reach_t - 4) * spread**5, dtype)] * dim

    def to_u(t):
        return [c + s * jnp.sinh(t) for c, s, t in zip(center, scale, t, strict=True)]

    def stretched_logs(t):
        return logs_on(to_u(t)) + _outer_sum([_log_cosh(part) for part in t])

    logs = stretched_logs(t)
    whole = box_of(t, logs, _NEGLIGIBLE_NATS)
    held = jnp.asarray(True)
    for i, axis in enumerate(t):
        mattering = ends_of((logs > jnp.max(logs) - _LEAST_FALL).reshape([scan] * dim), i)
        finite = ends_of(jnp.isfinite(logs).reshape([scan] * dim), i)
        for inner, outer in zip(mattering, finite, strict=True):
            # Nearer in, the end of what is finite is that of the support.
            held &= (inner != outer) | (jnp.abs(axis[inner]) < _FAR)

    def shrink(_, whole):
        t = [jnp.linspace(low, high, scan, dtype=dtype) for low, high in whole]
        return box_of(t, stretched_logs(t), _NEGLIGIBLE_NATS)

    whole = jax.lax.fori_loop(0, 2, shrink, whole)
    t = [jnp.linspace(low, high, points, dtype=dtype) for low, high in whole]

    def grid(axes, log_steps):
        logs = logs_on(axes)
        return QuadratureGrid(axes, logs, _outer_sum(log_steps), held)

    def step(axis):
        # Of the whole axis: neighbors agree in most of their digits.
        return (axis[-1] - axis[0]) / (points - 1)

    sinh = grid(
        to_u(t),
        [jnp.log(s * step(t)) + _log_cosh(t) for s, t in zip(scale, t, strict=True)],
    )
    even = [jnp.linspace(axis[0], axis[-1], points, dtype=dtype) for axis in sinh.axes]
    steps = [jnp.full(points, jnp.log(step(axis)), dtype) for axis in even]
    return sinh, grid(even, steps)
