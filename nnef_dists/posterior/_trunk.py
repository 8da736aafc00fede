"""The network from an observation to the parameters of a distribution."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import check_instance
from nnef_dists._ranges import check_integer
from nnef_dists.bayes import AbstractParameter, BayesianMLP, GaussianParameter, Module
from nnef_dists.posterior._coordinates import PosteriorCoordinates
from nnef_dists.posterior._embeddings import AbstractEmbedding
from nnef_dists.posterior._simulations import Simulations


@final
class Trunk(Module):
    """A Bayesian multilayer perceptron, after an optional embedding of the observation.

    Args:
        data: Simulations, for shapes and dtype.
        out_features: Number of outputs, at least 1.
        embedding: Network from one standardized observation to a vector. By default, the
            observation is flattened.
        context: Number of additional inputs. Defaults to 0. Otherwise, the trunk takes a pair of
            observation and context, as in `MixedPosterior`.
        width: Number of units per hidden layer, at least 1. Defaults to 64.
        depth: Number of hidden layers, at least 1. Defaults to 3.
        activation: Activation of the hidden layers. Defaults to SiLU.
        param_type: Class of the weights and biases. Defaults to `GaussianParameter`.
        key: PRNG key for the initial means of the weights.

    Raises:
        ValueError: If a size is below 1, `context` is negative, or `embedding.x_shape` differs.
    """

    embedding: AbstractEmbedding | None
    mlp: BayesianMLP
    context: int = eqx.field(static=True)

    def __init__(
        self,
        data: Simulations,
        out_features: int,
        *,
        embedding: AbstractEmbedding | None = None,
        context: int = 0,
        width: int = 64,
        depth: int = 3,
        activation: Callable[[Array], Array] = jax.nn.silu,
        param_type: type[AbstractParameter] = GaussianParameter,
        key: PRNGKeyArray,
    ):
        width = check_integer("width", width, 1)
        depth = check_integer("depth", depth, 1)
        out_features = check_integer("out_features", out_features, 1)
        context = check_integer("context", context, 0)
        if embedding is not None and embedding.x_shape != data.x_shape:
            raise ValueError(
                f"Expected an embedding of x of shape {data.x_shape}; got one of "
                f"{embedding.x_shape}"
            )
        size = data.x[0].size if embedding is None else embedding.features
        dtype: Any = data.theta.dtype
        self.embedding = embedding
        self.context = context
        self.mlp = BayesianMLP(
            size + context,
            out_features,
            width,
            depth,
            activation=activation,
            param_type=param_type,
            dtype=dtype,
            key=key,
        )

    def __call__(self, inputs: Any) -> Float[Array, " out_features"]:
        """Returns the outputs for one standardized observation, at the means of the weights.

        Args:
            inputs: The observation, or a pair of the observation and its context, `(context,)`.

        Raises:
            ValueError: If the context is missing, or the trunk has no context and one is given.
        """
        x, *context = inputs if isinstance(inputs, tuple) else (inputs,)
        if len(context) != bool(self.context):
            raise ValueError(
                f"Expected {'a' if self.context else 'no'} context beside the observation; got "
                f"{len(context)}. A head with context={self.context} "
                + ("is for the continuous part of a MixedPosterior" if self.context else "has none")
            )
        features = jnp.ravel(x) if self.embedding is None else self.embedding(x)
        return self.mlp(jnp.concatenate([features, *context]) if context else features)

    def with_last_bias(self, bias: Float[Array, " out_features"]) -> "Trunk":
        """Returns the trunk with `bias` as the mean of the last layer's biases."""
        law = self.mlp.layers[-1].b
        assert law is not None
        return eqx.tree_at(lambda trunk: trunk.mlp.layers[-1].b, self, law.with_mean(bias))


def check_head(data: Any, options: Mapping[str, Any], *makers: Callable[..., Any]) -> None:
    """Checks the simulations of a head, and the names of the keyword arguments for its trunk.

    Args:
        data: The simulations.
        options: Keyword arguments that the head passes to the `Trunk`.
        *makers: Functions that build the head. Their arguments are accepted too.

    Raises:
        ValueError: If `data` is of another type, or a keyword argument is unknown.
    """
    check_instance(data, Simulations, "data")
    known = {"context", "width", "depth", "activation", "param_type"}
    unknown = sorted(set(options) - known)
    if not unknown:
        return
    for maker in makers:
        parameters = inspect.signature(maker).parameters.values()
        optional = (p for p in parameters if p.default is not p.empty)
        known |= {p.name for p in optional} | {"key"}
    close = difflib.get_close_matches(unknown[0], sorted(known), 1)
    remedy = f"Did you mean {close[0]!r}?" if close else "Omit it."
    if unknown[0] == "bounds" and "support" in known:
        remedy = "Use support=nnef_dists.BoxSupport(low, high)."
    raise ValueError(
        f"Expected keyword arguments among {sorted(known)}; got {unknown[0]!r}. {remedy}"
    )


def make_coordinates(
    data: Simulations,
    support: AbstractBijection | None,
    embedding: AbstractEmbedding | None,
    *,
    standardized: bool = True,
    discrete: bool = False,
) -> PosteriorCoordinates:
    """Returns the coordinates of a head. With an embedding, they scale x by channel."""
    return PosteriorCoordinates(
        data,
        support,
        by_channel=embedding is not None,
        exchangeable=embedding is not None and embedding.exchangeable,
        standardized=standardized,
        masked=embedding is not None and embedding.masked,
        discrete=discrete,
    )
