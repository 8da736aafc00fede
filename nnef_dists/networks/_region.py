"""The region that training etas cover, as a union of balls within a box."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Bool, Float

from nnef_dists.bayes import register_saveable

# The neighbor whose distance is the radius of an example, and the factor of that radius.
_NEIGHBOR = 5
_REACH = 1.5
# Largest radius, in medians of all radii: a lonely example does not cover the gap around it.
_MOST = 3.0
# Least variance along a principal direction, of the largest: directions that etas do not explore.
_LEAST_VARIANCE = 1e-4
# Distance, in inputs, that rounding may make.
_ROUNDING = 1e-3


@register_saveable
@final
class TrainingRegion(eqx.Module):
    """The region of inputs near training examples; never trained.

    An input x, `(m,)`, is inside if it is within the widened range of each input and in a ball
    around some example x_j:

        |W (x - x_j)| <= 1.5 r_j,    r_j = min(distance of x_j to its fifth neighbor, 3 median r)

    with W the whitening of the inputs. Radii follow the density of the examples, so that rings,
    clusters, bands and wedges keep their gaps, and fresh inputs of the same distribution are inside
    in 99 % of cases and more. The covariance is shrunk towards the identity by m / n.

    A range is widened at either end by (1 + log(1 + m)) times the distance between its extreme
    and its fifth value: fresh inputs exceed the extreme of n others by about that, for short and
    for long tails, in one of m inputs.

    Args:
        inputs: Standardised inputs of all training etas, `(n, m)`.
        examples: The inputs around which balls are, `(k, m)`.
        dtype: The dtype of the buffers.

    Attributes:
        low: The least inside value of each input, `(m,)`.
        high: The largest, `(m,)`.
        whitening: W^T, `(m, m)`.
        examples: The examples times W^T, `(k, m)`.
        radii: 1.5 r, `(k,)`.
    """

    low: paramax.NonTrainable[Array]
    high: paramax.NonTrainable[Array]
    whitening: paramax.NonTrainable[Array]
    examples: paramax.NonTrainable[Array]
    radii: paramax.NonTrainable[Array]

    def __init__(self, inputs: np.ndarray, examples: np.ndarray, dtype: np.dtype):
        n, m = inputs.shape
        ordered = np.sort(inputs, 0)
        last = min(_NEIGHBOR, n) - 1
        factor = 1 + np.log1p(m)
        low = ordered[0] - factor * (ordered[last] - ordered[0]) - _ROUNDING
        high = ordered[-1] + factor * (ordered[-1] - ordered[-1 - last]) + _ROUNDING

        shrinkage = min(1.0, m / n)
        covariance = (1 - shrinkage) * inputs.T @ inputs / n + shrinkage * np.eye(m)
        values, vectors = np.linalg.eigh(covariance)
        whitening = vectors / np.sqrt(np.maximum(values, _LEAST_VARIANCE * values[-1]))
        white = examples @ whitening
        # Repeated examples have no more neighbors than one of them.
        distinct = np.unique(white, axis=0)
        distances = np.sort(_distances(white, distinct), 1)
        radii = distances[:, min(_NEIGHBOR, len(distinct) - 1)]
        radii = _REACH * np.minimum(radii, _MOST * np.median(radii)) + _ROUNDING

        def to_buffer(leaf: np.ndarray) -> paramax.NonTrainable[Array]:
            return paramax.NonTrainable(jnp.asarray(leaf, dtype))

        self.low, self.high = to_buffer(low), to_buffer(high)
        self.whitening = to_buffer(whitening)
        self.examples, self.radii = to_buffer(white), to_buffer(radii)

    def excess(self, inputs: Float[Array, " m"]) -> Float[Array, " m_plus_1"]:
        """Returns how far inputs are outside: zero inside, differentiable outside.

        Args:
            inputs: Standardised inputs, `(m,)`.

        Returns:
            The signed distance beyond the range of each input, and the whitened distance to the
            nearest ball, `(m + 1,)`.
        """
        fixed = paramax.unwrap(self)
        beyond = jnp.maximum(inputs - fixed.high, 0) - jnp.maximum(fixed.low - inputs, 0)
        gap = jnp.maximum(self._gap(inputs), 0)
        return jnp.concatenate([beyond, gap[None]])

    def contains(self, inputs: Float[Array, " m"]) -> Bool[Array, ""]:
        """Returns whether inputs, `(m,)`, are in the region; NaN is not."""
        fixed = paramax.unwrap(self)
        ranges = jnp.all((inputs >= fixed.low) & (inputs <= fixed.high))
        return ranges & (self._gap(inputs) <= 0)

    def _gap(self, inputs: Float[Array, " m"]) -> Float[Array, ""]:
        """Returns the signed distance to the nearest ball."""
        fixed = paramax.unwrap(self)
        squares = jnp.sum((inputs @ fixed.whitening - fixed.examples) ** 2, 1)
        # A root that has a derivative at the examples themselves.
        distances = jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny))
        return jnp.min(distances - fixed.radii)


def medoid(points: np.ndarray) -> int:
    """Returns the index of the point, of `(n, m)`, whose summed distance to all others is least."""
    return int(np.argmin(_distances(points, points).sum(1)))


def _distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Returns Euclidean distances between rows, `(len(one), len(other))`, exactly zero for equals.

    Rows are taken one by one, for their differences at once would be large in many dimensions.
    """
    return np.stack([np.sqrt(np.sum((other - row) ** 2, 1)) for row in one])
