"""Reference moments by quadrature in one and two dimensions, and their comparison with labels."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from nnef_dists._checks import check_instance
from nnef_dists._ranges import check_integer
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._diagnostics import MomentLabel, Status
from nnef_dists.sampling import line_rule, plane_rule, quadrature_dim

# Largest error, in nats and z units. Above it all results are NaN.
_MOST_ERROR = 1e-3
# Number of nodes of each half of a piece in one dimension, and of a panel in two.
_NODES = {1: 33, 2: 11}
# Number of etas per compiled call, and of etas that are evaluated at once.
_BATCH = 64
_AT_ONCE = {1: 16, 2: 4}
# Largest differences of means and covariances, in standard errors of the label.
_MOST_DIFFERENCE = 5.0
_MOST_COVARIANCE_DIFFERENCE = 6.0


class QuadratureMoments(NamedTuple):
    """Moments of one eta by quadrature. Without convergence, they are NaN and the error infinite.

    Attributes:
        mean: E[T], `(eta_dim,)`.
        covariance: Cov[T], `(eta_dim, eta_dim)`.
        log_partition: A(eta), in nats.
        error: Upper bound of the errors of the mean (z units), the covariance (units of both sd(T))
            and A (nats), from discretization, tails and rounding. For A it excludes the rounding
            error of eta . T at the mode, which is epsilon times its size.
    """

    mean: Float[Array, " eta_dim"]
    covariance: Float[Array, "eta_dim eta_dim"]
    log_partition: Float[Array, ""]
    error: Float[Array, ""]


def quadrature_moments(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], *, points: int | None = None
) -> QuadratureMoments:
    """Computes E[T], Cov[T] and A(eta) by quadrature, for x of one or two dimensions.

    Quadrature runs in the unconstrained coordinates u of the support, in double precision (under
    JAX transformations, in the dtype of eta). On a circle it runs in the angle, and on a sphere in
    the coordinates that the support supplies (`AbstractAngularSupport.at_angle`).

    In one dimension, the line is cut into pieces on which the density falls. The cuts are at modes
    and valleys of the density and at kinks and jumps of T. Sign changes of the slope on two scans
    find the modes, even if they are narrow or far away. Each piece has a Gauss-Legendre rule, over
    the bulk and the tails with mass. Its nodes are at distances w expm1(a t) / expm1(a) from the
    mode. The log-density is the integral of its slope, so that eta . T may be large in float32.
    Derivatives by eta are correct to any order: the gradient of A is E[T].

    In two dimensions, the integral is iterated. Each line of constant first coordinate has its own
    modes, pieces and nodes. The slope of the marginal log-density is the expected slope, and the
    marginal density is cut into pieces likewise. So the density may be narrow in any direction,
    and curved. The rule uses at most four modes of the marginal density, and three per line.
    Quadrature does not search for kinks and jumps, and seldom converges in their presence.

    For many etas, use `jax.vmap` in one dimension. In two dimensions, each eta takes about 70,000
    points, so use `jax.lax.map` with a `batch_size` of 8.

    Args:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.
        points: Number of nodes, odd, at least 9. In one dimension, per half of a piece, by default
            33. In two dimensions, per panel, by default 11. A line has 12 panels, and the marginal
            density 16.

    Returns:
        The moments, the log-partition and an error bound. If the bound is above 1e-3, all values
        are NaN and the bound is infinite. Then the integral does not exist, the density has too
        many modes, or more points are needed.

    Raises:
        ValueError: If the family has more than two dimensions, `points` is even or below 9, or eta
            is invalid.
    """
    check_instance(family, ExponentialFamily, "family")
    dim = quadrature_dim(family)
    if dim not in (1, 2):
        raise ValueError(f"Expected a family of one or two dimensions; {family!r} has {dim}")
    eta = family.check_eta(eta)
    if points is None:
        points = _NODES[dim]
    points = check_integer("points", points, 1)
    if points % 2 == 0 or points < 9:
        raise ValueError(f"Expected an odd number of points >= 9; got {points}")
    if isinstance(eta, Tracer) or eta.dtype == jnp.float64:
        return _quadrature(family, eta, points)
    found = double_quadrature(family, np.asarray(eta)[None], points)
    # The result is rounded to the dtype of eta.
    sizes = np.abs(found.mean[0]) / np.sqrt(np.diagonal(found.covariance[0]))
    rounding = jnp.finfo(eta.dtype).eps * np.max(sizes)
    error = found.error + np.where(np.isfinite(rounding), rounding, 0)
    return QuadratureMoments(
        *(jnp.asarray(leaf[0], eta.dtype) for leaf in found._replace(error=error))
    )


def double_quadrature(
    family: ExponentialFamily, etas: np.ndarray, points: int | None = None
) -> QuadratureMoments:
    """Computes the moments of many etas in double precision, even without JAX's 64-bit mode.

    Args:
        family: An exponential family of one or two dimensions.
        etas: Valid natural parameters, `(n, eta_dim)`.
        points: Number of nodes, as in `quadrature_moments`.

    Returns:
        The moments as float64 NumPy arrays, with a leading axis of n.
    """
    if points is None:
        points = _NODES[quadrature_dim(family)]
    run = _BATCHES[quadrature_dim(family)]
    parts = []
    with jax.enable_x64(True):
        for start in range(0, len(etas), _BATCH):
            count = min(_BATCH, len(etas) - start)
            rows = np.minimum(np.arange(start, start + _BATCH), len(etas) - 1)
            part = jnp.asarray(np.asarray(etas[rows], np.float64))
            found = run(family, part, count, points)
            parts.append(jax.tree.map(lambda leaf, n=count: np.asarray(leaf)[:n], found))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def compare_with_quadrature(
    family: ExponentialFamily, etas: np.ndarray, labels: MomentLabel
) -> MomentLabel:
    """Rejects labels that disagree with quadrature.

    A label is rejected if a mean differs from converged quadrature by more than 5 standard errors
    plus the error bound of quadrature. For a covariance the limit is 6 of its standard errors plus
    the bound. If quadrature does not converge, the label stays.

    Args:
        family: A family of one or two dimensions.
        etas: Natural parameters, `(n, eta_dim)`.
        labels: Labels of these etas, as NumPy arrays. Changed in place.

    Returns:
        The labels.
    """
    (rows,) = np.nonzero(labels.status == Status.OK)
    if not len(rows):
        return labels
    found = double_quadrature(family, etas[rows])
    eps = float(np.finfo(labels.mean.dtype).eps)
    sd = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    scale = sd[:, :, None] * sd[:, None]
    bound = found.error[:, None] * sd + eps * np.abs(found.mean)
    bound += _MOST_DIFFERENCE * labels.standard_error[rows]
    covariance_bound = (found.error[:, None, None] + eps) * scale
    covariance_bound += _MOST_COVARIANCE_DIFFERENCE * labels.covariance_error[rows]
    # Comparisons with NaN are false, so labels without converged quadrature stay.
    is_off = (np.abs(labels.mean[rows] - found.mean) > bound).any(1)
    is_off |= (np.abs(labels.covariance[rows] - found.covariance) > covariance_bound).any((1, 2))
    refused = rows[is_off]
    for leaf in (labels.mean, labels.covariance, labels.standard_error, labels.covariance_error):
        leaf[refused] = np.nan
    labels.status[refused] = Status.DISAGREES
    return labels


def _quadrature_batch(
    family: ExponentialFamily, etas: Float[Array, "n eta_dim"], count: Int[Array, ""], points: int
) -> QuadratureMoments:
    """Returns the moments of the first `count` etas, then zeros. One program serves any count."""
    size = _AT_ONCE[quadrature_dim(family)]
    one = jax.vmap(functools.partial(_quadrature, family, points=points))
    shapes = jax.eval_shape(one, etas)
    found = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def step(i, found):
        new = one(lax.dynamic_slice_in_dim(etas, i * size, size))
        return jax.tree.map(
            lambda all, part: lax.dynamic_update_slice_in_dim(all, part, i * size, 0), found, new
        )

    return lax.fori_loop(0, -(-count // size), step, found)


# Without optimization, programs in one dimension compile in half the time. They run only briefly.
_BATCHES = {
    1: jax.jit(
        _quadrature_batch,
        static_argnums=(0, 3),
        compiler_options={"xla_backend_optimization_level": "0"},
    ),
    2: jax.jit(_quadrature_batch, static_argnums=(0, 3)),
}


@functools.partial(jax.jit, static_argnums=(0, 2))
def _quadrature(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"], points: int
) -> QuadratureMoments:
    rule_of = line_rule if quadrature_dim(family) == 1 else plane_rule
    rule = rule_of(family, eta, points)
    error = lax.stop_gradient(rule.error)
    is_bad = ~(error <= _MOST_ERROR)
    # A factor instead of `jnp.where`, so that derivatives are NaN too.
    factor = jnp.where(is_bad, jnp.nan, 1).astype(eta.dtype)
    return QuadratureMoments(
        factor * rule.mean,
        factor * rule.covariance,
        factor * rule.log_partition,
        jnp.where(is_bad, jnp.inf, error),
    )
