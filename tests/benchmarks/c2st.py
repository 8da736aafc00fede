"""The classifier two-sample test, by the recipe of the benchmark of simulation-based inference."""

import numpy as np
from sklearn.model_selection import KFold, cross_val_score
from sklearn.neural_network import MLPClassifier


def c2st(reference, draws, seed=1):
    """Returns the accuracy of a classifier between two sets of draws, `(n, d)` each: 1/2 is best.

    Five-fold cross-validation of a network of two hidden layers of 10 d units, on coordinates that
    are standardized by the reference.

    Reference:
        Lopez-Paz and Oquab, *Revisiting classifier two-sample tests*, ICLR (2017); Lueckmann,
        Boelts, Greenberg, Goncalves and Macke, *Benchmarking simulation-based inference*, AISTATS
        (2021), for the recipe.
    """
    reference, draws = np.asarray(reference, np.float32), np.asarray(draws, np.float32)
    mean, sd = reference.mean(0), reference.std(0, ddof=1)
    points = (np.concatenate([reference, draws]) - mean) / sd
    labels = np.repeat([0, 1], [len(reference), len(draws)])
    width = 10 * points.shape[1]
    network = MLPClassifier((width, width), max_iter=10_000, random_state=seed)
    folds = KFold(5, shuffle=True, random_state=seed)
    return float(np.mean(cross_val_score(network, points, labels, cv=folds)))
