"""Boxes as the support of parameters, by a bijection or by truncated distributions."""

from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from flowjax.bijections import AbstractBijection
from jax.core import Tracer
from jax.scipy.special import ndtr, ndtri
from jax.scipy.stats import norm
from jaxtyping import Array, ArrayLike, Float

from nnef_dists._ranges import check_range


class _AbstractBox(AbstractBijection):
    low: eqx.AbstractVar[paramax.NonTrainable[Array]]
    high: eqx.AbstractVar[paramax.NonTrainable[Array]]

    cond_shape: ClassVar[None] = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of theta and of u, `(d,)`."""
        return paramax.unwrap(self.low).shape

    def ends(self, dtype: Any) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
        """Returns the lower and upper ends as arrays of a dtype."""
        low, high = paramax.unwrap((self.low, self.high))
        return low.astype(dtype), high.astype(dtype)


@final
class BoxSupport(_AbstractBox):
    """The box [low, high], the image of R^d under the normal CDF.

        theta = low + (high - low) Phi(u)

    A uniform distribution on the box is a standard normal distribution of u. A density that does
    not vanish at an edge has Gaussian tails in u. With logits, its tails would be exponential.

    Args:
        low: Lower ends, `(d,)`.
        high: Upper ends, `(d,)`, each above the lower end.

    Raises:
        ValueError: If the shapes differ, a concrete end is not finite, or `low` is not below
            `high`. Traced ends that are out of range give NaN.
    """

    low: paramax.NonTrainable[Array]
    high: paramax.NonTrainable[Array]

    def __init__(self, low: Float[Array, " d"], high: Float[Array, " d"]):
        low, high = box_ends(check_range("low", low), check_range("high", high))
        self.low, self.high = paramax.NonTrainable(low), paramax.NonTrainable(high)

    def transform_and_log_det(
        self, x: ArrayLike, condition: ArrayLike | None = None
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """Returns theta at unconstrained coordinates, and the log Jacobian determinant, in nats."""
        x = jnp.asarray(x)
        low, high = self.ends(x.dtype)
        theta = jnp.clip(low + (high - low) * ndtr(x), low, high)
        return theta, jnp.sum(norm.logpdf(x) + jnp.log(high - low))

    def inverse_and_log_det(
        self, y: ArrayLike, condition: ArrayLike | None = None
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """Returns the unconstrained coordinates of theta, and the log Jacobian determinant.

        At the ends, u is finite: the relative position is clipped to the open interval (0, 1). An
        entry outside the box is NaN, and so is the determinant.
        """
        y = jnp.asarray(y)
        low, high = self.ends(y.dtype)
        fraction = (y - low) / (high - low)
        tiny = jnp.finfo(y.dtype).tiny
        inside = jnp.clip(fraction, tiny, 1 - jnp.finfo(y.dtype).epsneg)
        u = jnp.where((y >= low) & (y <= high), ndtri(inside), jnp.nan)
        return u, -jnp.sum(norm.logpdf(u) + jnp.log(high - low))


@final
class TruncationBox(_AbstractBox):
    """The box [low, high] without a change of coordinates: the identity inside, NaN outside.

    Heads with `bounds` use this support. Their distributions are truncated to the box, so theta
    needs no bijection.

    Args:
        low: Lower ends, `(d,)`. Minus infinity means no bound.
        high: Upper ends, `(d,)`, each above the lower end. Infinity means no bound.

    Raises:
        ValueError: If the shapes differ, a concrete end is NaN, or `low` is not below `high`.
    """

    low: paramax.NonTrainable[Array]
    high: paramax.NonTrainable[Array]

    def __init__(self, low: Float[ArrayLike, " d"], high: Float[ArrayLike, " d"]):
        low, high = (
            check_range(name, end, closed="both") for name, end in (("low", low), ("high", high))
        )
        low, high = box_ends(low, high)
        self.low, self.high = paramax.NonTrainable(low), paramax.NonTrainable(high)

    def transform_and_log_det(self, x: Any, condition: Any = None):
        """Returns the point, clipped to the box against rounding, and 0."""
        low, high = self.ends(x.dtype)
        return jnp.clip(x, low, high), jnp.zeros((), x.dtype)

    def inverse_and_log_det(self, y: Any, condition: Any = None):
        """Returns the point, or NaN outside the box, and 0."""
        low, high = self.ends(y.dtype)
        return jnp.where((y >= low) & (y <= high), y, jnp.nan), jnp.zeros((), y.dtype)


def bounded_support(
    support: AbstractBijection | None, bounds: tuple[ArrayLike, ArrayLike] | None
) -> AbstractBijection | None:
    """Returns the support of a head that takes either `support` or `bounds`.

    Raises:
        ValueError: If both are given, or the bounds are out of range.
    """
    if bounds is None:
        return support
    if support is not None:
        raise ValueError(
            "Expected either support (unconstrained coordinates) or bounds (truncation); got both"
        )
    if len(bounds) != 2:
        raise ValueError(f"Expected bounds (low, high); got {len(bounds)} entries")
    return TruncationBox(*bounds)


def box_ends(low: Any, high: Any) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """Returns the ends of a box as arrays of one floating dtype.

    Traced ends with low >= high are NaN.

    Raises:
        ValueError: If the shapes differ, or `low` is not below `high` for concrete ends.
    """
    ends = [jnp.asarray(end, float) for end in (low, high)]
    if ends[0].ndim != 1 or ends[0].shape != ends[1].shape:
        raise ValueError(
            f"Expected low and high of one shape (d,); got {ends[0].shape} and {ends[1].shape}"
        )
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((low, high))):
        in_order = ends[0] < ends[1]
        low, high = (jnp.where(in_order, end, jnp.nan) for end in ends)
        return low, high
    in_order = np.asarray(low) < np.asarray(high)
    if not in_order.all():
        raise ValueError(
            f"Expected low < high in each dimension; got {np.asarray(low)} and {np.asarray(high)}"
        )
    return ends[0], ends[1]
