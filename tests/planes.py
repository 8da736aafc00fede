"""Families of two dimensions as strangers declare them, and their exact moments in NumPy."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import Exp, Sigmoid
from scipy.special import gammaln, i0e, i1e

import nnef_dists as nd
from nnef_dists.families import AbstractAngularSupport, CircleProjection
from tests.truth import Truth, box_moments, weighted_moments


class Normal(nd.ExponentialFamily):
    """A normal of two dimensions."""

    x_shape = (2,)
    natural_domain = nd.domain()

    def compute_stats(self, x):
        return {"x": x, "x2": x**2, "product": x[0] * x[1]}


class Quartics(nd.ExponentialFamily):
    """Up to four coupled wells."""

    x_shape = (2,)
    natural_domain = nd.domain(x4=nd.negative)

    def compute_stats(self, x):
        return {"x": x, "x2": x**2, "product": x[0] * x[1], "x4": x**4}


class Banana(nd.ExponentialFamily):
    """A bent ridge along the first coordinate, or along the second."""

    flipped: bool = False

    x_shape = (2,)
    natural_domain = nd.domain(x2=nd.negative, bend=nd.negative)

    def compute_stats(self, x):
        x, y = x[::-1] if self.flipped else x
        return {"x": x, "x2": x**2, "bend": (y - x**2) ** 2}


class ShapeAndRate(nd.ExponentialFamily):
    """The conjugate prior of a gamma distribution's shape and rate."""

    x_shape = (2,)
    natural_domain = nd.domain(n=nd.positive, rate=nd.negative)

    @property
    def support(self):
        return Exp((2,))

    def compute_stats(self, x):
        shape, rate = x
        log_density = shape * jnp.log(rate) - jax.scipy.special.gammaln(shape)
        return {"n": log_density, "shape": shape, "rate": rate}


class BetaPrior(nd.ExponentialFamily):
    """The conjugate prior of a beta distribution's two parameters."""

    x_shape = (2,)
    natural_domain = nd.domain()

    @property
    def support(self):
        return Exp((2,))

    def compute_stats(self, x):
        log_gamma = jax.scipy.special.gammaln
        return {"n": log_gamma(jnp.sum(x)) - jnp.sum(log_gamma(x)), "x": x}


class Cut(nd.ExponentialFamily):
    """Independent normals, cut to the unit square."""

    x_shape = (2,)
    natural_domain = nd.domain()

    @property
    def support(self):
        return Sigmoid((2,))

    def compute_stats(self, x):
        return {"x": x, "x2": x**2}


class HeavyTail(nd.ExponentialFamily):
    """A Student's distribution of two dimensions, with a direction."""

    x_shape = (2,)
    natural_domain = nd.domain(t=nd.interval(-jnp.inf, -1.0))

    def compute_stats(self, x):
        square = 1 + jnp.sum(x**2)
        return {"t": jnp.log(square), "x": x / square}


class Cylinder(AbstractAngularSupport):
    """An angle, and a positive number."""

    shape = (3,)
    coordinates = 2

    def transform_and_log_det(self, u):
        angle, log_weight = CircleProjection().transform_and_log_det(u[:2])
        return jnp.stack([angle, jnp.exp(u[2])]), log_weight + u[2]

    def at_angle(self, coordinates):
        log_x, angle = coordinates
        return jnp.stack([angle, jnp.exp(log_x)]), log_x


class MeanAndConcentration(nd.ExponentialFamily):
    """The conjugate prior of a von Mises distribution's mean and concentration."""

    x_shape = (2,)
    natural_domain = nd.domain(n=nd.positive)

    @property
    def support(self):
        return Cylinder()

    def compute_stats(self, x):
        angle, k = x
        log_normalizer = jnp.log(jax.scipy.special.i0e(k)) + k
        return {"cos": k * jnp.cos(angle), "sin": k * jnp.sin(angle), "n": -log_normalizer}


class Egg(nd.ExponentialFamily):
    """A lattice of modes under a normal density: more than are integrated."""

    x_shape = (2,)
    natural_domain = nd.domain(square=nd.negative)

    def compute_stats(self, x):
        return {"cos": jnp.sum(jnp.cos(6 * x)), "square": jnp.sum(x**2)}


class Plane(NamedTuple):
    """A family with a prior's eta, what an observation adds to it, and exact moments."""

    family: nd.ExponentialFamily
    prior: tuple[float, ...]
    means: tuple[tuple[float, ...], ...]
    exact: Callable[[np.ndarray], Truth]
    largest: float = 1e6

    def etas(self, counts=(1, 10, 100, 1e3, 1e4, 1e5, 1e6)) -> np.ndarray:
        """Posteriors of so many observations, as far as exact moments are exact."""
        prior, means = np.array(self.prior), np.array(self.means)
        counts = np.array([count for count in counts if count <= self.largest], float)
        return (prior + counts[:, None, None] * means).reshape(-1, len(prior))


def normal_eta(mean, covariance) -> np.ndarray:
    """The eta of `Normal`."""
    precision = np.linalg.inv(covariance)
    diagonal = -np.diag(precision) / 2
    return np.array([*precision @ np.asarray(mean), *diagonal, -precision[0, 1]])


def exact_normal(eta) -> Truth:
    """T is quadratic in x: moments by Isserlis' theorem."""
    a, b, c, d, e = eta
    # From the eta: of a narrow ridge the determinant has few of its digits.
    determinant = 4 * c * d - e * e
    covariance = np.array([[-2 * d, e], [e, -2 * c]]) / determinant
    mean = covariance @ np.array([a, b])
    forms = np.array(
        [[[0, 0], [0, 0]]] * 2 + [[[2, 0], [0, 0]], [[0, 0], [0, 2]], [[0, 1], [1, 0]]]
    )
    linear = np.array([[1, 0], [0, 1], [0, 0], [0, 0], [0, 0]]) + forms @ mean
    spread = forms @ covariance
    of_stats = linear @ covariance @ linear.T + np.einsum("iab,jba->ij", spread, spread) / 2
    stats = np.array(
        [*mean, *(mean**2 + np.diag(covariance)), mean[0] * mean[1] + covariance[0, 1]]
    )
    log_partition = np.log(2 * np.pi) - np.log(determinant) / 2 + mean @ np.array([a, b]) / 2
    return Truth(log_partition, stats, of_stats)


def exact_banana(eta) -> Truth:
    """x is normal, and so is y - x^2, independently."""
    a, b, c = eta
    variance, bend = -1 / (2 * b), -1 / (2 * c)
    mean = a * variance
    covariance = np.diag([variance, 4 * mean**2 * variance + 2 * variance**2, 2 * bend**2])
    covariance[0, 1] = covariance[1, 0] = 2 * mean * variance
    log_partition = np.log(2 * np.pi) + np.log(variance * bend) / 2 + mean**2 / (2 * variance)
    return Truth(log_partition, np.array([mean, mean**2 + variance, bend]), covariance)


def exact_mean_and_concentration(eta, points: int = 200_001) -> Truth:
    """The integral over the angle is a Bessel function; that over log k is a sum."""
    radius, n = np.hypot(*eta[:2]), eta[2]
    low, high = -40.0, 9.0
    for _ in range(4):
        u = np.linspace(low, high, points)
        k = np.exp(u)
        log_normalizer = np.log(i0e(k)) + k
        logs = np.log(2 * np.pi * i0e(k * radius)) + k * radius - n * log_normalizer + u
        (matters,) = np.nonzero(logs > logs.max() - 60)
        low, high = u[max(matters[0] - 1, 0)], u[min(matters[-1] + 1, points - 1)]
    ratio = i1e(k * radius) / i0e(k * radius)
    cos, sin = eta[0] / radius, eta[1] / radius
    found = weighted_moments(
        logs + np.log(u[1] - u[0]),
        np.stack([k * ratio * cos, k * ratio * sin, -log_normalizer], -1),
    )
    # The angle's own variance: E[k^2 cos^2] is that along and across the mean direction.
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    along = weights @ (k**2 * (1 - ratio / (k * radius) - ratio**2))
    across = weights @ (k * ratio / radius)
    turn = np.array([[cos, -sin], [sin, cos]])
    found.covariance[:2, :2] += turn @ np.diag([along, across]) @ turn.T
    return found


def exact_cut(eta) -> Truth:
    """Two independent factors, each by a Gauss-Legendre rule on many panels."""
    node, weight = np.polynomial.legendre.leggauss(40)
    edges = np.concatenate(
        [[0], np.geomspace(1e-8, 0.5, 60), 1 - np.geomspace(0.5, 1e-8, 60)[1:], [1]]
    )
    edges = np.unique(np.concatenate([edges, np.linspace(0, 1, 2_001)]))
    half = np.diff(edges)[:, None] / 2
    x = (edges[:-1, None] + half * (1 + node)).ravel()
    log_weight = np.log(half * weight).ravel()
    stats = np.stack([x, x**2], -1)
    parts = [
        weighted_moments(stats @ pair + log_weight, stats) for pair in np.reshape(eta, (2, 2)).T
    ]
    covariance = np.zeros((2, 2, 2, 2))
    for i, part in enumerate(parts):
        covariance[:, i, :, i] = part.covariance
    mean = np.stack([part.mean for part in parts], -1).ravel()
    return Truth(sum(part.log_partition for part in parts), mean, covariance.reshape(4, 4))


def on_grid(stats, log_det, points: int = 701):
    """Moments by the trapezoidal rule on the box that matters: stats and log_det of u, `(n, 2)`."""

    def exact(eta):
        return box_moments(lambda u: stats(u) @ eta + log_det(u), stats, 2, points)

    return exact


def _shape_and_rate(u):
    shape, rate = np.exp(u.T)
    return np.stack([shape * u[:, 1] - gammaln(shape), shape, rate], -1)


def _beta(u):
    x = np.exp(u)
    return np.column_stack([gammaln(x.sum(1)) - gammaln(x).sum(1), x])


def _quartics(x):
    return np.column_stack([x, x**2, x[:, 0] * x[:, 1], x**4])


def _heavy_tail(u):
    x = np.sinh(u)
    square = 1 + (x**2).sum(1)
    return np.column_stack([np.log(square), x / square[:, None]])


def _flat(u):
    return np.zeros(len(u))


_RIDGE = tuple(normal_eta([3.0, -2.0], [[1.0, 0.9999], [0.9999, 1.0]]))
_ANGLE = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
_TURNED = tuple(normal_eta([0.5, 4.0], _ANGLE @ np.diag([1.0, 5e-5]) @ _ANGLE.T))

PLANES = {
    "normal": Plane(
        Normal(),
        (0.0, 0.0, -1e-3, -1e-3, 0.0),
        (tuple(normal_eta([3.0, -2.0], [[1.0, 0.3], [0.3, 2.0]])), _RIDGE, _TURNED),
        exact_normal,
    ),
    "wells": Plane(
        Quartics(),
        (0.0, 0.0, 0.2, 0.2, 0.0, -0.1, -0.1),
        ((0.0, 0.0, 0.1, 0.1, 0.0, -0.05, -0.05), (1e-7, 0.0, 0.2, 0.1, 0.05, -0.05, -0.1)),
        on_grid(_quartics, _flat),
        # The grid of the exact moments has to resolve wells far apart.
        largest=1e3,
    ),
    "banana": Plane(
        Banana(), (0.5, -0.5, -0.5), ((1.0, -0.5, -0.5), (0.0, -0.01, -5.0)), exact_banana
    ),
    "flipped banana": Plane(Banana(True), (0.5, -0.5, -0.5), ((1.0, -0.5, -0.5),), exact_banana),
    "shape and rate": Plane(
        ShapeAndRate(),
        (1.0, -1.0, -1.0),
        ((1.0, -0.3, -2.0), (1.0, 0.9, -3.0)),
        on_grid(_shape_and_rate, lambda u: u.sum(1)),
    ),
    "beta prior": Plane(
        BetaPrior(),
        (1.0, -2.0, -2.0),
        ((1.0, -1.2, -0.6), (1.0, -0.2, -3.0)),
        on_grid(_beta, lambda u: u.sum(1)),
    ),
    "cut": Plane(Cut(), (0.3, 0.1, 0.5, -0.5), ((2.0, -1.0, -3.0, 0.5),), exact_cut),
    "heavy tail": Plane(
        HeavyTail(),
        (-1.5, 0.1, 0.2),
        ((-0.5, 0.1, -0.2),),
        on_grid(_heavy_tail, lambda u: np.log(np.cosh(u)).sum(1)),
    ),
    "mean and concentration": Plane(
        MeanAndConcentration(),
        (0.5, 0.2, 1.0),
        ((-0.3, 0.6, 1.0), (0.95, 0.1, 1.0)),
        exact_mean_and_concentration,
    ),
}


def exact_von_mises_fisher(b) -> tuple[float, np.ndarray]:
    """A and E[x] on the sphere of a density exp(b . x)."""
    k = np.linalg.norm(b)
    log_partition = np.log(2 * np.pi / k) + k + np.log(-np.expm1(-2 * k))
    return log_partition, (1 / np.tanh(k) - 1 / k) * np.asarray(b) / k


def exact_fisher_bingham(eta, points: int = 800) -> Truth:
    """A Gauss-Legendre rule of the height times the trapezoidal rule of the angle."""
    node, weight = np.polynomial.legendre.leggauss(points)
    angle = np.pi * np.arange(2 * points) / points
    z, angle = (part.ravel() for part in np.meshgrid(node, angle, indexing="ij"))
    radius = np.sqrt(1 - z**2)
    x, y = radius * np.cos(angle), radius * np.sin(angle)
    harmonics = [x * y, y * z, x * z, (x**2 - y**2) / 2, (3 * z**2 - 1) / (2 * np.sqrt(3))]
    stats = np.stack([x, y, z, *harmonics], -1)
    log_weights = np.repeat(np.log(weight), 2 * points) + np.log(np.pi / points)
    return weighted_moments(stats @ np.asarray(eta) + log_weights, stats)
