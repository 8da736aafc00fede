"""Hierarchical gamma model: shapes and means of many groups, by message passing.

    python examples/hierarchical_gamma.py [--groups 1000] [--observations 20] [--sweeps 40]

Observations x of group i are gamma distributed with shape alpha_i and mean 1 / w_i:

    x ~ Gamma(alpha_i, rate alpha_i w_i),    w_i ~ Gamma(a, rate a u),    u ~ Exp(1)
    p(alpha_i) and p(a) proportional to exp(g - alpha_i / 2) and exp(g - a / 2)

with g(a) = a log a - a - log Gamma(a). Given the mean, the shape has the sufficient statistics a
and g, an exponential family without a name. Its moments are integrals in one dimension. The script
compares the factorized posterior with brute-force integration over (a, u) and each alpha_i.
"""

import argparse
import math
import time
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from flowjax.bijections import Exp
from matplotlib.figure import Figure

import nnef_dists as nd

# With more nodes the error bound is that of single precision: g is a difference of large terms.
POINTS = 17


class GammaShape(nd.ExponentialFamily):
    """The shape of a gamma distribution of known mean: exp(eta1 a + eta2 g(a)) on a > 0.

    Near 0, g is log a, and at infinity it is log(a) / 2. So the integral exists for eta2 > -1 and
    eta1 < 0.
    """

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[nd.families.ProductDomain] = nd.domain(
        alpha=nd.negative, g=nd.interval(-1.0, math.inf)
    )

    @property
    def support(self):
        """The positive half-line."""
        return Exp()

    def compute_stats(self, x):
        """Returns a and g(a)."""
        return {"alpha": x, "g": x * jnp.log(x) - x - jax.scipy.special.gammaln(x)}


def make_nodes(groups):
    """Returns nodes by name, in the order of updates; two in each group and two that are shared.

    Integrals are the slow part. In this order each is computed once per sweep, because the shapes
    take messages from w and u alone.
    """
    shape, gamma = nd.Quadrature(GammaShape(), points=POINTS), nd.ClosedForm(nd.Gamma())
    return {
        "alpha": nd.inference.Node(shape, (groups,)),
        "a": nd.inference.Node(shape),
        "w": nd.inference.Node(gamma, (groups,)),
        "u": nd.inference.Node(gamma),
    }


def energy(t, total, total_log, n, scale=1.0):
    """The log joint density in statistics, without the constant -sum of log x.

    With a minibatch of the groups, `scale` multiplies their terms.
    """
    alpha, w, a, u = t["alpha"], t["w"], t["a"], t["u"]
    likelihood = n * alpha["g"] + alpha["alpha"] * (n + n * w["log_x"] + total_log - w["x"] * total)
    means = a["g"] + a["alpha"] * (1 + u["log_x"] + w["log_x"] - u["x"] * w["x"]) - w["log_x"]
    shapes = alpha["g"] - alpha["alpha"] / 2
    return scale * jnp.sum(likelihood + means + shapes) + a["g"] - a["alpha"] / 2 - u["x"]


def log_joint(x, total, total_log, n):
    """The same density by textbook formulas, for `check_energy`."""

    def log_gamma_density(shape, rate, log_x, x):
        normalizer = shape * jnp.log(rate) - jax.scipy.special.gammaln(shape)
        return normalizer + (shape - 1) * log_x - rate * x

    def log_prior(a):
        return a * jnp.log(a) - a - jax.scipy.special.gammaln(a) - a / 2

    alpha, w, a, u = x["alpha"], x["w"], x["a"], x["u"]
    rate = alpha * w
    normalizer = n * (alpha * jnp.log(rate) - jax.scipy.special.gammaln(alpha))
    likelihood = normalizer + (alpha - 1) * total_log - rate * total
    means = log_gamma_density(a, a * u, jnp.log(w), w)
    return jnp.sum(likelihood + means + log_prior(alpha)) + log_prior(a) - u


def start(groups):
    """Natural parameters to start from."""
    first = {"w": (1.0, -1.0), "alpha": (-1.0, 1.0), "a": (-1.0, 1.0), "u": (1.0, -1.0)}
    plates = {"w": (groups,), "alpha": (groups,), "a": (), "u": ()}
    return {name: jnp.broadcast_to(jnp.array(first[name]), (*plates[name], 2)) for name in first}


def infer(nodes, eta, data, sweeps):
    """Coordinate ascent; returns natural parameters and the ELBO after each sweep."""

    def sweep(eta, _):
        for name in nodes:
            eta = nd.inference.step(energy, nodes, eta, name, *data)
        return eta, nd.inference.elbo(energy, nodes, eta, *data)

    return jax.lax.scan(sweep, eta, length=sweeps)


def simulate(groups, n, seed):
    """Sums of x and of log x for each group."""
    rng = np.random.default_rng(seed)
    w = rng.gamma(4.0, 1 / (4.0 * 1.5), groups)
    alpha = rng.gamma(4.0, 0.75, groups)
    x = rng.gamma(alpha[:, None], 1 / (alpha * w)[:, None], (groups, n))
    return jnp.asarray(x.sum(1), float), jnp.asarray(np.log(x).sum(1), float), float(n)


def posterior_moments(nodes, eta):
    """Means and standard deviations of the shapes alpha and a, and of u, by node."""
    found = {}
    for name, statistic in (("alpha", 0), ("a", 0), ("u", 1)):
        q, plate = nodes[name].q, nodes[name].plate

        def both(eta, q=q):
            mean = q.mean(eta)
            return mean, mean

        # The derivative of the mean is the covariance: one program has both.
        one = jax.jacfwd(both, has_aux=True)
        covariance, mean = jax.jit(jax.vmap(one) if plate else one)(eta[name])
        sd = jnp.sqrt(covariance[..., statistic, statistic])
        found[name] = np.asarray(mean[..., statistic]), np.asarray(sd)
    return found


def brute_force(total, total_log, n, around, size=32, points=160):
    """The same moments by integration, with w in closed form, in double precision.

    Given a and u, groups are independent, and the integral over w is a gamma function. The grids
    cover 7 standard deviations of `around`, the moments of a first guess.
    """
    total, total_log = (np.asarray(part, np.float64)[:, None] for part in (total, total_log))

    def grid(moments, size):
        """Gauss-Legendre points and log-weights between the ends, in the logarithm."""
        mean, sd = moments
        t, weights = np.polynomial.legendre.leggauss(size)
        low, high = np.log(np.maximum(mean - 7 * sd, mean / 50)), np.log(mean + 9 * sd)
        y = np.exp(low[..., None] + (high - low)[..., None] * (t + 1) / 2)
        return y, np.log(weights * (high - low)[..., None] / 2) + np.log(y)

    def prior(a):
        return a * np.log(a) - a - scipy.special.gammaln(a) - a / 2

    (a, log_da), (u, log_du) = (grid(around[name], size) for name in ("a", "u"))
    alpha, log_dalpha = grid(around["alpha"], points)
    fixed = (
        prior(alpha)
        + alpha * total_log
        + n * (alpha * np.log(alpha) - scipy.special.gammaln(alpha))
    )
    logs = np.empty((size, size))
    means, squares = np.empty((2, size, size, len(total)))
    for i, j in np.ndindex(size, size):
        power = n * alpha + a[i]
        terms = fixed + scipy.special.gammaln(power) - power * np.log(alpha * total + a[i] * u[j])
        terms = terms + log_dalpha
        evidence = scipy.special.logsumexp(terms, 1)
        weights = np.exp(terms - evidence[:, None])
        means[i, j], squares[i, j] = np.sum(weights * alpha, 1), np.sum(weights * alpha**2, 1)
        shared = a[i] * np.log(a[i] * u[j]) - scipy.special.gammaln(a[i])
        logs[i, j] = evidence.sum() + len(total) * shared + prior(a[i]) - u[j]
    logs = logs + log_da[:, None] + log_du
    log_evidence = scipy.special.logsumexp(logs)
    weights = np.exp(logs - log_evidence)

    def moments(first, second):
        mean = np.tensordot(weights, first, 2)
        return mean, np.sqrt(np.tensordot(weights, second, 2) - mean**2)

    a, u = np.broadcast_to(a[:, None], weights.shape), np.broadcast_to(u, weights.shape)
    found = {"alpha": moments(means, squares), "a": moments(a, a**2), "u": moments(u, u**2)}
    return found, log_evidence


def draw(bounds, log_evidence, found, exact):
    """The ELBO by sweeps, and the groups' shapes beside the exact ones."""
    figure = Figure(figsize=(9, 3.6), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    left.semilogy(np.arange(1, len(bounds) + 1), log_evidence - np.asarray(bounds, float))
    left.set(title="Convergence", xlabel="sweep", ylabel="log evidence - ELBO [nats]")
    order = np.argsort(exact["alpha"][0])
    order = order[np.linspace(0, len(order) - 1, min(40, len(order))).astype(int)]
    for (mean, sd), shift, label in (
        (exact["alpha"], -0.15, "integration"),
        (found["alpha"], 0.15, "message passing"),
    ):
        position = np.arange(len(order)) + shift
        right.errorbar(position, mean[order], sd[order], fmt=".", markersize=4, label=label)
    right.set(
        title="Shapes of groups: posterior mean and sd", xlabel="group, sorted", ylabel="shape"
    )
    right.legend(loc="upper left", frameon=False)
    return figure


def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--observations", type=int, default=20)
    parser.add_argument("--sweeps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/hierarchical_gamma"))
    options = parser.parse_args()
    data = simulate(options.groups, options.observations, options.seed)
    nodes, eta = make_nodes(options.groups), start(options.groups)
    print(nd.inference.check_energy(energy, log_joint, nodes, jax.random.key(0), *data))

    # With data as constants the compiler finds more common terms of the steps.
    run = jax.jit(lambda eta: infer(nodes, eta, data, options.sweeps))
    clock = time.perf_counter()
    compiled = run.lower(eta).compile()
    print(f"compilation: {time.perf_counter() - clock:.1f} s")
    clock = time.perf_counter()
    eta, bounds = jax.block_until_ready(compiled(eta))
    print(
        f"{options.sweeps} sweeps: {time.perf_counter() - clock:.2f} s, ELBO {bounds[-1]:.2f} nats"
    )

    found = posterior_moments(nodes, eta)
    exact, log_evidence = brute_force(*data, found)
    print(f"log evidence by integration: {log_evidence:.2f} nats")
    for name, (mean, sd) in found.items():
        z = np.abs(mean - exact[name][0]) / exact[name][1]
        ratio = sd / exact[name][1]
        print(
            f"{name:>5}: largest error of a mean {np.max(z):.3f} sd, "
            f"sd ratio {np.min(ratio):.3f} to {np.max(ratio):.3f}"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    picture = options.out / "hierarchical_gamma.png"
    draw(bounds, log_evidence, found, exact).savefig(picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
