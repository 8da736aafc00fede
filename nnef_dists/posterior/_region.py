"""The region of the simulated observations."""

from types import SimpleNamespace
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Bool, Float

from nnef_dists.posterior._mask import summarize, summary_fill

# Largest number of rows in the fit: `_ROWS`, or more if they hold at most `_VALUES` values.
_ROWS, _VALUES = 2048, 2**22
# Largest numbers of entries of x in the distance, of examples, and of values in the examples.
_ENTRIES, _EXAMPLES, _STORED = 1024, 512, 2**17
# Number of folds for the scores of held-out simulations.
_FOLDS = 8
# Relative margin of the thresholds: the first number plus the second over sqrt(rows).
_MARGIN, _MARGIN_OF_FEW = 0.25, 8.0
# Unit of the excess of an entry that is constant in the simulations.
_CONSTANT = 0.1
# Smallest threshold of the excess.
_LEAST_EXCESS = 0.35


@final
class ObservationRegion(eqx.Module):
    """The region of the simulated observations, without training.

        y = arcsinh((x - center) / scale)
        excess(x) = max over entries j of max((low_j - y_j) / below_j, (y_j - high_j) / above_j)
        distance(x) = min over examples i of |y - y_i| / spacing_i

    An observation is inside if neither score exceeds its threshold. The excess is large if an entry
    leaves its simulated range. The distance is also large for a combination of entries unlike the
    simulations.

    Median and interquartile range set center and scale, and arcsinh compresses heavy tails. `below`
    and `above` are the widths of the outer tenths of y. `spacing` is the distance from an example
    to its third nearest neighbor.

    Each threshold is the largest score of held-out simulations, plus a margin. Without the margin,
    a further simulation exceeds the largest of n scores with probability 1 / (n + 1), for any
    distribution and dimension of x. The margin makes false alarms rarer.

    A masked observation consists of its entries, with medians for missing entries, and the mask. A
    masked set consists of quantiles of each channel and logarithms of counts. Numbers of trials
    and patterns of missing entries that were not simulated are therefore outside as well. The
    content and length of the padding have no effect.

    Args:
        x: Simulated observations, `(n, *x_shape)`, n >= 2, finite.
        exchangeable: Whether the order of rows (the first axis of one observation) has no meaning.
            The rows of each channel are then sorted. Defaults to False.
        masked: Whether the last axis of x holds values and mask, from `masked_observation`.
            Defaults to False.

    Attributes:
        center: Medians of the entries of x, `(size,)`.
        scale: Robust standard deviations of the entries, `(size,)`.
        low: Smallest y, `(size,)`.
        high: Largest y, `(size,)`.
        below: Units of the excess below `low`, `(size,)`.
        above: Units of the excess above `high`, `(size,)`.
        examples: Some simulations, as y, `(k, entries)`. If x is long, every m-th entry.
        spacing: Distances from the examples to their neighbors, `(k,)`.
        thresholds: Largest excess and largest distance inside, `(2,)`.
        fill: Medians of the observed values if x is masked, otherwise None.

    Reference:
        Laxhammar and Falkman, *Conformal prediction for distribution-independent anomaly detection
        in streaming vessel data*, StreamKDD (2010), for the thresholds.
    """

    center: paramax.NonTrainable[Array]
    scale: paramax.NonTrainable[Array]
    low: paramax.NonTrainable[Array]
    high: paramax.NonTrainable[Array]
    below: paramax.NonTrainable[Array]
    above: paramax.NonTrainable[Array]
    examples: paramax.NonTrainable[Array]
    spacing: paramax.NonTrainable[Array]
    thresholds: paramax.NonTrainable[Array]
    fill: paramax.NonTrainable[Array] | None
    rows: int = eqx.field(static=True)
    exchangeable: bool = eqx.field(static=True)

    def __init__(
        self,
        x: Float[np.ndarray, "n *x_shape"],
        *,
        exchangeable: bool = False,
        masked: bool = False,
    ):
        self.exchangeable = exchangeable
        self.rows = x.shape[1] if x.ndim > 1 else 1
        dtype = x.dtype
        fill = summary_fill(x, exchangeable=exchangeable) if masked else None
        self.fill = None if fill is None else paramax.NonTrainable(jnp.asarray(fill, dtype))
        # Shuffle, because simulations of several rounds come one after another.
        rng = np.random.default_rng(0)
        flat, _ = self._flat(np, x, fill, batch=True)
        extremes = flat.min(0), flat.max(0)
        rows = min(len(flat), max(_ROWS, _VALUES // flat.shape[1]))
        flat = flat[rng.permutation(len(flat))[:rows]].astype(np.float64)
        center, scale = _center_and_scale(flat)
        y = np.arcsinh((flat - center) / scale)
        low, high = (np.arcsinh((end - center) / scale) for end in extremes)
        tenths = np.quantile(y, [0.1, 0.9], axis=0)
        margin = _MARGIN + _MARGIN_OF_FEW / rows**0.5
        excess = _held_out_excess(y, tenths)
        examples, spacing, distances = _examples(y)
        thresholds = np.array(
            [
                max((1 + margin) * excess.max(), _LEAST_EXCESS),
                distances.max() + margin * (distances.max() - np.median(distances)),
            ]
        )
        arrays = (center, scale, low, high, *_units(low, high, tenths), examples, spacing)
        fixed = [paramax.NonTrainable(jnp.asarray(a, dtype)) for a in (*arrays, thresholds)]
        self.center, self.scale, self.low, self.high, self.below, self.above = fixed[:6]
        self.examples, self.spacing, self.thresholds = fixed[6:]

    def scores(self, x: Float[Array, "*x_shape"]) -> Float[Array, "2"]:
        """Returns the excess and distance of an observation, in units of their thresholds.

        Args:
            x: One observation.

        Returns:
            Two numbers, each at most 1 inside the region.
        """
        return self._scores(jnp, paramax.unwrap(self), jnp.asarray(x))

    def is_inside(self, x: Float[Array, "*x_shape"]) -> Bool[Array, ""]:
        """Returns whether an observation is like the simulated ones. False for NaN or infinity."""
        return jnp.all(self.scores(x) <= 1)

    def concrete_scores(self, x: np.ndarray) -> np.ndarray:
        """Returns `scores` by NumPy, for a concrete region and observation.

        Under `jax.jit`, JAX would trace this computation, even for concrete arrays.
        """
        fixed: dict[str, Any] = {
            name: np.asarray(value.tree, np.float64)
            for name, value in vars(self).items()
            if isinstance(value, paramax.NonTrainable)
        }
        with np.errstate(over="ignore"):
            return self._scores(
                np, SimpleNamespace(**{"fill": None} | fixed), np.asarray(x, np.float64)
            )

    def _scores(self, xp: Any, fixed: Any, x: Any) -> Any:
        flat, valid = self._flat(xp, x, fixed.fill)
        y = xp.arcsinh((flat - fixed.center) / fixed.scale)
        excess = xp.max(
            xp.maximum((fixed.low - y) / fixed.below, (y - fixed.high) / fixed.above), -1
        )
        step = -(-y.size // _ENTRIES)
        squares = xp.mean((y[::step] - fixed.examples) ** 2, -1)
        distance = xp.min(xp.sqrt(squares) / fixed.spacing)
        return xp.where(valid, xp.stack([excess, distance]) / fixed.thresholds, xp.inf)

    def _flat(self, xp: Any, x: Any, fill: Any, *, batch: bool = False) -> tuple[Any, Any]:
        """Returns x as a vector, and whether it is valid. The rows of a set are sorted."""
        if fill is not None:
            return summarize(xp, x, fill, self.rows, exchangeable=self.exchangeable)
        if self.exchangeable:
            x = xp.sort(x, axis=1 if batch else 0)
        return x.reshape(len(x), -1) if batch else xp.ravel(x), True


def _center_and_scale(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lower, center, upper = np.quantile(x, [0.25, 0.5, 0.75], axis=0)
    spread, deviation = (upper - lower) / 1.349, x.std(0)
    # If most values of an entry are equal, its standard deviation replaces the quartiles. A
    # floor excludes rounding errors.
    scale = np.where(spread > 0, spread, deviation)
    scale = np.maximum(scale, 1e-5 * np.abs(center))
    return center, np.where(np.ptp(x, 0) > 0, scale, 1.0)


def _units(low: np.ndarray, high: np.ndarray, tenths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    least = 0.1 * (high - low)
    below = np.where(high > low, np.maximum(tenths[0] - low, least), _CONSTANT)
    return below, np.where(high > low, np.maximum(high - tenths[1], least), _CONSTANT)


def _held_out_excess(y: np.ndarray, tenths: np.ndarray) -> np.ndarray:
    """Returns the excess of each row over the ranges of the other folds of shuffled rows."""
    folds = np.array_split(y, min(_FOLDS, len(y)))
    ends = np.array([[fold.min(0), fold.max(0)] for fold in folds])
    excess = []
    for number, fold in enumerate(folds):
        others = np.delete(ends, number, 0)
        low, high = others[:, 0].min(0), others[:, 1].max(0)
        below, above = _units(low, high, tenths)
        excess.append(np.maximum((low - fold) / below, (fold - high) / above).max(1))
    return np.concatenate(excess)


def _examples(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns examples, their spacing, and the distances of rows from other examples."""
    y = y[:_ROWS, :: -(-y.shape[1] // _ENTRIES)]
    n, size = y.shape
    k = min(n, _EXAMPLES, max(64, _STORED // size))
    squares = (y**2).sum(1)[:, None] - 2 * y @ y[:k].T + (y[:k] ** 2).sum(1)
    squares[np.arange(k), np.arange(k)] = np.inf
    distances = np.sqrt(np.maximum(squares, 0) / size)
    spacing = np.sort(distances[:k], 1)[:, min(2, k - 2)]
    # Examples with few distinct values, such as counts, may equal their neighbors.
    spacing = np.maximum(spacing, 0.5 * np.median(spacing))
    spacing = np.where(spacing > 0, spacing, 1e-2)
    return y[:k], spacing, (distances / spacing).min(1)
