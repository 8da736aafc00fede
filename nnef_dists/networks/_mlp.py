"""The direct moment network: a multilayer perceptron."""

from collections.abc import Callable
from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray

from nnef_dists.bayes import AbstractParameter, BayesianMLP, GaussianParameter
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import MomentDataset
from nnef_dists.networks._base import AbstractDirectNetwork, Standardization, standardize


@final
class MLPMomentNetwork(AbstractDirectNetwork):
    """A multilayer perceptron of Bayesian layers from eta to E[T | eta].

        mu(eta) = standardization(W_n g(... g(W_1 inputs(eta) + b_1) ...) + b_n)

    Args:
        family: The exponential family.
        data: Moment data of that family, from which the standardization is set.
        width: Number of units per hidden layer, at least 1. Defaults to 64.
        depth: Number of hidden layers, at least 1. Defaults to 3.
        activation: The activation g of the hidden layers. Defaults to `jax.nn.silu`.
        param_type: Type of the weights' and biases' distribution. Defaults to `GaussianParameter`.
        key: PRNG key for the weights' means.

    Raises:
        ValueError: If `data` is of another family or has too few valid labels, or a size is below
            1.
    """

    family: ExponentialFamily = eqx.field(static=True)
    standardization: Standardization
    body: BayesianMLP

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
        self.family = family
        self.standardization = standardize(family, data, width=width, depth=depth)
        self.body = BayesianMLP(
            self.standardization.input_dim,
            family.eta_dim,
            width,
            depth,
            activation=activation,
            param_type=param_type,
            dtype=data.eta.dtype,
            key=key,
        )
