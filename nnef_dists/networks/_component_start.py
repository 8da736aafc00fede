"""Where the components of a convex log-partition start: found from moment data, without training.

Log-partitions of independent variables add up to that of their sum. So what multiples of the convex
features explain of the moments is split off first; what is left is given to points in the space of
T, which are masses of a discrete distribution.
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

# Of correlations: statistics that determine each other, and noise of the labels.
_RIDGE = 1e-4
# The features may have more curvature than the labels' covariance at this share of labels, and by
# this factor.
_EXCEPTIONS = 0.02
_SLACK = 1.02
# What the features leave, in z units, is taken to be no less.
_SMALLEST_MISFIT = 0.01
# Of what the features leave, the unit of a feature's coefficient.
_WORTH = 0.3
# Of the covariance, what a component's spread has beyond what the features leave.
_LEFT_AT_LEAST = 1e-3
# Least coefficient of a feature at the start, in its unit: not so small that it cannot grow.
_LEAST_WEIGHT = 0.01
_ITERATIONS = 500
_TOLERANCE = 1e-5


@final
class ComponentStart(eqx.Module):
    """The start of K components of dimension d, with k features; never trained.

    `find_components` returns it.

    Attributes:
        slope: The mean over components of their points, `(d,)`.
        points: Points in the space of T, less the slope, `(K, d)`.
        spread: For each component the principal axes of the covariance of T that is left to it (and
            of a little of the whole), as columns, `(K, d, d)`.
        logits: Logarithms of the components' masses, up to a constant, `(K,)`.
        raw_weights: Coefficients of the features in their units, before a softplus, `(k,)`.
        units: Units of the coefficients: a coefficient that is worth a third of what the features
            leave, or the coefficient itself where that is more, `(k,)`; positive.
        center: The mean eta, at which slope, points and logits are to be read, `(d,)`.
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

    The features' coefficients c >= 0 are those of the least-squares fit of

        grad A = constant + c . grad phi

    in z units, reduced by one factor until the curvature c . hess phi is below the covariance of T
    at nearly all labels. For Gaussians that is the whole of A. The points are normal draws, one at
    each of `count` labels, with the mean and the covariance that are left there. Their masses make
    the log-partition of the points consistent with the labels' being its normalizers.

    Args:
        data: Moment data, of which the good labels are used.
        count: The number of components.

    Returns:
        The start. The same data give the same components.

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
        The coefficients and the root mean square of each feature's slopes, both `(k,)`, and that of
        what is left.
    """
    # A tenth of the package's time to import, for one kind of network.
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
    """Returns the largest factor, at most 1, of curvature that remains below the correlation."""
    d = correlation.shape[-1]
    whitener = np.linalg.inv(np.linalg.cholesky(correlation + _RIDGE * np.eye(d)))
    ratios = np.linalg.eigvalsh(whitener @ curvature @ whitener.transpose(0, 2, 1))[:, -1]
    highest = np.quantile(ratios, 1 - _EXCEPTIONS)
    return float(min(1.0, _SLACK / max(highest, _SLACK)))


def _root(matrices: np.ndarray) -> np.ndarray:
    """Returns principal axes of the positive parts of matrices, as columns of their length."""
    values, vectors = np.linalg.eigh(matrices)
    return vectors * np.sqrt(np.maximum(values, 0))[:, None]


def _masses(eta: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns the log-masses for which every eta has drawn its point: the fixed point of

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
