"""Coordinates of theta and of x that are of order one."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Bool, Float

from nnef_dists.bayes import register_saveable
from nnef_dists.posterior._simulations import Simulations


@register_saveable
@final
class PosteriorCoordinates(eqx.Module):
    """Unconstrained coordinates of theta, and standardised observations; never trained.

        theta = support(u),    u = shift + scale z,    inputs(x) = (x - x_shift) / x_scale

    Shifts and scales are means and standard deviations over the simulations: of each entry of x, or
    with `by_channel` of each channel, its last axis, which an embedding may rely on.

    Args:
        data: Simulations.
        support: A flowjax bijection from R^d onto the support of theta; None is R^d itself.
        by_channel: Whether all entries of x in one channel share shift and scale.

    Attributes:
        support: The bijection, with non-trainable arrays; None is R^d itself.
        shift: Means of u, `(theta_dim,)`.
        scale: Standard deviations of u, `(theta_dim,)`.
        x_shift: Means of x.
        x_scale: Standard deviations of x.
        x_shape: The shape of one observation.

    Raises:
        ValueError: If there are fewer than two simulations, the support has another shape or is
            conditional, or some theta lies outside of it.
    """

    support: AbstractBijection | None
    shift: paramax.NonTrainable[Array]
    scale: paramax.NonTrainable[Array]
    x_shift: paramax.NonTrainable[Array]
    x_scale: paramax.NonTrainable[Array]
    x_shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        data: Simulations,
        support: AbstractBijection | None = None,
        *,
        by_channel: bool = False,
    ):
        shape = (data.theta_dim,)
        if support is not None and (support.shape != shape or support.cond_shape is not None):
            raise ValueError(
                f"Expected an unconditional support of shape {shape}; got shape {support.shape}, "
                f"condition {support.cond_shape}"
            )
        if len(data) < 2:
            raise ValueError(f"Expected at least two simulations; got {len(data)}")
        self.support = None if support is None else paramax.non_trainable(support)
        u = data.theta
        if self.support is not None:
            # A head may be made inside a compiled program; its data are known all the same.
            with jax.ensure_compile_time_eval():
                found = _inverse(self.support, jnp.asarray(u))
            u, log_det = (np.asarray(array) for array in found)
            outside = ~(np.isfinite(u).all(1) & np.isfinite(log_det))
            if outside.any():
                raise ValueError(
                    "Expected theta inside the support; got "
                    f"{data.theta[np.argmax(outside)]}, one of {outside.sum()}"
                )

        def moments(values, axes) -> tuple[paramax.NonTrainable[Array], ...]:
            values = np.asarray(values, np.float64)
            shift, scale = values.mean(axes), values.std(axes)
            # A constant stays unscaled.
            parts = shift, np.where(scale > 0, scale, 1.0)
            return tuple(paramax.NonTrainable(jnp.asarray(p, data.theta.dtype)) for p in parts)

        self.shift, self.scale = moments(u, 0)
        axes = tuple(range(data.x.ndim - 1)) if by_channel and data.x.ndim > 1 else 0
        self.x_shift, self.x_scale = moments(data.x, axes)
        self.x_shape = data.x_shape

    @property
    def theta_dim(self) -> int:
        """The length of one theta."""
        return paramax.unwrap(self.shift).shape[0]

    def inputs(self, x: Float[Array, "*x_shape"]) -> Float[Array, "*x_shape"]:
        """Returns the standardised observation.

        Raises:
            ValueError: If x has another shape.
        """
        if jnp.shape(x) != self.x_shape:
            raise ValueError(
                f"Expected x of shape {self.x_shape}; got {jnp.shape(x)} (methods take one "
                "observation; batch with jax.vmap)"
            )
        fixed = paramax.unwrap(self)
        return (x - fixed.x_shift) / fixed.x_scale

    def unconstrain(
        self, theta: Float[Array, " theta_dim"]
    ) -> tuple[Float[Array, " theta_dim"], Float[Array, ""], Bool[Array, ""]]:
        """Returns u, log |d u / d theta| in nats, and whether theta is inside the support.

        Outside, the first two are zeros, so that no NaN meets a gradient.

        Raises:
            ValueError: If theta has another shape.
        """
        if jnp.shape(theta) != (self.theta_dim,):
            raise ValueError(
                f"Expected theta of shape {(self.theta_dim,)}; got {jnp.shape(theta)} (methods "
                "take one theta; batch with jax.vmap)"
            )
        u, log_det = theta, jnp.zeros((), theta.dtype)
        if self.support is not None:
            u, log_det = self.support.inverse_and_log_det(theta)
        inside = jnp.all(jnp.isfinite(u)) & jnp.isfinite(log_det)
        return jnp.where(inside, u, 0), jnp.where(inside, log_det, 0), inside

    def constrain(self, u: Float[Array, " theta_dim"]) -> Float[Array, " theta_dim"]:
        """Returns the theta of unconstrained coordinates."""
        return u if self.support is None else self.support.transform(u)


@eqx.filter_jit
def _inverse(support: AbstractBijection, theta: Float[Array, "n d"]) -> tuple[Array, Array]:
    return jax.vmap(support.inverse_and_log_det)(theta)
