"""The direct moment network: a multilayer perceptron."""

from collections.abc import Callable
from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import (
    AbstractParameter,
    BayesianLinear,
    GaussianParameter,
    draw_or_mean,
    register_saveable,
)
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import MomentDataset
from nnef_dists.networks._base import AbstractMomentNetwork, Standardisation


@register_saveable
@final
class MLPMomentNetwork(AbstractMomentNetwork):
    """A multilayer perceptron of Bayesian layers from eta to E[T | eta].

        mu(eta) = standardisation(W_n g(... g(W_1 inputs(eta) + b_1) ...) + b_n)

    Args:
        family: The exponential family.
        data: Moment data of that family, from which the standardisation is set.
        width: Units of a hidden layer.
        depth: Hidden layers.
        activation: g, the activation of the hidden layers.
        param_type: The law of weights and biases.
        key: PRNG key for the weights' means.

    Raises:
        ValueError: For data of another family, and for sizes below 1.
    """

    family: ExponentialFamily = eqx.field(static=True)
    standardisation: Standardisation
    layers: tuple[BayesianLinear, ...]
    activation: Callable[[Array], Array] = eqx.field(static=True)

    def __init__(
        self,
        family: ExponentialFamily,
        data: MomentDataset,
        *,
        width: int = 64,
        depth: int = 3,
        activation: Callable[[Array], Array] = jax.nn.silu,
        param_type: type[AbstractParameter] = GaussianParameter,
        key: PRNGKeyArray,
    ):
        if data.family != family:
            raise ValueError(f"Expected data of {family!r}; got data of {data.family!r}")
        if width < 1 or depth < 1:
            raise ValueError(f"Expected width >= 1 and depth >= 1; got {width} and {depth}")
        self.family = family
        self.standardisation = Standardisation(data)
        self.activation = activation
        sizes = [self.standardisation.input_dim, *[width] * depth, family.eta_dim]
        self.layers = tuple(
            BayesianLinear(size_in, size_out, param_type=param_type, dtype=data.eta.dtype, key=k)
            for size_in, size_out, k in zip(
                sizes[:-1], sizes[1:], jax.random.split(key, depth + 1), strict=True
            )
        )

    def __call__(
        self,
        eta: Float[Array, " eta_dim"],
        *,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
    ) -> Float[Array, " eta_dim"]:
        """Returns the mean parameters mu = E[T | eta]; see `AbstractMomentNetwork`."""
        net = draw_or_mean(self, key=key, sample=sample)
        inputs = net.standardisation.inputs(eta)
        y = inputs
        for layer in net.layers[:-1]:
            y = self.activation(layer(y))
        return net.standardisation.moments(inputs, net.layers[-1](y))
