# %% [markdown]
"""The Gaussian in one dimension, learned from samples and compared with its closed form.

    python examples/gaussian_1d.py [--preset small|large] [--plot-only] [--out FOLDER] [--seed 0]
    python examples/gaussian_1d.py --config JOB.yaml --data data/JOB

The natural parameters are eta1 in [-20, 20] and eta2 in [-40, -1], and the statistics are x and
x^2. The job defaults to `configs/gaussian_1d_large.yaml`. With `--data`, labels come from
`python -m nnef_dists generate`. The history, numbers, learned parameters and figures go to the
folder `--out`, by default `artifacts/gaussian_1d`. `--plot-only` redraws the figures from the
history.
"""

# %%
import closed_form
import numpy as np
import training

import nnef_dists as nd
from nnef_dists import plotting

# %% [markdown]
# ## Family and figures
#
# `closed_form.py` contains the rest of the program.

# %%
FAMILY = nd.GaussianNatural1D()


def draw(history):
    """Returns all figures, by name."""
    exact, predicted, scale = history["exact"], history["predicted"], history["scale"]
    uncertainty, names = history["uncertainty"], FAMILY.stat_names
    shown = np.argsort(history["eta"][:, 1])[:: -(len(exact) // 4)][:4]
    return {
        "learning_curves": training.draw_learning_curves(history),
        "moments": plotting.plot_moment_comparison(
            exact, predicted, scale, uncertainty=uncertainty, names=names
        ),
        "errors": training.draw_errors(history),
        "component_errors": plotting.plot_component_errors(exact, predicted, scale, names=names),
        "densities": plotting.plot_densities(
            FAMILY,
            history["eta"][shown],
            means=predicted[shown, 0],
            uncertainty=uncertainty[shown, 0],
        ),
    }


# %% [markdown]
# ## Run
#
# A notebook takes the default of each option.

# %%
if __name__ == "__main__":
    nd.generation.keep_compiled()
    closed_form.main(__doc__, FAMILY, draw, config="gaussian_1d", out="artifacts/gaussian_1d")
