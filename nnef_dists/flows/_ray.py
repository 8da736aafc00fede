"""Bijections of the half-line, made of bijections of the line."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection


@final
class RayTransform(AbstractBijection):
    """An increasing bijection of the line, shifted so that the origin is a fixed point.

        T(r) = f(r) - f(0)

    So T maps r >= 0 onto r >= 0, and can act on a radius.

    Args:
        bijection: An increasing bijection of shape `()`.

    Raises:
        ValueError: If the bijection has another shape.
    """

    bijection: AbstractBijection
    shape: tuple[int, ...] = eqx.field(static=True)
    cond_shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, bijection: AbstractBijection):
        if bijection.shape != ():
            raise ValueError(f"Expected a bijection of shape (); got {bijection.shape}")
        self.bijection = bijection
        self.shape, self.cond_shape = (), bijection.cond_shape

    def transform_and_log_det(self, x: Any, condition: Any = None):
        """Returns f(x) - f(0) and log f'(x)."""
        transform = jax.vmap(lambda r: self.bijection.transform_and_log_det(r, condition))
        y, log_slope = transform(jnp.stack([x, jnp.zeros_like(x)]))
        return _keep_digits(y[0] - y[1], x, log_slope[0], log_slope[1]), log_slope[0]

    def inverse_and_log_det(self, y: Any, condition: Any = None):
        """Returns f^-1(y + f(0)), and its log-slope."""
        origin, at_origin = self.bijection.transform_and_log_det(jnp.zeros_like(y), condition)
        x, log_slope = self.bijection.inverse_and_log_det(y + origin, condition)
        return _keep_digits(x, y, log_slope, -at_origin), log_slope


def _keep_digits(moved, x, log_slope, log_slope_at_origin):
    """Returns `moved`, or x times the mean slope near the origin, where differences cancel."""
    slope = (jnp.exp(log_slope) + jnp.exp(log_slope_at_origin)) / 2
    near = jnp.abs(x) < jnp.cbrt(jnp.finfo(x.dtype).eps).astype(x.dtype)
    return jnp.where(near, x * slope, moved)
