"""Deterministic parameters."""

from typing import Any, final

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ._parameter import AbstractAbsoluteMoment, AbstractParameter


@final
class DeterministicParameter(AbstractParameter, AbstractAbsoluteMoment):
    """A point mass: a trainable array whose every draw is the mean.

    Its entropy is zero by convention, since a point mass has no differential entropy.

    Args:
        mean: Values, of any shape.
    """

    mean: Float[Array, "..."]

    def __init__(self, mean: Float[Array, "..."]):
        self.mean = mean

    @classmethod
    def from_value(
        cls, value: Float[Array, "..."], init_raw_stdv: Any, **options: Any
    ) -> "DeterministicParameter":
        """Builds the point mass at `value`. The initial scale and the options are ignored."""
        del init_raw_stdv, options
        return cls(value)

    @property
    def stdv(self) -> Float[Array, "..."]:
        """Zeros."""
        return jnp.zeros_like(self.mean)

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """Returns the mean."""
        del key
        return self.mean

    def entropy(self) -> Float[Array, ""]:
        """Returns zero."""
        return jnp.zeros((), self.dtype)

    def mean_distance(self, center: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns `|mean - center|`."""
        return jnp.abs(self.mean - center)
