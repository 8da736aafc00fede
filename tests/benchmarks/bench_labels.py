"""Errors and standard errors of HMC labels of quartics, beside quadrature.

    python tests/benchmarks/bench_labels.py [--etas 256] [--seeds 5] [--quick]

Random quartic etas (eta1, eta2 in [-2, 2], eta4 in [-2, -0.1] log-uniform, double wells included),
default settings, float32. t = (label - truth) / standard error should be standard normal; z is the
error in units of sd(T | eta). Seconds are after compilation.
"""

import sys
import time
from pathlib import Path

import jax
import numpy as np

import nnef_dists as nd

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.results import Table, main

RANGES = {"x": (-2, 2), "x2": (-2, 2), "x4": (-2, -0.1, "log")}


def labels(args):
    family = nd.Polynomial1D((1, 2, 4))
    quadrature = jax.jit(
        lambda etas: jax.lax.map(
            lambda eta: nd.quadrature_moments(family, eta), etas, batch_size=64
        )
    )
    start = time.perf_counter()
    nd.estimate_moments(family, family.sample_eta(jax.random.key(0), 1, RANGES), jax.random.key(0))
    first = time.perf_counter() - start
    table = Table(
        "Labels of quartics, t = error / standard error",
        ["seed", "valid", "of", "t mean", "t sd", "largest |t|", "|t| > 6", "RMS error [z units]",
         "median", "largest", "largest R-hat", "s"],
        f"The first tile took {first:.1f} s, with compilation.",
    )  # fmt: skip
    for seed in range(args.seeds):
        key_eta, key_hmc = jax.random.split(jax.random.key(seed))
        etas = family.sample_eta(key_eta, args.etas, RANGES)
        start = time.perf_counter()
        data = nd.estimate_moments(family, etas, key_hmc)
        seconds = time.perf_counter() - start
        good = data.only_ok()
        exact = quadrature(good.eta)
        sd = np.sqrt(np.diagonal(np.asarray(exact.covariance), axis1=1, axis2=2))
        error = good.mean - np.asarray(exact.mean)
        t, z = error / good.standard_error, np.abs(error) / sd
        beyond = int((np.abs(t).max(1) > 6).sum())
        table.add(
            *(seed, len(good), len(data), t.mean(), t.std(), np.abs(t).max(), beyond),
            *(np.sqrt((z**2).mean()), np.median(z), z.max(), good.rhat.max(), seconds),
        )


def arguments(parser):
    parser.add_argument("--etas", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=5)


if __name__ == "__main__":
    main(__doc__, {"labels": labels}, arguments, {"etas": 64, "seeds": 1})
