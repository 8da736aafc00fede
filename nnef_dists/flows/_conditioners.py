"""Conditioners, the functions that set the parameters of a flow."""

from collections.abc import Callable
from typing import Any, TypeVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer

_Flow = TypeVar("_Flow")


@final
class FourierFeatures(eqx.Module):
    """The first terms of a Fourier series of an angle, with damped high frequencies.

        1, cos(k t) / k, sin(k t) / k    for k = 1, ..., (count - 1) / 2

    of u = (cos t, sin t). They are computed as powers of u_0 + i u_1, and so are smooth in u.

    Args:
        count: Number of features, odd and positive.

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
    """A conditioner that is linear in features of a direction, or has one hidden layer.

        offsets = W features(u)    or    W tanh(V features(u))

    In the plane, use `FourierFeatures`. In other dimensions, use any function of the unit vector
    that has an attribute `count`, or replace the whole conditioner by an `equinox.nn.MLP`.

    Args:
        features: Function from the unit vector to `features.count` features, such as
            `FourierFeatures`.
        out_size: Number of parameters, `conditioner_size(bijection)`.
        width: Number of hidden units. Defaults to None, for no hidden layer.
        key: PRNG key for the weights. The initial standard deviation of W is 0.01.

    Raises:
        ValueError: If a size is below 1.
    """

    features: Callable[[Float[Array, " d"]], Float[Array, " count"]]
    hidden: eqx.nn.Linear | None
    output: eqx.nn.Linear

    def __init__(
        self, features: Any, out_size: int, width: int | None = None, *, key: PRNGKeyArray
    ):
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


@final
class DropoutConditioner(eqx.Module):
    """A multilayer perceptron whose hidden units are dropped at random during training.

    It has the layers of an `equinox.nn.MLP`, with `equinox.nn.Dropout` after each hidden
    activation. Masked weights stay masked, so the conditioner of a flowjax
    `MaskedAutoregressive` can be wrapped too.

    A flowjax bijection passes no key to its conditioner. `draw_dropout(flow, key)` therefore
    returns a flow with one set of dropped units. Density, draws and inverse of this flow agree.
    `equinox.nn.inference_mode(flow)` switches dropout off. In training mode, a call without drawn
    units raises, like `equinox.nn.Dropout` without a key.

    Example:
        ```python
        conditioner = nd.flows.DropoutConditioner(eqx.nn.MLP(3, 8, 64, 2, key=key), p=0.1)
        ```

    Args:
        mlp: The layers, without `scan=True`.
        p: Fraction of hidden units to drop, in [0, 1). Defaults to 0.5.
        inference: Whether dropout is off. Defaults to False.

    Attributes:
        key: The key of the dropped units, which `draw_dropout` sets.
        is_drawn: Whether `draw_dropout` has set the key.

    Raises:
        ValueError: If `p` is not in [0, 1), or `mlp` scans over its layers.

    Reference:
        Srivastava et al., *Dropout: a simple way to prevent neural networks from overfitting*
        (2014), section 4.
    """

    mlp: eqx.nn.MLP
    dropout: eqx.nn.Dropout
    key: PRNGKeyArray
    is_drawn: bool

    def __init__(self, mlp: eqx.nn.MLP, p: float = 0.5, *, inference: bool = False):
        if not 0 <= p < 1:
            raise ValueError(f"Expected p in [0, 1); got {p}")
        if mlp.scan:
            raise ValueError("Expected an MLP with scan=False; got one with scan=True")
        self.mlp, self.dropout = mlp, eqx.nn.Dropout(p, inference)
        # The key is an array from the start, so that a stack of conditioners has a stack of keys.
        self.key, self.is_drawn = jax.random.key(0), False

    def __call__(self, x: Float[Array, " inputs"]) -> Float[Array, " outputs"]:
        """Returns the outputs of the perceptron, with hidden units dropped in training mode.

        Args:
            x: Inputs, `(inputs,)`.

        Returns:
            Outputs, `(outputs,)`.

        Raises:
            RuntimeError: If dropout is on and `draw_dropout` has not drawn the units.
        """
        first, *others = self.mlp.layers
        keys = jax.random.split(self.key, len(others)) if self.is_drawn else [None] * len(others)

        def dropped(layer, key):
            return lambda hidden: layer(self.dropout(hidden, key=key))

        layers = (first, *map(dropped, others, keys))
        return eqx.tree_at(lambda mlp: mlp.layers, self.mlp, layers)(x)


def draw_dropout(flow: _Flow, key: PRNGKeyArray) -> _Flow:
    """Draws the dropped units of all dropout conditioners of a flow, for training.

    The density, the draws and the inverse of the result use these units. For separate units per
    point, map the call:

        jax.vmap(lambda x, key: draw_dropout(flow, key).log_prob(x))(xs, keys)

    Args:
        flow: Any pytree with a `DropoutConditioner`, such as a flowjax distribution.
        key: PRNG key.

    Returns:
        The flow with drawn units. Conditioners in inference mode ignore them.

    Raises:
        ValueError: If `flow` has no `DropoutConditioner`.
    """

    def is_conditioner(node) -> bool:
        return isinstance(node, DropoutConditioner)

    nodes, treedef = jax.tree.flatten(flow, is_leaf=is_conditioner)
    places = [i for i, node in enumerate(nodes) if is_conditioner(node)]
    if not places:
        raise ValueError(
            "Expected a flow with a DropoutConditioner; got none. Wrap its conditioner, for "
            "example DropoutConditioner(mlp, p=0.1)"
        )
    for i, node_key in zip(places, jax.random.split(key, len(places)), strict=True):
        drawn = jax.random.split(node_key, nodes[i].key.shape)
        nodes[i] = eqx.tree_at(lambda node: (node.key, node.is_drawn), nodes[i], (drawn, True))
    return jax.tree.unflatten(treedef, nodes)
