"""Embedding networks for sets, time series and vectors with missing entries."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jax.core import Tracer
from jaxtyping import Array, Bool, DTypeLike, Float, Int, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer
from nnef_dists.bayes import (
    AbstractParameter,
    BayesianLinear,
    BayesianMLP,
    GaussianParameter,
    Module,
    make_parameter,
)
from nnef_dists.posterior._mask import check_mask, split_mask

# Number of inputs of a masked embedding that are functions of the number of observed rows.
_COUNTS = 2


class AbstractEmbedding(Module):
    """A network from one standardized observation to a vector, at the means of the weights.

    If `masked` is True, x comes from `masked_observation`: its last axis holds values and mask.
    Heads set missing values to 0. An x with three or more axes may have any number of rows. Missing
    rows should not change the result.

    Attributes:
        x_shape: Shape of an observation. Channels are its last axis, or the axis before values and
            mask.
        features: Length of the vector.
        masked: Whether observations have a mask. Defaults to False.
        exchangeable: Whether the order of the rows of an observation has no meaning. Defaults to
            False.
    """

    x_shape: eqx.AbstractVar[tuple[int, ...]]
    features: eqx.AbstractVar[int]
    masked: ClassVar[bool] = False
    exchangeable: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Float[Array, "*x_shape"]) -> Float[Array, " features"]:
        """Returns the vector of one observation."""


@final
class SetEmbedding(AbstractEmbedding):
    """A function of a set, invariant to the order of the observation's rows.

        f(x) = rho(mean over rows i of phi(x_i))

    If x is masked, the mean is over the n rows with an observed entry. The mask of each channel is
    an input of phi. The means of x_i and mask_i, log n and 1 / sqrt(n) are inputs of rho, so that
    the posterior can narrow with n:

        f(x) = rho(mean over observed rows i of (x_i, mask_i, phi(x_i, mask_i)), log n, 1 / sqrt(n))

    Args:
        x_shape: Shape of an observation, `(rows, channels)`, or `(rows, channels, 2)` if masked.
        features: Length of the vector. Defaults to 32.
        masked: Whether x has a mask, from `masked_observation`. Defaults to False.
        width: Number of units of each hidden layer, and of outputs of phi. Defaults to 64.
        depth: Number of hidden layers of phi and of rho. Defaults to 1.
        activation: Activation function. Defaults to SiLU.
        param_type: Class of the weights and biases. Defaults to `GaussianParameter`.
        dtype: Floating dtype. Defaults to JAX's default.
        key: PRNG key for the initial means of the weights.

    Raises:
        ValueError: If `x_shape` has another number of axes, or a size is below 1.

    Reference:
        Zaheer et al., *Deep sets*, NeurIPS (2017), theorem 2.
    """

    exchangeable: ClassVar[bool] = True

    phi: BayesianMLP
    rho: BayesianMLP
    x_shape: tuple[int, ...] = eqx.field(static=True)
    features: int = eqx.field(static=True)
    masked: bool = eqx.field(static=True)

    def __init__(
        self,
        x_shape: tuple[int, ...],
        features: int = 32,
        *,
        masked: bool = False,
        width: int = 64,
        depth: int = 1,
        activation: Callable[[Array], Array] = jax.nn.silu,
        param_type: type[AbstractParameter] = GaussianParameter,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        _check(x_shape, ("rows", "channels"), masked, features=features, width=width, depth=depth)
        key_phi, key_rho = jax.random.split(as_key(key))

        def mlp(n_in, n_out, key):
            law = {"activation": activation, "param_type": param_type, "dtype": dtype}
            return BayesianMLP(n_in, n_out, width, depth, key=key, **law)

        self.phi = mlp(x_shape[1] * (1 + masked), width, key_phi)
        self.rho = mlp(width + (2 * x_shape[1] + _COUNTS) * masked, features, key_rho)
        self.x_shape, self.features, self.masked = tuple(x_shape), features, masked

    def __call__(self, x: Float[Array, "rows channels *mask"]) -> Float[Array, " features"]:
        """Returns the vector of one set, `(rows, channels)`, or `(rows, channels, 2)` if masked."""
        if not self.masked:
            return self.rho(jnp.mean(self.phi(x), 0))
        channels, present = _with_mask(x)
        rows = jnp.concatenate([channels, self.phi(channels)], 1)
        return self.rho(_mean_and_count(rows, present))


@final
class SeriesEmbedding(AbstractEmbedding):
    """A function of a time series: convolutions in time that each halve its length.

    A linear layer maps all remaining times to the vector. If x is masked, the mask of each channel
    and the time, in units of the length in `x_shape`, are inputs of the convolutions. The inputs of
    the linear layer are then the mean over the observed times, log n and 1 / sqrt(n), for n
    observed times. Series of any length therefore have a vector.

    Args:
        x_shape: Shape of an observation, `(times, channels)`, or `(times, channels, 2)` if masked.
        features: Length of the vector. Defaults to 32.
        masked: Whether x has a mask, from `masked_observation`. Defaults to False.
        width: Number of channels after each convolution. Defaults to 32.
        depth: Number of convolutions. Defaults to 2.
        window: Number of times in the window of a convolution. Defaults to 5.
        activation: Activation function. Defaults to SiLU.
        param_type: Class of the weights and biases. Defaults to `GaussianParameter`.
        dtype: Floating dtype. Defaults to JAX's default.
        key: PRNG key for the initial means of the weights.

    Raises:
        ValueError: If `x_shape` has another number of axes, or a size is below 1.
    """

    kernels: tuple[AbstractParameter, ...]
    biases: tuple[AbstractParameter, ...]
    last: BayesianLinear
    x_shape: tuple[int, ...] = eqx.field(static=True)
    features: int = eqx.field(static=True)
    masked: bool = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        x_shape: tuple[int, ...],
        features: int = 32,
        *,
        masked: bool = False,
        width: int = 32,
        depth: int = 2,
        window: int = 5,
        activation: Callable[[Array], Array] = jax.nn.silu,
        param_type: type[AbstractParameter] = GaussianParameter,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        sizes = {"features": features, "width": width, "depth": depth, "window": window}
        _check(x_shape, ("times", "channels"), masked, **sizes)
        dtype = jnp.zeros(()).dtype if dtype is None else dtype
        *keys, key_last = jax.random.split(as_key(key), depth + 1)
        xavier = jax.nn.initializers.glorot_uniform(in_axis=1, out_axis=0)
        sizes = [2 * x_shape[1] + 1 if masked else x_shape[1], *([width] * depth)]
        self.kernels = tuple(
            make_parameter(xavier(k, (width, n_in, window), dtype), param_type=param_type)
            for n_in, k in zip(sizes[:-1], keys, strict=True)
        )
        self.biases = tuple(
            make_parameter(jnp.zeros((width, 1), dtype), param_type=param_type) for _ in keys
        )
        times = x_shape[0]
        for _ in range(depth):
            times = -(-times // 2)
        size = width + _COUNTS if masked else times * width
        self.last = BayesianLinear(size, features, param_type=param_type, dtype=dtype, key=key_last)
        self.x_shape, self.features, self.masked = tuple(x_shape), features, masked
        self.activation = activation

    def __call__(self, x: Float[Array, "times channels *mask"]) -> Float[Array, " features"]:
        """Returns the vector of one series of shape `x_shape`. If masked, any number of times."""
        if self.masked:
            return self._of_masked(x)
        h = x.T[None]
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            h = jax.lax.conv_general_dilated(h, paramax.unwrap(kernel), (2,), "SAME")
            h = self.activation(h + paramax.unwrap(bias))
        return self.last(jnp.ravel(h))

    def _of_masked(self, x: Float[Array, "times channels 2"]) -> Float[Array, " features"]:
        h, present = _with_mask(x)
        time = jnp.arange(len(h), dtype=h.dtype)[:, None] / self.x_shape[0]
        h = jnp.concatenate([h, jnp.where(present[:, None], time, 0)], 1)
        count = jnp.sum(present)
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            # Window j is around time 2 j for any length of the padding. Matrix products are faster
            # than convolutions on CPUs.
            weights, half = paramax.unwrap(kernel), -(-len(h) // 2)
            beside = weights.shape[-1] - 1
            h = jnp.pad(h, ((beside // 2, beside - beside // 2 + 1), (0, 0)))
            windows = jnp.stack([h[i : i + 2 * half : 2] for i in range(beside + 1)], 2)
            h = jnp.einsum("tcw,ocw->to", windows, weights) + paramax.unwrap(bias)[:, 0]
            present = jnp.any(jnp.pad(present, (0, len(present) % 2)).reshape(-1, 2), 1)
            h = jnp.where(present[:, None], self.activation(h), 0)
        return self.last(_mean_and_count(h, present, count))


@final
class MaskedVectorEmbedding(AbstractEmbedding):
    """The concatenated values and mask of a vector x with missing entries.

    It has no weights. In heads, a missing entry has its mean over the simulations that observe it.

    Args:
        x_shape: Shape of an observation, `(d, 2)`, from `masked_observation`.

    Raises:
        ValueError: If `x_shape` has another number of axes, or no mask.
    """

    x_shape: tuple[int, ...] = eqx.field(static=True)
    features: int = eqx.field(static=True)
    masked: ClassVar[bool] = True

    def __init__(self, x_shape: tuple[int, ...]):
        _check(x_shape, ("d",), True)
        self.x_shape, self.features = tuple(x_shape), 2 * x_shape[0]

    def __call__(self, x: Float[Array, "d 2"]) -> Float[Array, " features"]:
        """Returns the values and the mask of one vector, `(d, 2)`."""
        return _with_mask(x)[0]


def _with_mask(x: Float[Array, "*rows channels 2"]) -> tuple[Array, Bool[Array, "*rows"]]:
    """Returns values and mask as channels, and whether each row has an observed entry.

    An invalid mask raises. An invalid traced mask gives NaN.
    """
    if not isinstance(x, Tracer):
        check_mask(np.asarray(x))
    values, observed, valid = split_mask(jnp, x)
    channels = jnp.concatenate([values, observed.astype(x.dtype)], -1)
    # If the mask is invalid, all rows count as present, so that NaN reaches the result.
    return jnp.where(valid, channels, jnp.nan), jnp.any(observed, -1) | ~valid


def _mean_and_count(
    h: Float[Array, "rows width"],
    present: Bool[Array, " rows"],
    count: Int[Array, ""] | None = None,
) -> Float[Array, " width_and_counts"]:
    """Returns the mean over the present rows, log n and 1 / sqrt(n), for n observed rows."""
    rows = jnp.maximum(jnp.sum(present), 1).astype(h.dtype)
    mean = jnp.sum(jnp.where(present[:, None], h, 0), 0) / rows
    n = rows if count is None else jnp.maximum(count, 1).astype(h.dtype)
    return jnp.concatenate([mean, jnp.stack([jnp.log(n), 1 / jnp.sqrt(n)])])


def _check(x_shape: tuple[int, ...], axes: tuple[str, ...], masked: bool, **sizes: Any) -> None:
    expected = f"({', '.join((*axes, '2') if masked else axes)})"
    if len(x_shape) != len(axes) + masked or (masked and x_shape[-1] != 2):
        other = "made by masked_observation" if masked else "or masked=True if it has a mask"
        raise ValueError(f"Expected x of shape {expected}, {other}; got {tuple(x_shape)}")
    for name, size in (*zip(axes, x_shape, strict=False), *sizes.items()):
        check_integer(name, size, 1)
