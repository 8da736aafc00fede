"""Initial components of a convex log-partition, from moment data, without training.

The log-partition of a sum of independent variables is the sum of their log-partitions. So multiples
of the convex features are fitted to the moments first. The residual is fitted by points in the
space of T, the atoms of a discrete distribution.
"""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array
from scipy.special import logsumexp

from nnef_dists.moments import MomentDataset

# Ridge of the correlations, for statistics that determine each other and for noise of the labels.
_RIDGE = 1e-4
# Fraction of labels at which the features may have more curvature than the labels' covariance, and
# factor by which they may have more at the other labels.
_EXCEPTIONS = 0.02
_SLACK = 1.02
# Smallest residual of the features, in z units.
_SMALLEST_MISFIT = 0.01
# Contribution of a feature with a coefficient of one unit, relative to the residual.
_WORTH = 0.3
# Fraction of the covariance that a component's spread has in addition to the residual covariance.
_LEFT_AT_LEAST = 1e-3
# Smallest initial coefficient of a feature, in its unit, so that the coefficient can grow.
_LEAST_WEIGHT = 0.01
# Largest number of iterations for the masses, and their tolerance in nats.
_ITERATIONS = 500
_TOLERANCE = 1e-5


@final
class ComponentStart(eqx.Module):
    """Initial values of K components of dimension d, with k features. They are not trained.

    `find_components` returns them.

    Attributes:
        slope: The mean over components of their points, `(d,)`.
        points: Points in the space of T, minus the slope, `(K, d)`.
        spread: Principal axes of the residual covariance of T of each component (plus a small part
            of the covariance), as columns, `(K, d, d)`.
        logits: Logarithms of the components' masses, up to a constant, `(K,)`.
        raw_weights: Coefficients of the features in their units, before a softplus, `(k,)`.
        units: Units of the coefficients, positive, `(k,)`. The larger of the coefficient itself and
            a coefficient that contributes 0.3 times the residual of the features.
        center: The mean eta, origin of eta for slope, points and logits, `(d,)`.
        feature_center: The mean of each feature, `(k,)`.
    """

    slope: paramax.NonTrainable[Array]
    points: paramax.NonTrainable[Array]
    spread: paramax.NonTrainable[Array]
    logits: paramax.NonTrainable[Array]
    raw_weights: paramax.NonTrainable[Array]
    units: paramax.NonTrainable[Array]
    center: paramax.NonTrainable[Array]
    feature_center: paramax.NonTrainable[Array]


def find_components(data: MomentDataset, count: int) -> ComponentStart:
    """Fits features and points to moment data.

    The features' coefficients c >= 0 are from a least-squares fit of

        grad A = constant + c . grad phi

    in z units. One factor reduces them until the curvature c . hess phi is below the covariance of
    T at nearly all labels. For Gaussians, this is all of A. The points are normal draws, one at
    each of `count` labels, with the residual mean and covariance. Their masses are self-consistent:
    each point is one draw at the eta of its label.

    Args:
        data: Moment data. Only valid labels are used.
        count: Number of components.

    Returns:
        The start. It is deterministic.

    Reference:
        Shirts and Chodera, *Statistically optimal analysis of samples from multiple equilibrium
        states*, J. Chem. Phys. 129 (2008), equation 11, for the masses.
    """
    labels = data.batch()
    features = data.family.convex_features
    eta, mean, covariance = (
        np.asarray(leaf, np.float64) for leaf in (labels.eta, labels.mean, labels.covariance)
    )
    sd = np.asarray(labels.sd, np.float64)
    values, slopes = (
        np.asarray(leaf, np.float64)
        for leaf in jax.jit(jax.vmap(lambda eta: (features(eta), jax.jacrev(features)(eta))))(
            labels.eta
        )
    )
    weights, sizes, misfit = _fit_features(slopes / sd[:, None], mean / sd, 1 / sd)

    def weighted(eta, weights):
        return weights @ features(eta)

    curvature = jax.jit(jax.vmap(jax.hessian(weighted), (0, None)))(
        labels.eta, jnp.asarray(weights, labels.eta.dtype)
    )
    pairs = sd[:, :, None] * sd[:, None]
    correlation = covariance / pairs
    curvature = np.asarray(curvature, np.float64) / pairs
    share = _largest_share(curvature, correlation)
    weights = share * weights

    rng = np.random.default_rng(0)
    rows = rng.choice(len(eta), count, replace=count > len(eta))
    left = sd[rows][:, :, None] * _root(correlation[rows] - share * curvature[rows])
    noise = np.einsum("kij,kj->ki", left, rng.normal(size=(count, eta.shape[1])))
    points = mean[rows] - slopes[rows].transpose(0, 2, 1) @ weights + noise
    slope, center = points.mean(0), eta.mean(0)
    points = points - slope
    axes = _root((1 + _LEFT_AT_LEAST) * correlation[rows] - share * curvature[rows])
    units = np.maximum(weights, _WORTH * max(misfit, _SMALLEST_MISFIT) / sizes)
    raw_weights = np.log(np.expm1(np.maximum(weights / units, _LEAST_WEIGHT)))

    def to_buffer(leaf: np.ndarray) -> paramax.NonTrainable[Array]:
        return paramax.NonTrainable(jnp.asarray(leaf, labels.eta.dtype))

    return ComponentStart(
        slope=to_buffer(slope),
        points=to_buffer(points),
        spread=to_buffer(sd[rows][:, :, None] * axes),
        logits=to_buffer(_masses(eta[rows] - center, points)),
        raw_weights=to_buffer(raw_weights),
        units=to_buffer(units),
        center=to_buffer(center),
        feature_center=to_buffer(values.mean(0)),
    )


def _fit_features(
    slopes: np.ndarray, mean: np.ndarray, unit: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Fits z-scaled moments by a constant and non-negative multiples of the features' slopes.

    Returns:
        The coefficients and the root mean square of each feature's slopes, both `(k,)`, and the
        root mean square of the residual.
    """
    # This import takes a tenth of the package's import time, for one kind of network.
    from scipy.optimize import nnls

    n, k, d = slopes.shape
    constant = (unit[:, None] * np.eye(d)).reshape(n * d, d)
    orthogonal = np.linalg.qr(constant)[0]
    columns = np.column_stack([slopes.transpose(0, 2, 1).reshape(n * d, k), mean.reshape(n * d)])
    sizes = np.sqrt(np.mean(columns[:, :k] ** 2, 0))
    sizes = np.where(sizes > 0, sizes, 1.0)
    columns = columns - orthogonal @ (orthogonal.T @ columns)
    if k == 0:
        return np.zeros(0), sizes, float(np.sqrt(np.mean(columns**2)))
    # The triangular factor has the same least-squares problem in k + 1 rows.
    triangle = np.linalg.qr(columns)[1]
    coefficients, norm = nnls(triangle[:, :k] / sizes, triangle[:, k], maxiter=100 * (k + 1))
    return coefficients / sizes, sizes, float(norm / np.sqrt(n * d))


def _largest_share(curvature: np.ndarray, correlation: np.ndarray) -> float:
    """Returns the largest factor, at most 1, that keeps the curvature below the correlation."""
    d = correlation.shape[-1]
    whitener = np.linalg.inv(np.linalg.cholesky(correlation + _RIDGE * np.eye(d)))
    ratios = np.linalg.eigvalsh(whitener @ curvature @ whitener.transpose(0, 2, 1))[:, -1]
    highest = np.quantile(ratios, 1 - _EXCEPTIONS)
    return float(min(1.0, _SLACK / max(highest, _SLACK)))


def _root(matrices: np.ndarray) -> np.ndarray:
    """Returns principal axes of the positive parts of matrices, scaled by sqrt(eigenvalue)."""
    values, vectors = np.linalg.eigh(matrices)
    return vectors * np.sqrt(np.maximum(values, 0))[:, None]


def _masses(eta: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns the log-masses for which each eta has drawn its point, the fixed point of

    b_k = -log sum_m exp(eta_m . t_k - A_m),    A_m = log sum_k exp(eta_m . t_k + b_k).
    """  # noqa: D415
    products = eta @ points.T
    log_partition = np.zeros(len(eta))
    for _ in range(_ITERATIONS):
        logits = -logsumexp(products - log_partition[:, None], axis=0)
        updated = logsumexp(products + logits, axis=1)
        updated -= updated.mean()
        change = np.max(np.abs(updated - log_partition))
        log_partition = updated
        if change < _TOLERANCE:
            break
    return -logsumexp(products - log_partition[:, None], axis=0)
