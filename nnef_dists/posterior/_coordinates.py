"""Coordinates of theta and of x that are of order one."""

import sys
import warnings
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from flowjax.bijections import AbstractBijection
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from nnef_dists._checks import as_array
from nnef_dists.distributions import ExtrapolationWarning
from nnef_dists.posterior._box import TruncationBox
from nnef_dists.posterior._mask import check_mask, check_masks, split_mask
from nnef_dists.posterior._region import ObservationRegion
from nnef_dists.posterior._simulations import Simulations

# Number of thetas whose distinct values are counted, and largest share of one value.
_COUNTED, _ATOM = 2**16, 0.01
# Packages whose frames lie between a warning and the code that caused it.
_LIBRARIES = {"nnef_dists", "equinox", "jaxtyping", "beartype", "jax"}


@final
class PosteriorCoordinates(eqx.Module):
    """Unconstrained coordinates of theta, and standardized observations. They are not trained.

        theta = support(u),    u = shift + scale z,    inputs(x) = (x - x_shift) / x_scale

    Shifts and scales are means and standard deviations over the simulations. By default, each entry
    of x has its own. With `by_channel` all entries of a channel (the last axis of x) share them. If
    x is masked, only observed values count, and a missing value becomes 0.

    An observation that is not finite raises. An observation unlike the simulated ones issues an
    `ExtrapolationWarning`, see `ObservationRegion`. Under transformations such as `jax.jit`, a
    non-finite x gives NaN and there is no warning. Use `region.is_inside(x)` there.

    Args:
        data: Simulations.
        support: Flowjax bijection from R^d onto the support of theta. By default, the support is
            R^d.
        by_channel: Whether all entries of x in one channel share shift and scale. Defaults to
            False.
        exchangeable: Whether the rows of x are exchangeable. Defaults to False.
        standardized: Whether z is standardized. Otherwise, z is u. Defaults to True.
        masked: Whether the last axis of x holds values and mask, from `masked_observation`. The
            first of three or more axes may then have any length. Defaults to False.
        discrete: Whether theta has whole numbers, and no density. Defaults to False.

    Attributes:
        support: The bijection, with non-trainable arrays. None if the support is R^d.
        shift: Means of u, `(theta_dim,)`.
        scale: Standard deviations of u, `(theta_dim,)`.
        x_shift: Means of x.
        x_scale: Standard deviations of x.
        x_shape: The shape of one observation.
        region: Region of the simulated observations.
        masked: Whether the last axis of x holds values and mask.

    Warns:
        UserWarning: If an entry of theta takes few distinct values. Its density is unbounded.

    Raises:
        ValueError: If there are fewer than two simulations, or a mask is not valid. If `support`
            has another shape, is conditional, or does not contain each theta. If an entry of
            theta takes few values, all of them whole numbers, and `discrete` is False.
    """

    support: AbstractBijection | None
    shift: paramax.NonTrainable[Array]
    scale: paramax.NonTrainable[Array]
    x_shift: paramax.NonTrainable[Array]
    x_scale: paramax.NonTrainable[Array]
    region: ObservationRegion
    x_shape: tuple[int, ...] = eqx.field(static=True)
    masked: bool = eqx.field(static=True)

    def __init__(
        self,
        data: Simulations,
        support: AbstractBijection | None = None,
        *,
        by_channel: bool = False,
        exchangeable: bool = False,
        standardized: bool = True,
        masked: bool = False,
        discrete: bool = False,
    ):
        shape = (data.theta_dim,)
        if support is not None and (support.shape != shape or support.cond_shape is not None):
            raise ValueError(
                f"Expected an unconditional support of shape {shape}; got shape {support.shape}, "
                f"condition {support.cond_shape}"
            )
        if len(data) < 2:
            raise ValueError(f"Expected at least two simulations; got {len(data)}")
        if masked:
            check_masks(data.x)
        if not discrete:
            _check_values(data.theta)
        self.support = None if support is None else paramax.non_trainable(support)
        u = data.theta
        if self.support is not None:
            # The data are concrete, even if the head is built under `jax.jit`.
            with jax.ensure_compile_time_eval():
                found = _inverse(self.support, jnp.asarray(u))
            u, log_det = (np.asarray(array) for array in found)
            outside = ~(np.isfinite(u).all(1) & np.isfinite(log_det))
            if outside.any():
                raise ValueError(
                    "Expected theta inside the support; got "
                    f"{data.theta[np.argmax(outside)]}, one of {outside.sum()}"
                )

        def to_buffers(leaves) -> tuple[paramax.NonTrainable[Array], ...]:
            return tuple(paramax.NonTrainable(jnp.asarray(x, data.theta.dtype)) for x in leaves)

        unit = np.zeros(shape), np.ones(shape)
        self.shift, self.scale = to_buffers(_moments(u, 0) if standardized else unit)
        values, observed = (data.x[..., 0], data.x[..., 1] == 1) if masked else (data.x, True)
        axes = tuple(range(values.ndim - 1)) if by_channel and values.ndim > 1 else 0
        self.x_shift, self.x_scale = to_buffers(_moments(values, axes, observed))
        self.x_shape, self.masked = data.x_shape, masked
        # The data are concrete, even if the head is built under `jax.jit`.
        with jax.ensure_compile_time_eval():
            self.region = ObservationRegion(data.x, exchangeable=exchangeable, masked=masked)

    @property
    def theta_dim(self) -> int:
        """The length of one theta."""
        return paramax.unwrap(self.shift).shape[0]

    def inputs(self, x: Float[Array, "*x_shape"]) -> Float[Array, "*x_shape"]:
        """Returns the standardized observation.

        Warns:
            ExtrapolationWarning: If a concrete x is unlike the simulated observations.

        Raises:
            ValueError: If x has another shape, or is concrete and not finite. A traced x that is
                not finite gives NaN in all entries.
        """
        any_rows = self.masked and len(self.x_shape) > 2
        if jnp.ndim(x) != len(self.x_shape) or (jnp.shape(x)[any_rows:] != self.x_shape[any_rows:]):
            expected = f"(rows, {str(self.x_shape[1:])[1:]}" if any_rows else self.x_shape
            raise ValueError(
                f"Expected x of shape {expected}; got {jnp.shape(x)} (methods take one "
                "observation; batch with jax.vmap)"
            )
        if not isinstance(x, Tracer):
            self._check_concrete(np.asarray(x))
        x, fixed = jnp.asarray(x), paramax.unwrap(self)
        if not self.masked:
            inputs = (x - fixed.x_shift) / fixed.x_scale
            return jnp.where(jnp.all(jnp.isfinite(inputs)), inputs, jnp.nan)
        values, observed, valid = split_mask(jnp, x)
        values = jnp.where(observed, (values - fixed.x_shift) / fixed.x_scale, 0)
        inputs = jnp.stack([values, observed.astype(values.dtype)], -1)
        return jnp.where(valid & jnp.all(jnp.isfinite(values)), inputs, jnp.nan)

    def _check_concrete(self, x: np.ndarray) -> None:
        finite = np.isfinite(x)
        if self.masked:
            check_mask(x)
            finite = np.isfinite(x[..., 0]) | (x[..., 1] == 0)
        if not finite.all():
            index = tuple(int(i) for i in np.argwhere(~finite)[0])
            index = (*index, 0) if self.masked else index
            raise ValueError(
                f"Expected a finite observation x; got {x[index]} at x{list(index) or ''}. "
                "Simulations are finite, so the posterior of missing data is not learned. Mark "
                "missing entries by a mask, also in the simulator: see "
                "nnef_dists.posterior.masked_observation"
            )
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self.region)):
            return
        excess, distance = self.region.concrete_scores(x)
        if excess <= 1 and distance <= 1:
            return
        reason = (
            f"an entry{' or the number of observed ones' if self.masked else ''} is "
            f"{excess:.3g} times as far outside its simulated range as tolerated"
            if excess > 1
            else f"the nearest simulation is {distance:.3g} times as far as tolerated"
        )
        _warn(
            f"Expected an observation like the simulated ones; {reason}, and the posterior there "
            "is an extrapolation. Check x and its units, or simulate from a wider prior",
            ExtrapolationWarning,
        )

    @property
    def shift_and_scale(self) -> tuple[Float[Array, " theta_dim"], Float[Array, " theta_dim"]]:
        """The shift and the scale of u = shift + scale z, without gradients."""
        fixed = paramax.unwrap(self)
        return fixed.shift, fixed.scale

    @property
    def bounds(self) -> tuple[Float[Array, " theta_dim"], Float[Array, " theta_dim"]] | None:
        """The ends, in z, of the box that truncates the distributions. None without a box."""
        if not isinstance(self.support, TruncationBox):
            return None
        shift, scale = self.shift_and_scale
        low, high = self.support.ends(shift.dtype)
        return (low - shift) / scale, (high - shift) / scale

    def unconstrain(
        self, theta: Float[Array, " theta_dim"]
    ) -> tuple[Float[Array, " theta_dim"], Float[Array, ""], Bool[Array, ""]]:
        """Returns z, log |d z / d theta| in nats, and whether theta is inside the support.

        Outside the support z is zero, so that gradients are not NaN. For a theta with NaN, the
        determinant is NaN.

        Raises:
            ValueError: If theta has another shape, or is not an array or a list of numbers.
        """
        theta = self._as_theta(theta)
        u, log_det = theta, jnp.zeros((), theta.dtype)
        if self.support is not None:
            u, log_det = self.support.inverse_and_log_det(theta)
            log_det = log_det.astype(theta.dtype)
        inside = jnp.all(jnp.isfinite(u)) & jnp.isfinite(log_det)
        is_nan = jnp.any(jnp.isnan(theta))
        shift, scale = self.shift_and_scale
        u = jnp.where(inside, u, shift)
        log_det = jnp.where(inside, log_det, jnp.where(is_nan, jnp.nan, 0))
        return (u - shift) / scale, log_det - jnp.sum(jnp.log(scale)), inside | is_nan

    def _as_theta(self, theta: Any) -> Float[Array, " theta_dim"]:
        """Returns one theta as a floating array. Lists and integers get the dtype of the head."""
        try:
            array = as_array(theta)
        except (TypeError, ValueError):
            raise ValueError(
                f"Expected theta as an array or a list of numbers; got {theta!r}. Use a jax.Array."
            ) from None
        if array.shape != (self.theta_dim,):
            raise ValueError(
                f"Expected theta of shape {(self.theta_dim,)}; got {array.shape} (methods "
                "take one theta; batch with jax.vmap)"
            )
        keeps_dtype = hasattr(theta, "dtype") and jnp.issubdtype(array.dtype, jnp.floating)
        return array if keeps_dtype else array.astype(self.shift_and_scale[0].dtype)

    def constrain(self, z: Float[Array, " theta_dim"]) -> Float[Array, " theta_dim"]:
        """Returns theta at coordinates z."""
        shift, scale = self.shift_and_scale
        u = shift + scale * z
        return u if self.support is None else self.support.transform(u)


def _moments(
    values: np.ndarray, axes: int | tuple[int, ...], observed: Any = True
) -> tuple[np.ndarray, np.ndarray]:
    """Returns means and standard deviations. A constant, up to rounding, has scale one."""
    eps = float(np.finfo(values.dtype).eps)
    values = np.asarray(values, np.float64)
    observed = np.broadcast_to(observed, values.shape)
    count = np.maximum(observed.sum(axes), 1)
    # Differences from one of the values, so that the mean of a constant has no rounding error.
    origin = np.where(observed, values, -np.inf).max(axes)
    origin = np.where(np.isfinite(origin), origin, 0)
    mean = origin + np.where(observed, values - origin, 0).sum(axes) / count
    scale = np.sqrt((np.where(observed, values - mean, 0) ** 2).sum(axes) / count)
    rounding = eps * np.abs(mean)
    return mean, np.where(scale > rounding, scale, np.maximum(rounding, 1.0))


@eqx.filter_jit
def _inverse(support: AbstractBijection, theta: Float[Array, "n d"]) -> tuple[Array, Array]:
    return jax.vmap(support.inverse_and_log_det)(theta)


def _check_values(theta: np.ndarray) -> None:
    """Rejects discrete entries of theta, and warns about other entries without a density.

    Raises:
        ValueError: If an entry takes few values, all of them whole numbers.
    """
    theta = theta[:_COUNTED]
    n = len(theta)
    for index, values in enumerate(theta.T):
        distinct, counts = np.unique(values, return_counts=True)
        few = 1 < len(counts) <= n / 2
        if few and np.all(distinct == np.round(distinct)):
            raise ValueError(
                f"Expected theta[{index}] with a density; got {len(counts)} distinct values in {n} "
                f"simulations, all of them whole numbers from {distinct[0]:g} to {distinct[-1]:g}. "
                "Use nnef_dists.posterior.CategoricalPosterior for discrete theta, or "
                "MixedPosterior if other entries are continuous. For numbers of many values, add "
                "uniform noise between them"
            )
        if len(counts) == 1:
            what = "is constant"
        elif few:
            what = f"takes {len(counts)} distinct values in {n} simulations"
        elif counts.max() > max(_ATOM * n, 4):
            what = f"takes one value in {counts.max()} of {n} simulations"
        else:
            continue
        _warn(
            f"theta[{index}] {what}; a posterior density of it is unbounded, and a head that is "
            "trained on it becomes arbitrarily narrow. Leave out what is constant, and add noise "
            "to what is discrete (theta + uniform noise between its values)",
            UserWarning,
        )


def _warn(message: str, category: type[Warning]) -> None:
    """Issues a warning at the first frame outside `_LIBRARIES`."""
    frame, level = sys._getframe(), 1
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _LIBRARIES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)
