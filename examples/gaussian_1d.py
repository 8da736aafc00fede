"""The Gaussian in one dimension, learned from samples and compared with its closed form.

    python examples/gaussian_1d.py [--preset small|large] [--plot-only] [--out FOLDER] [--seed 0]

Natural parameters eta1 in [-20, 20] and eta2 in [-40, -1]; statistics x and x^2. History, numbers,
learned parameters and pictures go to the folder, `artifacts/gaussian_1d` unless said otherwise;
`--plot-only` redraws the pictures from the history.
"""

import numpy as np
import training

import nnef_dists as nd
from nnef_dists import plotting

FAMILY = nd.GaussianNatural1D()
RANGES = {"x": (-20, 20), "x2": (-40, -1)}
# The widest have the largest moments: among those to train on, they are not to be rare.
TRAINING_RANGES = {**RANGES, "x2": (-40, -1, "log")}
PRESETS = {
    "small": {"etas": 256, "calibration": 64, "steps": 2000, "width": 32, "depth": 2},
    "large": {"etas": 2000, "calibration": 256, "steps": 6000, "width": 64, "depth": 3},
}


def main():
    parser = training.closed_form_parser(__doc__, "artifacts/gaussian_1d")
    args = parser.parse_args()
    if args.plot_only:
        history = training.load_history(args.out)
    else:
        sizes = training.sizes_of(args, PRESETS)
        history = training.learn_closed_form(args, FAMILY, RANGES, TRAINING_RANGES, **sizes)
    training.save_figures(args.out, draw(history))


def draw(history):
    """All pictures, by name."""
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


if __name__ == "__main__":
    main()
