"""The exact posterior of what a trained network leaves, given its labels."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import PRNGKeyArray

from nnef_dists._checks import check_instance
from nnef_dists._ranges import check_integer
from nnef_dists.bayes import (
    DeterministicParameter,
    ExponentialPositivity,
    GaussianParameter,
    is_parameter,
)
from nnef_dists.moments import MomentBatch
from nnef_dists.networks._log_partition import LogPartitionNetwork
from nnef_dists.networks._residual_labels import (
    ResidualLabels,
    features_at,
    residual_labels,
    tiles,
    whiten,
)
from nnef_dists.networks._residual_process import ResidualProcess, draw_frequencies

# What is tried: lengths in units of the inputs' standard deviations, amplitudes in units of the
# perceptron's, and factors of the standard deviations of the perceptron's weights.
_LENGTHS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_AMPLITUDES = (0.1, 1.0, 10.0, 100.0, 1000.0)
_FACTORS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0)
# Labels that hyperparameters are chosen with.
_MOST_LABELS, _LEAST_UNSEEN = 1024, 20
# Student's t of four degrees of freedom, of this variance over that of the prediction: its
# intervals of 50 % and 90 % are then about as wide as those of the normal distribution.
_FREEDOM, _SQUARED_SCALE = 4, 2 / 3


class _Choice(NamedTuple):
    """Hyperparameters, and how well they predict unseen labels, in nats for each number."""

    length: float
    factor: float
    amplitude: float
    score: float
    error: float


def fit_residual(
    network: LogPartitionNetwork,
    labels: MomentBatch,
    unseen: MomentBatch,
    key: PRNGKeyArray,
    *,
    features: int = 256,
) -> LogPartitionNetwork:
    """Adds a Gaussian process to a trained network: the posterior of what it leaves, given labels.

        A(eta) + s(eta) g(x),    g(x) = phi(x) . w,    w ~ N(0, a^2),

    with s and x scale and inputs of the network's correction (without a base, a constant and the
    standardized coordinates of eta) and phi random features of a length. Labels are linear in w:

        label_i - mu_i = d(s g) / d eta_i + error_i + z_i,    gap - A = s g + error

    with their own standard errors, a quarter of which neighbors have in common, and z of the
    variance of the moments over draws of the perceptron, which stands for what is too rough for g.
    The posterior of w is normal and exact. Its mean is added to the network, and draws of the
    weights draw g: near labels it is certain, far away it is as uncertain as before, times s.

    Length, a, and a factor of the standard deviations of the perceptron's weights are chosen by the
    predictive density of unseen labels, under Student's t, so that gross errors do not decide. Of
    all that are within one standard error of the best, the shortest length is taken, which is the
    least sure outside of the labels. Labels and unseen labels then make the posterior together.

    The widths may have been trained before, or be those of the start. If they are not needed the
    weights become deterministic. Otherwise their laws become normal, of scaled widths. The function
    runs on the host in float64. With a residual already there the network gets a new one.

    Example:
        ```python
        network = nd.networks.fit_residual(network, network.batch(data), network.batch(unseen), key)
        ```

    Args:
        network: A network whose means have been trained.
        labels: The labels it was trained on, from `network.batch(data)`.
        unseen: At least 20 labels that it was not trained on, from `network.batch(data)`.
        key: For random features, and for draws of the perceptron's weights.
        features: How many features; even. Defaults to 256.

    Returns:
        The network with its field `residual`.

    Raises:
        ValueError: For another kind of network, for an odd or too small number of features, for
            fewer than 20 unseen labels, and if the labels lack the network's base.

    Reference:
        Rahimi and Recht, *Random features for large-scale kernel machines*, NeurIPS 2007. The rule
        of one standard error is that of Breiman, Friedman, Olshen and Stone, *Classification and
        regression trees* (1984), section 3.4.3.
    """
    check_instance(network, LogPartitionNetwork, "network")
    features = check_integer("features", features, 2)
    if features % 2:
        raise ValueError(f"Expected an even number of features; got {features}")
    if len(unseen) < _LEAST_UNSEEN:
        raise ValueError(
            f"Expected at least {_LEAST_UNSEEN} unseen labels; got {len(unseen)}. Label more etas "
            "with nd.estimate_moments"
        )
    for name, batch in (("labels", labels), ("unseen labels", unseen)):
        if network.base is not None and batch.base is None:
            raise ValueError(
                f"Expected {name} with the base of the network; got none. Make them with "
                "network.batch(data)"
            )
    if network.residual is not None:
        network = _with_residual(network, None)

    key_features, key_draws = jax.random.split(key)
    seed = np.asarray(jax.random.key_data(key_features)).tolist()
    (dim,) = jax.eval_shape(network.coordinates_near(labels[0]), labels.eta[0])[1].shape
    frequencies = draw_frequencies(np.random.default_rng(seed), features // 2, dim)
    known, new = (
        residual_labels(network, batch, key_draws, frequencies) for batch in (labels, unseen)
    )

    unit = 1.0 if network.correction is None else float(network.correction.residual_scale.tree)
    unit = unit * math.sqrt(2 / features)
    choice = _choose(known, new, frequencies, unit)
    frequencies = frequencies / choice.length
    both = jax.tree.map(lambda *leaves: np.concatenate(leaves), known, new)
    posterior = _Posterior(tiles(both, frequencies, choice.factor))
    mean, variances = posterior.at(choice.amplitude * unit)
    residual = ResidualProcess.of_arrays(
        frequencies,
        posterior.vectors @ mean,
        posterior.vectors * np.sqrt(variances),
        labels.eta.dtype,
    )
    network = eqx.tree_at(lambda n: n.mlp, network, _scaled(network.mlp, choice.factor))
    return _with_residual(network, residual)


def _with_residual(
    network: LogPartitionNetwork, residual: ResidualProcess | None
) -> LogPartitionNetwork:
    return eqx.tree_at(lambda n: n.residual, network, residual, is_leaf=lambda node: node is None)


class _Posterior:
    """Posteriors of w for all a, from one eigendecomposition.

    Attributes:
        values: The eigenvalues of the precision that labels give, `(2 k,)`.
        vectors: Its eigenvectors, `(2 k, 2 k)`.
        projection: The precision times the estimate of w, in their basis, `(2 k,)`.
    """

    def __init__(self, parts):
        sums, k = np.zeros((0, 0)), 0
        for rows, values, common, _ in parts:
            k, block = rows.shape[1], np.column_stack([rows, common, values])
            sums = sums + block.T @ block if sums.size else block.T @ block
        # Without c, whose posterior is integrated out.
        mixed, overlap = sums[:k, k:-1], sums[k:-1, k:-1]
        gain = np.linalg.solve(np.eye(len(overlap)) + overlap, mixed.T).T
        self.values, self.vectors = np.linalg.eigh(sums[:k, :k] - gain @ mixed.T)
        self.values = np.maximum(self.values, 0)
        self.projection = self.vectors.T @ (sums[:k, -1] - gain @ sums[k:-1, -1])

    def at(self, amplitude: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and variances of w for the prior N(0, amplitude^2), in the basis."""
        variances = 1 / (1 / amplitude**2 + self.values)
        return variances * self.projection, variances


def _choose(
    known: ResidualLabels, new: ResidualLabels, frequencies: np.ndarray, unit: float
) -> _Choice:
    """Returns the hyperparameters of the shortest length that predicts unseen labels well."""
    known, new = (
        part.take(np.linspace(0, len(part) - 1, min(len(part), _MOST_LABELS)).astype(int))
        for part in (known, new)
    )
    # Draws that do not differ have no widths to scale.
    factors = _FACTORS if known.moments[2].any() else _FACTORS[:1]
    choices = []
    for length in _LENGTHS:
        features = [features_at(part, frequencies / length) for part in (known, new)]
        for factor in factors:
            posterior = _Posterior([whiten(known, features[0], factor)])
            rows, values, _, scales = whiten(new, features[1], factor)
            rows = rows @ posterior.vectors
            squared = rows**2
            for amplitude in _AMPLITUDES:
                mean, variances = posterior.at(amplitude * unit)
                variance = 1 + squared @ variances
                squares = (values - rows @ mean) ** 2 / variance / _SQUARED_SCALE
                kernel = (_FREEDOM + 1) / 2 * np.log1p(squares / _FREEDOM)
                scores = -kernel - np.log(variance) / 2
                # The scales of labels are the same for all choices but for the factor.
                error = np.std(scores) / math.sqrt(len(scores))
                score = np.mean(scores - scales)
                choices.append(_Choice(length, factor, amplitude, float(score), float(error)))
    best = max(choices, key=lambda choice: choice.score)
    good = [choice for choice in choices if choice.score >= best.score - best.error]
    shortest = min(choice.length for choice in good)
    return max(
        (choice for choice in good if choice.length == shortest), key=lambda choice: choice.score
    )


def _scaled(model, factor: float):
    """Returns a model whose parameters have `factor` times their standard deviations."""
    if factor == 1:
        return model

    def scale(law):
        if not is_parameter(law) or isinstance(law, DeterministicParameter):
            return law
        if factor == 0:
            return DeterministicParameter(law.mean)
        return GaussianParameter.from_stdv(law.mean, factor * law.stdv, ExponentialPositivity())

    return jax.tree.map(scale, model, is_leaf=is_parameter)
