"""The region that training etas cover, as a union of balls within a box."""

from typing import NamedTuple, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Bool, Float

# Largest number of examples, a subset of the training etas.
_EXAMPLES = 512
# Number of the neighbor whose distance is the radius of an example, and factor of this radius.
_NEIGHBOR = 5
_REACH = 1.5
# Largest radius, in medians of all radii, so that an isolated example does not cover a gap.
_MOST = 3.0
# Smallest variance along a principal direction, relative to the largest, for thin directions.
_LEAST_VARIANCE = 1e-4
# Largest growth of errors with the distance from the examples.
_MOST_GROWTH = 100.0
# Largest distance, in inputs, from rounding alone.
_ROUNDING = 1e-3


class ErrorScales(NamedTuple):
    """The size of a network's errors at one eta, given their size e at a typical training eta.

        max(growth size e, (size e)^(1 - share) max(learned, size e)^share)

    Attributes:
        size: Size of the learned function relative to a typical training eta.
        growth: Least factor of errors, see `TrainingRegion.remoteness`.
        share: Extrapolated share of the learned function, from 0 to 1.
        learned: Limit of the error that the learned function can cause, in units of T,
            `(eta_dim,)`.
    """

    size: Float[Array, ""]
    growth: Float[Array, ""]
    share: Float[Array, ""]
    learned: Float[Array, " eta_dim"]


@final
class TrainingRegion(eqx.Module):
    """The region of inputs near training examples. It is not trained.

    An input x, `(m,)`, is inside if it is within the widened range of each input, and if there are
    examples x_j and x_k with

        |x - x_j| <= 1.5 r_j    and    |W (x - x_k)| <= 1.5 s_k,

    with W the whitening of the inputs. The distances of the examples to their fifth neighbors are
    r_j and, whitened, s_k. They are at most 3 times their medians. Radii follow the density of the
    examples, so that rings, clusters and wedges keep their gaps. The whitening finds thin
    directions, for example across bands and simplices. Its covariance is shrunk toward the identity
    by m / n.

    A range is widened at either end by (1 + log(1 + m)) times the distance between its extreme and
    its fifth value. For short and long tails, new inputs exceed the extremes of n others by about
    this distance, in one of m inputs. At least 99% of new inputs from this distribution are inside.
    Gaps narrower than the distance between neighbors are not found, and in ten dimensions many gaps
    are.

    Args:
        inputs: Standardized inputs of all training etas, `(n, m)`.
        examples: Inputs at the centers of balls, `(k, m)`.
        dtype: Dtype of the buffers.

    Attributes:
        low: The smallest value of each input that is inside, `(m,)`.
        high: The largest value of each input that is inside, `(m,)`.
        whitening: W^T, `(m, m)`.
        examples: The examples, `(k, m)`.
        whitened: The examples times W^T, `(k, m)`.
        radii: 1.5 r and 1.5 s, `(2, k)`.
        spacing: The median whitened distance of an example to its nearest neighbor.
    """

    low: paramax.NonTrainable[Array]
    high: paramax.NonTrainable[Array]
    whitening: paramax.NonTrainable[Array]
    examples: paramax.NonTrainable[Array]
    whitened: paramax.NonTrainable[Array]
    radii: paramax.NonTrainable[Array]
    spacing: paramax.NonTrainable[Array]

    def __init__(self, inputs: np.ndarray, examples: np.ndarray, dtype: np.dtype):
        # Repeated inputs would be neighbors at distance zero.
        inputs, examples = np.unique(inputs, axis=0), np.unique(examples, axis=0)
        n, m = inputs.shape
        ordered = np.sort(inputs, 0)
        last = min(_NEIGHBOR, n) - 1
        factor = 1 + np.log1p(m)
        low = ordered[0] - factor * (ordered[last] - ordered[0]) - _ROUNDING
        high = ordered[-1] + factor * (ordered[-1] - ordered[-1 - last]) + _ROUNDING

        shrinkage = min(1.0, m / n)
        covariance = (1 - shrinkage) * np.cov(inputs.T, bias=True) + shrinkage * np.eye(m)
        values, vectors = np.linalg.eigh(covariance)
        whitening = vectors / np.sqrt(np.maximum(values, _LEAST_VARIANCE * values[-1]))
        whitened = examples @ whitening

        def to_buffer(leaf: np.ndarray) -> paramax.NonTrainable[Array]:
            return paramax.NonTrainable(jnp.asarray(leaf, dtype))

        self.low, self.high = to_buffer(low), to_buffer(high)
        self.whitening = to_buffer(whitening)
        self.examples, self.whitened = to_buffer(examples), to_buffer(whitened)
        distances = [np.sort(_distances(points), 1) for points in (examples, whitened)]
        self.radii = to_buffer(np.stack([_radii(sorted_rows) for sorted_rows in distances]))
        nearest = distances[1][:, min(1, len(whitened) - 1)]
        self.spacing = to_buffer(np.asarray(np.median(nearest)))

    @classmethod
    def around(cls, inputs: np.ndarray, dtype: np.dtype) -> "TrainingRegion":
        """Returns the region of inputs, `(n, m)`, with at most 512 of them as examples."""
        rows = np.linspace(0, len(inputs) - 1, min(len(inputs), _EXAMPLES)).astype(int)
        return cls(inputs, inputs[rows], dtype)

    @property
    def medoid(self) -> Array:
        """The example, `(m,)`, with the least summed whitened distance to all others."""
        whitened = np.asarray(self.whitened.tree, np.float64)
        return self.examples.tree[np.argmin(_distances(whitened).sum(1))]

    def excess(self, inputs: Float[Array, " m"]) -> Float[Array, " m_plus_1"]:
        """Returns the distance of inputs from the region: zero inside, differentiable outside.

        Args:
            inputs: Standardized inputs, `(m,)`.

        Returns:
            The signed distance beyond the range of each input, and the distance to the nearest
            ball, plain or whitened, whichever is larger, `(m + 1,)`.
        """
        fixed = paramax.unwrap(self)
        beyond = jnp.maximum(inputs - fixed.high, 0) - jnp.maximum(fixed.low - inputs, 0)
        gap = jnp.maximum(self._gap(inputs), 0)
        return jnp.concatenate([beyond, gap[None]])

    def distance(self, inputs: Float[Array, " m"]) -> Float[Array, ""]:
        """Returns the relative distance of inputs, `(m,)`, from the examples, at most 1,000.

            t = d / sqrt(1 + spacing^2)

        with d the whitened distance to the nearest example.
        """
        fixed = paramax.unwrap(self)
        squares = jnp.sum((inputs @ fixed.whitening - fixed.whitened) ** 2, 1)
        square = jnp.min(squares) / (1 + fixed.spacing**2)
        # The limits give the distance and its cube finite derivatives.
        return jnp.sqrt(jnp.clip(square, jnp.finfo(square.dtype).tiny, 1e6))

    def remoteness(self, inputs: Float[Array, " m"]) -> Float[Array, ""]:
        """Returns the growth of a learned function's errors with the distance t from the examples.

            1 + t^3 / (1 + t^3 / 100)

        Args:
            inputs: Standardized inputs, `(m,)`.

        Returns:
            A scalar, from 1 to 101. Errors of interpolation and extrapolation grow with the
            distance from the examples, until they are as large as the learned function. The power
            and the limit fit the errors of families with one to seven statistics, up to ten times
            outside the training ranges.
        """
        cube = self.distance(inputs) ** 3
        return 1 + cube / (1 + cube / _MOST_GROWTH)

    def contains(self, inputs: Float[Array, " m"]) -> Bool[Array, ""]:
        """Returns whether inputs, `(m,)`, are in the region. False for NaN."""
        fixed = paramax.unwrap(self)
        ranges = jnp.all((inputs >= fixed.low) & (inputs <= fixed.high))
        return ranges & (self._gap(inputs) <= 0)

    def _gap(self, inputs: Float[Array, " m"]) -> Float[Array, ""]:
        """Returns the signed distance to the nearest ball, the larger of plain and whitened."""
        fixed = paramax.unwrap(self)
        plain = inputs - fixed.examples
        white = inputs @ fixed.whitening - fixed.whitened
        squares = jnp.stack([jnp.sum(plain**2, 1), jnp.sum(white**2, 1)])
        # The lower bound gives the root a finite derivative at the examples.
        distances = jnp.sqrt(jnp.maximum(squares, jnp.finfo(squares.dtype).tiny))
        return jnp.max(jnp.min(distances - fixed.radii, 1))


def _radii(distances: np.ndarray) -> np.ndarray:
    """Returns the radius around each of distinct points from its sorted distances, `(k, k)`."""
    radii = distances[:, min(_NEIGHBOR, len(distances) - 1)]
    return _REACH * np.minimum(radii, _MOST * np.median(radii)) + _ROUNDING


def _distances(points: np.ndarray) -> np.ndarray:
    """Returns the pairwise Euclidean distances of points, `(k, k)`.

    Rows are computed one by one, since all differences at once are large in many dimensions.
    """
    return np.stack([np.sqrt(np.sum((points - row) ** 2, 1)) for row in points])
