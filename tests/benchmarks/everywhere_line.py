"""The log-partition from one observation to a million: quadrature in one dimension.

    python tests/benchmarks/everywhere_line.py [NAME ...] [--batch 1024] [--quick]

Etas are posteriors of n observations, from n = 1 to 10^6: a prior's eta plus n times mean
statistics. For each family, in float32 and float64: the largest error of the mean in z units and of
A over max(1, |eta . T| at the mode), over all n; how many etas have no result; microseconds per eta
of mean and A under `jax.vmap`, the median of five runs in processor time, and seconds of
compilation. Beside them the largest error in z units, and microseconds, of a fixed grid of 301
points over the box that holds the density at n = 1, and of Laplace's approximation: the gradient of
l(u) + log(2 pi / -l''(u)) / 2 at the mode u, from the highest of 301 points on by Newton's method.
Infinite means that there is an eta for which it has no result.

Reference moments are integrals on 4,000 panels in float64, between the points where the density is
60 nats below its maximum, which zooming a dense grid finds, in NumPy.
"""

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import Exp, Identity, Sigmoid
from scipy.special import gammaln

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
from nnef_dists.sampling import transform
from tests.benchmarks.results import Table, main
from tests.truth import Truth, weighted_moments

COUNTS = (1, 10, 100, 1e3, 1e4, 1e5, 1e6)


class Declared(nd.ExponentialFamily):
    """A stranger's family, by its name in `CASES`."""

    name: str

    x_shape = ()

    @property
    def natural_domain(self):
        return CASES[self.name].domain

    @property
    def support(self):
        return CASES[self.name].support

    def compute_stats(self, x):
        return CASES[self.name].stats(jnp, jax.scipy.special.gammaln, x)


@dataclasses.dataclass(frozen=True)
class Case:
    """A family, a prior, mean statistics, and the log-density for the reference.

    Attributes:
        stats: T of an array module, log Gamma and x, by name.
        prior: The prior's eta.
        means: What an observation adds to eta: `(k, eta_dim)`.
        to_x: x and log|dx/du| of a coordinate u, in NumPy.
        start: The range of u in which a dense grid finds all modes.
        domain: The natural domain, of a stranger's family.
        support: The support, of a stranger's family.
        family: A shipped family, if it is one.
        breaks: The kinks of T in u.
    """

    stats: Callable
    prior: tuple[float, ...]
    means: np.ndarray
    to_x: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    start: tuple[float, float]
    domain: nd.families.AbstractDomain | None = None
    support: Any = dataclasses.field(default_factory=Identity)
    family: nd.ExponentialFamily | None = None
    breaks: tuple[float, ...] = ()


def line(u):
    return u, np.zeros_like(u)


def positive(u):
    return np.exp(u), u


def unit(u):
    return 1 / (1 + np.exp(-u)), -np.logaddexp(0, -u) - np.logaddexp(0, u)


def between(low, high):
    """Returns x in an interval as it is: the reference cuts there."""
    return lambda u: (u, np.where((u > low) & (u < high), 0.0, -np.inf))


def _powers(*powers):
    return lambda xp, _, x: {f"x{p}": x**p for p in powers}


CASES = {
    "GaussianNatural1D": Case(
        _powers(1, 2),
        (0.1, -0.5),
        np.array([[0.7, -0.5], [3.0, -0.5], [-2.0, -3.0]]),
        line,
        (-1e3, 1e3),
        family=nd.GaussianNatural1D(),
    ),
    "Polynomial1D": Case(
        _powers(1, 2, 4),
        (0.0, 0.1, -0.1),
        np.array([[0.3, 1.0, -0.5], [-2.0, -1.0, -1.0], [0.0, 0.0, -0.3]]),
        line,
        (-20, 20),
        family=nd.Polynomial1D((1, 2, 4)),
    ),
    "Gamma": Case(
        lambda xp, _, x: {"log_x": xp.log(x), "x": x},
        (0.5, -0.5),
        np.array([[1.0, -1.0], [0.3, -2.0], [5.0, -0.01]]),
        positive,
        (-60, 15),
        family=nd.Gamma(),
    ),
    "Beta": Case(
        lambda xp, _, x: {"log_x": xp.log(x), "log_1mx": xp.log1p(-x)},
        (0.5, 0.5),
        np.array([[1.0, 1.0], [0.2, 3.0], [4.0, 0.5]]),
        unit,
        (-36, 36),
        family=nd.Beta(),
    ),
    "GammaShapePrior": Case(
        lambda xp, gammaln, x: {"alpha": x, "log_gamma": gammaln(x)},
        (0.5, -1.0),
        np.array([[1.0, -1.0], [-1.5, -1.0], [4.0, -1.0]]),
        positive,
        (-60, 12),
        family=nd.GammaShapePrior(),
    ),
    "RectifiedGaussian": Case(
        _powers(1, 2),
        (0.1, -0.5),
        np.array([[0.7, -0.5], [-1.0, -0.5], [0.0, -0.5]]),
        positive,
        (-60, 8),
        family=nd.RectifiedGaussian(),
    ),
    "LaplaceProduct(1)": Case(
        lambda xp, _, x: {"minus": -abs(x - 1), "plus": -abs(x + 1)},
        (0.5, 0.6),
        np.array([[1.0, 0.5], [-0.2, 1.0], [0.3, 0.31]]),
        line,
        (-200, 200),
        family=nd.LaplaceProduct(1),
        breaks=(-1.0, 1.0),
    ),
    "VonMisesHarmonic(1)": Case(
        lambda xp, _, x: {"cos": xp.cos(x), "sin": xp.sin(x)},
        (0.1, 0.2),
        np.array([[0.7, 0.1], [-0.5, 0.01], [0.0, -0.9]]),
        between(-np.pi, np.pi),
        (-np.pi, np.pi),
        family=nd.VonMisesHarmonic(1),
    ),
    "VonMisesHarmonic(2)": Case(
        lambda xp, _, x: {
            "cos": xp.stack([xp.cos(x), xp.cos(2 * x)]),
            "sin": xp.stack([xp.sin(x), xp.sin(2 * x)]),
        },
        (0.1, 0.2, 0.1, 0.0),
        np.array([[0.7, 0.1, 0.2, -0.3], [0.0, 0.6, 0.0, 0.1], [-0.3, -0.4, 0.1, 0.0]]),
        between(-np.pi, np.pi),
        (-np.pi, np.pi),
        family=nd.VonMisesHarmonic(2),
    ),
    "generalized inverse Gaussian": Case(
        lambda xp, _, x: {"log": xp.log(x), "x": x, "inverse": 1 / x},
        (0.2, -0.005, -0.005),
        np.array([[0.1, -0.01, -0.01], [0.5, -1.0, -0.3], [-1.0, -3.0, -0.02]]),
        positive,
        (-25, 25),
        domain=nd.domain(x=nd.negative, inverse=nd.negative),
        support=Exp(),
    ),
    "log-cubic": Case(
        lambda xp, _, x: {"log": xp.log(x), "x3": x**3},
        (0.5, -0.5),
        np.array([[1.0, -1.0], [0.2, -0.1], [3.0, -2.0]]),
        positive,
        (-60, 5),
        domain=nd.domain(log=nd.interval(-1.0, jnp.inf), x3=nd.negative),
        support=Exp(),
    ),
    "wells": Case(
        _powers(1, 2, 4),
        (0.0, 0.2, -0.1),
        # Depths of n x 0.1 nats.
        np.array([[0.0, 0.2, -0.1], [0.0, 0.4, -0.4], [0.0, 1.0, -2.5]]),
        line,
        (-20, 20),
        domain=nd.domain(x4=nd.negative),
    ),
    "cut to an interval": Case(
        _powers(1, 2),
        (0.3, 0.5),
        np.array([[2.0, -3.0], [-4.0, 1.0], [0.1, 0.0]]),
        between(0, 1),
        (0, 1),
        domain=nd.domain(),
        support=Sigmoid(),
    ),
    "Student's tail": Case(
        lambda xp, _, x: {"t": xp.log1p(x**2), "angle": xp.arctan(x)},
        (-1.0, 0.1),
        np.array([[-0.5, 0.1], [-1.0, 0.5], [-2.0, -1.0]]),
        lambda u: (np.sinh(u), np.log(np.cosh(u))),
        (-200, 200),
        domain=nd.domain(t=nd.interval(-jnp.inf, -0.5)),
    ),
    "gamma shape given its mean": Case(
        lambda xp, gammaln, x: {"shape": x * (xp.log(x) - 1) - gammaln(x), "x": x},
        (1.0, -0.5),
        np.array([[1.0, -0.1], [1.0, -0.5], [1.0, -2.0]]),
        positive,
        (-40, 14),
        domain=nd.domain(x=nd.negative),
        support=Exp(),
    ),
}


def exact(case: Case, eta: np.ndarray) -> tuple[Truth, float]:
    """Returns reference moments of an eta, and |eta . T| at the mode."""

    def parts(u):
        with np.errstate(all="ignore"):
            x, log_det = case.to_x(u)
            stats = case.stats(np, gammaln, x)
            stats = np.concatenate([np.reshape(part, (-1, len(u))) for part in stats.values()]).T
            logs = stats @ eta + log_det
        exists = np.isfinite(logs)
        return np.where(exists[:, None], stats, 0), np.where(exists, logs, -np.inf)

    low, high = case.start
    for _ in range(9):
        u = np.linspace(low, high, 40_001)
        logs = parts(u)[1]
        (matters,) = np.nonzero(logs > logs.max() - 60)
        low, high = u[max(matters[0] - 1, 0)], u[min(matters[-1] + 1, len(u) - 1)]
    cuts = np.unique(np.clip([low, *np.linspace(low, high, 4_001), *case.breaks, high], low, high))
    node, weight = np.polynomial.legendre.leggauss(16)
    half = np.diff(cuts)[:, None] / 2
    u = (cuts[:-1, None] + half * (1 + node)).ravel()
    stats, logs = parts(u)
    # From the mode on, so that large numbers cost no digits.
    highest, origin = logs.max(), stats[np.argmax(logs)]
    found = weighted_moments(logs - highest + np.log(half * weight).ravel(), stats - origin)
    found = found._replace(log_partition=found.log_partition + highest, mean=found.mean + origin)
    return found, np.abs(origin * eta).sum()


def fixed_grid(family, eta: np.ndarray, points: int = 301):
    """Returns mean and A by the trapezoidal rule over the box of one eta's density."""

    def log_density(eta, u):
        x, log_det = transform(family, u)
        return family.unnormalized_logdensity(eta, x) + log_det

    wide = jnp.sinh(jnp.linspace(-7.0, 7.0, 20_001))
    if isinstance(family.support, nd.families.CircleProjection):
        wide = jnp.linspace(-np.pi, np.pi, 20_001)
    logs = jax.vmap(lambda u: log_density(jnp.asarray(eta, u.dtype), u))(wide)
    logs = np.where(np.isfinite(logs), logs, -np.inf)
    (matters,) = np.nonzero(logs > logs.max() - 40)
    grid = np.linspace(wide[matters[0]], wide[matters[-1]], points)
    step = float(np.log(grid[1] - grid[0]))

    def moments(eta):
        u = jnp.asarray(grid, eta.dtype)
        logs = jax.vmap(lambda u: log_density(eta, u))(u)
        stats = jax.vmap(lambda u: family.sufficient_statistics(transform(family, u)[0]))(u)
        return jax.nn.softmax(logs) @ stats, jax.nn.logsumexp(logs) + step

    return moments


def laplace(family):
    """Returns mean and A by Laplace's approximation."""

    def log_density(eta, u):
        x, log_det = transform(family, u)
        return family.unnormalized_logdensity(eta, x) + log_det

    slope = jax.grad(log_density, 1)
    bend = jax.grad(slope, 1)

    def newton(eta, u):
        return u - jnp.clip(slope(eta, u) / -jnp.maximum(jnp.abs(bend(eta, u)), 1e-30), -1, 1)

    def log_partition(eta):
        fixed = jax.lax.stop_gradient(eta)
        grid = jnp.asarray(np.sinh(np.linspace(-7, 7, 301)), eta.dtype)
        if isinstance(family.support, nd.families.CircleProjection):
            grid = jnp.asarray(np.linspace(-np.pi, np.pi, 301), eta.dtype)
        logs = jax.vmap(lambda u: log_density(fixed, u))(grid)
        u = grid[jnp.argmax(jnp.where(jnp.isfinite(logs), logs, -jnp.inf))]
        u = jax.lax.fori_loop(0, 12, lambda _, u: newton(fixed, u), u)
        # The derivative of the mode in eta is that of one more step.
        u = newton(eta, jax.lax.stop_gradient(u))
        return log_density(eta, u) + jnp.log(2 * jnp.pi / -bend(eta, u)) / 2

    def moments(eta):
        value, gradient = jax.value_and_grad(log_partition)(eta)
        return gradient, value

    return moments


def timed(fn, etas):
    """Returns results, microseconds per eta and seconds of compilation, in processor time."""
    start = time.process_time()
    program = jax.jit(jax.vmap(fn)).lower(etas).compile()
    compilation = time.process_time() - start
    result = jax.tree.map(np.asarray, program(etas))
    seconds = []
    for _ in range(5):
        start = time.process_time()
        jax.block_until_ready(program(etas))
        seconds.append(time.process_time() - start)
    return result, np.median(seconds) / len(etas) * 1e6, compilation


def run(name: str, batch: int, table: Table) -> None:
    case = CASES[name]
    family = Declared(name) if case.family is None else case.family
    prior = np.asarray(case.prior)
    etas = np.array([prior + n * mean for n in COUNTS for mean in case.means])
    baseline = fixed_grid(family, prior + case.means[0])
    for dtype in (np.float32, np.float64):
        rounded = etas.astype(dtype)
        truth = [exact(case, eta.astype(np.float64)) for eta in rounded]
        sd = np.array([one.sd for one, _ in truth])
        mean = np.array([one.mean for one, _ in truth])
        a = np.array([one.log_partition for one, _ in truth])
        size = np.maximum(1, [size for _, size in truth])

        def moments(eta):
            found = nd.quadrature_moments(family, eta)
            return found.mean, found.log_partition

        with jax.enable_x64(True):
            repeated = jnp.asarray(np.resize(rounded, (batch, len(prior))))
            (found, log_partition), micro, compilation = timed(moments, repeated)
            rough = [timed(fn, repeated) for fn in (baseline, laplace(family))]
        n = len(etas)
        z = np.max(np.abs(found[:n] - mean) / sd, 1)
        none = np.isnan(z)
        beside = []
        for (other, _), other_micro, _ in rough:
            other_z = np.max(np.abs(other[:n] - mean) / sd)
            beside += [other_z if np.isfinite(other_z) else np.inf, other_micro]
        worst = etas[np.nanargmax(np.where(none, -1, z))]
        table.add(
            *(name, dtype.__name__, np.nanmax(z)),
            *(np.nanmax(np.abs(log_partition[:n] - a) / size), f"{none.sum()} of {n}"),
            *(micro, compilation, *beside, np.array2string(worst, precision=3)),
        )


def line_of_families(options):
    table = Table(
        "Quadrature in one dimension, a fixed grid and the Laplace approximation",
        ["family", "dtype", "largest error [z units]", "largest error of A / max(1, |eta . T|)",
         "no result", "us per eta", "compilation [s]", "301 points: largest error", "us per eta",
         "Laplace: largest error", "us per eta", "worst eta"],
    )  # fmt: skip
    for name in options.names:
        run(name, options.batch, table)


def arguments(parser):
    parser.add_argument("names", nargs="*", default=list(CASES))
    parser.add_argument("--batch", type=int, default=1024)


if __name__ == "__main__":
    quick = {"batch": 64, "names": ["Polynomial1D", "Gamma", "wells"]}
    main(__doc__, {"line": line_of_families}, arguments, quick)
