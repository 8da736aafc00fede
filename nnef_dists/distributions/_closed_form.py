"""Families with closed forms for A and mu."""

from typing import final

import equinox as eqx
from jaxtyping import Array, Float

from nnef_dists.distributions._base import AbstractTractableFamily
from nnef_dists.distributions._sampler import default_sampler
from nnef_dists.families import AbstractNamedFamily
from nnef_dists.sampling import AbstractSampler


@final
class ClosedForm(AbstractTractableFamily):
    """A family with closed forms for its log-partition and mean, such as `Gamma`.

    Example:
        `q = nd.ClosedForm(nd.Gamma())`, then `q.entropy(eta)`, `q.kl(eta, other)`.

    Args:
        family: The exponential family.
        sampler: The sampler that `sample` uses. Defaults to `DirectSampler()` if the family has a
            sampling algorithm. For other discrete x, it defaults to a sampler by sums, or to
            `GibbsSampler()` if there are too many points. For other continuous x, it defaults to
            `QuadratureSampler()` in one dimension, and to `HMCSampler()` in more.
        strict: Whether an invalid eta raises inside compiled programs too.

    Raises:
        ValueError: If `family` is not an `AbstractNamedFamily`.
    """

    family: AbstractNamedFamily = eqx.field(static=True)
    sampler: AbstractSampler
    strict: bool = eqx.field(static=True)

    def __init__(
        self,
        family: AbstractNamedFamily,
        *,
        sampler: AbstractSampler | None = None,
        strict: bool = False,
    ):
        if not isinstance(family, AbstractNamedFamily):
            raise ValueError(
                f"Expected an AbstractNamedFamily, with log_partition and mean; got {family!r}. "
                "Use Quadrature(family) in one or two dimensions, and a trained "
                "AmortizedFamily(family, network) otherwise."
            )
        self.family, self.strict = family, strict
        self.sampler = default_sampler(family) if sampler is None else sampler

    def _potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        return self.family.log_partition(eta)

    def _mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        return self.family.mean(eta)
