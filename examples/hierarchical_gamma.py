# %% [markdown]
"""Hierarchical gamma model: shapes and means of many groups, by message passing.

    python examples/hierarchical_gamma.py [--groups 1000] [--observations 20] [--sweeps 40]

Observations x of group i are gamma distributed with shape alpha_i and mean 1 / w_i:

    x ~ Gamma(alpha_i, rate alpha_i w_i),    w_i ~ Gamma(a, rate a u),    u ~ Exp(1)
    p(alpha_i) and p(a) proportional to exp(g - alpha_i / 2) and exp(g - a / 2)

with g(a) = a log a - a - log Gamma(a). Given the mean, the shape has the sufficient statistics a
and g, a custom exponential family.

`mean field` has one factor per variable, and takes A from `nd.Quadrature`. `pair` has one factor
for both variables of a group, and computes A by sums on grids. Its shared factors a and u are still
independent, and their standard deviations are too small. Linear response, the derivative of their
means at the fixed point, corrects them. The script compares all methods with brute-force
integration over (a, u) and each alpha_i.

Reference: Giordano, Broderick and Jordan, *Covariances, robustness, and variational Bayes*, JMLR 19
(2018), for linear response.
"""

# %%
import argparse
import math
import time
from pathlib import Path
from typing import ClassVar

import cells
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from flowjax.bijections import AbstractBijection, Chain, Exp
from matplotlib.figure import Figure

import nnef_dists as nd
from nnef_dists.distributions import AbstractTractableFamily, HMCSampler
from nnef_dists.sampling import AbstractSampler

# %% [markdown]
# ## Families
#
# One family is for the shape alone, and one for the shape and the inverse mean of a group.

# %%
# Number of quadrature nodes. With more, rounding of g, a difference of large terms, dominates.
POINTS = 17
# Range of the logarithm of a shape in the sums on grids.
LOG_SHAPES = (-14.0, 6.0)


class GammaShape(nd.ExponentialFamily):
    """The shape of a gamma distribution of known mean: exp(eta1 a + eta2 g(a)) on a > 0.

    Near 0, g is about log a, and at infinity about log(a) / 2. The integral is finite for
    eta2 > -1 and eta1 < 0.
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


class PairEdge(AbstractBijection):
    """The map from positive numbers (gap, g, log_w, w, c, d) to the eta of `ShapeAndMean`."""

    shape: tuple[int, ...] = (6,)
    cond_shape: None = None

    def transform_and_log_det(self, x, condition=None):
        """Returns eta. The log-determinant is not used."""
        gap, g, log_w, w, c, d = jnp.asarray(x)
        edge = c * (1 - jnp.log(c / d))
        return jnp.stack([edge - gap, g - 1, log_w - 1, -w, c, -d]), jnp.zeros(())

    def inverse_and_log_det(self, y, condition=None):
        """Returns the positive numbers. The log-determinant is not used."""
        alpha, g, log_w, w, c, d = jnp.asarray(y)
        edge = c * (1 - jnp.log(-c / d))
        return jnp.stack([edge - alpha, g + 1, log_w + 1, -w, c, -d]), jnp.zeros(())


class ShapeAndMean(nd.ExponentialFamily):
    """The shape alpha and the inverse mean w of one group, with their products."""

    x_shape: ClassVar[tuple[int, ...]] = (2,)
    natural_domain: ClassVar[nd.families.CoupledDomain] = nd.families.CoupledDomain(
        Chain([Exp((6,)), PairEdge()]),
        "g, log_w > -1; w, alpha_w < 0; alpha_log_w = c > 0; alpha < c - c log(-c / alpha_w)",
    )

    @property
    def support(self):
        """Both are positive."""
        return Exp((2,))

    def compute_stats(self, x):
        """Returns the statistics of alpha and w, and their products."""
        alpha, w = x
        log_w = jnp.log(w)
        g = GammaShape().compute_stats(alpha)["g"]
        return {
            "alpha": alpha,
            "g": g,
            "log_w": log_w,
            "w": w,
            "alpha_log_w": alpha * log_w,
            "alpha_w": alpha * w,
        }


# %% [markdown]
# ## Log-partitions as sums on grids
#
# A custom source of A and E[T] needs two methods.


# %%
def log_sum(log_density, points):
    """Returns the log of an integral over log alpha by equal steps, or NaN if it is not converged.

    The sum converges if the density vanishes at both ends and the peak is wider than a step.
    """
    low, high = LOG_SHAPES
    y, step = jnp.linspace(low, high, points), (high - low) / (points - 1)
    logs = log_density(jnp.exp(y)) + y
    top = jax.lax.stop_gradient(logs)
    is_held = jnp.maximum(top[0], top[-1]) < jnp.max(top) - 20
    curvature = -jnp.diff(top, 2)[jnp.argmax(top[1:-1])]
    # A NaN factor makes the derivatives NaN as well.
    known = jnp.where(is_held & (curvature < 1), 1.0, jnp.nan)
    return known * (jax.nn.logsumexp(logs) + math.log(step))


class SummedShape(AbstractTractableFamily):
    """A custom source of A and mu for `GammaShape`, by a sum, with two methods."""

    family: nd.ExponentialFamily = eqx.field(static=True, default_factory=GammaShape)
    points: int = eqx.field(static=True, default=40_001)
    sampler: AbstractSampler = eqx.field(default_factory=HMCSampler)
    strict: bool = eqx.field(static=True, default=False)

    def _potential(self, eta):
        def log_density(alpha):
            return eta[0] * alpha + eta[1] * self.family.compute_stats(alpha)["g"]

        return log_sum(log_density, self.points)

    def _mean(self, eta):
        return jax.grad(self._potential)(eta)


class Collapsed(AbstractTractableFamily):
    """A and mu of `ShapeAndMean`, by a closed-form integral over w and a sum over alpha.

    Given alpha, w is gamma distributed.
    """

    family: nd.ExponentialFamily = eqx.field(static=True, default_factory=ShapeAndMean)
    points: int = eqx.field(static=True, default=401)
    sampler: AbstractSampler = eqx.field(default_factory=HMCSampler)
    strict: bool = eqx.field(static=True, default=False)

    def _potential(self, eta):
        def log_density(alpha):
            power, rate = 1 + eta[2] + eta[4] * alpha, -eta[3] - eta[5] * alpha
            log_integral = jax.scipy.special.gammaln(power) - power * jnp.log(rate)
            g = GammaShape().compute_stats(alpha)["g"]
            return eta[0] * alpha + eta[1] * g + log_integral

        return log_sum(log_density, self.points)

    def _mean(self, eta):
        return jax.grad(self._potential)(eta)


# %% [markdown]
# ## Nodes and energies
#
# The energy is the log joint density as a function of statistics.


# %%
def make_nodes(groups):
    """Returns nodes by name, in the order of updates: two per group, and two shared nodes.

    Integrals dominate the cost. In this order each is computed once per sweep, because the shapes
    receive messages only from w and u.
    """
    shape, gamma = nd.Quadrature(GammaShape(), points=POINTS), nd.ClosedForm(nd.Gamma())
    return {
        "alpha": nd.inference.Node(shape, (groups,)),
        "a": nd.inference.Node(shape),
        "w": nd.inference.Node(gamma, (groups,)),
        "u": nd.inference.Node(gamma),
    }


def make_pair_nodes(groups):
    """Returns nodes by name, with one for both variables of a group."""
    return {
        "pair": nd.inference.Node(Collapsed(), (groups,)),
        "a": nd.inference.Node(SummedShape()),
        "u": nd.inference.Node(nd.ClosedForm(nd.Gamma())),
    }


def energy(t, total, total_log, n):
    """Returns the log joint density in statistics, without the constant -sum of log x."""
    alpha, w, a, u = t["alpha"], t["w"], t["a"], t["u"]
    likelihood = n * alpha["g"] + alpha["alpha"] * (n + n * w["log_x"] + total_log - w["x"] * total)
    means = a["g"] + a["alpha"] * (1 + u["log_x"] + w["log_x"] - u["x"] * w["x"]) - w["log_x"]
    shapes = alpha["g"] - alpha["alpha"] / 2
    return jnp.sum(likelihood + means + shapes) + a["g"] - a["alpha"] / 2 - u["x"]


def pair_energy(t, total, total_log, n, scale=1.0):
    """Returns the energy in the statistics of pairs.

    For a minibatch of groups, `scale` multiplies their terms.
    """
    pair, a, u = t["pair"], t["a"], t["u"]
    likelihood = n * (pair["g"] + pair["alpha_log_w"]) + pair["alpha"] * (n + total_log)
    likelihood = likelihood - pair["alpha_w"] * total
    means = a["g"] + a["alpha"] * (1 + u["log_x"] + pair["log_w"] - u["x"] * pair["w"])
    shapes = pair["g"] - pair["alpha"] / 2 - pair["log_w"]
    groups = jnp.sum(likelihood + means + shapes)
    return scale * groups + a["g"] - a["alpha"] / 2 - u["x"]


def log_joint(x, total, total_log, n):
    """Returns the log joint density by textbook formulas, for `check_energy`."""

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


def pair_log_joint(x, *data):
    """Returns the log joint density of pairs, for `check_energy`."""
    alpha, w = x["pair"].T
    return log_joint({"alpha": alpha, "w": w, "a": x["a"], "u": x["u"]}, *data)


# %% [markdown]
# ## Coordinate ascent and linear response


# %%
def start(groups):
    """Returns the initial natural parameters."""
    first = {"w": (1.0, -1.0), "alpha": (-1.0, 1.0), "a": (-1.0, 1.0), "u": (1.0, -1.0)}
    plates = {"w": (groups,), "alpha": (groups,), "a": (), "u": ()}
    return {name: jnp.broadcast_to(jnp.array(first[name]), (*plates[name], 2)) for name in first}


def start_pairs(groups):
    """Returns the initial natural parameters with pairs."""
    eta = start(groups)
    pair = jnp.broadcast_to(jnp.array([-1.0, 1.0, 1.0, -1.0, 1.0, -1.0]), (groups, 6))
    return {"pair": pair, "a": eta["a"], "u": eta["u"]}


def infer(nodes, eta, data, sweeps):
    """Runs coordinate ascent. Returns natural parameters, and the ELBO after each sweep."""
    energy_of = pair_energy if "pair" in nodes else energy

    def sweep(eta, _):
        for name in nodes:
            eta = nd.inference.step(energy_of, nodes, eta, name, *data)
        return eta, nd.inference.elbo(energy_of, nodes, eta, *data)

    return jax.lax.scan(sweep, eta, length=sweeps)


def linear_response(nodes, eta, data):
    """Returns the covariance of the statistics (alpha, g, log_x, x) of a and u by linear response.

    At a fixed point of pairs it is (1 - V M)^-1 V, where V is the covariance of the factors. M is
    the derivative of the messages to a and u in their means, after an update of all pairs.
    """
    stats = nd.inference.expected_statistics(nodes, eta)

    def replaced(statistics, flat):
        return eqx.tree_at(lambda statistics: statistics.flat, statistics, flat)

    def messages(means):
        flats = {"a": means[:2], "u": means[2:]}
        shared = {k: replaced(stats[k], flat) for k, flat in flats.items()}
        now = {**stats, **shared}
        pair = nd.inference.message(pair_energy, now, "pair", *data)
        flat = jax.vmap(nodes["pair"].q.mean)(pair)
        now["pair"] = replaced(stats["pair"], flat)
        return jnp.concatenate(
            [nd.inference.message(pair_energy, now, name, *data) for name in shared]
        )

    means = jnp.concatenate([stats["a"].flat, stats["u"].flat])
    own = jax.scipy.linalg.block_diag(*(nodes[k].q.covariance(eta[k]) for k in ("a", "u")))
    return jnp.linalg.solve(jnp.eye(4) - own @ jax.jacfwd(messages)(means), own)


# %% [markdown]
# ## Simulated groups and posterior moments


# %%
def simulate(groups, n, seed):
    """Returns the sums of x and log x of each group, and n."""
    rng = np.random.default_rng(seed)
    w = rng.gamma(4.0, 1 / (4.0 * 1.5), groups)
    alpha = rng.gamma(4.0, 0.75, groups)
    x = rng.gamma(alpha[:, None], 1 / (alpha * w)[:, None], (groups, n))
    return jnp.asarray(x.sum(1), float), jnp.asarray(np.log(x).sum(1), float), float(n)


def posterior_moments(nodes, eta):
    """Returns means and standard deviations of alpha, a and u, by node."""
    found = {}
    groups = "pair" if "pair" in nodes else "alpha"
    for name, of, statistic in (("alpha", groups, 0), ("a", "a", 0), ("u", "u", 1)):
        q, plate = nodes[of].q, nodes[of].plate

        def both(eta, q=q):
            mean = q.mean(eta)
            return mean, mean

        # The derivative of the mean is the covariance, so one program computes both.
        one = jax.jacfwd(both, has_aux=True)
        covariance, mean = jax.jit(jax.vmap(one) if plate else one)(eta[of])
        sd = jnp.sqrt(covariance[..., statistic, statistic])
        found[name] = np.asarray(mean[..., statistic]), np.asarray(sd)
    return found


# %% [markdown]
# ## Reference by integration


# %%
def brute_force(total, total_log, n, around, size=32, points=160):
    """Returns the posterior moments by integration in double precision, with w in closed form.

    Given a and u, groups are independent, and the integral over w is a gamma function. The grids
    run from 7 standard deviations below the means of `around` (at least mean / 50) to 9 above.
    """
    total, total_log = (np.asarray(part, np.float64)[:, None] for part in (total, total_log))

    def grid(moments, size):
        """Returns Gauss-Legendre points and log-weights, in the logarithm."""
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
        evidence = np.asarray(scipy.special.logsumexp(terms, 1))
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


# %% [markdown]
# ## Figure and report


# %%
def draw(log_evidence, bounds, found, exact):
    """Plots the ELBO by sweep, and the shapes of the groups with exact moments."""
    figure = Figure(figsize=(9, 3.6), dpi=160, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    for (name, values), style in zip(bounds.items(), ("-", "--"), strict=True):
        sweeps = np.arange(1, len(values) + 1)
        gap = log_evidence - np.asarray(values, float)
        left.semilogy(sweeps, np.where(gap > 0, gap, np.nan), style, label=name)
    left.set(title="Convergence", xlabel="sweep", ylabel="log evidence - ELBO [nats]")
    left.legend(frameon=False)
    order = np.argsort(exact["alpha"][0])
    order = order[np.linspace(0, len(order) - 1, min(40, len(order))).astype(int)]
    shapes = {"integration": exact["alpha"]} | {name: one["alpha"] for name, one in found.items()}
    for i, (name, (mean, sd)) in enumerate(shapes.items()):
        position = np.arange(len(order)) + 0.22 * (i - (len(shapes) - 1) / 2)
        right.errorbar(position, mean[order], sd[order], fmt=".", markersize=3, lw=1, label=name)
    right.set(
        title="Shapes of groups: posterior mean and sd", xlabel="group, sorted", ylabel="shape"
    )
    right.legend(loc="upper left", frameon=False)
    return figure


def print_errors(name, found, exact):
    """Prints errors of means and ratios of standard deviations, relative to exact moments."""
    for variable, (mean, sd) in found.items():
        z = np.abs(mean - exact[variable][0]) / exact[variable][1]
        ratio = sd / exact[variable][1]
        print(
            f"{name}, {variable:>5}: largest error of a mean {np.max(z):.4f} sd, "
            f"sd ratio {np.min(ratio):.3f} to {np.max(ratio):.3f}"
        )


def fit(name, nodes, eta, data, sweeps):
    """Runs coordinate ascent and prints seconds. Returns natural parameters and bounds."""
    # With data as constants, the compiler eliminates more common subexpressions.
    run = jax.jit(lambda eta: infer(nodes, eta, data, sweeps))
    clock = time.perf_counter()
    compiled = run.lower(eta).compile()
    print(f"{name}: compilation {time.perf_counter() - clock:.1f} s")
    clock = time.perf_counter()
    eta, bounds = jax.block_until_ready(compiled(eta))
    clock = time.perf_counter() - clock
    print(f"{name}: {sweeps} sweeps {clock:.2f} s, ELBO {bounds[-1]:.2f} nats")
    return eta, bounds


# %% [markdown]
# ## Main program


# %%
def main():
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--groups", type=int, default=1000)
    parser.add_argument("--observations", type=int, default=20)
    parser.add_argument("--sweeps", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/hierarchical_gamma"))
    options = cells.parse(parser)
    groups = options.groups
    data = simulate(groups, options.observations, options.seed)
    models = {
        "pair": (make_pair_nodes(groups), start_pairs(groups), pair_energy, pair_log_joint),
        "mean field": (make_nodes(groups), start(groups), energy, log_joint),
    }
    found, bounds, etas = {}, {}, {}
    for name, (nodes, eta, *densities) in models.items():
        report = nd.inference.check_energy(*densities, nodes, jax.random.key(0), *data)
        print(f"{name}: {report}")
        etas[name], bounds[name] = fit(name, nodes, eta, data, options.sweeps)
        found[name] = posterior_moments(nodes, etas[name])
    nodes = models["pair"][0]
    response = jax.jit(lambda eta: linear_response(nodes, eta, data))(etas["pair"])
    sds = np.sqrt(np.diag(response))

    exact, log_evidence = brute_force(*data, found["pair"])
    print(f"log evidence by integration: {log_evidence:.2f} nats")
    for name, one in found.items():
        print_errors(name, one, exact)
    corrected = {name: (found["pair"][name][0], sds[i]) for name, i in (("a", 0), ("u", 3))}
    print_errors("pair with linear response", corrected, exact)
    cells.save(draw(log_evidence, bounds, found, exact), options.out / "hierarchical_gamma.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
