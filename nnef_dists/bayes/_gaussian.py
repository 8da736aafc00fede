"""Gaussian parameters."""

import math
from typing import final

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from ._noise import normal_pair
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
class GaussianParameter(AbstractElementwiseParameter, AbstractPriorLaw, AbstractAbsoluteMoment):
    """Independent Gaussians: `N(mean, stdv**2)` in every entry, `stdv = positivity(raw_stdv)`.

    Sampling is reparameterized: `mean + stdv * eps` with standard normal `eps`.

    Args:
        mean: Means, of any shape.
        raw_stdv: Unconstrained standard deviations, of the mean's shape.
        positivity: Transform from `raw_stdv` to `stdv`. Defaults to `raw_stdv**2 + 1e-4`.
    """

    mean: Float[Array, "*shape"]
    raw_stdv: Float[Array, "*shape"]
    positivity: AbstractPositivity

    def __init__(
        self,
        mean: Float[Array, "*shape"],
        raw_stdv: Float[Array, "*shape"],
        positivity: AbstractPositivity | None = None,
    ):
        self.mean = mean
        self.raw_stdv = raw_stdv
        self.positivity = SquaredPositivity() if positivity is None else positivity

    def __check_init__(self):
        check_scale(self, "raw_stdv", self.raw_stdv, self.positivity)

    @classmethod
    def from_stdv(
        cls,
        mean: ArrayLike,
        stdv: ArrayLike,
        positivity: AbstractPositivity | None = None,
    ) -> "GaussianParameter":
        """Builds a parameter with a given standard deviation, broadcast to the mean's shape.

        `GaussianParameter.from_stdv(0.0, 1.0)` is the standard normal prior.

        Raises:
            ValueError: If `stdv` is negative, below the floor of `positivity` or of a shape
                that does not broadcast.
        """
        positivity = SquaredPositivity() if positivity is None else positivity
        center, raw = mean_and_raw(mean, "stdv", stdv, positivity)
        return cls(center, raw, positivity)

    @property
    def stdv(self) -> Float[Array, "..."]:
        """The standard deviation of every entry."""
        return self.positivity.forward(self.raw_stdv)

    @property
    def scale(self) -> Float[Array, "..."]:
        """The scale of every entry: the standard deviation."""
        return self.stdv

    @staticmethod
    def standard_noise(
        u: Float[Array, "*shape"], v: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """Returns two standard normals."""
        return normal_pair(u, v)

    def reparameterize(self, noise: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns `mean + stdv * noise`."""
        return self.mean + self.stdv * noise

    def entropies(self) -> Float[Array, "..."]:
        """Returns `log(stdv) + log(2 pi e) / 2` for every entry, in nats."""
        return jnp.log(self.stdv) + 0.5 * math.log(2 * math.pi * math.e)

    def log_probs(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the Gaussian log-density of every entry, in nats."""
        z = (value - self.mean) / self.stdv
        return -0.5 * z**2 - jnp.log(self.stdv) - 0.5 * math.log(2 * math.pi)

    def cross_entropies(self, q: AbstractParameter) -> Float[Array, "..."]:
        """Returns the cross-entropies of any `q`, which depend only on its mean and stdv."""
        squares = (q.stdv**2 + (q.mean - self.mean) ** 2) / self.stdv**2
        return 0.5 * squares + jnp.log(self.stdv) + 0.5 * math.log(2 * math.pi)

    def mean_distance(self, center: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns the mean of a folded normal, `E|x - center|`."""
        z = (self.mean - center) / self.stdv
        folded = math.sqrt(2 / math.pi) * jnp.exp(-0.5 * z**2)
        return self.stdv * (folded + z * jax.scipy.special.erf(z / math.sqrt(2.0)))
