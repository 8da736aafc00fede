"""A distribution as a NumPyro site. Only `Distribution.to_numpyro` imports this module."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from flowjax.bijections import AbstractBijection, Identity
from jaxtyping import Array, Bool
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform, biject_to

from nnef_dists.distributions._distribution import Distribution
from nnef_dists.families import (
    AbstractDiscreteSupport,
    ContinuousSupport,
    ExponentialFamily,
    continuous_support,
    support_point,
)


def as_numpyro(distribution: Distribution) -> dist.Distribution:
    """Returns the NumPyro distribution. See `Distribution.to_numpyro`."""
    return _Site(distribution)


class _Support(constraints.Constraint):
    """The support of a family: the points with finite unconstrained coordinates."""

    def __init__(self, family: ExponentialFamily):
        self.family = family

    @property
    def event_dim(self) -> int:
        return len(self.family.x_shape)

    def __call__(self, x: Array) -> Bool[Array, "*batch"]:
        support, shape = self.family.support, self.family.x_shape
        if isinstance(support, AbstractDiscreteSupport):
            return _over_batch(support.contains, x, shape)
        if not isinstance(support, AbstractBijection):
            # A map that is not one-to-one has no inverse to test with.
            return jnp.ones(x.shape[: x.ndim - len(shape)], bool)
        u = _over_batch(support.inverse, x, shape)
        axes = tuple(range(u.ndim - len(support.shape), u.ndim))
        return jnp.all(jnp.isfinite(u), axes)

    def feasible_like(self, prototype: Array) -> Array:
        x = support_point(self.family, jnp.zeros(self.family.support.shape, prototype.dtype))
        return jnp.broadcast_to(x, prototype.shape)

    @property
    def is_discrete(self) -> bool:
        return isinstance(self.family.support, AbstractDiscreteSupport)

    def tree_flatten(self) -> Any:
        return (), ((), {"family": self.family})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Support) and other.family == self.family

    def __hash__(self) -> int:
        return hash((_Support, self.family))


class _SupportTransform(Transform):
    """The map of unconstrained coordinates to the support."""

    def __init__(self, family: ExponentialFamily):
        self.family = family

    @property
    def domain(self) -> constraints.Constraint:
        return constraints.independent(constraints.real, len(self.family.support.shape))

    @property
    def codomain(self) -> constraints.Constraint:
        return _Support(self.family)

    # In NumPyro's notation, x are the coordinates and y is the point.
    def __call__(self, x: Any) -> Array:
        return _over_batch(self._continuous.transform, x, self.family.support.shape)

    def _inverse(self, y: Any) -> Array:
        return _over_batch(self._bijection.inverse, y, self.family.x_shape)

    def log_abs_det_jacobian(self, x: Any, y: Any, intermediates: Any = None) -> Array:
        def log_det(u):
            return self._continuous.transform_and_log_det(u)[1]

        return _over_batch(log_det, x, self.family.support.shape)

    def forward_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[: len(shape) - len(self.family.support.shape)] + self.family.x_shape

    def inverse_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[: len(shape) - len(self.family.x_shape)] + self.family.support.shape

    def tree_flatten(self) -> Any:
        return (), ((), {"family": self.family})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SupportTransform) and other.family == self.family

    @property
    def _continuous(self) -> ContinuousSupport:
        return continuous_support(self.family, "a latent site")

    @property
    def _bijection(self) -> AbstractBijection:
        support = self.family.support
        if not isinstance(support, AbstractBijection):
            raise ValueError(
                "Expected a support that is a flowjax bijection for a latent site; "
                f"{self.family!r} has {support!r}. Observe the site, or add q.log_prob by "
                "numpyro.factor."
            )
        return support


@biject_to.register(_Support)
def _to_support(constraint: _Support) -> _SupportTransform:
    transform = _SupportTransform(constraint.family)
    _ = transform._bijection  # Raises if there is no bijection.
    return transform


class _Site(dist.Distribution):
    """The distribution with NumPyro's methods."""

    pytree_data_fields = ("distribution",)

    def __init__(self, distribution: Distribution, *, validate_args: bool | None = None):
        self.distribution = distribution
        shape = distribution.q.family.x_shape
        super().__init__((), shape, validate_args=validate_args)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:  # pyright: ignore[reportIncompatibleVariableOverride]
        family = self.distribution.q.family
        if isinstance(family.support, Identity):
            return constraints.independent(constraints.real, len(family.x_shape))
        return _Support(family)

    def sample(self, key: Any, sample_shape: tuple[int, ...] = ()) -> Array:
        return self.distribution.sample(key, sample_shape)

    def log_prob(self, value: Any, intermediates: Any = None) -> Array:
        return _over_batch(self.distribution.log_prob, jnp.asarray(value), self.event_shape)


def _over_batch(function: Any, value: Array, shape: tuple[int, ...]) -> Array:
    """Applies a function of one array of a given shape over all leading axes."""
    batch = value.shape[: value.ndim - len(shape)]
    flat = value.reshape(math.prod(batch), *shape)
    out = jax.vmap(function)(flat)
    return out.reshape(*batch, *out.shape[1:])
