"""How honest and how exact HMC labels are, against quadrature.

    python tests/benchmarks/bench_labels.py

Random quartic etas (eta1, eta2 in [-2, 2], eta4 in [-2, -0.1] log-uniform, double wells included),
default settings, float32. t = (label - truth) / standard error should be standard normal; z is the
error in units of sd(T | eta). Seconds are after compilation.
"""

import argparse
import time

import jax
import numpy as np

import nnef_dists as nd

RANGES = {"x": (-2, 2), "x2": (-2, 2), "x4": (-2, -0.1, "log")}


def main():
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--etas", type=int, default=256)
    options.add_argument("--seeds", type=int, default=5)
    args = options.parse_args()
    family = nd.Polynomial1D((1, 2, 4))
    quadrature = jax.jit(
        lambda etas: jax.lax.map(
            lambda eta: nd.quadrature_moments(family, eta), etas, batch_size=64
        )
    )
    start = time.perf_counter()
    nd.estimate_moments(family, family.sample_eta(jax.random.key(0), 1, RANGES), jax.random.key(0))
    print(f"first tile, compilation included: {time.perf_counter() - start:.1f} s")
    print(
        f"{'seed':>4}{'ok':>6}{'of':>6}{'t mean':>9}{'t sd':>8}{'|t| max':>9}{'|t| > 6':>9}"
        f"{'z rms':>9}{'z median':>10}{'z max':>8}{'R-hat':>8}{'s':>7}"
    )
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
        print(
            f"{seed:4d}{len(good):6d}{len(data):6d}{t.mean():9.3f}{t.std():8.3f}"
            f"{np.abs(t).max():9.2f}{beyond:9d}{np.sqrt((z**2).mean()):9.4f}{np.median(z):10.4f}"
            f"{z.max():8.3f}{good.rhat.max():8.4f}{seconds:7.2f}"
        )


if __name__ == "__main__":
    main()
