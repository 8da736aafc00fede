"""Families of counts, whose A and mu are sums."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._checks import check_concrete, check_instance
from nnef_dists.distributions._base import AbstractTractableFamily
from nnef_dists.distributions._sampler import default_sampler
from nnef_dists.families import ExponentialFamily
from nnef_dists.sampling import AbstractSampler, first_panels, sum_counts

# Largest error bound of valid sums, in nats and z units.
_MOST_ERROR = 1e-3


@final
class Summation(AbstractTractableFamily):
    """A family with the support `Counts`, whose log-partition and mean are sums over all counts.

        A(eta) = log sum_x h(x) exp(eta . T(x)),    mu(eta) = E[T | eta]

    No training is needed. Sums have few terms, even for millions of likely counts. Rules of 16
    nodes sum adaptive panels of 2^k counts, and the tail is bounded.

    A call outside of compiled programs sums in double precision, and is accurate to rounding.
    Inside compiled programs, sums are in the dtype of eta, whose rounding is part of the error
    bound. If the bound is above 1e-3 nats or z units, for example because the sum diverges, a call
    raises. Inside a compiled program, the result is NaN.

    All derivatives in eta differentiate the same sum at fixed nodes: the derivative of A is the
    mean, the derivative of the mean is the covariance, and so on to any order.

    Example:
        `q = nd.Summation(nd.families.ConwayMaxwellPoisson())`, then `q.mean(eta)`.

    Args:
        family: An exponential family with the support `Counts`.
        sampler: The sampler that `sample` uses. Defaults to `SummationSampler()`.
        strict: Whether an invalid eta raises inside compiled programs too.

    Raises:
        ValueError: If the support is not `Counts`, or T is not finite at the first counts.
    """

    family: ExponentialFamily = eqx.field(static=True)
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
        first_panels(family)
        self.family, self.strict = family, strict
        self.sampler = default_sampler(family) if sampler is None else sampler

    def _potential_and_mean(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, " eta_dim"]]:
        found = sum_counts(self.family, eta)
        is_exact = found.error <= _MOST_ERROR
        factor = jnp.where(is_exact, 1, jnp.nan).astype(eta.dtype)
        both = found.log_partition, found.mean
        return check_concrete(
            (factor * both[0], factor * both[1]),
            is_exact,
            f"Expected a sum over counts of {self.family!r} that converges to 1e-3",
            f"a larger error bound at {jax.lax.stop_gradient(eta)}",
            "If the sum diverges, correct natural_domain; nd.check_family tells. Large counts need "
            "float64 inside compiled programs.",
        )

    def _potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        return self._potential_and_mean(eta)[0]

    def _mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        return self._potential_and_mean(eta)[1]

    def _accuracy(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        error = sum_counts(self.family, eta).error
        return jnp.where(error <= _MOST_ERROR, error, jnp.inf)
