# %% [markdown]
"""Conjugate priors without closed form: posteriors and evidence from one observation to a million.

    python examples/inference/conjugate_priors.py [--quick]

The parameters of gamma, beta, Dirichlet and von Mises distributions have conjugate priors whose
normalizers are integrals. Each prior is a short custom family, or one of the package. Posteriors
are sums. The evidence is a difference of two log-partitions. A fine grid is the reference for
quadrature (in three dimensions importance sampling) and Laplace's Gaussian approximation.

Data: hours between failures of the air conditioning of an aircraft (Proschan, Technometrics 1963),
batting averages of 18 players in the rest of the season 1970 (Efron and Morris, JASA 1975), doubled
directions of 76 turtles after laying eggs (Stephens 1969, in Fisher, Statistical Analysis of
Circular Data, 1993), which lie along an axis. Other data are simulated.
"""

# %%
import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import Exp
from matplotlib.figure import Figure
from scipy import optimize, stats
from scipy.special import gammaln, i0e

import nnef_dists as nd

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells

# %% [markdown]
# ## Data

# %%
AIRCRAFT = np.array([3, 5, 7, 18, 43, 85, 91, 98, 100, 130, 230, 487]) / 100  # in 100 hours
# fmt: off
BATTING = np.array([346, 298, 276, 222, 273, 270, 263, 210, 269, 230, 264, 256, 303, 264, 226,
                    286, 316, 200]) / 1000
TURTLES = np.array([8, 9, 13, 13, 14, 18, 22, 27, 30, 34, 38, 38, 40, 44, 45, 47, 48, 48, 48, 48,
                    50, 53, 56, 57, 58, 58, 61, 63, 64, 64, 64, 65, 65, 68, 70, 73, 78, 78, 78, 83,
                    83, 88, 88, 88, 90, 92, 92, 93, 95, 96, 98, 100, 103, 106, 113, 118, 138, 153,
                    153, 155, 204, 215, 223, 226, 237, 238, 243, 244, 250, 251, 257, 268, 285, 319,
                    343, 350])
# fmt: on


# %% [markdown]
# ## Families


# %%
class GammaPrior(nd.ExponentialFamily):
    """The conjugate prior of the shape and the rate of a gamma distribution."""

    x_shape: ClassVar[tuple[int, ...]] = (2,)
    natural_domain: ClassVar[nd.families.ProductDomain] = nd.domain(n=nd.positive, rate=nd.negative)

    @property
    def support(self):
        """Both are positive."""
        return Exp((2,))

    def compute_stats(self, x):
        """Returns the part of the log-density without data, and the parameters."""
        shape, rate = x
        log_normalizer = jax.scipy.special.gammaln(shape) - shape * jnp.log(rate)
        return {"n": -log_normalizer, "shape": shape, "rate": rate}


class VonMisesPrior(nd.ExponentialFamily):
    """The conjugate prior of k (cos m, sin m), with concentration k and mean direction m."""

    x_shape: ClassVar[tuple[int, ...]] = (2,)
    natural_domain: ClassVar[nd.families.ProductDomain] = nd.domain(log_bessel=nd.negative)

    def compute_stats(self, x):
        """Returns the vector and log I0(k)."""
        k = jnp.sqrt(jnp.sum(x**2) + 1e-30)
        return {"vector": x, "log_bessel": jnp.log(jax.scipy.special.i0e(k)) + k}


# %% [markdown]
# ## Problems


# %%
class Problem(NamedTuple):
    """A family, the eta of a prior, and the update of eta by observations y."""

    family: nd.ExponentialFamily
    prior: list[float]
    statistics: Callable  # of observations, (n, ...) -> (n, eta_dim)
    log_base: Callable  # the rest of the log-likelihood, (n, ...) -> (n,)
    simulate: Callable  # (rng, n) -> observations
    exact: Callable  # T(x) by SciPy, (n, dim) -> (n, eta_dim)
    positive: bool = True
    data: np.ndarray | None = None


def _dirichlet(k, data, concentration):
    def exact(a):
        return np.column_stack([a, gammaln(a).sum(1) - gammaln(a.sum(1))])

    return Problem(
        nd.DirichletPrior(k),
        [*np.log(np.full(k, 0.8 / k)), -1.0],
        lambda y: np.column_stack([np.log(y), -np.ones(len(y))]),
        lambda y: -np.log(y).sum(1),
        lambda rng, n: rng.dirichlet(concentration, n),
        exact,
        data=data,
    )


PROBLEMS = {
    "gamma shape": Problem(
        nd.GammaShapePrior(),
        [0.0, -1.0],
        lambda y: np.column_stack([np.log(y), -np.ones(len(y))]),
        lambda y: -np.log(y) - y,
        lambda rng, n: rng.gamma(3.0, size=n),
        lambda a: np.column_stack([a, gammaln(a)]),
    ),
    "gamma": Problem(
        GammaPrior(),
        [1.0, -1.0, -1.0],
        lambda y: np.column_stack([np.ones(len(y)), np.log(y), -y]),
        lambda y: -np.log(y),
        lambda rng, n: rng.gamma(3.0, 0.5, n),
        lambda x: np.column_stack([x[:, 0] * np.log(x[:, 1]) - gammaln(x[:, 0]), x]),
        data=AIRCRAFT,
    ),
    "dirichlet": _dirichlet(3, None, [2.0, 1.0, 4.0]),
    "beta": _dirichlet(2, np.column_stack([BATTING, 1 - BATTING]), [3.0, 1.5]),
    "von mises": Problem(
        VonMisesPrior(),
        [0.0, 0.0, -1.0],
        lambda y: np.column_stack([np.cos(y), np.sin(y), -np.ones(len(y))]),
        lambda y: np.full(len(y), -np.log(2 * np.pi)),
        lambda rng, n: rng.vonmises(1.0, 2.0, n),
        lambda v: np.column_stack([v, np.log(i0e(np.hypot(*v.T))) + np.hypot(*v.T)]),
        positive=False,
        data=np.radians(2 * TURTLES),
    ),
}


# %% [markdown]
# ## Moments by grid, quadrature and Laplace's method


# %%
class Moments(NamedTuple):
    """A, E[T] and sd[T]."""

    log_partition: float
    mean: np.ndarray
    sd: np.ndarray


def weigh(logs, values):
    """Returns moments by a sum over points with log-weights."""
    highest = logs.max()
    total = highest + np.log(np.exp(logs - highest).sum())
    weights = np.exp(logs - total)
    mean = weights @ values
    return Moments(total, mean, np.sqrt(weights @ (values - mean) ** 2))


def grid(problem, eta):
    """Returns reference moments, by a trapezoidal rule on a box around the mass."""
    (dim,) = problem.family.x_shape or (1,)

    def box(low, high, size):
        axes = [np.linspace(*ends, size) for ends in zip(low, high, strict=True)]
        u = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, dim)
        values = problem.exact(np.exp(u) if problem.positive else u)
        return u, values, values @ eta + problem.positive * u.sum(1), (high - low) / (size - 1)

    low, high = np.full(dim, -60.0), np.full(dim, 60.0)
    for _ in range(24):
        u, _, logs, step = box(low, high, {1: 401, 2: 41, 3: 25}[dim])
        matters = u[logs >= min(logs.max() - 60, np.quantile(logs, 0.95))]
        low, high = np.maximum(low, matters.min(0) - step), np.minimum(high, matters.max(0) + step)
    _, values, logs, step = box(low, high, {1: 4001, 2: 601, 3: 121}[dim])
    return weigh(logs + np.log(step).sum(), values)


def quadrature(problem, etas):
    """Returns moments of all etas, from one compiled program."""

    @jax.jit
    def run(etas):
        return jax.lax.map(lambda eta: nd.quadrature_moments(problem.family, eta), etas)

    found = jax.tree.map(np.asarray, run(jnp.asarray(etas)))
    sd = np.sqrt(np.diagonal(found.covariance, axis1=1, axis2=2))
    return [Moments(*one) for one in zip(found.log_partition, found.mean, sd, strict=True)]


def laplace(problem, etas, points=2**17):
    """Returns moments by the Gaussian approximation at the mode, and by importance sampling.

    Both use unconstrained coordinates u. The proposal is a Student's t distribution.
    """
    family, size = problem.family, int(np.prod(problem.family.x_shape, dtype=int))

    def log_density(u, eta):
        return nd.families.unconstrained_logdensity(family, eta, u)

    def values(u):
        return family.sufficient_statistics(family.support.transform(u.reshape(family.x_shape)))

    height, slope = jax.jit(log_density), jax.jit(jax.grad(log_density))
    hessian, jacobian = jax.jit(jax.hessian(log_density)), jax.jit(jax.jacfwd(values))
    many = jax.jit(jax.vmap(lambda u, eta: (log_density(u, eta), values(u)), (0, None)))
    uniform = stats.qmc.Sobol(size + 1, scramble=False).random(points)
    uniform = (uniform + np.random.default_rng(0).random(size + 1)) % 1
    z = stats.norm.ppf(uniform[:, 1:]) * np.sqrt(5 / stats.chi2.ppf(uniform[:, :1], 5))
    log_q = gammaln((5 + size) / 2) - gammaln(5 / 2) - size / 2 * np.log(5 * np.pi)
    log_q = log_q - (5 + size) / 2 * np.log1p(np.sum(z**2, 1) / 5)
    gaussians, sampled = [], []
    for eta in etas:
        mode = optimize.minimize(
            lambda u, eta=eta: -float(height(u, eta)),
            np.zeros(size),
            jac=lambda u, eta=eta: -np.asarray(slope(u, eta)),
            hess=lambda u, eta=eta: -np.asarray(hessian(u, eta)),
            method="trust-exact",
            options={"gtol": 1e-9 * np.abs(eta).max()},
        ).x
        factor = np.linalg.cholesky(np.linalg.inv(-hessian(mode, eta)))
        log_det = np.log(np.diag(factor)).sum()
        log_partition = float(height(mode, eta)) + size * np.log(2 * np.pi) / 2 + log_det
        sd = np.linalg.norm(np.asarray(jacobian(mode)) @ factor, axis=1)
        gaussians.append(Moments(log_partition, np.asarray(values(mode)), sd))
        logs, of_draws = map(np.asarray, many(mode + z @ factor.T, eta))
        sampled.append(weigh(logs - log_q + log_det - np.log(points), of_draws))
    return gaussians, sampled


# %% [markdown]
# ## Comparison


# %%
def compare(problem, sizes, seed):
    """Returns, by number of observations, the evidence and the errors of both methods."""
    rng = np.random.default_rng(seed)
    samples = [problem.simulate(rng, n) for n in sizes]
    samples += [] if problem.data is None else [problem.data]
    prior = jnp.asarray(problem.prior)
    sums = [jnp.asarray(problem.statistics(y).sum(0)) for y in samples]
    etas = [np.asarray(nd.inference.conjugate_update(prior, s)) for s in sums]
    etas = np.stack([np.asarray(prior), *etas])
    gaussians, sampled = laplace(problem, etas)
    ours = quadrature(problem, etas) if nd.sampling.quadrature_dim(problem.family) < 3 else sampled
    exact = [grid(problem, eta) for eta in etas]
    rows = []
    for i, y in enumerate(samples, 1):
        # The same difference as in `nd.inference.evidence`.
        logs = [part[i].log_partition - part[0].log_partition for part in (exact, ours, gaussians)]
        errors = [
            (
                np.max(np.abs(part[i].mean - exact[i].mean) / exact[i].sd),
                np.max(np.abs(part[i].sd / exact[i].sd - 1)),
                abs(log - logs[0]),
            )
            for part, log in zip((ours, gaussians), logs[1:], strict=True)
        ]
        rows.append((len(y), logs[0] + problem.log_base(y).sum(), *errors))
    return rows, etas


# %% [markdown]
# ## Figure


# %%
def draw(found):
    """Plots errors by number of observations, at least 1e-9 nats, and two posteriors."""
    figure = Figure(figsize=(10, 3.4), dpi=160, layout="constrained")
    shown = [posterior for posterior in POSTERIORS if posterior[0] in found]
    left, *others = figure.subplots(1, 1 + len(shown))
    for i, (name, (rows, _)) in enumerate(found.items()):
        rows = sorted(row for row in rows if row[0] in SIZES)
        n = [row[0] for row in rows]
        for errors, style in ((2, "-"), (3, "--")):
            size = [max(row[errors][2], 1e-9) for row in rows]
            left.loglog(n, size, style, color=f"C{i}", label=name if errors == 2 else None)
    left.axhline(0.005, color="gray", linewidth=0.8)
    left.set(title="Errors of evidence (dashed: Laplace)", xlabel="observations", ylabel="nats")
    left.legend(frameon=False, fontsize=7, loc=(0.3, 0.15))
    for axes, (name, labels, x, y) in zip(others, shown, strict=True):
        points = np.meshgrid(np.linspace(*x, 200), np.linspace(*y, 200))
        values = PROBLEMS[name].exact(np.stack(points, -1).reshape(-1, 2))
        logs = (values @ found[name][1][-1]).reshape(200, 200)
        axes.contour(*points, np.exp(logs - logs.max()), levels=8)
        axes.set(**labels)
    return figure


AIR = {"title": "Failures of air conditioning", "xlabel": "shape", "ylabel": "rate [1 / 100 h]"}
TURTLES = {"title": "Directions of turtles, doubled", "xlabel": "k cos m", "ylabel": "k sin m"}
POSTERIORS = (
    ("gamma", AIR, (0.1, 1.6), (0.05, 1.8)),
    ("von mises", TURTLES, (-1.2, 0.1), (0.3, 1.5)),
)
SIZES = (1, 10, 100, 1_000, 10_000, 100_000, 1_000_000)


# %% [markdown]
# ## Main program


# %%
def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the first three problems")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/conjugate_priors"))
    options = cells.parse(parser)
    names = list(PROBLEMS)[: 3 if options.quick else None]
    found, worst = {}, np.zeros(3)
    print("errors: means [z], sd [relative], evidence [nats]; of quadrature, then of Laplace")
    with jax.enable_x64(True):
        for name in names:
            found[name] = compare(PROBLEMS[name], SIZES, options.seed)
            for n, log_evidence, ours, gaussian in found[name][0]:
                print(
                    f"{name:>12} {n:>8}  evidence {log_evidence:>14.4f}  "
                    + "  ".join(f"{error:.1e}" for error in ours)
                    + "  |  "
                    + "  ".join(f"{error:.1e}" for error in gaussian)
                )
                worst = np.maximum(worst, ours)
    print("largest: " + ", ".join(f"{error:.1e}" for error in worst))
    cells.save(draw(found), options.out / "conjugate_priors.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
