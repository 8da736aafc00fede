"""A base measure as one more statistic."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._checks import check_instance
from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._constraints import IntervalConstraint
from nnef_dists.families._domain import ProductDomain
from nnef_dists.families._support import Support

_NAME = "log_h"


@final
class BaseMeasureAsStatistic(ExponentialFamily):
    """A family whose statistics are those of another, and the log of its base measure.

        log p(x | eta, t) = eta . T(x) + t log h(x) - A(eta, t),    low < t < high

    At t = 1 it is the other family. Its own base measure is 1, so that E[log h], which the entropy
    needs, is a moment like any other.

    Args:
        family: A family with a base measure, whose natural domain is a product.
        low: The lower bound of t, below 1. The density has to be normalizable for all t within the
            bounds, with every eta of the family's domain: no family can tell that of itself.
        high: The upper bound of t, above 1.

    Raises:
        ValueError: If the family has no base measure, its domain couples statistics, it has a
            statistic called `log_h`, or the bounds do not enclose 1.
    """

    family: ExponentialFamily = eqx.field(static=True)
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)

    def __init__(self, family: ExponentialFamily, low: float, high: float):
        check_instance(family, ExponentialFamily, "family")
        if family.has_unit_base_measure:
            raise ValueError(f"Expected a family with a base measure; {family!r} has none")
        if not isinstance(family.natural_domain, ProductDomain):
            raise ValueError(
                "Expected a family whose natural domain is a product; got "
                f"{type(family.natural_domain).__name__} of {family!r}"
            )
        if _NAME in family.stat_shapes:
            raise ValueError(f"Expected no statistic called {_NAME!r}; {family!r} has one")
        if not low < 1 < high:
            raise ValueError(f"Expected low < 1 < high; got ({low}, {high})")
        self.family, self.low, self.high = family, float(low), float(high)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The family's."""
        return self.family.x_shape

    @property
    def natural_domain(self) -> ProductDomain:
        """The family's, times the interval of t."""
        domain = self.family.natural_domain
        assert isinstance(domain, ProductDomain)
        return ProductDomain({**domain.constraints, _NAME: IntervalConstraint(self.low, self.high)})

    @property
    def support(self) -> Support:
        """The family's."""
        return self.family.support

    @property
    def is_smooth(self) -> bool:
        """Whether the family's log-density is differentiable everywhere."""
        return self.family.is_smooth

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns the family's statistics, and log h; 0 for that where h is 0."""
        log_h = self.family.log_base_measure(x)
        return {**self.family.compute_stats(x), _NAME: jnp.where(jnp.isneginf(log_h), 0, log_h)}

    def log_base_measure(self, x: Array) -> Float[Array, ""]:
        """Returns 0, and -inf where the family's base measure is 0."""
        log_h = self.family.log_base_measure(x)
        return jnp.where(jnp.isneginf(log_h), log_h, jnp.zeros_like(log_h))

    @property
    def has_unit_base_measure(self) -> bool:
        """True: h is 1 on the support."""
        return True

    def to_natural(self, eta: Float[Array, " n"]) -> Float[Array, " eta_dim"]:
        """Returns the eta, with t = 1, of the family's own eta."""
        eta = self.family.check_eta(eta)
        return jnp.append(eta, jnp.ones((), eta.dtype))
