"""Bijections of the half-line, made of those of the line."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection


@final
class RayTransform(AbstractBijection):
    """An increasing bijection of the line, moved so that it keeps the origin.

        T(r) = f(r) - f(0)

    So r >= 0 stays r >= 0, and a radius stays one.

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
        y, log_det = transform(jnp.stack([x, jnp.zeros_like(x)]))
        return y[0] - y[1], log_det[0]

    def inverse_and_log_det(self, y: Any, condition: Any = None):
        """Returns f^-1(y + f(0)), and its log-slope."""
        origin = self.bijection.transform(jnp.zeros_like(y), condition)
        return self.bijection.inverse_and_log_det(y + origin, condition)
