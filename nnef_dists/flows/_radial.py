"""Flows that move points along rays."""

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, ArrayLike, Float

from nnef_dists._ranges import check_integer, check_range
from nnef_dists.flows._analytic import BoundedScale, Wrapped
from nnef_dists.flows._conditioned import (
    Conditioner,
    Constructor,
    check_conditioner,
    split_parameters,
)
from nnef_dists.flows._ray import RayTransform

# Largest scale. The smallest is its reciprocal.
_LARGEST_SCALE = 20.0


@final
class Radial(AbstractBijection):
    """A bijection that moves points along rays from a center, equally in all directions.

        y = center + scale * v T(|v|) / |v|,    v = (x - center) / scale
        log |det| = log T'(r) + (d - 1) log(T(r) / r),    r = |v|

    with T(r) = f(r) - f(0) for a bijection f of the line.

    Args:
        bijection: Increasing bijection f, of shape `()`.
        center: Start of the rays, `(d,)`, d >= 1, trainable.
        scale: Unit of length of f, `()` or `(d,)`, between 1/20 and 20, trainable. Defaults to 1.

    Raises:
        ValueError: If `bijection` is conditional, an argument has another shape, or a concrete
            entry of `center` or `scale` is out of bounds. If traced, the result is NaN.

    Reference:
        Rezende and Mohamed, Variational inference with normalizing flows (2015), section 4.1, for
        radial flows.
    """

    bijection: AbstractBijection
    center: Float[Array, " d"]
    scale: Wrapped
    shape: tuple[int, ...] = eqx.field(static=True)
    cond_shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self, bijection: AbstractBijection, center: Float[ArrayLike, " d"], scale: ArrayLike = 1.0
    ):
        if bijection.cond_shape is not None:
            raise ValueError(
                f"Expected an unconditional bijection; got one with cond_shape "
                f"{bijection.cond_shape} (RadialConditional takes conditions)"
            )
        self.bijection = RayTransform(bijection)
        self.center, self.scale = _center_and_scale(center, scale)
        self.shape, self.cond_shape = self.center.shape, None

    def transform_and_log_det(self, x: Any, condition: Any = None):
        """Returns y `(d,)` and the log-determinant."""
        v = (x - self.center) / self.scale
        moved, log_det = _along_ray(self.bijection.transform_and_log_det, v, _radius(v))
        return self.center + self.scale * moved, log_det

    def inverse_and_log_det(self, y: Any, condition: Any = None):
        """Returns x `(d,)` and the log-determinant of the inverse."""
        v = (y - self.center) / self.scale
        moved, log_det = _along_ray(self.bijection.inverse_and_log_det, v, _radius(v))
        return self.center + self.scale * moved, log_det


@final
class RadialConditional(AbstractBijection):
    """A bijection that moves points along rays from a center, differently in each direction.

        y = center + scale * v T(r; u) / r,    v = (x - center) / scale,  r = |v|,  u = v / r
        log |det| = log T'(r; u) + (d - 1) log(T(r; u) / r)

    with T(r; u) = f(r) - f(0) for a bijection f of the line. The parameters of f are trainable
    parameters plus the output of a conditioner, which is a function of the direction u. The
    direction itself does not change, so the determinant has the form of `Radial`.

    Args:
        bijection: Increasing bijection f, of shape `()`. For a deep one, use
            `flowjax.bijections.Scan` of a stack.
        conditioner: Function from the unit vector u, `(d,)`, followed by the condition if any, to
            offsets of the parameters, `(conditioner_size(bijection),)`. At the center u is 0.
        center: Start of the rays, `(d,)`, d >= 1, trainable.
        scale: Unit of length of f, `()` or `(d,)`, between 1/20 and 20, trainable. Defaults to 1.
        cond_dim: Size of the condition, at least 1. Defaults to None, for no condition.

    Raises:
        ValueError: If `bijection` is conditional, an argument or the output of `conditioner` has
            another shape, or `cond_dim` is below 1. Also if a concrete entry of `center` or
            `scale` is out of bounds. If traced, the result is NaN.

    Example:
        ```python
        make = lambda key: nd.flows.CubicConjugation.random(key, depth=64)
        stack = flowjax.bijections.Scan(eqx.filter_vmap(make)(jax.random.split(key, 64)))
        conditioner = nd.flows.DirectionConditioner(
            nd.flows.FourierFeatures(7), nd.flows.conditioner_size(stack), key=key
        )
        radial = nd.flows.RadialConditional(stack, conditioner, center=jnp.zeros(2))
        ```
    """

    parameters: Float[Array, " k"]
    conditioner: Conditioner
    center: Float[Array, " d"]
    scale: Wrapped
    constructor: Constructor = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    cond_shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        bijection: AbstractBijection,
        conditioner: Conditioner,
        center: Float[ArrayLike, " d"],
        scale: ArrayLike = 1.0,
        *,
        cond_dim: int | None = None,
    ):
        self.parameters, self.constructor = split_parameters(RayTransform(bijection))
        self.conditioner = conditioner
        self.center, self.scale = _center_and_scale(center, scale)
        self.shape = self.center.shape
        cond_dim = None if cond_dim is None else check_integer("cond_dim", cond_dim, 1)
        self.cond_shape = None if cond_dim is None else (cond_dim,)
        check_conditioner(conditioner, self.center.size + (cond_dim or 0), self.parameters)

    def transform_and_log_det(self, x: Any, condition: Any = None):
        """Returns y `(d,)` and the log-determinant."""
        v = (x - self.center) / self.scale
        r = _radius(v)
        moved, log_det = _along_ray(self._ray(v / r, condition).transform_and_log_det, v, r)
        return self.center + self.scale * moved, log_det

    def inverse_and_log_det(self, y: Any, condition: Any = None):
        """Returns x `(d,)` and the log-determinant of the inverse."""
        v = (y - self.center) / self.scale
        r = _radius(v)
        moved, log_det = _along_ray(self._ray(v / r, condition).inverse_and_log_det, v, r)
        return self.center + self.scale * moved, log_det

    def _ray(self, u: Float[Array, " d"], condition: Array | None) -> AbstractBijection:
        inputs = u if condition is None else jnp.concatenate([u, condition])
        return self.constructor(self.parameters + self.conditioner(inputs))


def _center_and_scale(center: ArrayLike, scale: ArrayLike) -> tuple[Array, BoundedScale]:
    # The arguments are checked before the conversion to arrays, which may be traced.
    center = jnp.asarray(check_range("center", center), float)
    if center.ndim != 1 or center.size == 0:
        raise ValueError(f"Expected center of shape (d,), d >= 1; got {center.shape}")
    if jnp.shape(scale) not in ((), center.shape):
        raise ValueError(f"Expected scale of shape () or {center.shape}; got {jnp.shape(scale)}")
    check_range("scale", scale, 1 / _LARGEST_SCALE, _LARGEST_SCALE)
    scale = jnp.broadcast_to(jnp.asarray(scale, float), center.shape)
    return center, BoundedScale(scale, _LARGEST_SCALE, name="scale")


def _radius(v: Float[Array, " d"]) -> Float[Array, ""]:
    """Returns |v|, or a negligible positive number at the center, for finite gradients."""
    square = jnp.sum(v**2)
    # The square of the reciprocal does not overflow.
    return jnp.sqrt(jnp.maximum(square, float(jnp.finfo(v.dtype).tiny) ** 0.5))


def _along_ray(ray, v: Float[Array, " d"], r: Float[Array, ""]):
    """Returns v T(r) / r and the log-determinant, with T and its log-slope from `ray`."""
    moved, log_slope = ray(r)
    ratio = moved / r
    return v * ratio, log_slope + (v.size - 1) * jnp.log(ratio)
