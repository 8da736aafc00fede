# %% [markdown]
"""The pairwise maximum-entropy model of simulated neurons, exact by enumeration.

    python examples/neurons.py [--neurons 20] [--words 180000]

    p(x | eta) proportional to exp(sum_i eta_i x_i + sum_{i<j} eta_ij x_i x_j),    x_i = 0 or 1

A word x is the set of neurons, out of 20, that fire in a bin of 20 ms. 180,000 words are an hour.
Neurons share two inputs z, and fire if their input exceeds a threshold. This dichotomized Gaussian
(Macke et al. 2009) has correlations of all orders and is not a pairwise model. Given z, neurons are
independent, so the probabilities of all 2^20 words are integrals over the plane.

The model is fitted to 210 moments, the rates and pairs of the data. Its entropy S2 answers a
question of Schneidman et al.: the fraction (S1 - S2) / (S1 - SN) of the multi-information, the
excess entropy of independent neurons, that pairs explain. Approximations without a sum over words
are independent neurons and three kinds of couplings: from the inverse covariance (mean field), with
Onsager's term (TAP), and for small correlations (Sessak and Monasson).

References: Schneidman, Berry, Segev and Bialek, Nature 440 (2006). Macke, Berens, Ecker, Tolias and
Bethge, Neural Comput. 21 (2009). Macke, Opper and Bethge, Phys. Rev. Lett. 106 (2011). Sessak and
Monasson, J. Phys. A 42 (2009). Roudi, Aurell and Hertz, Front. Comput. Neurosci. 3 (2009).
"""

# %%
import argparse
import time
from contextlib import contextmanager
from pathlib import Path

import cells
import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.special import ndtr, ndtri

import nnef_dists as nd

# %% [markdown]
# ## Simulated neurons

# %%
# Number of quadrature nodes per input, and number of Newton steps to the exact moments.
NODES, STEPS = 40, 4
TRUTH, PAIRS, ALONE = "#222222", "#0072B2", "#D55E00"


class CommonInput:
    """Neurons that fire if loadings . z + noise > threshold. The input has unit variance.

    Args:
        n: Number of neurons.
        seed: Seed of the rates and loadings.
    """

    def __init__(self, n, seed):
        rng = np.random.default_rng(seed)
        rates = np.clip(rng.lognormal(np.log(0.05), 0.5, n), 0.01, 0.2)
        self.loadings = np.stack([rng.uniform(0.3, 0.6, n), rng.uniform(-0.5, 0.5, n)], 1)
        self.noise = np.sqrt(1 - np.sum(self.loadings**2, 1))
        self.threshold = -ndtri(rates)

    def probabilities(self, nodes=NODES):
        """Returns the probabilities of all words, `(2^n,)`. Neuron i is bit i of the index."""
        points, weights = np.polynomial.hermite_e.hermegauss(nodes)
        z = np.stack(np.meshgrid(points, points), -1).reshape(-1, 2)
        weights = np.outer(weights, weights).ravel() / np.sum(weights) ** 2
        drive = (z @ self.loadings.T - self.threshold) / self.noise

        def given(neurons):
            words = np.ones((1, len(z)))
            for i in neurons:
                words = np.concatenate([words * ndtr(-drive[:, i]), words * ndtr(drive[:, i])])
            return words

        n = len(self.threshold)
        return ((given(range(n // 2, n)) * weights) @ given(range(n // 2)).T).ravel()

    def draw(self, rng, words):
        """Draws words of independent bins, `(words, n)`."""
        noise = rng.normal(size=(words, len(self.threshold))) * self.noise
        return rng.normal(size=(words, 2)) @ self.loadings.T + noise > self.threshold


# %% [markdown]
# ## Moments and entropies of words


# %%
def word_bits(n):
    """Returns all words in order, `(2^n, n)`."""
    return (np.arange(2**n)[:, None] >> np.arange(n)) & 1


def products(p):
    """Returns E of the product of bits for each set of neurons, `(2^n,)`, by superset sums."""
    found = np.array(p)
    for i in range(len(p).bit_length() - 1):
        halves = found.reshape(-1, 2, 2**i)
        halves[:, 0] += halves[:, 1]
    return found


def pair_moments(moments, n):
    """Returns the moments of the family from the expected products."""
    pairs = np.sum(2 ** np.stack(np.triu_indices(n, 1)), 0)
    return np.concatenate([moments[2 ** np.arange(n)], moments[pairs]])


def triplet_correlations(moments, n):
    """Returns E[(x_i - m_i)(x_j - m_j)(x_k - m_k)] of all triplets."""
    i, j, k = np.array([(i, j, k) for i in range(n) for j in range(i) for k in range(j)]).T
    a, b, c = 2**i, 2**j, 2**k
    pairs = sum(moments[x] * moments[y + z] for x, y, z in ((a, b, c), (b, a, c), (c, a, b)))
    return moments[a + b + c] - pairs + 2 * moments[a] * moments[b] * moments[c]


def bits_of(p):
    """Returns the entropy of probabilities, in bits."""
    p = p[p > 0]
    return -np.sum(p * np.log2(p))


# %% [markdown]
# ## Approximations and standard errors


# %%
def approximations(mu, n):
    """Returns approximate natural parameters without sums over words, by name."""
    first, second = np.triu_indices(n, 1)
    m, both = mu[:n], mu[n:]
    variance, covariance = m * (1 - m), both - m[first] * m[second]
    matrix = np.diag(variance)
    matrix[first, second] = matrix[second, first] = covariance
    inverse = np.linalg.inv(matrix)[first, second]
    skew = (1 - 2 * m[first]) * (1 - 2 * m[second])
    neither = 1 - m[first] - m[second] + both
    odds = both * neither / ((m[first] - both) * (m[second] - both))
    loop = covariance / (variance[first] * variance[second] - covariance**2)
    couplings = {
        "independent": np.zeros_like(both),
        "mean field": -inverse,
        # The root of inverse + J + skew J^2 / 2 = 0 that vanishes with the inverse.
        "TAP": -2 * inverse / (1 + np.sqrt(np.maximum(1 - 2 * skew * inverse, 0))),
        "Sessak-Monasson": np.log(odds) - inverse - loop,
    }

    def with_fields(name, coupling):
        square = np.zeros((n, n))
        square[first, second] = square[second, first] = coupling
        fields = np.log(m / (1 - m)) - square @ m
        if name != "mean field":
            fields = fields - (0.5 - m) * (square**2 @ variance)
        return np.concatenate([fields, coupling])

    return {name: with_fields(name, coupling) for name, coupling in couplings.items()}


def standard_errors(covariance, words, n):
    """Returns standard errors of the fit, if the model is correct, and by the sandwich formula."""
    first, second = np.triu_indices(n, 1)
    stats = np.concatenate([words, words[:, first] & words[:, second]], 1).astype(np.float32)
    stats -= stats.mean(0)
    inverse = np.linalg.inv(covariance)
    sandwich = inverse @ (stats.T @ stats / len(words)).astype(float) @ inverse
    return [np.sqrt(np.diagonal(matrix) / len(words)) for matrix in (inverse, sandwich)]


# %% [markdown]
# ## Figure


# %%
def draw(n, counts, probabilities, fits):
    """Plots simultaneous spikes, rates of words, triplets and couplings."""
    figure = Figure(figsize=(9, 7.4), dpi=120, layout="constrained")
    (left, right), (below, last) = figure.subplots(2, 2)
    styles = {"simulated": TRUTH, "pairwise": PAIRS, "independent": ALONE}
    active, total = word_bits(n).sum(1), counts.sum()
    for name, color in styles.items():
        size = np.bincount(active, probabilities[name])
        left.semilogy(size, color=color, label=name if name != "simulated" else "simulated, exact")
    spikes = np.bincount(active, counts)
    seen = np.flatnonzero(spikes)
    left.semilogy(seen, spikes[seen] / total, "o", color=TRUTH, mfc="white", label="data")
    left.set(xlabel="neurons that fire in a bin", ylabel="probability", ylim=(1e-8, 1))
    left.xaxis.get_major_locator().set_params(integer=True)
    words = np.flatnonzero(counts)
    third = {name: triplet_correlations(products(p), n) for name, p in probabilities.items()}
    for name in ("independent", "pairwise"):
        look = {"color": styles[name], "label": name, "rasterized": True}
        right.loglog(counts[words] / total, probabilities[name][words], ".", ms=2, **look)
        below.plot(1e3 * third["simulated"], 1e3 * third[name], ".", ms=3, **look)
    ends = np.array([0.7 / total, 1])
    right.plot(ends, ends, color=TRUTH, lw=1)
    right.set(xlabel="observed frequency of a word", ylabel="predicted", ylim=(1e-12, 1.5))
    below.axline((0, 0), slope=1, color=TRUTH, lw=1)
    below.set(xlabel="simulated third central moment [0.001]", ylabel="of the model [0.001]")
    for name, color in (("mean field", ALONE), ("TAP", "#999999"), ("Sessak-Monasson", "#009E73")):
        last.plot(fits["pairwise"][n:], fits[name][n:], ".", ms=4, color=color, label=name)
    last.axline((0, 0), slope=1, color=TRUTH, lw=1)
    last.set(xlabel="coupling, exact fit", ylabel="coupling, approximation")
    for axes in figure.axes:
        axes.legend(frameon=False, handlelength=1.4)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


# %% [markdown]
# ## Analysis and report


# %%
@contextmanager
def phase(name):
    """Prints the seconds of a phase."""
    clock, processor = time.perf_counter(), time.process_time()
    yield
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    print(f"  [{name}: {clock:.1f} s, {processor:.1f} s of processor time]")


def analyze(options):
    """Simulates, fits and compares. Returns the arguments of `report`."""
    n, rng = options.neurons, np.random.default_rng(options.seed + 1)
    with phase("simulation and the probabilities of all words"):
        world = CommonInput(n, options.seed)
        truth = world.probabilities()
        words = world.draw(rng, options.words)
        counts = np.bincount(words @ 2 ** np.arange(n), minlength=2**n)
    entropy = bits_of(truth)
    exact = pair_moments(products(truth), n)
    mu = pair_moments(products(counts / options.words), n)
    if not np.all(mu[n:] > 0):
        raise SystemExit("Expected pairs that all fire together at least once. Use more --words.")
    print(
        f"{n} neurons, {options.words} words, {np.sum(counts > 0)} of them different; quadrature: "
        f"SN moves by {abs(bits_of(world.probabilities(NODES // 2)) - entropy):.0e} bits with half "
        "the nodes"
    )

    with phase("enumeration"):
        q = nd.Enumeration(nd.families.PairwiseBinary(n))
    with phase("fit"):
        eta = np.asarray(q.natural_parameters(jnp.asarray(mu)))
    with phase("covariance"):
        covariance = np.asarray(q.covariance(jnp.asarray(eta)))
    with phase("fit to the exact moments, by Newton steps from there"):
        population = jnp.asarray(eta)
        for _ in range(STEPS):
            step = np.linalg.solve(q.covariance(population), exact - q.mean(population))
            population = population + step
        left = np.max(np.abs(q.mean(population) - exact))
        population = np.asarray(population)
    model_errors, errors = standard_errors(covariance, words, n)
    z = (eta - population) / errors
    print(
        f"moments met within {np.max(np.abs(q.mean(jnp.asarray(eta)) - mu)):.0e}, exact ones "
        f"within {left:.0e}; (fit - fit to exact moments) / "
        f"standard error: rms {np.sqrt(np.mean(z**2)):.2f}; couplings {eta[n:].min():.2f} to "
        f"{eta[n:].max():.2f}, standard errors {np.median(errors[n:]):.3f} (median; without the "
        f"sandwich {np.median(model_errors[n:]):.3f})"
    )
    fits = {"pairwise": eta, **approximations(mu, n)}
    return q, truth, counts, population, fits, entropy, exact


def report(q, truth, counts, population, fits, entropy, exact):
    """Prints entropies and divergences. Returns the probabilities of the models."""
    n, total, bit = q.family.n, counts.sum(), np.log(2)
    eta, alone = fits["pairwise"], fits["independent"]
    points = jnp.asarray(word_bits(n), jnp.int8)

    def log_weight(eta, x):
        return q.family.unnormalized_logdensity(eta, x.astype(eta.dtype))

    logits = jax.jit(lambda eta: jax.lax.map(lambda x: log_weight(eta, x), points, batch_size=512))

    with phase("entropies and divergences"):
        plug_in = bits_of(counts / total)
        bias = (np.sum(counts > 0) - 1) / (2 * total * bit)
        s1 = bits_of(np.stack([exact[:n], 1 - exact[:n]]))
        s2 = float(q.entropy(jnp.asarray(population))) / bit
        print(f"entropies: S1 {s1:.4f}, S2 {s2:.4f}, SN {entropy:.4f} bits, exact")
        data = [float(q.entropy(jnp.asarray(fit))) / bit for fit in (alone, eta)]
        pairs = float(q.kl(jnp.asarray(eta), jnp.asarray(alone))) / bit
        print(
            f"from data: S1 {data[0]:.4f}, S2 {data[1]:.4f}, SN {plug_in:.4f} by the plug-in, "
            f"whose error is {plug_in - entropy:+.4f}, {plug_in + bias:.4f} by Miller-Madow, "
            f"{plug_in + bias - entropy:+.4f}"
        )
        print(
            f"multi-information S1 - SN {s1 - entropy:.4f}, of pairs S1 - S2 {s1 - s2:.4f} bits: "
            f"fraction {(s1 - s2) / (s1 - entropy):.4f}, exact"
        )
        print(
            f"from data: of pairs KL(pairwise to independent) {pairs:.4f}, fraction "
            f"{pairs / (data[0] - plug_in):.4f} by the plug-in, "
            f"{pairs / (data[0] - plug_in - bias):.4f} by Miller-Madow"
        )
        models, seen = {"simulated": truth}, counts >= 10
        for name, parameters in fits.items():
            logs = np.asarray(logits(jnp.asarray(parameters)))
            p = np.exp(logs - float(q.log_partition(jnp.asarray(parameters))))
            models[name] = p
            lost = np.sum(truth * np.log2(truth / p))
            ratio = np.log2(p[seen] * total / counts[seen])
            coupling = np.sqrt(np.mean((parameters[n:] - eta[n:]) ** 2))
            print(
                f"{name:>16}: KL(simulated to model) {lost:.4f} bits, captured "
                f"{1 - lost / (s1 - entropy):+.3f}; couplings off by {coupling:.2f} rms; rates of "
                f"words seen 10 times {np.sqrt(np.mean(ratio**2)):.2f} doublings off"
            )
    third = {name: triplet_correlations(products(p), n) for name, p in models.items()}
    large = third["simulated"] > 2e-4
    low, middle, high = np.quantile((third["pairwise"] / third["simulated"])[large], (0, 0.5, 1))
    many = [models[name][word_bits(n).sum(1) >= n / 2].sum() for name in ("simulated", "pairwise")]
    print(
        f"pairwise third central moments over simulated, of those above 0.0002: {low:.1f} to "
        f"{high:.1f}, median {middle:.1f}; P(half of all or more fire) {many[1]:.4f}, "
        f"simulated {many[0]:.4f}"
    )
    return models


# %% [markdown]
# ## Main program


# %%
def main():
    """Runs the example."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--neurons", type=int, default=20, help="from 3 to 22")
    parser.add_argument("--words", type=int, default=180_000, help="bins of 20 ms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/neurons"))
    options = cells.parse(parser)
    # Double precision, because rare pairs lose digits in single precision.
    with jax.enable_x64(True):
        found = analyze(options)
        models = report(*found)
    cells.save(draw(options.neurons, found[2], models, found[4]), options.out / "neurons.png")


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
