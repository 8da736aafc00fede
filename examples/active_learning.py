# %% [markdown]
"""Active learning: etas chosen by the uncertainty of the network, and at random.

    python examples/active_learning.py [--seed 0] [--repeats 3] [--out FOLDER] [--etas 512]

Labels dominate the cost. Both strategies start with the same 32 labeled etas. The active strategy
then labels the candidates with the largest joint predictive variance (`nd.distributions.acquire`),
and as many random candidates. The other strategy labels random candidates only. Both networks are
trained again. Errors are relative to quadrature, at held-out etas. `--etas` is the final number of
labels. `--steps` scales the number of training steps.
"""

# %%
import functools

import cells
import jax
import numpy as np
import training
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

import nnef_dists as nd

# %% [markdown]
# ## Family and sizes

# %%
FAMILY = nd.Polynomial1D((1, 2, 4))
RANGES = {"x": (-2, 2), "x2": (-2, 2), "x4": (-2, -0.1, "log")}
FIRST = 32
CANDIDATES = 4096
HELD_OUT = 1024
VALIDATION = 128  # number of held-out etas with labels
WAYS = ("chosen", "random")


# %% [markdown]
# ## Main program
#
# All repeats, by both strategies.


# %%
def main():
    options = training.parser(__doc__, "artifacts/active_learning")
    options.add_argument("--repeats", type=int, default=3, help="with other etas and weights")
    args = cells.parse(options)
    most = 512 if args.etas is None else args.etas
    sizes = [FIRST]
    while sizes[-1] < most:
        sizes.append(min(2 * sizes[-1], most))

    learn = learner(most, args.steps)
    errors = np.zeros((len(WAYS), args.repeats, len(sizes)))
    seconds, labeled, networks = {}, {}, {}
    for repeat in range(args.repeats):
        key = jax.random.fold_in(jax.random.key(args.seed), repeat)
        k_candidates, k_held, key = jax.random.split(key, 3)
        candidates = FAMILY.sample_eta(k_candidates, CANDIDATES, RANGES)
        held_out = FAMILY.sample_eta(k_held, HELD_OUT, RANGES)
        with training.phase(seconds, "truth"):
            mean, scale = exact_moments(held_out)
        for errors_of_way, way in zip(errors[:, repeat], WAYS, strict=True):
            last = None
            for number, (q, etas) in enumerate(rounds(way, sizes, candidates, learn, key, seconds)):
                z = training.z_errors(jax.vmap(q.mean)(held_out), mean, scale)
                rms = errors_of_way[number] = np.sqrt(np.mean(z**2))
                print(f"repeat {repeat}, {way}, {sizes[number]:4d} labels: rms {rms:.4f}")
                labeled[way] = np.asarray(etas)
                networks[way], last = q.network, q
            # Validates the last network with labels, as a user without exact moments would.
            fresh = nd.estimate_moments(FAMILY, held_out[:VALIDATION], jax.random.fold_in(key, 1))
            if last is not None:
                print(f"repeat {repeat}, {way}: {nd.validate(last, fresh)}")

    summary = report(sizes, errors, seconds)
    args.out.mkdir(parents=True, exist_ok=True)
    history = {"sizes": np.array(sizes), "errors": errors}
    history |= labeled
    training.save_figures(args.out, {"active_learning": draw(history)})
    training.save(args.out, networks["chosen"], history, summary)


# %% [markdown]
# ## Strategies
#
# Candidates come from `nd.distributions.acquire`, or at random.


# %%
def rounds(way, sizes, candidates, learn, key, seconds):
    """Labels more and more candidates by one strategy. Yields the distribution of each round."""
    rows, data, q = np.arange(0), [], None
    for size, k_round in zip(sizes, jax.random.split(key, len(sizes)), strict=True):
        k_choice, k_labels, k_fit = jax.random.split(k_round, 3)
        free = np.setdiff1d(np.arange(CANDIDATES), rows)
        # Candidates are in random order, so the first ones are a random choice.
        new = free[: size - len(rows)]
        if q is not None and way == "chosen":
            with training.phase(seconds, "choice"):
                n = len(new) // 2
                half = nd.distributions.acquire(q, candidates[free], k_choice, n, samples=128)
            rest = np.delete(free, half)[: len(new) - len(half)]
            new = np.concatenate([free[half], rest])
        rows = np.concatenate([rows, new])
        with training.phase(seconds, "labels"):
            data.append(nd.estimate_moments(FAMILY, candidates[new], k_labels))
        with training.phase(seconds, "training"):
            q = learn(nd.MomentDataset.concatenate(data).only_ok(), k_fit)
        yield q, candidates[rows]


# %% [markdown]
# ## Training


# %%
def learner(most, steps):
    """Returns a function from labels to an `AmortizedFamily`, compiled once for all sizes.

    A batch is drawn from the first n rows of an array of fixed length.
    """

    def batch_of(rest, key, size):
        static, labels, n = rest
        rows = jax.random.randint(key, (size,), 0, n)
        return static, labels[rows]

    def map_loss(dynamic, rest, key):
        key_rows, key_loss = jax.random.split(key)
        static, batch = batch_of(rest, key_rows, 128)
        return nd.sobolev_loss(nd.unfreeze_all(dynamic, static), batch, key_loss)

    def width_loss(dynamic, rest, key):
        key_rows, key_weights = jax.random.split(key)
        static, batch = batch_of(rest, key_rows, 64)
        network = nd.unfreeze_all(dynamic, static)
        return nd.negative_log_predictive(network, batch, key_weights, total=rest[2])

    fit_means = training.minimizer(map_loss, steps=round(6000 * steps), learning_rate=3e-3)
    fit_widths = training.minimizer(width_loss, steps=round(500 * steps), learning_rate=1e-2)

    def learn(data, key):
        k_net, k_map, k_vi = jax.random.split(key, 3)
        labels = data.batch()[np.arange(most) % len(data)]
        network = nd.LogPartitionNetwork(FAMILY, data, width=48, depth=2, key=k_net)
        dynamic, static = nd.freeze_stdvs(network)
        dynamic, _ = fit_means(dynamic, (static, labels, len(data)), k_map, "MAP")
        dynamic, static = nd.freeze_means(nd.unfreeze_all(dynamic, static))
        dynamic, _ = fit_widths(dynamic, (static, labels, len(data)), k_vi, "VI")
        return nd.AmortizedFamily(FAMILY, nd.unfreeze_all(dynamic, static))

    return learn


# %% [markdown]
# ## Reference moments
#
# In one dimension, quadrature converges.


# %%
@jax.jit
def quadrature(etas):
    moments = functools.partial(nd.quadrature_moments, FAMILY)
    return jax.lax.map(moments, etas, batch_size=64)


def exact_moments(etas):
    """Returns E[T | eta] and sd(T | eta) by quadrature."""
    found = quadrature(etas)
    variances = np.diagonal(np.asarray(found.covariance), axis1=1, axis2=2)
    return np.asarray(found.mean), np.sqrt(variances)


# %% [markdown]
# ## Report and figure


# %%
def report(sizes, errors, seconds):
    """Prints and returns medians over repeats, and numbers of random labels of equal error."""
    medians = np.median(errors, 1)
    print(f"\n{'labels':>8}" + "".join(f"{name:>10}" for name in WAYS) + "   rms error, z units")
    for number, size in enumerate(sizes):
        print(f"{size:8d}" + "".join(f"{row[number]:10.4f}" for row in medians))
    chosen, random = np.minimum.accumulate(medians, 1)
    # Interpolates the number of random labels with an equal error.
    needed = np.exp(np.interp(-np.log(chosen), -np.log(random), np.log(sizes), right=np.nan))
    for size, number in zip(sizes[1:], needed[1:], strict=True):
        many = f"{number:.0f}" if np.isfinite(number) else f"more than {sizes[-1]}"
        print(f"as good as {size} chosen labels: {many} random ones")
    print("seconds  ", "   ".join(f"{name} {value:.1f}" for name, value in seconds.items()))
    return {
        "labels": sizes,
        "rms": {name: row.tolist() for name, row in zip(WAYS, medians, strict=True)},
        "random_labels_needed": [None if np.isnan(n) else float(n) for n in needed],
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }


def draw(history):
    """Plots the error by number of labels, and the etas of the labels."""
    figure = Figure(figsize=(8.4, 3.5), dpi=160, layout="constrained")
    left, *maps = figure.subplots(1, 3, width_ratios=[1.5, 1, 1])
    colors = {"chosen": "#D55E00", "random": "#0072B2"}
    for name, errors in zip(WAYS, history["errors"], strict=True):
        left.plot(history["sizes"], np.median(errors, 0), "o-", color=colors[name], label=name)
        left.fill_between(
            history["sizes"], errors.min(0), errors.max(0), color=colors[name], alpha=0.15
        )
    left.set(xscale="log", yscale="log", xlabel="labels", ylabel="rms error of E[T]  [z units]")
    left.set_xticks(history["sizes"], [str(size) for size in history["sizes"]], minor=False)
    left.xaxis.minorticks_off()
    left.grid(visible=True, color="#D9D9D9", linewidth=0.5)
    left.legend(frameon=False, title="next labels")
    color = ScalarMappable(Normalize(0, 2), "viridis")
    for axes, name in zip(maps, WAYS, strict=True):
        eta1, eta2, eta4 = history[name].T
        axes.scatter(eta2, -eta4, color=color.to_rgba(np.abs(eta1)), s=9)
        axes.set(yscale="log", xlabel="η₂", title=f"{len(eta1)} {name}")
        axes.spines[["top", "right"]].set_visible(False)
    maps[0].set_ylabel("−η₄")
    figure.colorbar(color, ax=maps, label="|η₁|", fraction=0.05)
    return figure


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
