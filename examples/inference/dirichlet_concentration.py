# %% [markdown]
"""The concentration that 500 groups of counts share: mean field, and the groups integrated out.

    python examples/inference/dirichlet_concentration.py [--groups 500] [--labels 128] [--quick]

Group i has shares p_i ~ Dirichlet(alpha) of three categories, and counts of 20 draws:

    n_i ~ Multinomial(20, p_i),    p(alpha) proportional to exp(eta . alpha - log B(alpha))

The conjugate prior of alpha is `nd.DirichletPrior(3)`. A network on its Laplace base, fitted to a
few labels without training, gives its log-partition. The mean field q(alpha) prod q(p_i) is then a
conjugate model. Alpha and the 500 groups are correlated, so q(alpha) is too narrow.

The structured posterior q(alpha) prod p(p_i | alpha, n_i) has no such error. Without the shares,

    log p(n | alpha) = sum over i of (log B(alpha + n_i) - log B(alpha)),

up to a constant. `cvi_message` regresses it, and the prior, on the statistics of a normal
distribution of log alpha. `nd.DirichletPrior(3)` is not suitable here: one number, -eta_B, sets the
standard deviations of all three entries of alpha. The script prints the sd ratios of its member
closest to the posterior, in a normal approximation of both.

The reference is importance sampling of the three entries of alpha, in double precision.
"""

# %%
import argparse
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln
from matplotlib.figure import Figure
from scipy.stats import chi2, norm, qmc

import nnef_dists as nd

# The folder examples/. A notebook has no `__file__`, and runs in its own folder.
sys.path.append(str(Path(globals().get("__file__", "notebook")).resolve().parents[1]))
import cells

# %% [markdown]
# ## Simulated counts

# %%
TRUE, DRAWS = np.array([2.0, 1.0, 4.0]), 20
PRIOR = np.append(np.log(np.full(3, 0.8 / 3)), -1.0)  # eta of `nd.DirichletPrior(3)`
UPDATES, RHO = 30, 0.5


class Result(NamedTuple):
    """Means and standard deviations of alpha, and the log-evidence or its bound."""

    mean: np.ndarray
    sd: np.ndarray
    log_evidence: float


def simulate(groups, seed):
    """Returns counts, `(groups, 3)`."""
    rng = np.random.default_rng(seed)
    return np.array([rng.multinomial(DRAWS, p) for p in rng.dirichlet(TRUE, groups)])


# %% [markdown]
# ## Log-densities


# %%
def log_b(alpha):
    """Returns the logarithm of the beta function."""
    return jnp.sum(gammaln(alpha), -1) - gammaln(jnp.sum(alpha, -1))


def log_collapsed(u, n):
    """Returns the log-density of u = log alpha and the counts, with an unnormalized prior."""
    alpha = jnp.exp(u)
    prior = alpha @ PRIOR[:3] + PRIOR[3] * log_b(alpha)
    return prior + jnp.sum(u) + jnp.sum(log_b(alpha + n) - log_b(alpha))


def energy(t, n):
    """Returns the log joint density of the mean field, in statistics."""
    alpha, p = t["alpha"], t["p"]
    shares = jnp.sum(p["log_x"] * (n + alpha["alpha"] - 1)) - len(n) * alpha["log_beta"]
    return shares + alpha["alpha"] @ PRIOR[:3] + PRIOR[3] * alpha["log_beta"]


# %% [markdown]
# ## Mean field with a learned family


# %%
def learn(labels, seed):
    """Returns the family of alpha, by a network on its Laplace base and labels at posteriors."""
    family, rng = nd.DirichletPrior(3), np.random.default_rng(seed)
    etas = []
    for _ in range(labels):
        n = int(np.exp(rng.uniform(0, np.log(1000))))
        x = rng.dirichlet(np.exp(0.7 * rng.normal(size=3) + 0.5), n)
        etas.append(PRIOR + np.append(np.log(np.maximum(x, 1e-30)).sum(0), -n))
    data = nd.estimate_moments(family, jnp.asarray(np.array(etas), float), jax.random.key(seed))
    network = nd.LogPartitionNetwork(family, data.only_ok(), key=jax.random.key(seed + 1))
    return nd.AmortizedFamily(family, network)


def mean_field(q, n, sweeps):
    """Returns the factorized posterior of alpha and all shares."""
    nodes = {
        "p": nd.inference.Node(nd.ClosedForm(nd.Dirichlet(3)), (len(n),)),
        "alpha": nd.inference.Node(q),
    }

    @jax.jit
    def run(eta, n):
        def sweep(eta, _):
            for name in nodes:
                eta = nd.inference.step(energy, nodes, eta, name, n)
            return eta, None

        eta, _ = jax.lax.scan(sweep, eta, length=sweeps)
        bound = nd.inference.elbo(energy, nodes, eta, n)
        return q.mean(eta["alpha"]), q.covariance(eta["alpha"]), bound

    start = jnp.asarray(PRIOR - np.array([20.0, 20.0, 20.0, 10.0]), float)
    mean, covariance, bound = run({"alpha": start, "p": jnp.ones(n.shape)}, jnp.asarray(n, float))
    return Result(np.asarray(mean)[:3], np.sqrt(np.diag(covariance))[:3], float(bound))


# %% [markdown]
# ## Laplace's method and the structured posterior


# %%
def log_normal(mean, covariance, log_evidence):
    """Returns moments of alpha for a normal distribution of log alpha."""
    variance = np.diag(covariance)
    first = np.exp(mean + variance / 2)
    return Result(first, first * np.sqrt(np.expm1(variance)), float(log_evidence))


def laplace(n):
    """Returns the mode of log alpha, its Laplace covariance and the Laplace log-evidence."""
    value = jax.jit(jax.value_and_grad(log_collapsed))
    curvature = jax.jit(jax.hessian(log_collapsed))
    mode = jnp.zeros(3)
    for _ in range(50):
        move = jnp.linalg.solve(curvature(mode, n), value(mode, n)[1])
        mode = mode - move / jnp.maximum(1.0, jnp.max(jnp.abs(move)))
    covariance = np.linalg.inv(-np.asarray(curvature(mode, n)))
    sign_and_log = np.linalg.slogdet(2 * np.pi * covariance)
    return np.asarray(mode), covariance, float(value(mode, n)[0]) + sign_and_log[1] / 2


def collapsed(n, mode, covariance, points=512):
    """Returns the structured posterior, and its mean, covariance and ELBO in log alpha."""
    q = nd.ClosedForm(nd.MultivariateNormal(3))
    nodes = {"u": nd.inference.Node(q)}
    z = norm.ppf(qmc.Sobol(3, rng=np.random.default_rng(0)).random(points))
    z = jnp.asarray((z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T, ddof=0)).T))

    def nothing(t):  # all terms come as messages
        return 0.0 * jnp.sum(t["u"]["x"])

    def draws_of(eta):
        mean = q.mean(eta)
        second = mean[3:].reshape(3, 3) - jnp.outer(mean[:3], mean[:3])
        return mean[:3] + z @ jnp.linalg.cholesky(second).T

    def log_p(u):
        return log_collapsed(u, n)

    @jax.jit
    def run(eta):
        def update(eta, _):
            message = nd.inference.cvi_message(log_p, q, draws_of(eta["u"]))
            return nd.inference.step(nothing, nodes, eta, "u", rho=RHO, extra=message), None

        eta, _ = jax.lax.scan(update, eta, length=UPDATES)
        draws = draws_of(eta["u"])
        bound = nd.inference.elbo(nothing, nodes, eta, extra=jnp.mean(jax.vmap(log_p)(draws)))
        return jnp.mean(draws, 0), jnp.cov(draws.T, ddof=0), bound

    precision = np.linalg.inv(covariance)
    start = jnp.asarray(np.concatenate([precision @ mode, (-precision / 2).ravel()]))
    return run({"u": start})


# %% [markdown]
# ## Reference by importance sampling


# %%
def importance(n, mode, covariance, log_points=14):
    """Returns reference moments, the standard error of the evidence, and weighted points."""
    t = qmc.Sobol(4, rng=np.random.default_rng(1)).random_base2(log_points)
    t = norm.ppf(t[:, :3]) / np.sqrt(chi2.ppf(t[:, 3:], 7) / 7)
    factor = np.linalg.cholesky(covariance)
    u = mode + t @ factor.T
    logs = np.asarray(jax.jit(lambda u: jax.lax.map(lambda u: log_collapsed(u, n), u))(u))
    log_q = float(gammaln(5.0) - gammaln(3.5)) - 1.5 * np.log(7 * np.pi)
    log_q = log_q - 5 * np.log1p(np.sum(t**2, 1) / 7) - np.log(np.diag(factor)).sum()
    logs = logs - log_q
    ratios = np.exp(logs - logs.max())
    weights, alpha = ratios / ratios.sum(), np.exp(u)
    mean = weights @ alpha
    sd = np.sqrt(weights @ (alpha - mean) ** 2)
    error = np.std(ratios) / np.mean(ratios) / np.sqrt(len(u))
    return Result(mean, sd, float(np.log(ratios.mean()) + logs.max())), error, (alpha, weights)


def closest_member(exact, points):
    """Returns the sd of the member of `nd.DirichletPrior(3)` with the least KL(q to p).

    Both densities are approximated as normal at the exact mean. The precision of the member is a
    multiple of the second derivatives of log B there.
    """
    alpha, weights = points
    precision = np.linalg.inv((alpha - exact.mean).T * weights @ (alpha - exact.mean))
    inverse = np.linalg.inv(np.asarray(jax.hessian(log_b)(jnp.asarray(exact.mean))))
    return np.sqrt(np.diag(inverse) * 3 / np.trace(precision @ inverse))


# %% [markdown]
# ## Figure


# %%
def draw(found, exact, points):
    """Plots approximate and exact marginal densities of alpha."""
    figure = Figure(figsize=(9, 3.0), dpi=160, layout="constrained")
    alpha, weights = points
    for k, axes in enumerate(figure.subplots(1, 3)):
        x = np.linspace(exact.mean[k] - 4 * exact.sd[k], exact.mean[k] + 4.5 * exact.sd[k], 300)
        height, edges = np.histogram(alpha[:, k], 50, (x[0], x[-1]), weights=weights, density=True)
        axes.stairs(height, edges, fill=True, color="0.85", label="exact")
        for i, (name, result) in enumerate(found.items()):
            mean, sd = result.mean[k], result.sd[k]
            shape = np.log1p((sd / mean) ** 2)  # drawn as log-normal densities of these moments
            density = norm.pdf(np.log(x), np.log(mean) - shape / 2, np.sqrt(shape)) / x
            axes.plot(x, density, color=f"C{i}", linestyle=("-", "--", "-")[i % 3], label=name)
        axes.set(xlabel=f"alpha[{k}]", yticks=[])
    figure.axes[0].set_ylabel("density")
    figure.axes[2].legend(frameon=False, fontsize=8)
    return figure


# %% [markdown]
# ## Main program


# %%
def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=500)
    parser.add_argument("--labels", type=int, default=128)
    parser.add_argument("--sweeps", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="without the mean field")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/dirichlet_concentration"))
    options = cells.parse(parser)
    counts, clock = simulate(options.groups, options.seed), time.process_time()
    found = {}
    if not options.quick:
        q = learn(options.labels, options.seed)
        found["mean field"] = mean_field(q, counts, options.sweeps)
        print(f"mean field: {time.process_time() - clock:.0f} s of processor time, all included")
    with jax.enable_x64(True):
        n = jnp.asarray(counts, float)
        clock = time.process_time()
        mode, covariance, level = laplace(n)
        found["Laplace"] = log_normal(mode, covariance, level)
        found["collapsed"] = log_normal(*map(np.asarray, collapsed(n, mode, covariance)))
        print(f"Laplace, collapsed: {time.process_time() - clock:.0f} s, all included")
        exact, error, points = importance(n, mode, covariance)
        closest = closest_member(exact, points) / exact.sd
    print(f"truth: log evidence {exact.log_evidence:.4f} +- {error:.4f} nats, up to a constant")
    print(f"closest DirichletPrior(3): sd ratios {' '.join(f'{one:.3f}' for one in closest)}")
    for name, result in found.items():
        z, ratio = np.abs(result.mean - exact.mean) / exact.sd, result.sd / exact.sd
        print(
            f"{name:>10}: means off by {' '.join(f'{one:.4f}' for one in z)} sd, sd ratios "
            f"{' '.join(f'{one:.4f}' for one in ratio)}, "
            f"evidence off by {result.log_evidence - exact.log_evidence:.4f} nats"
        )
    cells.save(draw(found, exact, points), options.out / "dirichlet_concentration.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
