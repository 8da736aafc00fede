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

# The largest scale; the smallest is its reciprocal.
_LARGEST_SCALE = 20.0


@final
class Radial(AbstractBijection):
    """Moves points along rays from a center, all directions alike.

        y = center + scale * v T(|v|) / |v|,    v = (x - center) / scale
        log |det| = log T'(r) + (d - 1) log(T(r) / r),    r = |v|

    with T(r) = f(r) - f(0) of a bijection f of the line.

    Args:
        bijection: The increasing bijection f, of shape `()`.
        center: Where the rays start, `(d,)`, d >= 1; trainable.
        scale: The length that is 1 in the units of f, `()` or `(d,)`, within 1/20 and 20;
            trainable.

    Raises:
        ValueError: If the bijection has another shape or is conditional, if center or scale has
            another shape, or if a concrete entry of them is out of bounds. A traced one gives NaN.

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
    """Moves points along rays from a center, each direction in its own way.

        y = center + scale * v T(r; u) / r,    v = (x - center) / scale,  r = |v|,  u = v / r
        log |det| = log T'(r; u) + (d - 1) log(T(r; u) / r)

    with T(r; u) = f(r) - f(0) of a bijection f of the line whose parameters are those that it was
    made with (trainable) plus what a conditioner says of the direction. The direction itself stays,
    so the determinant is that of `Radial`.

    Args:
        bijection: The increasing bijection f, of shape `()`; a deep one is
            `flowjax.bijections.Scan` of a stack.
        conditioner: From the unit vector u, `(d,)`, followed by the condition if there is one, to
            offsets of the parameters, `(conditioner_size(bijection),)`. At the center u is 0.
        center: Where the rays start, `(d,)`, d >= 1; trainable.
        scale: The length that is 1 in the units of f, `()` or `(d,)`, within 1/20 and 20;
            trainable.
        cond_dim: The size of a condition; None is without.

    Raises:
        ValueError: If f is conditional or of another shape, if center or scale has another shape or
            a concrete entry out of bounds (a traced one gives NaN), if `cond_dim` is below 1, or if
            the conditioner's output has another size.

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
    # Checked before they are arrays, which may be traced where the numbers are not.
    center = jnp.asarray(check_range("center", center), float)
    if center.ndim != 1 or center.size == 0:
        raise ValueError(f"Expected center of shape (d,), d >= 1; got {center.shape}")
    if jnp.shape(scale) not in ((), center.shape):
        raise ValueError(f"Expected scale of shape () or {center.shape}; got {jnp.shape(scale)}")
    check_range("scale", scale, 1 / _LARGEST_SCALE, _LARGEST_SCALE)
    scale = jnp.broadcast_to(jnp.asarray(scale, float), center.shape)
    return center, BoundedScale(scale, _LARGEST_SCALE, name="scale")


def _radius(v: Float[Array, " d"]) -> Float[Array, ""]:
    """Returns |v|, at the center a number so small that it does not matter: finite gradients."""
    square = jnp.sum(v**2)
    # Its reciprocal can be squared.
    return jnp.sqrt(jnp.maximum(square, float(jnp.finfo(v.dtype).tiny) ** 0.5))


def _along_ray(ray, v: Float[Array, " d"], r: Float[Array, ""]):
    """Returns v T(r) / r and the log-determinant, for T and its log-slope as `ray` gives them."""
    moved, log_slope = ray(r)
    ratio = moved / r
    return v * ratio, log_slope + (v.size - 1) * jnp.log(ratio)
