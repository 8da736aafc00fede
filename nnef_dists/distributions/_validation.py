"""Validation of a trained network on held-out labels."""

import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists.bayes import predictive_moments
from nnef_dists.distributions._accuracy import ErrorTerms, calibrate_limit, error_terms
from nnef_dists.distributions._amortized import AmortizedFamily
from nnef_dists.distributions._report import ValidationReport
from nnef_dists.moments import MomentDataset
from nnef_dists.networks import AbstractMomentNetwork

# Least number of labels, of which one in twenty may exceed the limit of errors.
_LEAST_LABELS = 20
_SAMPLES = 64
# Normal quantiles of central 50% and 90% intervals.
_QUANTILES = (0.6745, 1.6449)
# Bounds of a network's errors, as factors of the labels' errors and of the tolerance.
_FLOOR_FACTOR = 3.0
_LARGEST_FLOORS = 6.0
_LARGEST_TOLERANCES = 5.0


class ValidationWarning(UserWarning):
    """Warning that a network is less accurate than held-out labels and the tolerance allow."""


def validate(
    q: AmortizedFamily,
    held_out: MomentDataset,
    *,
    tolerance: float = 0.02,
    key: PRNGKeyArray | None = None,
) -> AmortizedFamily:
    """Compares a network with labels that it was not trained on, and returns q with the report.

        z_ni = (mu_i(eta_n) - label_ni) / sd(T_i | eta_n)
        floor_ni = standard_error_ni / sd(T_i | eta_n)

    over valid held-out labels n and statistics i, with mu at the means of the weights. The network
    fails, with a `ValidationWarning`, if any of these holds:

    - sqrt(m + 2 s) > max(3 rms floor, tolerance), or a prediction is not finite, with m the mean of
      z^2 and s the standard error of that mean over labels
    - |z_ni| > max(6 floor_ni, 5 tolerance) for some n and i
    - |z_ni| <= 1.645 sqrt(sd_ni^2 + floor_ni^2 + tolerance^2) for fewer than 70% of all n and i,
      with sd the standard deviation of z over draws of the weights

    The report also contains the limit of errors that `q.accuracy(eta)` returns, which includes the
    errors of the labels. If weights are random, it contains the coverage of 50% and 90% intervals
    without the tolerance. The printed verdict mentions intervals that are too narrow, for example
    before the scales of the weights are trained. The floor is the error of the labels, which limits
    the accuracy that can be shown. Labels with a floor above the tolerance are too noisy to show an
    accuracy of `tolerance`.

    The first bound applies to an upper limit of the RMS error. A few large errors often dominate
    it, and a small sample may contain none of them. More held-out labels narrow the limit.

    `print(q)` then shows the verdict. `nd.save` writes the report with the network. After further
    training, a network must be validated again, because a new `AmortizedFamily` has no report. Runs
    on the host, with one compiled program.

    Example:
        ```python
        held_out = nd.estimate_moments(family, family.sample_eta(key_etas, 128, ranges), key_labels)
        q = nd.validate(q, held_out)
        print(q, q.report.tree.z_rms)
        ```

    Args:
        q: The family and its trained network.
        held_out: Labels of the same family at etas that were not trained on, at least 20 of them
            valid. Rejected labels are left out and counted.
        tolerance: Acceptable RMS error, in z units, if labels are more accurate. Positive. Defaults
            to 0.02.
        key: PRNG key of the 64 draws of the weights. Defaults to `jax.random.key(0)`.

    Returns:
        The same q, with a `ValidationReport` as its `report`.

    Warns:
        ValidationWarning: If the network fails.

    Raises:
        ValueError: If the labels are of another family, or fewer than 20 are valid. If a valid
            label is not finite or has a variance that is not positive. If `tolerance` is not
            positive.
    """
    if not isinstance(held_out, MomentDataset):
        raise ValueError(
            f"Expected a MomentDataset of held-out labels; got {type(held_out).__name__}. "
            "Label etas that were not trained on with nd.estimate_moments"
        )
    if held_out.family != q.family:
        raise ValueError(
            f"Expected held-out labels of {q.family!r}; got labels of {held_out.family!r}"
        )
    if not tolerance > 0:
        raise ValueError(f"Expected tolerance > 0; got {tolerance}")
    labels = held_out.only_ok()
    if len(labels) < _LEAST_LABELS:
        raise ValueError(
            f"Expected at least {_LEAST_LABELS} valid held-out labels; got {len(labels)} of "
            f"{len(held_out)}. Label more etas with nd.estimate_moments"
        )
    mean, error = np.asarray(labels.mean), np.asarray(labels.standard_error)
    variances = np.diagonal(np.asarray(labels.covariance), axis1=1, axis2=2)
    usable = np.isfinite(mean) & np.isfinite(error) & np.isfinite(variances) & (variances > 0)
    if not usable.all():
        row = int(np.argmin(usable.all(1)))
        raise ValueError(
            "Expected valid labels with finite means and errors and positive variances; got mean "
            f"{mean[row]}, standard error {error[row]} and variances {variances[row]} at eta "
            f"{labels.eta[row]}. Set the status of labels that are not finite, or leave them out"
        )

    key = jax.random.key(0) if key is None else key
    found = _predict(q.network, jnp.asarray(labels.eta), jnp.sqrt(jnp.asarray(variances)), key)
    predicted, spread, inside, seen, terms = jax.tree.map(np.asarray, found)
    scale = np.sqrt(variances.astype(np.float64))
    z, floor = np.abs(predicted - mean) / scale, error / scale
    z = np.where(np.isfinite(z), z, np.inf)
    doubt = np.sqrt((spread / scale) ** 2 + floor**2)
    coverage = np.array([np.mean(z <= quantile * doubt) for quantile in _QUANTILES])
    tolerated = np.mean(z <= _QUANTILES[-1] * np.sqrt(doubt**2 + tolerance**2))
    if not spread.any():
        coverage[:] = np.nan
    limit = np.maximum(_LARGEST_FLOORS * floor, _LARGEST_TOLERANCES * tolerance)
    z_rms, label_z = np.sqrt(np.mean(z**2)), np.sqrt(np.mean(floor**2))
    by_label = np.mean(z**2, 1)
    with np.errstate(invalid="ignore"):
        limit_of_rms = np.sqrt(by_label.mean() + 2 * by_label.std(ddof=1) / np.sqrt(len(labels)))
    factor, least_spread = calibrate_limit(z.max(1), terms)
    row, statistic = np.unravel_index(np.argmax(z), z.shape)

    def to_array(value) -> Array:
        return jnp.asarray(value, labels.eta.dtype)

    report = ValidationReport(
        n_labels=to_array(len(labels)),
        n_rejected=to_array(len(held_out) - len(labels)),
        n_outside=to_array(np.sum(~inside)),
        n_trained_on=to_array(np.sum(seen)),
        z_rms=to_array(z_rms),
        z_median=to_array(np.median(z)),
        z_largest=to_array(z.max()),
        label_z_rms=to_array(label_z),
        coverage=to_array(coverage),
        tolerated_coverage=to_array(tolerated),
        worst_eta=to_array(labels.eta[row]),
        worst_statistic=to_array(statistic),
        tolerance=to_array(tolerance),
        z_rms_limit=to_array(limit_of_rms),
        rms_ratio=to_array(limit_of_rms / max(_FLOOR_FACTOR * label_z, tolerance)),
        largest_ratio=to_array(np.max(z / limit)),
        accuracy_factor=to_array(factor),
        accuracy_floor=to_array(least_spread),
    )
    if not report.passed:
        warnings.warn(report.complaint(q.family.stat_names), ValidationWarning, stacklevel=2)
    return eqx.tree_at(
        lambda q: q.report, q, paramax.NonTrainable(report), is_leaf=lambda node: node is None
    )


@eqx.filter_jit
def _predict(
    network: AbstractMomentNetwork,
    etas: Float[Array, "n eta_dim"],
    scales: Float[Array, "n eta_dim"],
    key: PRNGKeyArray,
) -> tuple[
    Float[Array, "n eta_dim"],
    Float[Array, "n eta_dim"],
    Bool[Array, " n"],
    Bool[Array, " n"],
    ErrorTerms,
]:
    """Returns moments, standard deviations, masks of inner etas and examples, and error terms."""
    coordinates = network.standardization
    inputs = jax.vmap(coordinates.inputs)(etas)
    examples = coordinates.examples
    close = 16 * jnp.finfo(inputs.dtype).eps * (1 + jnp.abs(inputs))
    seen = jax.vmap(lambda x, r: jnp.any(jnp.all(jnp.abs(examples - x) <= r, 1)))(inputs, close)
    _, spread = predictive_moments(network, lambda drawn: jax.vmap(drawn)(etas), key, _SAMPLES)
    terms = jax.vmap(functools.partial(error_terms, network))(etas, scales)
    return jax.vmap(network)(etas), spread, jax.vmap(network.is_inside)(etas), seen, terms
