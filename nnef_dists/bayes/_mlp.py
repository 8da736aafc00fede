"""Multilayer perceptron with random weights."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, final

import equinox as eqx
import jax
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer

from ._gaussian import GaussianParameter
from ._linear import BayesianLinear
from ._module import Module
from ._parameter import AbstractParameter
from ._partition import check_whole
from ._positivity import AbstractPositivity
from ._sample import drawing_key, sample_all_parameters


@final
class BayesianMLP(Module):
    """`depth` hidden layers of `width` units and a linear output, all `BayesianLinear`.

    Args:
        in_features: Size of the last axis of the input, at least 1.
        out_features: Size of the last axis of the output, at least 1.
        width: Number of units per hidden layer, at least 1. Ignored if `depth` is 0.
        depth: Number of hidden layers, at least 0. With 0, the model is linear.
        activation: Elementwise function after each hidden layer. Defaults to `jax.nn.relu`.
        residual: Whether hidden layers after the first add to their input. Defaults to False.
        use_bias: Whether layers have a bias. Defaults to True.
        bayesian: Whether the weights are random. If False, they are `DeterministicParameter`s.
            Defaults to True.
        bayesian_bias: Whether the biases are random. Defaults to True.
        param_type: Class of the random parameters. Defaults to `GaussianParameter`.
        init_raw_stdv: Initial unconstrained scale, see `make_parameter`. Defaults to 0.01.
        positivity: Transform from unconstrained scale to scale. By default, the class of the
            parameters chooses it.
        local_reparameterization: See `BayesianLinear`. Defaults to False.
        dtype: Floating dtype. Defaults to JAX's default.
        key: PRNG key for the initial means of the weights.
    """

    layers: tuple[BayesianLinear, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)
    residual: bool = eqx.field(static=True)

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int,
        depth: int,
        *,
        activation: Callable[[Array], Array] = jax.nn.relu,
        residual: bool = False,
        use_bias: bool = True,
        bayesian: bool = True,
        bayesian_bias: bool = True,
        param_type: type[AbstractParameter] = GaussianParameter,
        init_raw_stdv: Any = 0.01,
        positivity: AbstractPositivity | None = None,
        local_reparameterization: bool = False,
        dtype: DTypeLike | None = None,
        key: PRNGKeyArray,
    ):
        depth = check_integer("depth", depth, 0)
        if depth:
            width = check_integer("width", width, 1)
        sizes = [in_features, *([width] * depth), out_features]
        self.layers = tuple(
            BayesianLinear(
                n_in,
                n_out,
                use_bias=use_bias,
                bayesian=bayesian,
                bayesian_bias=bayesian_bias,
                param_type=param_type,
                init_raw_stdv=init_raw_stdv,
                positivity=positivity,
                local_reparameterization=local_reparameterization,
                dtype=dtype,
                key=layer_key,
            )
            for n_in, n_out, layer_key in zip(
                sizes[:-1], sizes[1:], jax.random.split(as_key(key), depth + 1), strict=True
            )
        )
        self.activation = activation
        self.residual = residual

    def __check_init__(self):
        sizes = [(layer.in_features, layer.out_features) for layer in self.layers]
        if any(out != into for (_, out), (into, _) in pairwise(sizes)):
            raise ValueError(f"Expected layers whose sizes match; got {sizes}.")

    def __call__(
        self,
        x: Float[Array, "... in_features"],
        *,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
    ) -> Float[Array, "... out_features"]:
        """Applies the network to the last axis of `x`.

        Args:
            x: Inputs `(..., in_features)`.
            key: PRNG key for the weights. All leading axes share one draw, except with local
                reparameterization. Without a key, the means are used.
            sample: Whether to draw the weights. By default, they are drawn if there is a key.

        Returns:
            Outputs `(..., out_features)`.

        Raises:
            ValueError: If `x` has the wrong size, or `sample` is True without a key.
        """
        means = [None] * len(self.layers)
        drawn = drawing_key(key, sample)
        if drawn is None:
            check_whole(self)
            return self._apply(x, means)
        if any(layer.local_reparameterization for layer in self.layers):
            return self._apply(x, list(jax.random.split(drawn, len(means))))
        # One draw for all layers is cheaper than one per layer.
        return sample_all_parameters(self, drawn)._apply(x, means)

    def _apply(self, x: Array, keys: Sequence[PRNGKeyArray | None]) -> Array:
        for i, (layer, key) in enumerate(zip(self.layers[:-1], keys[:-1], strict=True)):
            h = self.activation(layer(x, key=key))
            x = x + h if self.residual and i > 0 else h
        return self.layers[-1](x, key=keys[-1])
