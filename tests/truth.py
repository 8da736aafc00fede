"""Exact moments in NumPy, in float64: what the families and the sampler are measured against.

Nothing here uses the package. Every function takes one eta as a plain array, in the order of the
family's flat eta, and returns a `Truth`.
"""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import digamma, gammaln, logsumexp

# Beyond this many nats under the maximum, exp() is below float64's relative rounding.
_NEGLIGIBLE_NATS = 60.0
_ZOOMS = 24


class Truth(NamedTuple):
    """The log-partition, E[T] of shape `(eta_dim,)` and Cov[T] of shape `(eta_dim, eta_dim)`."""

    log_partition: float
    mean: np.ndarray
    covariance: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        """The standard deviations of T, `(eta_dim,)`: the unit of z."""
        return np.sqrt(np.diag(self.covariance))


def weighted_moments(log_weights: np.ndarray, stats: np.ndarray) -> Truth:
    """Sums over nodes: log-weights `(nodes,)`, statistics `(nodes, eta_dim)`."""
    log_partition = logsumexp(log_weights)
    weights = np.exp(log_weights - log_partition)
    mean = weights @ stats
    centered = stats - mean
    return Truth(float(log_partition), mean, (weights[:, None] * centered).T @ centered)


def _box(low, high, count):
    """Axes of a grid, and its nodes, `(nodes, dim)`."""
    axes = [np.linspace(*ends, count) for ends in zip(low, high, strict=True)]
    return axes, np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes))


def box_moments(log_density, statistics, dim: int, points: int, reach: float = 60.0) -> Truth:
    """The trapezoidal rule in R^dim, for smooth densities, over the box that matters.

    The box starts as [-reach, reach]^dim and shrinks to the nodes within 60 nats of the largest, or
    to the highest twentieth of all: a coarse grid may miss a narrow peak. Both functions take nodes
    `(nodes, dim)`.
    """
    low, high = np.full(dim, -reach), np.full(dim, reach)
    for _ in range(_ZOOMS):
        axes, nodes = _box(low, high, {1: 401, 2: 41, 3: 25}[dim])
        logs = log_density(nodes)
        level = min(logs.max() - _NEGLIGIBLE_NATS, np.quantile(logs, 0.95))
        matters = nodes[logs >= level]
        step, width = np.array([axis[1] - axis[0] for axis in axes]), high - low
        low = np.maximum(low, matters.min(0) - step)
        high = np.minimum(high, matters.max(0) + step)
        if np.all(high - low > 0.9 * width):
            break
    axes, nodes = _box(low, high, points)
    logs = log_density(nodes)
    log_cell = sum(np.log(axis[1] - axis[0]) for axis in axes)
    return weighted_moments(logs + log_cell, statistics(nodes))


def rectified_gaussian(eta, points: int = 4001) -> Truth:
    """T = (x, x^2) on x > 0, in the coordinate log x."""
    return _positive_moments(eta, lambda x: np.stack([x, x**2], -1), points)


def gamma_shape_prior(eta, points: int = 4001) -> Truth:
    """T = (alpha, log Gamma(alpha)) on alpha > 0, in the coordinate log alpha."""
    return _positive_moments(eta, lambda x: np.stack([x, gammaln(x)], -1), points)


def _positive_moments(eta, statistics, points: int) -> Truth:
    eta = np.asarray(eta, np.float64)
    return box_moments(
        lambda u: statistics(np.exp(u[:, 0])) @ eta + u[:, 0],
        lambda u: statistics(np.exp(u[:, 0])),
        1,
        points,
    )


def dirichlet_prior(eta, points: int | None = None) -> Truth:
    """T = (alpha, log B(alpha)) on alpha > 0 in R^k, for k of 2 or 3.

    Coordinates are log s, where s is the sum of alpha, and the log-ratios of its entries: around
    those of the mode, in units of their spread at s.
    """
    eta = np.asarray(eta, np.float64)
    k, n = len(eta) - 1, -eta[-1]

    def loss_and_gradient(u):
        x = np.exp(u)
        log_beta = gammaln(x).sum() - gammaln(x.sum())
        gradient = x * (eta[:-1] - n * (digamma(x) - digamma(x.sum()))) + 1
        return -(x @ eta[:-1] - n * log_beta + u.sum()), -gradient

    mode = minimize(loss_and_gradient, np.zeros(k), jac=True, bounds=[(-20, 20)] * k).x

    def coordinates(u):
        s = np.exp(u[:, :1])
        spread = 1 / np.sqrt(1 + n * s)
        logits = mode - mode[-1] + np.pad(u[:, 1:] * spread, ((0, 0), (0, 1)))
        log_p = logits - logsumexp(logits, axis=1, keepdims=True)
        log_det = k * u[:, 0] + log_p.sum(1) + (k - 1) * np.log(spread[:, 0])
        return np.exp(u[:, :1] + log_p), log_det

    def statistics(u):
        x = coordinates(u)[0]
        log_beta = gammaln(x).sum(1) - gammaln(x.sum(1))
        return np.concatenate([x, log_beta[:, None]], 1)

    points = {2: 301, 3: 101}[k] if points is None else points
    return box_moments(lambda u: statistics(u) @ eta + coordinates(u)[1], statistics, k, points)


def laplace_product(eta) -> Truth:
    """T = (-|x - 1|, -|x + 1|), each of shape `(d,)`: Gauss-Legendre, broken at the kinks."""
    minus, plus = np.asarray(eta, np.float64).reshape(2, -1)
    d = len(minus)
    node, weight = np.polynomial.legendre.leggauss(40)
    log_partition, mean, covariance = 0.0, np.zeros(2 * d), np.zeros((2 * d, 2 * d))
    for i in range(d):
        tail = np.linspace(0, _NEGLIGIBLE_NATS / (minus[i] + plus[i]), 9)
        ends = np.concatenate([-1 - tail[::-1], np.linspace(-1, 1, 9)[1:-1], 1 + tail])
        half = np.diff(ends)[:, None] / 2
        x = (ends[:-1, None] + half * (1 + node)).ravel()
        stats = np.stack([-np.abs(x - 1), -np.abs(x + 1)], -1)
        logs = stats @ np.array([minus[i], plus[i]]) + np.log(half * weight).ravel()
        one, rows = weighted_moments(logs, stats), np.array([i, d + i])
        log_partition += one.log_partition
        mean[rows] = one.mean
        covariance[np.ix_(rows, rows)] = one.covariance
    return Truth(log_partition, mean, covariance)


def von_mises_harmonic(eta, points: int = 4096) -> Truth:
    """T = (cos m theta, sin m theta), m = 1, ..., order: the trapezoidal rule on the circle."""
    eta = np.asarray(eta, np.float64)
    theta = np.linspace(-np.pi, np.pi, points, endpoint=False)
    angles = theta[:, None] * np.arange(1, len(eta) // 2 + 1)
    stats = np.concatenate([np.cos(angles), np.sin(angles)], -1)
    return weighted_moments(stats @ eta + np.log(2 * np.pi / points), stats)


def fisher_bingham(eta, points: int = 200) -> Truth:
    """T = x and five harmonics on the sphere: Gauss-Legendre in x_2, trapezoidal in longitude."""
    height, weight = np.polynomial.legendre.leggauss(points)
    longitude = np.linspace(0, 2 * np.pi, 2 * points, endpoint=False)
    z, phi = (grid.ravel() for grid in np.meshgrid(height, longitude, indexing="ij"))
    x = np.stack([np.sqrt(1 - z**2) * np.cos(phi), np.sqrt(1 - z**2) * np.sin(phi), z])
    second = [x[0] * x[1], x[1] * x[2], x[0] * x[2]]
    second += [(x[0] ** 2 - x[1] ** 2) / 2, (3 * x[2] ** 2 - 1) / np.sqrt(12)]
    stats = np.stack([*x, *second], -1)
    log_cells = np.repeat(np.log(weight * np.pi / points), 2 * points)
    return weighted_moments(stats @ np.asarray(eta, np.float64) + log_cells, stats)


def lattice_phi4(n: int, eta, points: int = 301) -> Truth:
    """The open phi^4 chain of n sites, T = sums of (x, x^2, x^4, x_i x_{i+1}), by transfer matrix.

    Sites are integrated out from one end, each by the trapezoidal rule, which converges
    exponentially here. What is known of the part of T that they make up, given the value y of the
    first site that is left, are its log-partition, mean and covariance; the next site's follow from
    the law of total covariance. So nothing is differenced, and the cost is linear in n.
    """
    e1, e2, e4, coupling = np.asarray(eta, np.float64)
    # A site has at most two bonds, and |J x y| <= |J| (x^2 + y^2) / 2.
    x = np.linspace(*_quartic_reach(e1, e2 + abs(coupling), e4), points)
    log_site = e1 * x + e2 * x**2 + e4 * x**4 + np.log(x[1] - x[0])
    site = np.stack([x, x**2, x**4, np.zeros(points)], -1)
    log_bond = coupling * np.outer(x, x)  # rows: the site that is left, y; columns: the one before
    lift = np.zeros((points, 4, 5))  # from (statistics so far, x) to those with the bond x y
    lift[:, range(4), range(4)], lift[:, 3, 4] = 1, x

    log_partition, mean = np.zeros(points), np.zeros((points, 4))
    covariance = np.zeros((points, 4, 4))
    for _ in range(n - 1):
        logs = log_bond + log_site + log_partition
        log_partition = logsumexp(logs, axis=1)
        p = np.exp(logs - log_partition[:, None])
        known = mean + site
        origin = known.mean(0)
        features = np.concatenate([known - origin, x[:, None]], -1)
        mean = p @ features
        second = (p @ _outer(features).reshape(points, -1)).reshape(points, 5, 5)
        covariance = (p @ covariance.reshape(points, -1)).reshape(points, 4, 4)
        covariance = covariance + lift @ (second - _outer(mean)) @ lift.swapaxes(1, 2)
        mean = origin + (lift @ mean[:, :, None])[:, :, 0]

    last = weighted_moments(log_site + log_partition, mean + site)
    p = np.exp(log_site + log_partition - last.log_partition)
    within = (p @ covariance.reshape(points, -1)).reshape(4, 4)
    return last._replace(covariance=last.covariance + within)


def _outer(rows: np.ndarray) -> np.ndarray:
    return rows[:, :, None] * rows[:, None, :]


def _quartic_reach(e1: float, e2: float, e4: float) -> tuple[float, float]:
    """Where e1 x + e2 x^2 + e4 x^4 is within 60 nats of its maximum."""
    stationary = np.roots([4 * e4, 0, 2 * e2, e1])
    real = stationary[np.abs(stationary.imag) < 1e-9].real
    highest = np.polyval([e4, 0, e2, e1, 0], real).max()
    ends = np.roots([e4, 0, e2, e1, _NEGLIGIBLE_NATS - highest])
    ends = ends[np.abs(ends.imag) < 1e-9].real
    return ends.min(), ends.max()
