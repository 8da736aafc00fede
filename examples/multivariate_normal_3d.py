# %% [markdown]
"""The normal in three dimensions, learned from samples and compared with its closed form.

    python examples/multivariate_normal_3d.py [--preset small|large] [--plot-only] [--out FOLDER]
    python examples/multivariate_normal_3d.py --config JOB.yaml --data data/JOB

The natural parameters are eta1 in [-4, 4]^3 and a negative definite eta2 with eigenvalues in
[-4, -0.04], in the full form: 12 numbers, 9 of them independent. The statistics are x and x x^T.
The job defaults to `configs/multivariate_3d_large.yaml`. With `--data`, labels come from
`python -m nnef_dists generate`. The history, numbers, learned parameters and figures go to the
folder `--out`, by default `artifacts/multivariate_normal_3d`. `--plot-only` redraws the figures
from the history.
"""

# %%
import closed_form
import jax
import numpy as np
import training

import nnef_dists as nd
from nnef_dists import plotting

# %% [markdown]
# ## Family and figures
#
# `closed_form.py` contains the rest of the program.

# %%
FAMILY = nd.MultivariateNormal(3)


def draw(history):
    """Returns all figures, by name."""
    eta, exact, predicted = history["eta"], history["exact"], history["predicted"]
    scale, uncertainty, names = history["scale"], history["uncertainty"], FAMILY.stat_names
    linear = slice(0, 3)
    quadratic = [3 + 3 * i + j for i in range(3) for j in range(i + 1)]  # each pair once

    def compare(entries):
        return plotting.plot_moment_comparison(
            exact[:, entries],
            predicted[:, entries],
            scale[:, entries],
            uncertainty=uncertainty[:, entries],
            names=np.asarray(names)[entries].tolist(),
        )

    # A narrow, a typical and a wide held-out distribution.
    _, covariance = jax.vmap(FAMILY.to_mean_covariance)(eta)
    by_width = np.argsort(np.linalg.det(covariance))
    shown = by_width[[int(share * len(by_width)) for share in (0.05, 0.5, 0.95)]]
    return {
        "learning_curves": training.draw_learning_curves(history),
        "linear_terms": compare(linear),
        "quadratic_terms": compare(quadratic),
        "covariances": plotting.plot_covariance_comparison(
            covariance_of(predicted[shown]),
            np.asarray(covariance)[shown],
            titles=["narrow", "median", "wide"],
        ),
        "component_errors": plotting.plot_component_errors(exact, predicted, scale, names=names),
        "errors": training.draw_errors(history),
    }


def covariance_of(moments):
    """Returns E[x x^T] - E[x] E[x]^T, symmetrized because the 12 moments are learned freely."""
    mean, second = moments[:, :3], moments[:, 3:].reshape(-1, 3, 3)
    second = (second + second.transpose(0, 2, 1)) / 2
    return second - mean[:, :, None] * mean[:, None, :]


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    closed_form.main(
        __doc__, FAMILY, draw, config="multivariate_3d", out="artifacts/multivariate_normal_3d"
    )
