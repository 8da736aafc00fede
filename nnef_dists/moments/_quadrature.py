"""Moments by quadrature, the reference in one and two dimensions, and labels beside them."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from nnef_dists._checks import check_instance
from nnef_dists._ranges import check_integer
from nnef_dists.families import ExponentialFamily, support_dim
from nnef_dists.moments._diagnostics import MomentLabel, Status
from nnef_dists.sampling import (
    QuadratureGrid,
    line_rule,
    on_grid,
    quadrature_dim,
    quadrature_grids,
)

# Above this error, in nats and z units, nothing is returned but NaN.
_MOST_ERROR = 1e-3
# Nodes of each half of a piece in single and in double precision; in two dimensions grid points.
_NODES, _DOUBLE_NODES, _POINTS = 25, 33, 301
# Enough to find what is wrong with a label, where quadrature converges at all.
_LABEL_POINTS = {1: 33, 2: 151}
# Etas of a compiled call; in one dimension all at once.
_BATCH = 64
# In standard errors of the label: a larger difference is not chance.
_MOST_DIFFERENCE = 5.0
_MOST_COVARIANCE_DIFFERENCE = 6.0


class QuadratureMoments(NamedTuple):
    """Moments of one eta by quadrature; all NaN, and the error infinite, if it did not converge.

    Attributes:
        mean: E[T], `(eta_dim,)`.
        covariance: Cov[T], `(eta_dim, eta_dim)`.
        log_partition: A(eta), in nats.
        error: An upper bound of the error of the mean, in z units, of the covariance, in units of
            both sd(T), and of A, in nats: what the rule leaves, its tails, and rounding. In one
            dimension A has the rounding error of eta . T at the mode besides, which is epsilon
            times its size.
    """

    mean: Float[Array, " eta_dim"]
    covariance: Float[Array, "eta_dim eta_dim"]
    log_partition: Float[Array, ""]
    error: Float[Array, ""]


def quadrature_moments(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], *, points: int | None = None
) -> QuadratureMoments:
    """Computes E[T], Cov[T] and A(eta) by quadrature, for x of one or two dimensions.

    Quadrature runs in double precision (inside transformations in the dtype of eta), in the
    unconstrained coordinates u of the support; on a circle in the angle.

    In one dimension the line is cut at the modes and valleys of the density and at kinks and jumps
    of T, into pieces on each of which the density falls. Sign changes of its slope on two scans
    find the modes, however narrow and far away they are. On each piece a Gauss-Legendre rule has
    nodes at distances w expm1(a t) / expm1(a) from the mode, from the bulk to the tails, as far as
    these have mass. The log-density is the integral of its slope, so that eta . T may be large in
    float32. Derivatives in eta are right to any order: A has the gradient E[T].

    In two dimensions the trapezoidal rule is applied over a box: a grid that is dense near 0 and
    goes as far as numbers do finds the highest point, and zooming the smallest box of all points
    within 45 nats of it. On each axis the rule is uniform in t, with

        u = c + s sinh(t)

    c and s being the center and width of what is within 1 nat of the maximum, so that heavy tails
    are reached; or uniform in u, if that converges better. For smooth densities both rules converge
    exponentially in the number of points.

    For many etas use `jax.vmap` in one dimension, and `jax.lax.map` with a `batch_size` in two,
    where each eta needs a grid of its own.

    Args:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.
        points: An odd number, at least 9: in one dimension the nodes of each half of a piece, by
            default 33, and 25 in single precision; in two the grid points in each dimension, 301 by
            default.

    Returns:
        The moments, the log-partition and an error bound. If the bound is above 1e-3, all is NaN
        and the bound infinite: the integral does not exist, the density has too many modes, or
        more points are needed.

    Raises:
        ValueError: For more than two dimensions, for `points` that are even or too few, and what
            `family.check_eta` raises.

    Reference:
        Trefethen and Weideman, *The exponentially convergent trapezoidal rule*, SIAM Review 56
        (2014).
    """
    check_instance(family, ExponentialFamily, "family")
    dim = quadrature_dim(family)
    if dim not in (1, 2):
        raise ValueError(f"Expected a family of one or two dimensions; {family!r} has {dim}")
    eta = family.check_eta(eta)
    if points is None:
        is_single = isinstance(eta, Tracer) and eta.dtype != jnp.float64
        points = (_NODES if is_single else _DOUBLE_NODES) if dim == 1 else _POINTS
    points = check_integer("points", points, 1)
    if points % 2 == 0 or points < 9:
        raise ValueError(f"Expected an odd number of points >= 9; got {points}")
    if isinstance(eta, Tracer) or eta.dtype == jnp.float64:
        return _quadrature(family, eta, points)
    found = double_quadrature(family, np.asarray(eta)[None], points)
    # What is returned has the digits of eta's dtype alone.
    sizes = np.abs(found.mean[0]) / np.sqrt(np.diagonal(found.covariance[0]))
    rounding = jnp.finfo(eta.dtype).eps * np.max(sizes)
    error = found.error + np.where(np.isfinite(rounding), rounding, 0)
    return QuadratureMoments(
        *(jnp.asarray(leaf[0], eta.dtype) for leaf in found._replace(error=error))
    )


def double_quadrature(
    family: ExponentialFamily, etas: np.ndarray, points: int | None = None
) -> QuadratureMoments:
    """Computes the moments of many etas in double precision, whatever JAX's default is.

    Args:
        family: An exponential family of one or two dimensions.
        etas: Valid natural parameters, `(n, eta_dim)`.
        points: As in `quadrature_moments`.

    Returns:
        The moments as NumPy arrays of doubles, with a leading axis of n.
    """
    if points is None:
        points = _DOUBLE_NODES if quadrature_dim(family) == 1 else _POINTS
    size = min(_BATCH, len(etas))
    parts = []
    with jax.enable_x64(True):
        for start in range(0, len(etas), size):
            rows = np.minimum(np.arange(start, start + size), len(etas) - 1)
            part = jnp.asarray(np.asarray(etas[rows], np.float64))
            found = _quadrature_batch(family, part, points)
            parts.append(jax.tree.map(np.asarray, found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(etas)], *parts)


def compare_with_quadrature(
    family: ExponentialFamily, etas: np.ndarray, labels: MomentLabel
) -> MomentLabel:
    """Refuses the labels that quadrature contradicts.

    A label is refused if any mean differs from that of a converged quadrature by more than 5 of
    its standard errors plus the bound of the quadrature's error, or any covariance by more than 6
    of its own. If quadrature does not converge the label stays.

    Args:
        family: A family of one or two dimensions.
        etas: Natural parameters, `(n, eta_dim)`.
        labels: Their labels, as NumPy arrays; changed in place.

    Returns:
        The labels.
    """
    (rows,) = np.nonzero(labels.status == Status.OK)
    if not len(rows):
        return labels
    found = double_quadrature(family, etas[rows], _LABEL_POINTS[quadrature_dim(family)])
    eps = float(np.finfo(labels.mean.dtype).eps)
    sd = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    scale = sd[:, :, None] * sd[:, None]
    bound = found.error[:, None] * sd + eps * np.abs(found.mean)
    bound += _MOST_DIFFERENCE * labels.standard_error[rows]
    covariance_bound = (found.error[:, None, None] + eps) * scale
    covariance_bound += _MOST_COVARIANCE_DIFFERENCE * labels.covariance_error[rows]
    # Comparisons are false where quadrature is NaN.
    is_off = (np.abs(labels.mean[rows] - found.mean) > bound).any(1)
    is_off |= (np.abs(labels.covariance[rows] - found.covariance) > covariance_bound).any((1, 2))
    refused = rows[is_off]
    for leaf in (labels.mean, labels.covariance, labels.standard_error, labels.covariance_error):
        leaf[refused] = np.nan
    labels.status[refused] = Status.DISAGREES
    return labels


@functools.partial(jax.jit, static_argnums=(0, 2))
def _quadrature_batch(family, etas, points):
    one = functools.partial(_quadrature, family, points=points)
    if quadrature_dim(family) == 1:
        return jax.vmap(one)(etas)
    return lax.map(lambda eta: one(eta), etas)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _quadrature(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], points: int
) -> QuadratureMoments:
    if quadrature_dim(family) == 1:
        rule = line_rule(family, eta, points)
        found = QuadratureMoments(rule.mean, rule.covariance, rule.log_partition, rule.error)
    else:
        grids = quadrature_grids(family, lax.stop_gradient(eta), points=points)
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *grids)
        both = jax.vmap(lambda grid: _integrate(family, eta, grid, points))(both)
        sinh, even = both.error
        found = jax.tree.map(lambda leaf: jnp.where(sinh <= even, leaf[0], leaf[1]), both)
    error = lax.stop_gradient(found.error)
    is_bad = ~(error <= _MOST_ERROR)
    # A factor, not a selection: derivatives are NaN too.
    factor = jnp.where(is_bad, jnp.nan, 1).astype(eta.dtype)
    found = jax.tree.map(lambda leaf: factor * leaf, found)
    return found._replace(error=jnp.where(is_bad, jnp.inf, error))


def _integrate(family, eta, grid: QuadratureGrid, points: int) -> QuadratureMoments:
    support = family.support
    dim = support_dim(family)
    stats = on_grid(
        lambda u: family.sufficient_statistics(support.transform(u.reshape(support.shape))),
        grid.axes,
    )
    highest = jnp.max(grid.logs + grid.log_weights)
    # Where the density is zero T may be infinite.
    stats = jnp.where(jnp.isneginf(grid.logs)[:, None], 0, stats)
    # Centered at the mode's statistics first, to keep the digits of the spread.
    origin = stats[jnp.argmax(grid.logs)]
    # Nothing but eta varies: values are 0, derivatives those of eta . T.
    change = eta - lax.stop_gradient(eta)
    logs = grid.logs + grid.log_weights - highest + (stats - origin) @ change

    def integrate(logs):
        weights = jax.nn.softmax(logs)[:, None]
        centered = stats - origin
        mean = jnp.sum(weights * centered, 0)
        centered = centered - mean
        return jax.nn.logsumexp(logs), mean, (weights * centered).T @ centered

    grid_shape = (points,) * dim
    is_coarse = np.all(np.indices(grid_shape) % 2 == 0, 0).ravel()
    rules = jnp.stack([logs, jnp.where(is_coarse, logs, -jnp.inf)])
    found = jax.vmap(integrate)(rules)
    (log_sum, mean, covariance), coarse = ([part[i] for part in found] for i in range(2))
    sd = jnp.sqrt(jnp.diagonal(covariance))

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
    tail = _tail(logs - log_sum, jnp.max(jnp.abs((stats - origin) / sd), 1), grid_shape)
    error = difference(coarse, dim * math.log(2.0)) + tail + rounding
    return QuadratureMoments(
        mean=origin + mean,
        covariance=covariance,
        log_partition=highest + change @ origin + log_sum,
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
