"""Moments by quadrature: the reference in one and two dimensions."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from nnef_dists._checks import check_instance
from nnef_dists._ranges import check_integer, check_number
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._density import finite_or_lowest, support_dim

# Beyond this many nats under the maximum, exp() is below float64's relative rounding.
_NEGLIGIBLE_NATS = 45.0
# The density has to fall by so many nats before numbers overflow, which they do beyond this t.
_LEAST_FALL = 32.0
_FAR = 20.0
# What is within so many nats of the maximum sets the scale of the last grid.
_BULK_NATS = 1.0
# Above this error, in nats and z units, nothing is returned but NaN.
_MOST_ERROR = 1e-3
# Grid points in each dimension, and how many times fewer those grids have that look for its place.
_POINTS = {1: 2001, 2: 301}
_SCAN = {1: 4, 2: 2}
_LEAST_SCAN = {1: 200, 2: 70}
_BATCH = 64


class QuadratureMoments(NamedTuple):
    """Moments of one eta by quadrature; all NaN, and the error infinite, if it did not converge.

    Attributes:
        mean: E[T], `(eta_dim,)`.
        covariance: Cov[T], `(eta_dim, eta_dim)`.
        log_partition: A(eta), in nats.
        error: The largest change of a mean, in z units, of a covariance, in units of both sd(T),
            or of A, in nats, when every other grid point is left out or the grid is shortened, plus
            what rounding may add: an upper bound, as the error falls exponentially with the number
            of points.
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

    The rule runs in double precision (inside transformations in the dtype of eta), over a box in
    the unconstrained coordinates u of the support. A grid that is dense near 0 and goes as far as
    numbers do finds the highest point, and zooming the smallest box of all points within 45 nats of
    it. On each axis the rule is uniform in t, with

        u = c + s sinh(t)

    c and s being the center and width of what is within 1 nat of the maximum, so that heavy tails
    are reached; or uniform in u, if that converges better. For smooth densities the rule converges
    exponentially in the number of points.

    For many etas use `jax.lax.map` with a `batch_size`, since each needs a grid of its own.

    Args:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.
        points: Grid points in each dimension, an odd number, at least 9. By default 2,001 in one
            dimension and 301 in two.
        zooms: How often the box is refined.
        reach: How far the first grid is dense either way, in unconstrained coordinates.

    Returns:
        The moments, the log-partition and an error bound. If the bound is above 1e-3, all is NaN
        and the bound infinite: the integral does not exist, or a grid of this size cannot find it.

    Raises:
        ValueError: For more than two dimensions, for `points` that are even or too few, and what
            `family.check_eta` raises.

    Reference:
        Trefethen and Weideman, *The exponentially convergent trapezoidal rule*, SIAM Review 56
        (2014).
    """
    check_instance(family, ExponentialFamily, "family")
    dim = support_dim(family)
    if dim not in (1, 2):
        raise ValueError(f"Expected a family of one or two dimensions; {family!r} has {dim}")
    points = check_integer("points", _POINTS[dim] if points is None else points, 1)
    zooms, reach = check_integer("zooms", zooms, 0), check_number("reach", reach, 0.0)
    if points % 2 == 0 or points < 9:
        raise ValueError(f"Expected an odd number of points >= 9; got {points}")
    eta = family.check_eta(eta)
    if isinstance(eta, Tracer) or eta.dtype == jnp.float64:
        return _quadrature(family, eta, points, zooms, float(reach))
    found = double_quadrature(family, np.asarray(eta)[None], points, zooms, float(reach))
    # What is returned has the digits of eta's dtype alone.
    sizes = np.abs(found.mean[0]) / np.sqrt(np.diagonal(found.covariance[0]))
    rounding = jnp.finfo(eta.dtype).eps * np.max(sizes)
    error = found.error + np.where(np.isfinite(rounding), rounding, 0)
    return QuadratureMoments(
        *(jnp.asarray(leaf[0], eta.dtype) for leaf in found._replace(error=error))
    )


def double_quadrature(
    family: ExponentialFamily,
    etas: np.ndarray,
    points: int | None = None,
    zooms: int = 4,
    reach: float = 1e4,
) -> QuadratureMoments:
    """Computes the moments of many etas in double precision, whatever JAX's default is.

    Args:
        family: An exponential family of one or two dimensions.
        etas: Valid natural parameters, `(n, eta_dim)`.
        points: Grid points in each dimension; None as in `quadrature_moments`.
        zooms: How often the box is refined.
        reach: How far the first grid is dense either way.

    Returns:
        The moments as NumPy arrays of doubles, with a leading axis of n.
    """
    points = _POINTS[support_dim(family)] if points is None else points
    size = min(_BATCH, len(etas))
    parts = []
    with jax.enable_x64(True):
        for start in range(0, len(etas), size):
            rows = np.minimum(np.arange(start, start + size), len(etas) - 1)
            part = jnp.asarray(np.asarray(etas[rows], np.float64))
            found = _quadrature_batch(family, part, points, zooms, reach)
            parts.append(jax.tree.map(np.asarray, found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(etas)], *parts)


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _quadrature_batch(family, etas, points, zooms, reach):
    one = functools.partial(_quadrature, family, points=points, zooms=zooms, reach=reach)
    return jax.lax.map(lambda eta: one(eta), etas)


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


def _on_grid(fn: Callable[[Array], Array], axes: list[Array]) -> Array:
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
    zooms: int = 4,
    reach: float = 1e4,
) -> tuple[QuadratureGrid, QuadratureGrid]:
    """Finds the grids of `quadrature_moments`: one with sinh spacing, one with even spacing.

    Args:
        family: The exponential family.
        eta: Natural parameters, not checked.
        points: Grid points in each dimension.
        zooms: How often the box is refined.
        reach: How far the first grid is dense either way.

    Returns:
        Both grids.
    """
    support = family.support
    dim, dtype = support_dim(family), eta.dtype
    scan = max(points // _SCAN[dim] // 2 * 2, _LEAST_SCAN[dim]) + 1

    def logs_on(axes):
        def log_density(u):
            x, log_det = support.transform_and_log_det(u.reshape(support.shape))
            return family.unnormalized_logdensity(eta, x) + log_det.astype(dtype)

        return finite_or_lowest(_on_grid(log_density, axes))

    def ends_of(is_inside, axis):
        """Returns the first and the last index along an axis of what is inside."""
        along = jnp.any(is_inside, axis=tuple(j for j in range(dim) if j != axis))
        return jnp.argmax(along), len(along) - 1 - jnp.argmax(along[::-1])

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
    near = np.arcsinh(reach) * np.linspace(-1, 1, scan)
    far = math.log(float(jnp.finfo(dtype).max)) / 6
    stretched = near + (far - np.arcsinh(reach)) * (near / np.arcsinh(reach)) ** 9
    axes = [jnp.sinh(jnp.asarray(stretched, dtype))] * dim
    box = box_of(axes, logs_on(axes), _BULK_NATS)
    for _ in range(zooms - 1):
        axes = [jnp.linspace(low, high, scan, dtype=dtype) for low, high in box]
        box = box_of(axes, logs_on(axes), _BULK_NATS)
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
    for _ in range(2):
        t = [jnp.linspace(low, high, scan, dtype=dtype) for low, high in whole]
        whole = box_of(t, stretched_logs(t), _NEGLIGIBLE_NATS)
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


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _quadrature(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    points: int,
    zooms: int,
    reach: float,
) -> QuadratureMoments:
    grids = quadrature_grids(family, eta, points=points, zooms=zooms, reach=reach)
    sinh, even = (_integrate(family, eta, grid, points) for grid in grids)
    better = sinh.error <= even.error
    found = jax.tree.map(lambda a, b: jnp.where(better, a, b), sinh, even)
    is_bad = ~(found.error <= _MOST_ERROR)
    found = jax.tree.map(lambda leaf: jnp.where(is_bad, jnp.nan, leaf), found)
    return found._replace(error=jnp.where(is_bad, jnp.inf, found.error))


def _integrate(family, eta, grid: QuadratureGrid, points: int) -> QuadratureMoments:
    support = family.support
    dim = support_dim(family)
    stats = _on_grid(
        lambda u: family.sufficient_statistics(support.transform(u.reshape(support.shape))),
        grid.axes,
    )
    logs = grid.logs + grid.log_weights
    highest = jnp.max(logs)
    # Where the density is zero T may be infinite.
    stats = jnp.where(jnp.isneginf(grid.logs)[:, None], 0, stats)
    # Centered at the mode's statistics first, to keep the digits of the spread.
    origin = stats[jnp.argmax(grid.logs)]

    def integrate(which):
        weights = jax.nn.softmax(logs[which])[:, None]
        centered = stats[which] - origin
        mean = jnp.sum(weights * centered, 0)
        centered = centered - mean
        return (
            jax.nn.logsumexp(logs[which] - highest),
            mean,
            (weights * centered).T @ centered,
        )

    grid_shape = (points,) * dim
    index = np.arange(points**dim).reshape(grid_shape)
    log_sum, mean, covariance = integrate(index.ravel())
    sd = jnp.sqrt(jnp.diagonal(covariance))
    coarse = integrate(index[(slice(None, None, 2),) * dim].ravel())

    def difference(other, log_factor):
        other_log, other_mean, other_covariance = other
        return jnp.maximum(
            jnp.abs(other_log + log_factor - log_sum),
            jnp.maximum(
                jnp.max(jnp.abs(other_mean - mean) / sd),
                jnp.max(jnp.abs(other_covariance - covariance) / jnp.outer(sd, sd)),
            ),
        )

    rounding = jnp.finfo(eta.dtype).eps * jnp.sum(jnp.abs(eta * origin))
    tail = _tail(logs - highest - log_sum, jnp.max(jnp.abs((stats - origin) / sd), 1), grid_shape)
    error = difference(coarse, dim * math.log(2.0)) + tail + rounding
    return QuadratureMoments(
        mean=origin + mean,
        covariance=covariance,
        log_partition=highest + log_sum,
        error=jnp.where(grid.held & jnp.isfinite(error), error, jnp.inf),
    )


def _tail(logs: Array, z: Array, shape: tuple[int, ...]) -> Float[Array, ""]:
    """Returns what lies beyond the ends: geometric series of the last two layers of points."""
    terms = (jnp.exp(logs) * (1 + z**2)).reshape(shape)
    total = jnp.zeros((), logs.dtype)
    for axis in range(len(shape)):
        layers = jnp.sum(terms, tuple(j for j in range(len(shape)) if j != axis))
        for last, before in ((layers[0], layers[1]), (layers[-1], layers[-2])):
            ratio = jnp.where(last > 0, last / before, 0)
            total += jnp.where(ratio < 1, last / jnp.maximum(1 - ratio, 1e-6), jnp.inf)
    return total
