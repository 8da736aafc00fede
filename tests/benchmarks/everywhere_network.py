"""Networks on a computed base, in the training box and for up to 10^6 observations.

    python tests/benchmarks/everywhere_network.py [NAME ...] [--seeds 0 1 2] [--rate 1e-3] [--quick]

dirichlet3, dirichlet5   conjugate priors of Dirichlet parameters
counts                   log-rates at three places, smooth along them
gammas                   shape, rate and the rate's own scale of a group of gamma variables
steep                    the generalized inverse Gaussian and five others on the half-line, 2,000
                         labels and README's recipe

All but `steep` learn from 1,024 sampled labels, half of them in a box and half posteriors of n = 1
to 1,000 observations. Errors are those of moments (z units, rms), and in float64 of A (nats, rms)
and of the log-evidence of n observations, A(posterior) - A(prior). Every network stands beside its
base alone, itself before training, and one without a base. The reference is importance sampling at
2^19 Sobol points in float64, with its standard error; that of `steep` is quadrature. Seconds are
processor time, compilation included.
"""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection, Chain, Exp
from scipy.stats import norm, qmc

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import training

from nnef_dists.families import unconstrained_logdensity
from nnef_dists.networks import LaplaceBase
from nnef_dists.networks._mode import find_mode
from tests.benchmarks.jobs import JOBS
from tests.benchmarks.results import Table, main
from tests.networks.data import labeled
from tests.networks.test_base import CountField
from tests.networks.test_steep_families import PositivePowers

FRESH, BY_COUNT = 32, 4
COUNTS = (10, 100, 1e3, 1e4, 1e5, 1e6)
BLOCKS, LOG_POINTS, TAIL = 8, 16, 2.0
SHAPE = {"log": (-3.0, 3.0)}
DECADES = (-10.0, -0.1, "log")
STEEP = {
    powers: SHAPE | {f"x{p}": DECADES for p in powers}
    for powers in ((1, -1), (1, -2), (2, -1), (2, -2), (3, -1), (1, -3))
}


class GammaEdge(AbstractBijection):
    """(count, gap, b, bc, log_c, c), all positive, to the eta of `Gammas`."""

    shape: tuple[int, ...] = (6,)
    cond_shape: None = None

    def transform_and_log_det(self, x, condition=None):
        count, gap, b, bc, log_c, c = x
        edge = count * jnp.log(b / count)
        return jnp.stack([count, edge - gap, -b, -bc, log_c, -c]), jnp.zeros((), x.dtype)

    def inverse_and_log_det(self, y, condition=None):
        count, a, b, bc, log_c, c = y
        edge = count * jnp.log(-b / count)
        return jnp.stack([count, edge - a, -b, -bc, log_c, -c]), jnp.zeros((), y.dtype)


class Gammas(nd.ExponentialFamily):
    """A gamma shape a, its rate b, and the scale c of this rate, of a group of observations.

    The mean of the logarithms of observations is below the logarithm of their mean.
    """

    x_shape = (3,)
    natural_domain = nd.families.CoupledDomain(
        Chain([Exp((6,)), GammaEdge()]),
        "count, log_c > 0; b, bc, c < 0; a < count log(-b / count)",
    )

    @property
    def support(self):
        return Exp((3,))

    def compute_stats(self, x):
        a, b, c = x
        count = a * jnp.log(b) - jax.scipy.special.gammaln(a)
        return {"count": count, "a": a, "b": b, "bc": b * c, "log_c": jnp.log(c), "c": c}


class Case(NamedTuple):
    """A family, the ranges of its prior's etas, and random mean statistics of observations."""

    family: nd.ExponentialFamily
    ranges: dict
    mean_statistics: Callable[[np.random.Generator, int], np.ndarray]


def dirichlet_statistics(k):
    def draw(rng, size):
        x = rng.dirichlet(np.exp(0.7 * rng.normal(size=k) + 0.5), size)
        return np.append(np.log(np.maximum(x, 1e-300)).mean(0), -1.0)

    return draw


def count_statistics(rng, size):
    rates = np.exp(rng.normal(size=3) / 2 + 0.5)
    return np.concatenate([rng.poisson(rates, (size, 3)).mean(0), -np.ones(3), [0.0]])


def gamma_statistics(rng, size):
    """Of the group's observations; its scale is seen as often."""
    shape, rate, scale = np.exp(rng.normal(size=3) / 2 + 0.5)
    x = rng.gamma(shape, 1 / rate, size)
    seen = rng.gamma(2.0, 1 / scale, size)
    return np.array([1.0, np.log(x).mean(), -x.mean(), -0.2, 2.0, -seen.mean()])


CASES = {
    "dirichlet3": Case(nd.DirichletPrior(3), JOBS["dirichlet"].ranges, dirichlet_statistics(3)),
    "dirichlet5": Case(nd.DirichletPrior(5), JOBS["dirichlet"].ranges, dirichlet_statistics(5)),
    "counts": Case(
        CountField(),
        {"count": (0.5, 4.0), "rate": (-3.0, -0.5), "rough": (-2.0, -0.1)},
        count_statistics,
    ),
    "gammas": Case(
        Gammas(),
        {
            "count": (1.0, 4.0),
            "a": (-4.0, -2.0),
            "b": (-4.0, -1.0),
            "bc": (-1.0, -0.2),
            "log_c": (1.0, 4.0),
            "c": (-4.0, -1.0),
        },
        gamma_statistics,
    ),
}


class Reference(NamedTuple):
    """Exact moments, log-partition, and their standard errors in z units and nats."""

    mean: np.ndarray
    sd: np.ndarray
    log_partition: float
    error: float


def references(family, etas):
    """Importance sampling in float64, from a normal density around the mode, for each eta."""
    n = int(np.prod(family.x_shape))
    blocks = [qmc.Sobol(n, rng=np.random.default_rng(seed)) for seed in range(BLOCKS)]
    nodes = norm.ppf(np.stack([block.random_base2(LOG_POINTS) for block in blocks]))

    @jax.jit
    def sums(eta, nodes):
        mode = find_mode(family, eta)
        logdensity = functools.partial(unconstrained_logdensity, family, eta)
        factor = jnp.linalg.cholesky(-jax.hessian(logdensity)(mode))
        height = logdensity(mode)
        axes = jax.scipy.linalg.solve_triangular(factor, jnp.eye(n), lower=True, trans=1).T
        # The width of either side of every axis, and tails that are longer than normal.
        far = jnp.arange(1.0, 7.0)[:, None]
        falls = [
            height - jax.vmap(jax.vmap(logdensity))(mode + s * far[..., None] * axes)
            for s in (1, -1)
        ]
        above, below = (jnp.max(far / jnp.sqrt(2 * jnp.maximum(fall, 0.02)), 0) for fall in falls)
        width = jnp.where(nodes > 0, above, below)
        u = mode + (width * TAIL * jnp.sinh(nodes / TAIL)) @ axes
        logs = jax.vmap(logdensity)(u) - height
        logs += jnp.sum(nodes**2 / 2 + jnp.log(width * jnp.cosh(nodes / TAIL)), 1)
        weights = jnp.exp(logs)
        stats = jax.vmap(lambda u: family.sufficient_statistics(family.support.transform(u)))(u)
        origin = family.sufficient_statistics(family.support.transform(mode))
        stats = stats - origin
        sizes = n * jnp.log(2 * jnp.pi) / 2 - jnp.sum(jnp.log(jnp.diagonal(factor)))
        parts = jnp.mean(weights), weights @ stats / len(u), weights @ stats**2 / len(u)
        return *parts, origin, height + sizes

    found = []
    with jax.enable_x64(True):
        for eta in np.asarray(etas, np.float64):
            parts = [sums(jnp.asarray(eta), jnp.asarray(block)) for block in nodes]
            total, first, second, origin, level = (
                np.stack(part) for part in zip(*parts, strict=True)
            )
            mean, square = first.mean(0) / total.mean(), second.mean(0) / total.mean()
            sd = np.sqrt(square - mean**2)
            by_block = (first / total[:, None] - mean) / sd
            errors = [by_block.std(0).max(), total.std() / total.mean()]
            log_partition = level[0] + np.log(total.mean())
            found.append(
                Reference(origin[0] + mean, sd, log_partition, max(errors) / (BLOCKS - 1) ** 0.5)
            )
    return found


def posteriors(case, rng, priors, counts):
    """Priors, plus n mean statistics of as many observations, at most 20,000 different ones."""
    sizes = [int(min(np.ceil(n), 20_000)) for n in counts]
    rows = [n * case.mean_statistics(rng, size) for n, size in zip(counts, sizes, strict=True)]
    return np.asarray(np.asarray(priors, np.float64) + rows, np.float32)


def in_float64(network):
    def widen(leaf):
        return leaf.astype(float) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(widen, network)


def add_errors(table, title, network, etas, truths, groups):
    """Adds rms errors of moments, and of A and the log-evidence in float64, by group."""
    both = jax.jit(lambda net, etas: jax.vmap(jax.value_and_grad(net.potential))(etas))
    _, mean = both(network, jnp.asarray(etas))
    z = (np.asarray(mean, np.float64) - [t.mean for t in truths]) / [t.sd for t in truths]
    if network.is_absolute:
        with jax.enable_x64(True):
            wide = in_float64(network), jnp.asarray(etas, float)
            level = np.asarray(both(*wide)[0]) - [t.log_partition for t in truths]
    for name, rows in groups.items():
        of_level = of_evidence = None
        if network.is_absolute:
            of_level = np.sqrt(np.mean(level[rows] ** 2))
            if name != "box":
                # The prior of each posterior is an eta of the box.
                evidence = level[rows] - level[: rows.stop - rows.start]
                of_evidence = np.abs(evidence).max()
        rms = np.sqrt(np.mean(z[rows] ** 2))
        table.add(*title, name, rms, np.abs(z[rows]).max(), of_level, of_evidence)


def fit(family, data, key, options, **base):
    """A network before and after training, and seconds."""
    start = time.process_time()
    before = nd.LogPartitionNetwork(family, data, **base, key=key)
    after, _ = training.fit_means(
        before, data, key, loss=nd.sobolev_loss, steps=options.steps, learning_rate=options.rate
    )
    return before, after, time.process_time() - start


def run(case, options):
    """rms <= 0.002 in the box, <= 0.001 from n = 10; evidence within 0.005 nats."""
    family, rng = case.family, np.random.default_rng(1)
    fresh = np.asarray(family.sample_eta(jax.random.key(77), FRESH, case.ranges))
    etas, groups = [fresh], {"box": slice(0, FRESH)}
    for n in COUNTS:
        start = FRESH + BY_COUNT * (len(etas) - 1)
        groups[f"n = {n:g}"] = slice(start, start + BY_COUNT)
        etas.append(posteriors(case, rng, fresh[:BY_COUNT], [n] * BY_COUNT))
    etas = np.concatenate(etas)
    truths = references(family, etas)
    table = Table(
        f"Networks of {options.labels:,} labels of {family!r}",
        ["seed", "network", "etas", "RMS error [z units]", "largest", "RMS error of A [nats]",
         "largest error of the log-evidence [nats]"],
        f"Standard errors of the reference: at most {max(t.error for t in truths):.1e}.",
    )  # fmt: skip
    for seed in options.seeds:
        rng = np.random.default_rng((1, seed))
        priors = np.asarray(family.sample_eta(jax.random.key(seed), options.labels, case.ranges))
        n = np.exp(rng.uniform(0, np.log(1e3), options.labels // 2))
        known = np.concatenate([priors[::2], posteriors(case, rng, priors[1::2], n)])
        data = nd.estimate_moments(family, jnp.asarray(known), jax.random.key(100 + seed))
        before, after, took = fit(family, data, jax.random.key(200 + seed), options)
        alone = BaseAlone(LaplaceBase(family))
        for title, network in (("base", alone), ("untrained", before), ("trained", after)):
            add_errors(table, (seed, title), network, etas, truths, groups)
        _, without, also = fit(family, data, jax.random.key(200 + seed), options, base=None)
        add_errors(table, (seed, "without a base"), without, etas, truths, groups)
        table.note += f" Training took {took:.0f} s, without a base {also:.0f} s (seed {seed})."


class BaseAlone(eqx.Module):
    """A base without any network."""

    base: LaplaceBase
    is_absolute: bool = eqx.field(static=True, default=True)

    def potential(self, eta):
        return self.base(eta).value


def steep(options):
    """rms <= 0.005 after 2,000 steps, by README's recipe."""
    table = Table(
        f"Networks of {options.labels:,} exact labels of six families on the half-line",
        ["family", "base", "network", "RMS error [z units]", "median", "largest",
         "etas with errors above 0.1 [%]", "s"],
        "The base is that of `choose_base`. The residual process has 256 further labels.",
    )  # fmt: skip
    for powers, ranges in list(STEEP.items())[: 1 if options.quick else None]:
        family = PositivePowers(powers)
        moments = jax.jit(
            functools.partial(jax.lax.map, functools.partial(nd.quadrature_moments, family))
        )
        etas = family.sample_eta(jax.random.key(0), options.labels + 768, ranges)
        found = moments(etas)
        data = labeled(family, etas, found.mean, found.covariance)
        known, others = data[: options.labels], data[options.labels : -512]
        fresh = data[-512:].batch()
        for base in ({}, {"base": None}):
            *networks, took = fit(family, known, jax.random.key(2), options, **base)
            after = networks[-1]
            batches = after.batch(known), after.batch(others)
            networks.append(nd.networks.fit_residual(after, *batches, jax.random.key(3)))
            titles = "untrained", "trained", "with its residual process"
            for title, network in zip(titles, networks, strict=True):
                z = (jax.jit(jax.vmap(network))(fresh.eta) - fresh.mean) / fresh.sd
                rms, most = jnp.sqrt(jnp.mean(z**2)), jnp.abs(z).max()
                name = "none" if base else type(after.base).__name__
                wrong = 100 * jnp.mean(jnp.max(jnp.abs(z), 1) > 0.1)
                table.add(repr(family), name, title, rms, jnp.median(jnp.abs(z)), most, wrong, took)


def networks(options):
    for name in options.names:
        if name == "steep":
            steep(options)
        else:
            run(CASES[name], options)


def arguments(parser):
    parser.add_argument("names", nargs="*", default=[*CASES, "steep"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate at the start")
    parser.add_argument("--labels", type=int, default=1024)


if __name__ == "__main__":
    quick = {"names": ["dirichlet3", "steep"], "seeds": [0], "steps": 50, "labels": 64}
    main(__doc__, {"network": networks}, arguments, quick)
