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
    """A multilayer perceptron of Bayesian layers, after an embedding of the observation.

    Args:
        data: Simulations, for shapes and dtype.
        out_features: How many numbers come out.
        embedding: A network from one standardized observation to a vector; None flattens it.
        context: How many further numbers the features depend on. If it is not 0, the trunk is
            called with a pair of observation and context, as `MixedPosterior` does.
        width: Units of a hidden layer.
        depth: Hidden layers.
        activation: The activation of the hidden layers.
        param_type: The law of weights and biases.
        key: PRNG key for the weights' means.

    Raises:
        ValueError: For sizes below 1, and an embedding of observations of another shape.
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
        """Returns the outputs for one standardized observation, at the weights' means.

        Args:
            inputs: The observation, or a pair of it and its context, `(context,)`.

        Raises:
            ValueError: If there is no context and the trunk needs one, or the reverse.
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
        """Returns the trunk with another mean of the last layer's biases."""
        law = self.mlp.layers[-1].b
        assert law is not None
        return eqx.tree_at(lambda trunk: trunk.mlp.layers[-1].b, self, law.with_mean(bias))


def check_head(data: Any, options: Mapping[str, Any], *makers: Callable[..., Any]) -> None:
    """Checks the simulations of a head, and the names of the keyword arguments for its trunk.

    Args:
        data: The simulations.
        options: The keyword arguments that the head passes on to the `Trunk`.
        *makers: The functions that make the head, whose own arguments are known too.

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
    """Returns the coordinates of a head. With an embedding, channels of x keep together."""
    return PosteriorCoordinates(
        data,
        support,
        by_channel=embedding is not None,
        exchangeable=embedding is not None and embedding.exchangeable,
        standardized=standardized,
        masked=embedding is not None and embedding.masked,
        discrete=discrete,
    )
