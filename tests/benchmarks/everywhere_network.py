"""Networks on a computed base: in the box of the training etas, and for a million observations.

    python tests/benchmarks/everywhere_network.py [SECTION ...] [--seeds 1] [--rate 1e-3]

dirichlet     DirichletPrior(3): 1,024 sampled labels, half of them in the box, half posteriors of
              n = 1 to 1,000; errors of moments (z units, rms) and of A (nats) in the box and by n
steep         the generalized inverse Gaussian and others on the half-line; README's recipe

Every network stands beside its base alone, itself before training, and one without a base. The
reference of dirichlet is the trapezoidal rule in coordinates whitened at the mode, 56^3 nodes, in
float64; that of steep is quadrature. Seconds are processor time, compilation included.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize
from scipy.special import digamma, gammaln

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import training

from tests.benchmarks.jobs import JOBS
from tests.networks.data import labeled
from tests.networks.test_steep_families import PositivePowers
from tests.truth import Truth, weighted_moments

LABELS, FRESH, BY_COUNT = 1024, 48, 6
COUNTS = (10, 100, 1e3, 1e4, 1e5, 1e6)
SHAPE = {"log": (-3.0, 3.0)}
DECADES = (-10.0, -0.1, "log")
STEEP = {
    powers: SHAPE | {f"x{p}": DECADES for p in powers}
    for powers in ((1, -1), (1, -2), (2, -1), (2, -2), (3, -1), (1, -3))
}


def dirichlet_truth(eta, points=56, width=14.0) -> Truth:
    """The trapezoidal rule in z = 2 sinh(t), the log-concentrations whitened at their mode."""
    eta = np.asarray(eta, np.float64)
    n = -eta[-1]

    def statistics(u):
        x = np.exp(u)
        log_beta = gammaln(x).sum(1) - gammaln(x.sum(1))
        return np.concatenate([x, log_beta[:, None]], 1)

    def loss_and_slope(u):
        x = np.exp(u)
        slope = x * (eta[:-1] - n * (digamma(x) - digamma(x.sum()))) + 1
        return -(statistics(u[None])[0] @ eta + u.sum()), -slope

    mode = minimize(loss_and_slope, np.zeros(3), jac=True, method="BFGS").x
    steps = 1e-4 * np.eye(3)
    slopes = [loss_and_slope(mode + h)[1] - loss_and_slope(mode - h)[1] for h in steps]
    factor = np.linalg.cholesky(np.linalg.inv(np.stack(slopes) / 2e-4))
    t = np.linspace(-1, 1, points) * np.arcsinh(width / 2)
    grids = np.meshgrid(t, t, t, indexing="ij")
    t = np.stack(grids, -1).reshape(-1, 3)
    u = mode + 2 * np.sinh(t) @ factor.T
    stats = statistics(u)
    cells = np.log(2 * np.cosh(t)).sum(1) + 3 * np.log(2 * np.arcsinh(width / 2) / (points - 1))
    logs = stats @ eta + u.sum(1) + cells + np.log(np.diagonal(factor)).sum()
    return weighted_moments(logs, stats)


def posterior_etas(rng, priors, counts):
    """Priors, plus n mean statistics of points that Dirichlet distributions draw."""
    etas = np.array(priors, np.float64)
    for eta, n in zip(etas, counts, strict=True):
        x = rng.dirichlet(np.exp(0.7 * rng.normal(size=3) + 0.5), int(min(np.ceil(n), 20_000)))
        eta += n * np.append(np.log(np.maximum(x, 1e-300)).mean(0), -1.0)
    return np.asarray(etas, np.float32)


def print_errors(title, network, etas, truths, groups):
    """Prints rms errors of moments and of A by group."""
    both = jax.jit(lambda net, etas: jax.vmap(jax.value_and_grad(net.potential))(etas))
    value, mean = (np.asarray(leaf, np.float64) for leaf in both(network, jnp.asarray(etas)))
    z = (mean - [t.mean for t in truths]) / [t.sd for t in truths]
    nats = value - [t.log_partition for t in truths]
    for name, rows in groups.items():
        line = f"z {np.sqrt(np.mean(z[rows] ** 2)):.1e} (largest {np.abs(z[rows]).max():.1e})"
        if network.is_absolute:
            line += f", A {np.sqrt(np.mean(nats[rows] ** 2)):.1e} nats"
        print(f"    {title:22s} {name:10s} {line}", flush=True)


def fit(family, data, key, options, **base):
    """A network before and after training."""
    start = time.process_time()
    before = nd.LogPartitionNetwork(family, data, **base, key=key)
    after, _ = training.fit_means(
        before, data, key, loss=nd.sobolev_loss, steps=options.steps, learning_rate=options.rate
    )
    name = "on its base" if before.base is not None else "without a base"
    print(f"  {name}: {time.process_time() - start:.0f} s", flush=True)
    return before, after


def dirichlet(options):
    """rms <= 0.002 in the box, <= 0.001 from n = 10; A within 0.005 nats."""
    job = JOBS["dirichlet"]
    fresh = np.asarray(job.family.sample_eta(jax.random.key(77), FRESH, job.ranges))
    rng = np.random.default_rng(1)
    counts = np.repeat(COUNTS, BY_COUNT)
    far = posterior_etas(rng, fresh[: len(counts)], counts)
    etas = np.concatenate([fresh, far])
    truths = [dirichlet_truth(eta) for eta in etas]
    groups = {"box": slice(0, FRESH)}
    for i, n in enumerate(COUNTS):
        groups[f"n = {n:g}"] = slice(FRESH + i * BY_COUNT, FRESH + (i + 1) * BY_COUNT)
    for seed in range(options.seeds):
        priors = np.asarray(job.family.sample_eta(jax.random.key(seed), LABELS, job.ranges))
        n = np.exp(rng.uniform(0, np.log(1e3), LABELS // 2))
        known = np.concatenate([priors[::2], posterior_etas(rng, priors[1::2], n)])
        data = nd.estimate_moments(job.family, jnp.asarray(known), jax.random.key(100 + seed))
        before, after = fit(job.family, data, jax.random.key(200 + seed), options)
        print_errors("untrained", before, etas, truths, groups)
        print_errors("trained", after, etas, truths, groups)
        _, without = fit(job.family, data, jax.random.key(200 + seed), options, base=None)
        print_errors("without a base", without, etas, truths, groups)


def steep(options):
    """rms <= 0.005 after 2,000 steps, by README's recipe."""
    for powers, ranges in STEEP.items():
        family = PositivePowers(powers)
        moments = jax.jit(
            functools.partial(jax.lax.map, functools.partial(nd.quadrature_moments, family))
        )
        etas = family.sample_eta(jax.random.key(0), LABELS + 512, ranges)
        found = moments(etas)
        data = labeled(family, etas, found.mean, found.covariance)
        fresh = data[LABELS:].batch()
        print(f"  {family!r}", flush=True)
        for base in ({}, {"base": None}):
            networks = fit(family, data[:LABELS], jax.random.key(2), options, **base)
            for title, network in zip(("untrained", "trained"), networks, strict=True):
                z = (jax.jit(jax.vmap(network))(fresh.eta) - fresh.mean) / fresh.sd
                rms, most = jnp.sqrt(jnp.mean(z**2)), jnp.abs(z).max()
                print(
                    f"    {title:10s} z {rms:.4f}, median {jnp.median(jnp.abs(z)):.4f}, {most:.2f}"
                )


SECTIONS = {part.__name__: part for part in (dirichlet, steep)}


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], default=[])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate at the start")
    options = parser.parse_args()
    for name in options.sections or SECTIONS:
        print(f"== {name}: {SECTIONS[name].__doc__}", flush=True)
        SECTIONS[name](options)


if __name__ == "__main__":
    main()
