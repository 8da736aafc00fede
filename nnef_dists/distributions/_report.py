"""The result of a validation, as arrays and as text."""

from collections.abc import Sequence
from typing import final

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

_LEAST_COVERAGE = 0.7


@final
class ValidationReport(eqx.Module):
    """Errors of a network on held-out labels, from `nd.validate`.

    All fields, counts included, are arrays of the dtype of eta. Therefore `jax.grad` of a function
    of an `AmortizedFamily` needs no exception for them. An error z is (mu - label) / sd(T | eta),
    of one statistic at one eta.

    Attributes:
        n_labels: Number of valid held-out labels, on which all other numbers are based.
        n_rejected: Number of rejected labels, which were left out.
        n_outside: Number of labels at etas outside the training region.
        n_trained_on: Number of labels at etas among the network's stored training examples.
        z_rms: Root mean square of z.
        z_rms_limit: Upper limit of z_rms, the root of the mean of z^2 plus two standard errors.
        z_median: Median of |z|.
        z_largest: Largest |z|. Infinite if a prediction is not finite.
        label_z_rms: Root mean square of the labels' own standard errors, in z units.
        coverage: Fractions of labels in their central 50% and 90% intervals, `(2,)`. NaN if the
            network's weights are certain.
        tolerated_coverage: Fraction of labels in 90% intervals that are widened by the tolerance.
        worst_eta: The eta of the largest |z|, `(eta_dim,)`.
        worst_statistic: Index of the largest |z| among the flat statistics.
        tolerance: Acceptable RMS error, in z units.
        rms_ratio: z_rms_limit over its bound, the larger of 3 label_z_rms and the tolerance.
        largest_ratio: The largest ratio of |z| to its bound, which is the larger of 6 standard
            errors of its label and 5 tolerances.
        accuracy_factor: Factor c of e = c sqrt(spread^2 + (b size)^2), the limit of errors at
            training etas. The spread is the standard deviation over draws of the weights, in z
            units. The size is about 1 at typical etas. Away from the training etas, the limit grows
            (see `ErrorScales`).
        accuracy_floor: The floor b of this limit, in z units.
    """

    n_labels: Float[Array, ""]
    n_rejected: Float[Array, ""]
    n_outside: Float[Array, ""]
    n_trained_on: Float[Array, ""]
    z_rms: Float[Array, ""]
    z_rms_limit: Float[Array, ""]
    z_median: Float[Array, ""]
    z_largest: Float[Array, ""]
    label_z_rms: Float[Array, ""]
    coverage: Float[Array, "2"]
    tolerated_coverage: Float[Array, ""]
    worst_eta: Float[Array, " eta_dim"]
    worst_statistic: Float[Array, ""]
    tolerance: Float[Array, ""]
    rms_ratio: Float[Array, ""]
    largest_ratio: Float[Array, ""]
    accuracy_factor: Float[Array, ""]
    accuracy_floor: Float[Array, ""]

    @property
    def overconfident(self) -> Bool[Array, ""]:
        """Whether fewer than 70% of the labels are in their 90% intervals.

        This alone is no failure, because all errors may be within the tolerance.
        """
        return self.coverage[1] < _LEAST_COVERAGE

    @property
    def passed(self) -> Bool[Array, ""]:
        """Whether the network is as accurate as its labels, or the tolerance, allow."""
        covered = self.tolerated_coverage >= _LEAST_COVERAGE
        return (self.rms_ratio <= 1) & (self.largest_ratio <= 1) & covered

    def summary(self) -> str:
        """Returns the verdict and the numbers, in one line.

        Raises:
            jax.errors.ConcretizationTypeError: Inside a compiled program.
        """
        verdict = "validated" if self.passed else "failed validation"
        parts = [
            f"z rms {float(self.z_rms):.2g} (labels {float(self.label_z_rms):.2g})",
            f"median {float(self.z_median):.2g}",
            f"largest {float(self.z_largest):.2g}",
        ]
        half, most = np.asarray(self.coverage)
        if not np.isnan(most):
            advice = " (too narrow: train the scales of the weights)" if self.overconfident else ""
            parts.append(f"50 % intervals cover {half:.0%}, 90 % intervals {most:.0%}{advice}")
        counts = {
            "rejected labels left out": self.n_rejected,
            "outside the training region": self.n_outside,
            "at etas of the training labels, which show nothing": self.n_trained_on,
        }
        parts += [f"{int(n)} {what}" for what, n in counts.items() if n > 0]
        return f"{verdict} on {int(self.n_labels)} labels: {', '.join(parts)}"

    def complaint(self, names: Sequence[str]) -> str:
        """Returns the text of a warning, with the failures, the largest error and a remedy.

        Args:
            names: The names of the flat statistics.
        """
        limit, tolerance = float(self.z_rms_limit), float(self.tolerance)
        faults = {
            f"its rms error, up to {limit:.2g} by two standard errors, exceeds 3 times that of the "
            f"labels and the tolerance of {tolerance:.2g}": not self.rms_ratio <= 1,
            "its largest error exceeds 6 standard errors of the label and 5 times the "
            "tolerance": not self.largest_ratio <= 1,
            "its 90 % intervals, widened by the tolerance, cover less than 70 %": (
                not self.tolerated_coverage >= _LEAST_COVERAGE
            ),
        }
        found = "; ".join(fault for fault, present in faults.items() if present)
        where = f"{names[int(self.worst_statistic)]!r} at eta = {np.asarray(self.worst_eta)}"
        return (
            "Expected a network as accurate as its labels allow; got one that "
            f"{self.summary()}. Reasons: {found}. The largest error is in {where}. Train longer, "
            "label more etas there, or narrow the ranges of eta"
        )

    def __repr__(self) -> str:
        """Returns the summary of concrete arrays, or dots inside a compiled program."""
        concrete = isinstance(self.z_rms, jax.Array | np.ndarray)
        concrete = concrete and self.z_rms.ndim == 0 and not isinstance(self.z_rms, Tracer)
        return f"ValidationReport({self.summary() if concrete else '...'})"
