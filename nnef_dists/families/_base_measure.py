"""Base measures as additional statistics."""

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
    """A family with the statistics of another family and the log of its base measure.

        log p(x | eta, t) = eta . T(x) + t log h(x) - A(eta, t),    low < t < high

    At t = 1 this is the other family. The base measure of the new family is 1. So E[log h], which
    the entropy needs, is an ordinary moment.

    Args:
        family: A family with a base measure, whose natural domain is a product.
        low: Lower bound of t, below 1. For all t within the bounds, the density must be
            normalizable at each eta of the family's domain. This is not checked.
        high: Upper bound of t, above 1.

    Raises:
        ValueError: If `family` has no base measure, a coupled domain or a statistic named `log_h`,
            or if the bounds do not enclose 1.
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
        """The shape of one point of the family."""
        return self.family.x_shape

    @property
    def natural_domain(self) -> ProductDomain:
        """The domain of the family times the interval of t."""
        domain = self.family.natural_domain
        assert isinstance(domain, ProductDomain)
        return ProductDomain({**domain.constraints, _NAME: IntervalConstraint(self.low, self.high)})

    @property
    def support(self) -> Support:
        """The support of the family."""
        return self.family.support

    @property
    def is_smooth(self) -> bool:
        """Whether the family's log-density is differentiable everywhere."""
        return self.family.is_smooth

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns the family's statistics and log h, which is replaced by 0 if h is 0."""
        log_h = self.family.log_base_measure(x)
        return {**self.family.compute_stats(x), _NAME: jnp.where(jnp.isneginf(log_h), 0, log_h)}

    def log_base_measure(self, x: Array) -> Float[Array, ""]:
        """Returns 0, or -inf if the family's base measure is 0."""
        log_h = self.family.log_base_measure(x)
        return jnp.where(jnp.isneginf(log_h), log_h, jnp.zeros_like(log_h))

    @property
    def has_unit_base_measure(self) -> bool:
        """True: h is 1 on the support."""
        return True

    def to_natural(self, eta: Float[Array, " n"]) -> Float[Array, " eta_dim"]:
        """Returns natural parameters of the family with t = 1 appended."""
        eta = self.family.check_eta(eta)
        return jnp.append(eta, jnp.ones((), eta.dtype))
