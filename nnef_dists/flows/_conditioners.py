"""What a direction says about the parameters of a radial flow."""

from collections.abc import Callable
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer


@final
class FourierFeatures(eqx.Module):
    """The first terms of a Fourier series of an angle, high frequencies damped.

        1, cos(k t) / k, sin(k t) / k    for k = 1, ..., (count - 1) / 2

    of u = (cos t, sin t). Without trigonometry, as powers of u_0 + i u_1: smooth in u.

    Args:
        count: How many features, an odd number.

    Raises:
        ValueError: If the count is even, or not positive.
    """

    count: int = eqx.field(static=True)

    def __init__(self, count: int):
        count = check_integer("count", count, 1)
        if count % 2 == 0:
            raise ValueError(f"Expected an odd count of Fourier features; got {count}")
        self.count = count

    def __call__(self, u: Float[Array, "2"]) -> Float[Array, " count"]:
        """Returns the features of a unit vector, `(count,)`."""
        if u.shape != (2,):
            raise ValueError(f"Expected a unit vector of the plane, (2,); got {u.shape}")
        features, power = [jnp.ones((), u.dtype)], u
        for k in range(1, (self.count + 1) // 2):
            features += [power[0] / k, power[1] / k]
            power = jnp.stack(
                [power[0] * u[0] - power[1] * u[1], power[0] * u[1] + power[1] * u[0]]
            )
        return jnp.stack(features)


@final
class DirectionConditioner(eqx.Module):
    """Parameters that are linear in features of a direction, or have one hidden layer between.

        offsets = W features(u)    or    W tanh(V features(u))

    In the plane `FourierFeatures` are the features; in other dimensions any function of the unit
    vector may be, or an `equinox.nn.MLP` stands in for the whole conditioner.

    Args:
        features: From the unit vector to features, such as `FourierFeatures`.
        out_size: How many parameters: `parameter_count(bijection)`.
        width: Units of the hidden layer; None is without.
        key: PRNG key for the weights, of spread 0.01 at the start.

    Raises:
        ValueError: If a size is below 1.
    """

    features: Callable[[Float[Array, " d"]], Float[Array, " count"]]
    hidden: eqx.nn.Linear | None
    output: eqx.nn.Linear

    def __init__(self, features, out_size: int, width: int | None = None, *, key: PRNGKeyArray):
        hidden_key, init_key, output_key = jax.random.split(key, 3)
        out_size = check_integer("out_size", out_size, 1)
        width = None if width is None else check_integer("width", width, 1)
        count = features.count
        self.features = features
        self.hidden = None if width is None else eqx.nn.Linear(count, width, key=hidden_key)
        output = eqx.nn.Linear(
            count if width is None else width, out_size, use_bias=False, key=init_key
        )
        small = 0.01 * jax.random.normal(output_key, output.weight.shape)
        self.output = eqx.tree_at(lambda layer: layer.weight, output, small)

    def __call__(self, u: Float[Array, " d"]) -> Float[Array, " out_size"]:
        """Returns the offsets for a unit vector, `(out_size,)`."""
        features = self.features(u)
        return self.output(features if self.hidden is None else jnp.tanh(self.hidden(features)))
