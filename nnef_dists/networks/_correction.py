"""The linear correction of a base."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Bool, Float

from nnef_dists.moments import MomentBatch
from nnef_dists.networks._quadratic_potential import LEAST_RESIDUAL, least_squares
from nnef_dists.networks._region import TrainingRegion

# Smallest scale of the inputs, for inputs that are nearly constant.
_LEAST_SCALE = 1e-6
# Standard error of an estimate of A, in nats, at which it has half the weight.
LEVEL_ERROR = 0.01
# Largest scale inside, relative to the labels, and the scale that rounding alone can give.
_MARGIN, _ROUNDING = 1.25, 1e-6


@final
class LinearCorrection(eqx.Module):
    """The linear function of a base's inputs that fits labels best. It is not trained.

        A(eta) = A_B + s (a + b . x),    x = (inputs - shift) / scale

    fitted by least squares of (grad A - mu) / sd(T). A label at which the base has an error z has
    weight 1 / (1 + z^2). If the base estimates A, errors in nats count like errors in z units.
    Labels with s at rounding level have no weight, so a and b are 0 if the base is exact at all
    labels. A perceptron of x fits the residual.

    `LinearCorrection.fit(labels)` returns the correction for labels with a base.

    Attributes:
        shift: Means of the inputs, `(m,)`.
        scale: Standard deviations of the inputs, `(m,)`.
        intercept: a.
        slope: b, `(m,)`.
        residual_scale: Size of a function of x whose correction has gradients as large as the
            residuals of the linear fit, at most 1.
        region: The training region of x.
        scales: The median s of the labels, and 1.25 times the largest, `(2,)`.
    """

    shift: paramax.NonTrainable[Array]
    scale: paramax.NonTrainable[Array]
    intercept: paramax.NonTrainable[Array]
    slope: paramax.NonTrainable[Array]
    residual_scale: paramax.NonTrainable[Array]
    region: TrainingRegion
    scales: paramax.NonTrainable[Array]

    @classmethod
    def fit(cls, labels: MomentBatch) -> "LinearCorrection":
        """Fits the correction.

        Args:
            labels: Valid labels with a base.

        Returns:
            The correction.
        """
        values, gradients = (
            np.asarray(leaf, np.float64) for leaf in (labels.base.values, labels.base.gradients)
        )
        s, inputs = values[:, 1, None, None], values[:, 2:]
        shift, scale = inputs.mean(0), np.maximum(inputs.std(0), _LEAST_SCALE)
        x = (inputs - shift) / scale
        sd = np.asarray(labels.sd, np.float64)
        target = (np.asarray(labels.mean, np.float64) - gradients[:, 0]) / sd
        # Gradients of s and of s x.
        products = s * gradients[:, 2:] / scale[:, None] + x[:, :, None] * gradients[:, 1, None]
        design = np.concatenate([gradients[:, 1, None], products], 1) / sd[:, None]
        is_inexact = s[..., 0] > _ROUNDING
        weight = is_inexact / np.sqrt(1 + target**2)
        design = (design * weight[:, None]).transpose(0, 2, 1).reshape(target.size, -1)
        _, left = least_squares(design, (target * weight).reshape(-1))
        # The level of A, in nats.
        gap, error = (np.asarray(leaf, np.float64) for leaf in labels.base.gap[:2])
        certainty = is_inexact[:, 0] / np.hypot(1, error / LEVEL_ERROR)
        levels = (certainty * s[:, 0, 0])[:, None] * np.column_stack([np.ones(len(x)), x])
        coefficients, _ = least_squares(
            np.concatenate([design, levels]),
            np.concatenate([(target * weight).reshape(-1), certainty * gap]),
        )
        steepness = np.sqrt(np.mean(np.sum(design[:, 1:] ** 2, 1)))
        size = min(1.0, max(left, LEAST_RESIDUAL) / max(steepness, LEAST_RESIDUAL))

        def to_buffer(leaf) -> paramax.NonTrainable[Array]:
            return paramax.NonTrainable(jnp.asarray(leaf, labels.eta.dtype))

        return cls(
            shift=to_buffer(shift),
            scale=to_buffer(scale),
            intercept=to_buffer(coefficients[0]),
            slope=to_buffer(coefficients[1:]),
            residual_scale=to_buffer(size),
            region=TrainingRegion.around(x, labels.eta.dtype),
            scales=to_buffer([np.median(s), _MARGIN * np.max(s) + _ROUNDING]),
        )

    def standardized(self, inputs: Float[Array, " m"]) -> Float[Array, " m"]:
        """Returns x, `(m,)`, of the base's inputs, `(m,)`."""
        fixed = paramax.unwrap(self)
        return (inputs - fixed.shift) / fixed.scale

    def is_inside(self, scale: Float[Array, ""]) -> Bool[Array, ""]:
        """Returns whether a scale of the base is at most 1.25 times the largest of the labels."""
        return scale <= paramax.unwrap(self.scales)[1]

    def relative_scale(self, scale: Float[Array, ""]) -> Float[Array, ""]:
        """Returns the ratio of a scale to the median of the labels, 1 if both are rounding."""
        return (scale + _ROUNDING) / (paramax.unwrap(self.scales)[0] + _ROUNDING)

    def __call__(self, x: Float[Array, " m"]) -> Float[Array, ""]:
        """Returns a + b . x."""
        fixed = paramax.unwrap(self)
        return fixed.intercept + fixed.slope @ x
