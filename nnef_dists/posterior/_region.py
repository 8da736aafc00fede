"""The region of observation space that simulations fill."""

from types import SimpleNamespace
from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Bool, Float

from nnef_dists.posterior._mask import summarize, summary_fill

# Rows that the fit looks at: at least the first number, fewer values than the second.
_ROWS, _VALUES = 2048, 2**22
# Entries of x in the distance, examples that are stored, and numbers that they hold.
_ENTRIES, _EXAMPLES, _STORED = 1024, 512, 2**17
_FOLDS = 8
# Thresholds leave this margin beyond the largest score of held-out simulations, and more of few.
_MARGIN, _MARGIN_OF_FEW = 0.25, 8.0
# A distance of this is far beyond the range of an entry that is constant in the simulations.
_CONSTANT = 0.1
_LEAST_EXCESS = 0.35


@final
class ObservationRegion(eqx.Module):
    """The region of observation space that simulations fill; never trained.

        y = arcsinh((x - center) / scale)
        excess(x) = max over entries j of max((low_j - y_j) / below_j, (y_j - high_j) / above_j)
        distance(x) = min over examples i of |y - y_i| / spacing_i

    An observation is inside if both scores are below their thresholds. The first is high if one
    entry leaves its simulated range. The second is high if the entries are in their ranges and
    their combination was never simulated.

    Median and interquartile range set center and scale, so heavy tails do not hide the bulk, and
    arcsinh makes them comparable with other entries. `below` and `above` are the widths of the
    outer tenths of y. `spacing` is the distance from an example to its third nearest neighbor.

    Thresholds come from simulations that the scores have not seen: the largest of n such scores is
    exceeded by a further simulation with probability 1 / (n + 1), whatever the distribution and
    the dimension of x. A margin makes false alarms rarer.

    Of masked observations, the entries are followed by the mask, and missing ones are at their
    medians. Of masked sets, they are quantiles of each channel and the logarithms of counts. So
    numbers of trials and patterns of missing entries that were not simulated are outside too, and
    neither the content nor the length of the padding matters.

    Args:
        x: Simulated observations, `(n, *x_shape)`, n >= 2, finite.
        exchangeable: Whether the order of rows (the first axis of one observation) has no meaning.
            They are then sorted, each channel alone. Defaults to False.
        masked: Whether the last axis of x holds values and mask; see `masked_observation`.
            Defaults to False.

    Attributes:
        center: Medians of the entries of x, `(size,)`.
        scale: Robust standard deviations of the entries, `(size,)`.
        low: Smallest y, `(size,)`.
        high: Largest y, `(size,)`.
        below: Units of the excess below `low`, `(size,)`.
        above: Units of the excess above `high`, `(size,)`.
        examples: Some simulations, as y, `(k, entries)`. Every m-th entry of a long x.
        spacing: Distances to their neighbors, `(k,)`.
        thresholds: The largest excess and the largest distance inside, `(2,)`.
        fill: Medians of the observed values if x is masked, else None.

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
        # The order of simulations has no meaning, but those of several rounds come one after
        # another.
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
        """Returns excess and distance of an observation, in units of their thresholds.

        Args:
            x: One observation.

        Returns:
            Two numbers, each at most 1 inside.
        """
        return self._scores(jnp, paramax.unwrap(self), jnp.asarray(x))

    def is_inside(self, x: Float[Array, "*x_shape"]) -> Bool[Array, ""]:
        """Returns whether an observation is like the simulated ones. NaN and infinity are not."""
        return jnp.all(self.scores(x) <= 1)

    def concrete_scores(self, x: np.ndarray) -> np.ndarray:
        """Returns `scores` by NumPy, of a concrete region and observation.

        In a compiled program too, JAX would trace this computation.
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
        """Entries of x as a vector, and whether they are valid; rows that are a set are sorted."""
        if fill is not None:
            return summarize(xp, x, fill, self.rows, exchangeable=self.exchangeable)
        if self.exchangeable:
            x = xp.sort(x, axis=1 if batch else 0)
        return x.reshape(len(x), -1) if batch else xp.ravel(x), True


def _center_and_scale(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lower, center, upper = np.quantile(x, [0.25, 0.5, 0.75], axis=0)
    spread, deviation = (upper - lower) / 1.349, x.std(0)
    # An entry that mostly has one value has no quartiles, and its rounding is no spread.
    scale = np.where(spread > 0, spread, deviation)
    scale = np.maximum(scale, 1e-5 * np.abs(center))
    return center, np.where(deviation > 0, scale, 1.0)


def _units(low: np.ndarray, high: np.ndarray, tenths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    least = 0.1 * (high - low)
    below = np.where(high > low, np.maximum(tenths[0] - low, least), _CONSTANT)
    return below, np.where(high > low, np.maximum(high - tenths[1], least), _CONSTANT)


def _held_out_excess(y: np.ndarray, tenths: np.ndarray) -> np.ndarray:
    """The excess of each row over the ranges of the rows of other folds, which are shuffled."""
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
    """Examples, their spacing, and the distances of rows from examples other than themselves."""
    y = y[:_ROWS, :: -(-y.shape[1] // _ENTRIES)]
    n, size = y.shape
    k = min(n, _EXAMPLES, max(64, _STORED // size))
    squares = (y**2).sum(1)[:, None] - 2 * y @ y[:k].T + (y[:k] ** 2).sum(1)
    squares[np.arange(k), np.arange(k)] = np.inf
    distances = np.sqrt(np.maximum(squares, 0) / size)
    spacing = np.sort(distances[:k], 1)[:, min(2, k - 2)]
    # Examples of few values, such as counts, may equal their neighbors.
    spacing = np.maximum(spacing, 0.5 * np.median(spacing))
    spacing = np.where(spacing > 0, spacing, 1e-2)
    return y[:k], spacing, (distances / spacing).min(1)
