"""Residuals of a trained network at labels, as rows of a linear model."""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from nnef_dists.bayes import predictive_moments
from nnef_dists.moments import MomentBatch
from nnef_dists.networks._base import moments_at
from nnef_dists.networks._log_partition import LogPartitionNetwork
from nnef_dists.networks._residual_process import features_and_gradients

# Number of draws of the perceptron's weights.
_DRAWS = 64
# Fraction of the labels' standard errors that neighbors share, and length scale. Sampler biases
# are far below the standard errors, but an average over many labels does not remove them. The
# correlation between errors of neighbors is 0.02 to 0.06.
_COMMON, _COMMON_LENGTH = 0.25, 2.0
# Largest number of pairs of random functions for the shared errors, per statistic and in total.
_MOST_PAIRS, _MOST_PAIRS_IN_ALL = 8, 128
# Number of labels whose features are in memory at once.
_TILE = 512


class ResidualLabels(NamedTuple):
    """Residuals of a network at n labels, in float64 on the host.

    Attributes:
        scale: s and its gradients.
        inputs: x and its Jacobians.
        moments: Residuals of the moments, `(n, eta_dim)`, the standard errors of the labels, and
            the variance over draws of the perceptron.
        levels: Residuals of A, `(n,)`, and their standard errors, infinite without an estimate.
        common: Functions of the inputs whose sums are the shared errors of neighbors, `(n, l)`.
    """

    scale: tuple[np.ndarray, np.ndarray]
    inputs: tuple[np.ndarray, np.ndarray]
    moments: tuple[np.ndarray, np.ndarray, np.ndarray]
    levels: tuple[np.ndarray, np.ndarray]
    common: np.ndarray

    def __len__(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return len(self.levels[0])

    def take(self, rows) -> "ResidualLabels":
        """Returns some of the labels."""
        return jax.tree.map(lambda leaf: leaf[rows], self)


@eqx.filter_jit
def _evaluate(network: LogPartitionNetwork, batch: MomentBatch, key: PRNGKeyArray):
    """Returns scales, inputs and their derivatives, residuals and the variance of moments."""

    def one(label):
        at = network.coordinates_near(label)
        scale, inputs = at(label.eta)
        scale_slopes, input_slopes = jax.jacfwd(at)(label.eta)
        return (scale, scale_slopes), (inputs, input_slopes), network.level_error(label)

    scale, inputs, (level, level_error) = jax.vmap(one)(batch)
    _, spread = predictive_moments(network, lambda n: moments_at(n, batch), key, _DRAWS)
    return scale, inputs, moments_at(network, batch), spread, level, level_error


def residual_labels(
    network: LogPartitionNetwork, batch: MomentBatch, key: PRNGKeyArray, frequencies: np.ndarray
) -> ResidualLabels:
    """Returns the residuals at a batch of labels. The frequencies are for length 1."""
    found = _evaluate(network, batch, key)
    scale, inputs, moments, spread, level, level_error = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), found
    )
    mean, error, sd = (
        np.asarray(leaf, np.float64) for leaf in (batch.mean, batch.standard_error, batch.sd)
    )
    # Even exact labels have rounding errors.
    eps = float(jnp.finfo(batch.eta.dtype).eps)
    error = np.hypot(error, eps * (sd + np.abs(mean)))
    pairs = max(1, min(_MOST_PAIRS, _MOST_PAIRS_IN_ALL // mean.shape[1]))
    angles = inputs[0] @ frequencies[:pairs].T / _COMMON_LENGTH
    return ResidualLabels(
        scale,
        inputs,
        (mean - moments, error, spread**2),
        (-level, np.hypot(level_error, eps)),
        np.concatenate([np.cos(angles), np.sin(angles)], 1)
        / math.sqrt(min(pairs, len(frequencies))),
    )


def features_at(labels: ResidualLabels, frequencies: np.ndarray):
    """Returns s phi at the labels, and its gradients."""
    return features_and_gradients(frequencies, labels.scale, labels.inputs)


def whiten(labels: ResidualLabels, features: tuple[np.ndarray, np.ndarray], factor: float):
    """Returns X, y, C and log t of y = X w + C c + e, with standard normal c and e.

    Rows are divided by t, the scales of their errors. The errors C c are shared by neighboring
    labels: one random function of the inputs per statistic.
    """
    levels, moments = features
    residual, own, variance = labels.moments
    error = np.sqrt(own**2 + factor**2 * variance)
    level, level_error = labels.levels
    some = np.isfinite(level_error)
    rows = (moments.transpose(0, 2, 1) / error[:, :, None]).reshape(residual.size, -1)
    functions = labels.common
    blocks = np.eye(residual.shape[1])[None, :, :, None] * functions[:, None, None]
    common = (blocks * (_COMMON * own / error)[:, :, None, None]).reshape(residual.size, -1)
    return (
        np.concatenate([rows, levels[some] / level_error[some, None]]),
        np.concatenate([(residual / error).ravel(), level[some] / level_error[some]]),
        np.concatenate([common, np.zeros((some.sum(), common.shape[1]))]),
        np.log(np.concatenate([error.ravel(), level_error[some]])),
    )


def tiles(labels: ResidualLabels, frequencies: np.ndarray, factor: float):
    """Yields X, y, C and log t, for one tile of labels at a time."""
    for start in range(0, len(labels), _TILE):
        tile = labels.take(slice(start, start + _TILE))
        yield whiten(tile, features_at(tile, frequencies), factor)
