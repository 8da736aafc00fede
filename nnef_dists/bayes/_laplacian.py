"""Laplace parameters."""

import math
from typing import final

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._parameter import (
    AbstractAbsoluteMoment,
    AbstractElementwiseParameter,
    AbstractParameter,
    AbstractPriorLaw,
    check_scale,
    mean_and_raw,
)
from ._positivity import AbstractPositivity, SquaredPositivity


@final
class LaplacianParameter(AbstractElementwiseParameter, AbstractPriorLaw, AbstractAbsoluteMoment):
    """Independent Laplace variables: density `exp(-|x - mean| / scale) / (2 scale)` in every entry.

    The scale b is `positivity(raw_scale)`, and the standard deviation is `sqrt(2) b`.

    Args:
        mean: Means, of any shape.
        raw_scale: Unconstrained scales, of the mean's shape.
        positivity: Transform from `raw_scale` to `scale`. Defaults to `raw_scale**2 + 1e-4`.
    """

    mean: Float[Array, "*shape"]
    raw_scale: Float[Array, "*shape"]
    positivity: AbstractPositivity

    def __init__(
        self,
        mean: Float[Array, "*shape"],
        raw_scale: Float[Array, "*shape"],
        positivity: AbstractPositivity | None = None,
    ):
        self.mean = mean
        self.raw_scale = raw_scale
        self.positivity = SquaredPositivity() if positivity is None else positivity

    def __check_init__(self):
        check_scale(self, "raw_scale", self.raw_scale, self.positivity)

    @classmethod
    def from_scale(
        cls,
        mean: ArrayLike,
        scale: ArrayLike,
        positivity: AbstractPositivity | None = None,
    ) -> "LaplacianParameter":
        """Builds a parameter with a given scale b, broadcast to the mean's shape.

        Raises:
            ValueError: If `scale` is negative, below the floor of `positivity` or of a shape
                that does not broadcast.
        """
        positivity = SquaredPositivity() if positivity is None else positivity
        center, raw = mean_and_raw(mean, "scale", scale, positivity)
        return cls(center, raw, positivity)

    @property
    def scale(self) -> Float[Array, "..."]:
        """The scale b of every entry."""
        return self.positivity.forward(self.raw_scale)

    @property
    def stdv(self) -> Float[Array, "..."]:
        """The standard deviation of every entry: `sqrt(2) b`."""
        return math.sqrt(2.0) * self.scale

    @staticmethod
    def standard_noise(
        u: Float[Array, "*shape"], v: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """Returns the Laplace quantiles `-sign(u) log(1 - |u|)`, finite because |u| < 1."""
        first, second = (-jnp.sign(w) * jnp.log1p(-jnp.abs(w)) for w in (u, v))
        return first, second

    def reparameterize(self, noise: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns `mean + scale * noise`."""
        return self.mean + self.scale * noise

    def entropies(self) -> Float[Array, "..."]:
        """Returns `log(2 e scale)` for every entry, in nats."""
        return jnp.log(self.scale) + math.log(2 * math.e)

    def log_probs(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the Laplace log-density of every entry, in nats."""
        return -jnp.abs(value - self.mean) / self.scale - jnp.log(2 * self.scale)

    def cross_entropies(self, q: AbstractParameter) -> Float[Array, "..."]:
        """Returns the cross-entropies of a `q` with a closed-form mean distance to a point.

        Raises:
            ValueError: If `q` is not an `AbstractAbsoluteMoment`.
        """
        if not isinstance(q, AbstractAbsoluteMoment):
            raise ValueError(
                "Expected a distribution with a known mean distance (AbstractAbsoluteMoment) "
                f"against a Laplace prior; got {type(q).__name__}. Estimate it from log_prior "
                "instead."
            )
        return q.mean_distance(self.mean) / self.scale + jnp.log(2 * self.scale)

    def mean_distance(self, center: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns `E|x - center| = |d| + scale exp(-|d| / scale)` with `d = mean - center`."""
        distance = jnp.abs(self.mean - center)
        return distance + self.scale * jnp.exp(-distance / self.scale)
