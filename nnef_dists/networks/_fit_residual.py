"""The exact posterior of the residual of a trained network, given labels."""

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

# Candidate hyperparameters: lengths in units of the inputs' standard deviations, amplitudes in
# units of the perceptron's, and factors of the standard deviations of the perceptron's weights.
_LENGTHS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_AMPLITUDES = (0.1, 1.0, 10.0, 100.0, 1000.0)
_FACTORS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0)
# Largest number of labels that choose the hyperparameters, and smallest number of unseen labels.
_MOST_LABELS, _LEAST_UNSEEN = 1024, 20
# Degrees of freedom of Student's t, and its squared scale relative to the predictive variance. Its
# 50% and 90% intervals are then about as wide as the normal ones.
_FREEDOM, _SQUARED_SCALE = 4, 2 / 3


class _Choice(NamedTuple):
    """Hyperparameters, with the predictive score of unseen labels and its error, in nats."""

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
    """Adds a Gaussian process to a trained network: the posterior of its residual, given labels.

        A(eta) + s(eta) g(x),    g(x) = phi(x) . w,    w ~ N(0, a^2),

    with s and x the scale and inputs of the network's correction, and phi random features of one
    length. Without a base, s is constant and x are the standardized coordinates of eta. Labels are
    linear in w:

        label_i - mu_i = d(s g) / d eta_i + error_i + z_i,    gap - A = s g + error

    The errors have the labels' standard errors, of which neighbors share a quarter. The variance of
    z is the variance of the moments over draws of the perceptron, for residuals too rough for g.
    The posterior of w is normal and exact. Its mean is added to the network, and draws of the
    weights include draws of g. The variance of g is small near labels, and reaches the prior
    variance far from them.

    The length, a, and a factor of the standard deviations of the perceptron's weights are chosen by
    the predictive density of unseen labels. It is a Student t density, which bounds the influence
    of gross errors. The shortest length within one standard error of the best score is taken, since
    it is the most uncertain away from labels. The posterior then uses labels and unseen labels.

    The standard deviations of the weights may be trained or initial. A factor of 0 makes the
    weights deterministic. Any other factor except 1 makes them normal, with scaled standard
    deviations. An existing residual is replaced. The function runs on the host in float64.

    Example:
        ```python
        network = nd.networks.fit_residual(network, network.batch(data), network.batch(unseen), key)
        ```

    Args:
        network: A network with trained means.
        labels: The training labels, from `network.batch(data)`.
        unseen: At least 20 labels held out from training, from `network.batch(data)`.
        key: PRNG key for random features and draws of the perceptron's weights.
        features: Number of features, even, at least 2. Defaults to 256.

    Returns:
        The network with its field `residual`.

    Raises:
        ValueError: If `network` is of another kind, `features` is odd or below 2, `unseen` has
            fewer than 20 labels, or the labels lack the network's base or are of another family.

    Reference:
        Rahimi and Recht, *Random features for large-scale kernel machines*, NeurIPS 2007. For the
        rule of one standard error: Breiman, Friedman, Olshen and Stone, *Classification and
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
        if network.base is not None:
            batch.base.check_source(network.base, network.family)
        elif batch.eta.shape[1] != network.family.eta_dim:
            raise ValueError(
                f"Expected {name} of {network.family!r}, with {network.family.eta_dim} natural "
                f"parameters; got {batch.eta.shape[1]}. Make them with network.batch(data)"
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
        values: Eigenvalues of the precision of w from the labels, `(2 k,)`.
        vectors: Eigenvectors of this precision, `(2 k, 2 k)`.
        projection: The precision times the estimate of w, in the eigenbasis, `(2 k,)`.
    """

    def __init__(self, parts):
        sums, k = np.zeros((0, 0)), 0
        for rows, values, common, _ in parts:
            k, block = rows.shape[1], np.column_stack([rows, common, values])
            sums = sums + block.T @ block if sums.size else block.T @ block
        # The shared errors c are integrated out.
        mixed, overlap = sums[:k, k:-1], sums[k:-1, k:-1]
        gain = np.linalg.solve(np.eye(len(overlap)) + overlap, mixed.T).T
        self.values, self.vectors = np.linalg.eigh(sums[:k, :k] - gain @ mixed.T)
        self.values = np.maximum(self.values, 0)
        self.projection = self.vectors.T @ (sums[:k, -1] - gain @ sums[k:-1, -1])

    def at(self, amplitude: float) -> tuple[np.ndarray, np.ndarray]:
        """Returns mean and variances of w for the prior N(0, amplitude^2), in the eigenbasis."""
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
    # If draws do not differ, there are no standard deviations to scale.
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
                # The scales of labels depend only on the factor, so `error` excludes them.
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
