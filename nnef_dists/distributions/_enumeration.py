"""Families with finite supports, whose A and mu are sums over all points."""

from typing import ClassVar, final

import equinox as eqx
import paramax
from jaxtyping import Array, Float

from nnef_dists._checks import check_instance
from nnef_dists.distributions._base import AbstractTractableFamily
from nnef_dists.distributions._sampler import default_sampler
from nnef_dists.families import ExponentialFamily
from nnef_dists.sampling import (
    AbstractSampler,
    Monomials,
    StatesTable,
    states_table,
    sum_states,
)


@final
class Enumeration(AbstractTractableFamily):
    """A family with a finite support, whose log-partition and mean are sums over all its points.

        A(eta) = log sum_x h(x) exp(eta . T(x)),    mu(eta) = E[T | eta]

    No training is needed, and sums are exact. They run in double precision, or in the dtype of eta
    inside compiled programs. Points with equal T and h are one cell of a table, which is computed
    once for all etas.

    A table has at most 2^20 cells and 2^24 numbers. With more cells, sums are fast transforms of
    all probabilities if T is a polynomial in at most 22 two-valued sites, with h = 1. Its products
    may have at most four sites, and at most 1024 may occur. Otherwise, each call passes over all
    points.

    Example:
        `q = nd.Enumeration(nd.families.Ising((4, 4)))`, then `q.mean(eta)`, `q.entropy(eta)`.

    Args:
        family: An exponential family with a finite support of at most 2^24 points: `Spins`,
            `Bits`, `Categories`, or `Counts` with an upper bound.
        sampler: The sampler that `sample` uses. Defaults to `EnumerationSampler()`, or
            `SummationSampler()` for counts.
        strict: Whether an invalid eta raises inside compiled programs too.

    Raises:
        ValueError: If the support is continuous or has too many points, or T is not finite on it.
    """

    family: ExponentialFamily = eqx.field(static=True)
    table: paramax.NonTrainable[StatesTable | Monomials | None]
    sampler: AbstractSampler
    strict: bool = eqx.field(static=True)
    _in_double: ClassVar[bool] = True

    def __init__(
        self,
        family: ExponentialFamily,
        *,
        sampler: AbstractSampler | None = None,
        strict: bool = False,
    ):
        check_instance(family, ExponentialFamily, "family")
        self.table = paramax.NonTrainable(states_table(family))
        self.family, self.strict = family, strict
        self.sampler = default_sampler(family) if sampler is None else sampler

    def _potential_and_mean(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, " eta_dim"]]:
        found = sum_states(self.family, eta, paramax.unwrap(self.table))
        return found.log_partition, found.mean

    def _potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        return self._potential_and_mean(eta)[0]

    def _mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        return self._potential_and_mean(eta)[1]
