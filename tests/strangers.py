"""Families as strangers declare them, with moments by other means than the package's.

Statistics are functions of an array module and x, so that NumPy computes the reference moments.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flowjax.bijections import Exp, Identity, Sigmoid, SoftPlus

import nnef_dists as nd

Moments = tuple[np.ndarray, np.ndarray]


class Stranger(nd.ExponentialFamily):
    """A family of `DECLARED`, by its name."""

    name: str

    @property
    def declared(self) -> "Declaration":
        return DECLARED[self.name]

    @property
    def x_shape(self):
        return self.declared.x_shape

    @property
    def natural_domain(self):
        return self.declared.domain

    @property
    def support(self):
        return self.declared.support

    def compute_stats(self, x):
        return self.declared.stats(jnp, x)

    def log_base_measure(self, x):
        if self.declared.wall is None:
            return jnp.zeros((), x.dtype)
        return jnp.where(self.declared.wall(jnp, x), 0.0, -jnp.inf).astype(x.dtype)


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What a stranger writes, the ranges of etas, and exact moments of one eta.

    Attributes:
        stats: T of an array module and of x, by name.
        domain: The natural domain.
        ranges: Where etas are drawn from.
        exact: The mean and the covariance of T at an eta.
        support: The support.
        x_shape: The shape of x.
        wall: Where the base measure is not 0, as a stranger may write instead of a support.
        promised: Whether at least 99% of labels have to be valid.
    """

    stats: Callable[[Any, Any], Mapping[str, Any]]
    domain: Any
    ranges: Mapping[str, tuple]
    exact: Callable[[np.ndarray], Moments]
    support: Any = dataclasses.field(default_factory=Identity)
    x_shape: tuple[int, ...] = ()
    wall: Callable[[Any, Any], Any] | None = None
    promised: bool = True


def weighted(log_p: np.ndarray, stats: np.ndarray) -> Moments:
    """Moments of points, `(n, d)`, of given log-weights."""
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    # From the mode's statistics, so that large means cost no digits.
    origin = stats[np.argmax(log_p)]
    mean = p @ (stats - origin)
    centered = stats - origin - mean
    return origin + mean, (p[:, None] * centered).T @ centered


def on_grid(stats, x: np.ndarray, log_dx: np.ndarray) -> Callable[[np.ndarray], Moments]:
    """Moments by the trapezoidal rule: points x of a uniform grid, and the log of dx there."""
    columns = [np.broadcast_to(part, x.shape) for part in stats(np, x).values()]
    values = np.stack(columns, -1).astype(float)

    def exact(eta):
        return weighted(values @ np.asarray(eta, float) + log_dx, values)

    return exact


def on_line(stats, reach: float, points: int = 40_001) -> Callable[[np.ndarray], Moments]:
    """Moments of a density on the line, x = sinh(t)."""
    t = np.linspace(-np.arcsinh(reach), np.arcsinh(reach), points)
    return on_grid(stats, np.sinh(t), np.log(np.cosh(t)))


def on_half_line(stats, low: float, high: float, points: int = 40_001):
    """Moments of a density on x > 0, x = exp(u) for u from low to high."""
    u = np.linspace(low, high, points)
    return on_grid(stats, np.exp(u), u)


def refined(stats, edges: tuple[float, ...], points: int = 8001):
    """Moments of a density with kinks or jumps at the inner edges, by Gauss-Legendre rules."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    x, w = [], []
    for low, high in itertools.pairwise(edges):
        cuts = np.linspace(low, high, points // 200)
        half = np.diff(cuts)[:, None] / 2
        x.append((cuts[:-1, None] + half * (1 + nodes)).ravel())
        w.append((half * weights).ravel())
    return on_grid(stats, np.concatenate(x), np.log(np.concatenate(w)))


def product(one: Callable[[np.ndarray], Moments], n: int) -> Callable[[np.ndarray], Moments]:
    """Moments of n independent factors, whose statistics are arrays of length n."""

    def exact(eta):
        parts = [one(part) for part in np.asarray(eta, float).reshape(-1, n).T]
        d = len(eta) // n
        mean = np.stack([mean for mean, _ in parts], 1).ravel()
        covariance = np.zeros((d, n, d, n))
        for i, (_, block) in enumerate(parts):
            covariance[:, i, :, i] = block
        return mean, covariance.reshape(d * n, d * n)

    return exact


def _student(xp, x):
    return {"t": xp.log1p(x**2)}


def _pearson(xp, x):
    return {"t": xp.log1p(x**2), "angle": xp.arctan(x)}


def _log_cubic(xp, x):
    return {"log": xp.log(x), "x3": x**3}


def _inverse_gaussian(xp, x):
    return {"log": xp.log(x), "x": x, "inverse": 1 / x}


def _inverse_gamma(xp, x):
    return {"log": xp.log(x), "inverse": 1 / x}


def _lognormal(xp, x):
    return {"log": xp.log(x), "log2": xp.log(x) ** 2}


def _stretched(xp, x):
    return {"t": (1 + x**2) ** 0.25}


def _kinked(xp, x):
    return {"x": x, "abs": abs(x)}


def _step(xp, x):
    return {"positive": (x > 0) * xp.ones_like(x), "x2": x**2}


def _narrow_step(xp, x):
    return {"sign": xp.tanh(1e4 * (x - 0.3)), "x2": x**2}


def _parabola(xp, x):
    return {"x": x, "x2": x**2}


def _quartic(xp, x):
    return {"x": x, "x2": x**2, "x4": x**4}


def _steep(xp, x):
    return {"x": x, "x12": x**12}


def _sextic(xp, x):
    return {"x2": x**2, "x6": x**6}


def _interval_stats(xp, x):
    return {"x": x, "x2": x**2}


_ROTATION = np.array([[1.0, 0.8], [-0.6, 1.5]])
_MIXING = np.array([[1.0, 0.5, 0.0], [0.0, 1.0, -0.7], [0.4, 0.0, 1.2]])


def _rotated_quartic(xp, x):
    y = xp.asarray(_ROTATION, x.dtype) @ x
    return {"y": y, "y2": y**2, "y4": y**4}


def _rotated_kinks(xp, x):
    y = xp.asarray(_MIXING, x.dtype) @ x
    return {"y": y, "abs": abs(y)}


def _banana(xp, x):
    return {"along": x[0] ** 2, "across": (x[1] - x[0] ** 2) ** 2}


def _banana_exact(eta):
    """Two independent squares of normals: the map has unit Jacobian."""
    variance = -0.5 / np.asarray(eta, float)
    return variance, np.diag(2 * variance**2)


def _bivariate_student(xp, x):
    return {"t": xp.log1p(x[0] ** 2 + x[1] ** 2)}


def _bivariate_student_exact(eta):
    """r^2 is beta prime, (1, -eta - 1): log(1 + r^2) is exponential of rate -eta - 1."""
    rate = -float(eta[0]) - 1
    return np.array([1 / rate]), np.array([[1 / rate**2]])


_HALF_LINE = nd.interval(-1.0, jnp.inf)
_TAIL = {"t": nd.interval(-jnp.inf, -0.5)}
_QUARTIC_RANGES = {"x": (-2.0, 2.0), "x2": (-2.0, 2.0), "x4": (-2.0, -0.2, "log")}
_MINOR_RANGES = {"x": (-3.0, 3.0), "x2": (1.0, 3.0), "x4": (-0.6, -0.2)}


def _truncated(eta):
    return refined(_interval_stats, (0.0, 1.0))(eta)


def _half_normal(eta):
    return refined(_parabola, (0.0, 60.0))(eta)


_QUARTIC_LINE = on_line(_quartic, 12.0, 20_001)
_LAPLACE_LINE = refined(_kinked, (-150.0, 0.0, 150.0))

DECLARED = {
    # Heavy tails.
    "student": Declaration(
        _student, nd.domain(**_TAIL), {"t": (-4.0, -0.75)}, on_line(_student, 1e60)
    ),
    "student, of too wide a domain": Declaration(
        _student,
        nd.domain(t=nd.negative),
        {"t": (-0.5, -0.1)},
        on_line(_student, 1e60),
        promised=False,
    ),
    "pearson": Declaration(
        _pearson,
        nd.domain(**_TAIL),
        {"t": (-4.0, -0.8), "angle": (-2.0, 2.0)},
        on_line(_pearson, 1e60),
    ),
    "lognormal, softplus": Declaration(
        _lognormal,
        nd.domain(log2=nd.negative),
        {"log": (-1.0, 1.0), "log2": (-2.0, -0.2, "log")},
        on_half_line(_lognormal, -40.0, 40.0),
        SoftPlus(),
    ),
    "inverse gamma, softplus": Declaration(
        _inverse_gamma,
        nd.domain(log=nd.interval(-jnp.inf, -1.0), inverse=nd.negative),
        {"log": (-6.0, -1.5), "inverse": (-5.0, -0.2, "log")},
        on_half_line(_inverse_gamma, -12.0, 90.0),
        SoftPlus(),
    ),
    "stretched exponential": Declaration(
        _stretched, nd.domain(t=nd.negative), {"t": (-3.0, -0.7)}, on_line(_stretched, 1e6)
    ),
    # Starts, walls, edges, kinks.
    "log cubic": Declaration(
        _log_cubic,
        nd.domain(log=_HALF_LINE, x3=nd.negative),
        {"log": (0.5, 4.0), "x3": (-3.0, -0.1, "log")},
        on_half_line(_log_cubic, -40.0, 3.0),
        Exp(),
    ),
    "inverse Gaussian": Declaration(
        _inverse_gaussian,
        nd.domain(x=nd.negative, inverse=nd.negative),
        {"log": (-3.0, 3.0), "x": (-10.0, -0.1, "log"), "inverse": (-10.0, -0.1, "log")},
        on_half_line(_inverse_gaussian, -9.0, 9.0),
        Exp(),
    ),
    "steep walls": Declaration(
        _steep,
        nd.domain(x12=nd.negative),
        {"x": (-3.0, 3.0), "x12": (-10.0, -0.01, "log")},
        on_line(_steep, 3.0),
    ),
    "sextic": Declaration(
        _sextic,
        nd.domain(x6=nd.negative),
        {"x2": (-1.0, 1.5), "x6": (-1.0, -0.05, "log")},
        on_line(_sextic, 6.0),
    ),
    "interval": Declaration(
        _interval_stats,
        nd.domain(),
        {"x": (-20.0, 20.0), "x2": (-10.0, 10.0)},
        _truncated,
        Sigmoid(),
    ),
    "kinks, undeclared": Declaration(
        _kinked,
        nd.domain(abs=nd.negative),
        {"x": (-0.4, 0.4), "abs": (-3.0, -0.6)},
        _LAPLACE_LINE,
    ),
    "a jump": Declaration(
        _step,
        nd.domain(x2=nd.negative),
        {"positive": (-2.0, 2.0), "x2": (-3.0, -0.2)},
        refined(_step, (-20.0, 0.0, 20.0)),
    ),
    "a narrow step": Declaration(
        _narrow_step,
        nd.domain(x2=nd.negative),
        {"sign": (-3.0, 1.5), "x2": (-3.0, -0.2)},
        refined(_narrow_step, (-20.0, 0.29, 0.298, 0.3, 0.302, 0.31, 20.0)),
        promised=False,
    ),
    "a wall in the base measure": Declaration(
        _parabola,
        nd.domain(x2=nd.negative),
        {"x": (-2.0, 3.0), "x2": (-2.0, -0.2)},
        _half_normal,
        wall=lambda xp, x: x > 0,
        promised=False,
    ),
    # Scales and modes.
    "narrow and far": Declaration(
        _parabola,
        nd.domain(x2=nd.negative),
        {"x": (1e3, 1e6, "log"), "x2": (-5e3, -50.0, "log")},
        lambda eta: normal_exact(eta),
    ),
    "minor modes": Declaration(
        _quartic, nd.domain(x4=nd.negative), _MINOR_RANGES, on_line(_quartic, 12.0)
    ),
    # Two dimensions and more.
    "banana": Declaration(
        _banana,
        nd.domain(along=nd.negative, across=nd.negative),
        {"along": (-3.0, -0.3, "log"), "across": (-3.0, -0.3, "log")},
        _banana_exact,
        Identity((2,)),
        (2,),
    ),
    "bivariate t": Declaration(
        _bivariate_student,
        nd.domain(t=nd.interval(-jnp.inf, -1.0)),
        {"t": (-5.0, -1.5)},
        _bivariate_student_exact,
        Identity((2,)),
        (2,),
    ),
    "rotated quartics": Declaration(
        _rotated_quartic,
        nd.domain(y4=nd.negative),
        {"y": (-1.0, 1.0), "y2": (-1.0, 1.5), "y4": (-1.0, -0.3)},
        product(_QUARTIC_LINE, 2),
        Identity((2,)),
        (2,),
    ),
    "rotated kinks": Declaration(
        _rotated_kinks,
        nd.domain(abs=nd.negative),
        {"y": (-0.4, 0.4), "abs": (-3.0, -0.6)},
        product(_LAPLACE_LINE, 3),
        Identity((3,)),
        (3,),
    ),
    "three quartics": Declaration(
        _quartic,
        nd.domain(x4=nd.negative),
        _QUARTIC_RANGES,
        product(_QUARTIC_LINE, 3),
        Identity((3,)),
        (3,),
    ),
    "four Student t": Declaration(
        _student,
        nd.domain(**_TAIL),
        {"t": (-4.0, -1.0)},
        product(on_line(_student, 1e60, 20_001), 4),
        Identity((4,)),
        (4,),
    ),
    "five log cubics": Declaration(
        _log_cubic,
        nd.domain(log=_HALF_LINE, x3=nd.negative),
        {"log": (0.5, 4.0), "x3": (-3.0, -0.1, "log")},
        product(on_half_line(_log_cubic, -40.0, 3.0, 20_001), 5),
        Exp((5,)),
        (5,),
    ),
    "six scales": Declaration(
        _parabola,
        nd.domain(x2=nd.negative),
        {"x": (-30.0, 30.0), "x2": (-1e3, -1e-3, "log")},
        lambda eta: product(normal_exact, 6)(eta),
        Identity((6,)),
        (6,),
    ),
}


def normal_exact(eta) -> Moments:
    """Moments of (x, x^2) of a normal distribution."""
    variance = -0.5 / float(eta[1])
    mean = float(eta[0]) * variance
    covariance = [[variance, 2 * mean * variance], [0, 2 * variance**2 + 4 * mean**2 * variance]]
    covariance[1][0] = covariance[0][1]
    return np.array([mean, mean**2 + variance]), np.array(covariance)


def etas_of(name: str, key, n: int):
    """Random etas of a stranger's ranges."""
    return Stranger(name).sample_eta(key, n, DECLARED[name].ranges)


def dimension(name: str) -> int:
    """The number of unconstrained coordinates of x."""
    return math.prod(DECLARED[name].support.shape)
