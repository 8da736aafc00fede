"""Networks that make a vector of a set or of a time series."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer
from nnef_dists.bayes import (
    AbstractParameter,
    BayesianLinear,
    BayesianMLP,
    GaussianParameter,
    Module,
    make_parameter,
)


class AbstractEmbedding(Module):
    """A network from one standardized observation to a vector, at the means of its weights.

    Attributes:
        x_shape: The shape of an observation; its last axis are channels.
        features: The length of the vector.
        exchangeable: Whether the order of the rows of an observation has no meaning. Defaults to
            False.
    """

    x_shape: eqx.AbstractVar[tuple[int, ...]]
    features: eqx.AbstractVar[int]
    exchangeable: ClassVar[bool] = False

    @abstractmethod
    def __call__(self, x: Float[Array, "*x_shape"]) -> Float[Array, " features"]:
        """Returns the vector of one observation."""


@final
class SetEmbedding(AbstractEmbedding):
    """A function of a set: the order of the observation's rows does not matter.

        f(x) = rho(mean over rows i of phi(x_i))

    Args:
        x_shape: The shape of an observation, `(rows, channels)`.
        features: The length of the vector.
        width: Units of a hidden layer, and of what is averaged.
        depth: Hidden layers of phi and of rho.
        activation: The activation.
        param_type: The law of weights and biases.
        dtype: Floating dtype; None is JAX's default.
        key: PRNG key for the weights' means.

    Raises:
        ValueError: If x has another number of axes, or a size is below 1.

    Reference:
        Zaheer et al., *Deep sets*, NeurIPS (2017), theorem 2.
    """

    exchangeable: ClassVar[bool] = True

    phi: BayesianMLP
    rho: BayesianMLP
    x_shape: tuple[int, ...] = eqx.field(static=True)
    features: int = eqx.field(static=True)

    def __init__(
        self,
        x_shape: tuple[int, int],
        features: int = 32,
        *,
        width: int = 64,
        depth: int = 1,
        activation: Callable[[Array], Array] = jax.nn.silu,
        param_type: type[AbstractParameter] = GaussianParameter,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        _check(x_shape, ("rows", "channels"), features=features, width=width, depth=depth)
        key_phi, key_rho = jax.random.split(key)

        def mlp(n_in, n_out, key):
            law = {"activation": activation, "param_type": param_type, "dtype": dtype}
            return BayesianMLP(n_in, n_out, width, depth, key=key, **law)

        self.phi = mlp(x_shape[1], width, key_phi)
        self.rho = mlp(width, features, key_rho)
        self.x_shape, self.features = tuple(x_shape), features

    def __call__(self, x: Float[Array, "rows channels"]) -> Float[Array, " features"]:
        """Returns the vector of one set, `(rows, channels)`."""
        return self.rho(jnp.mean(self.phi(x), 0))


@final
class SeriesEmbedding(AbstractEmbedding):
    """A function of a time series: convolutions in time, each of which halves its length.

    Args:
        x_shape: The shape of an observation, `(times, channels)`.
        features: The length of the vector.
        width: Channels after each convolution.
        depth: Number of convolutions.
        window: How many times a convolution sees at once.
        activation: The activation.
        param_type: The law of weights and biases.
        dtype: Floating dtype; None is JAX's default.
        key: PRNG key for the weights' means.

    Raises:
        ValueError: If x has another number of axes, or a size is below 1.
    """

    kernels: tuple[AbstractParameter, ...]
    biases: tuple[AbstractParameter, ...]
    last: BayesianLinear
    x_shape: tuple[int, ...] = eqx.field(static=True)
    features: int = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        x_shape: tuple[int, int],
        features: int = 32,
        *,
        width: int = 32,
        depth: int = 2,
        window: int = 5,
        activation: Callable[[Array], Array] = jax.nn.silu,
        param_type: type[AbstractParameter] = GaussianParameter,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        sizes = {"features": features, "width": width, "depth": depth, "window": window}
        _check(x_shape, ("times", "channels"), **sizes)
        dtype = jnp.zeros(()).dtype if dtype is None else dtype
        *keys, key_last = jax.random.split(key, depth + 1)
        xavier = jax.nn.initializers.glorot_uniform(in_axis=1, out_axis=0)
        sizes = [x_shape[1], *([width] * depth)]
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
        self.last = BayesianLinear(
            times * width, features, param_type=param_type, dtype=dtype, key=key_last
        )
        self.x_shape, self.features, self.activation = tuple(x_shape), features, activation

    def __call__(self, x: Float[Array, "times channels"]) -> Float[Array, " features"]:
        """Returns the vector of one series, `(times, channels)`."""
        h = x.T[None]
        for kernel, bias in zip(self.kernels, self.biases, strict=True):
            h = jax.lax.conv_general_dilated(h, paramax.unwrap(kernel), (2,), "SAME")
            h = self.activation(h + paramax.unwrap(bias))
        return self.last(jnp.ravel(h))


def _check(x_shape: tuple[int, ...], axes: tuple[str, ...], **sizes: Any) -> None:
    if len(x_shape) != len(axes):
        raise ValueError(f"Expected x of shape ({', '.join(axes)}); got {tuple(x_shape)}")
    for name, size in (*zip(axes, x_shape, strict=True), *sizes.items()):
        check_integer(name, size, 1)
