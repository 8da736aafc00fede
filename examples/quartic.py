# %% [markdown]
"""A quartic family: learned moments with their uncertainty, beside quadrature.

    python examples/quartic.py [--seed 0] [--out FOLDER] [--etas 4096] [--steps 1.0]

The family is exp(eta1 x + eta2 x^2 + eta4 x^4): one mode or two, no closed form. It is declared by
its statistics. HMC estimates moments at random etas. A network learns the log-partition from these
labels. Its gradient is E[T], and its predictive standard deviation is calibrated on other labels.
`--steps` scales the number of training steps.
"""

# %%
import cells
import jax
import jax.numpy as jnp
import numpy as np
import training

import nnef_dists as nd
from nnef_dists import plotting

# %% [markdown]
# ## Family
#
# Declare the statistics and the domain of eta.


# %%
class Quartic(nd.ExponentialFamily):
    """exp(eta1 x + eta2 x^2 + eta4 x^4) on the real line, with eta4 < 0."""

    x_shape = ()
    natural_domain = nd.domain(x4=nd.negative)

    def compute_stats(self, x):
        """Returns x, x^2 and x^4."""
        return {"x": x, "x2": x**2, "x4": x**4}


# %% [markdown]
# ## Ranges and sizes

# %%
RANGES = {"x": (-2, 2), "x2": (-2, 2), "x4": (-2, -0.1, "log")}
HELD_OUT = 512
VALIDATION = 128  # number of held-out etas with labels
CALIBRATION = 256
LONGER = nd.HMCConfig(draws=2000)  # less noise in the calibration and validation labels


# %% [markdown]
# ## Main program
#
# The steps are labels, training, the distribution, and its errors.


# %%
def main():
    args = cells.parse(training.parser(__doc__, "artifacts/quartic"))
    n = 4096 if args.etas is None else args.etas
    k_labels, k_learning = jax.random.split(jax.random.key(args.seed))
    k_train, k_calibrate, k_held, k_hmc, k_longer = jax.random.split(k_labels, 5)
    k_net, k_map, k_vi, k_q, k_draws = jax.random.split(k_learning, 5)
    seconds = {}

    # 1. Moments at some etas, by HMC.
    family = Quartic()  # pyright: ignore[reportCallIssue]
    etas = family.sample_eta(k_train, n, RANGES)
    calibration_etas = family.sample_eta(k_calibrate, min(n, CALIBRATION), RANGES)
    with training.phase(seconds, "moments"):
        data = nd.estimate_moments(family, etas, k_hmc, progress=True)
        calibration = nd.estimate_moments(family, calibration_etas, k_longer, LONGER, progress=True)
    print(data)

    # 2. A network of the log-partition: the means of its weights, then their standard deviations.
    network = nd.LogPartitionNetwork(family, data, width=64, depth=3, key=k_net)
    with training.phase(seconds, "MAP"):
        network, map_loss = training.fit_means(
            network,
            data,
            k_map,
            loss=training.map_loss_of_entropy,
            steps=round(24000 * args.steps),
        )
    with training.phase(seconds, "VI"):
        network, vi_loss = training.fit_widths(
            network, data, calibration, k_vi, steps=round(1500 * args.steps)
        )

    # 3. The distribution, which follows from the log-partition and its gradient. Validation on
    # labels of other etas estimates its error, and warns if the error is too large.
    held_out = family.sample_eta(k_held, HELD_OUT, RANGES)
    with training.phase(seconds, "validation"):
        fresh = held_out[: min(n, VALIDATION)]
        k_fresh = jax.random.fold_in(k_longer, 1)
        fresh = nd.estimate_moments(family, fresh, k_fresh, LONGER, progress=True)
        q = nd.validate(nd.AmortizedFamily(family, network), fresh)
    print(q)
    narrow, wide = jnp.array([[0.5, -1.5, -1.0], [0.5, 1.5, -0.5]])
    mean, sd = q.predictive(wide, k_q)
    print(f"\nq at eta = {wide}")
    print(f"  E[T]      {mean} +/- {sd}")
    print(f"  entropy   {q.entropy(wide):.4f} nats")
    print(f"  KL        {q.kl(narrow, wide):.4f} nats, from eta = {narrow}")
    print(f"  and the eta of these moments is {q.natural_parameters(q.mean(wide))}")

    # 4. Reference moments by quadrature, for held-out etas and for the labels.
    with training.phase(seconds, "evaluation"):
        exact, covariance = exact_moments(family, held_out)
        label_exact, label_covariance = exact_moments(family, data.only_ok().eta)
        history = {
            "map_loss": map_loss,
            "vi_loss": vi_loss,
            "noise": data.batch().z_error,
            "label_z": training.z_errors(data.only_ok().mean, label_exact, sd_of(label_covariance)),
            "eta": np.asarray(held_out),
            "exact": exact,
            "covariance": covariance,
            "scale": sd_of(covariance),
            **training.predict(network, held_out, exact, k_draws),
        }
    with training.phase(seconds, "pictures"):
        args.out.mkdir(parents=True, exist_ok=True)
        training.save_figures(args.out, draw(q, history))
    training.save(args.out, network, history, training.summarize(history, seconds))


# %% [markdown]
# ## Reference moments


# %%
def exact_moments(family, etas):
    """Returns E[T | eta] and Cov[T | eta] by quadrature."""
    quadrature = jax.lax.map(lambda eta: nd.quadrature_moments(family, eta), etas, batch_size=64)
    return np.asarray(quadrature.mean), np.asarray(quadrature.covariance)


def sd_of(covariance):
    """Returns sd(T | eta) of many covariances."""
    return np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))


# %% [markdown]
# ## Figures


# %%
def draw(q, history):
    """Returns all figures, by name."""
    predicted, uncertainty = history["predicted"], history["uncertainty"]
    scale = history["scale"]
    shown = four_etas(history["eta"])
    return {
        "learning_curves": training.draw_learning_curves(history),
        "moments": plotting.plot_moment_comparison(
            history["exact"], predicted, scale, uncertainty=uncertainty, names=q.family.stat_names
        ),
        "errors": training.draw_errors(history),
        "fisher_information": plotting.plot_fisher_information(
            jax.vmap(q.covariance)(jnp.asarray(history["eta"])),
            history["covariance"],
            names=q.family.stat_names,
        ),
        "densities": plotting.plot_densities(
            q.family,
            history["eta"][shown],
            means=predicted[shown, 0],
            uncertainty=uncertainty[shown, 0],
            log_prob=q.log_prob,
        ),
    }


def four_etas(etas):
    """Returns the rows of a skewed and an even double well, a broad and a narrow single well."""
    eta1, eta2, eta4 = etas.T
    depth = np.where(eta2 > 0, eta2**2 / (-4 * eta4), 0.0)  # well depth in nats
    rows = [
        np.argmin(np.abs(depth - 3) + 3 * np.abs(eta1)),
        np.argmin(np.abs(depth - 3) + 3 * np.abs(np.abs(eta1) - 0.35)),
        np.argmin(np.abs(eta2) + np.abs(np.abs(eta1) - 1.5)),
        np.argmin(eta2 + eta4),
    ]
    return np.asarray(rows)


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    main()
