"""The head for discrete parameters."""

import math
from collections.abc import Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer
from nnef_dists.bayes import BayesianMLP
from nnef_dists.posterior._base import AbstractLaw, AbstractPosterior, Vector
from nnef_dists.posterior._coordinates import PosteriorCoordinates
from nnef_dists.posterior._embeddings import AbstractEmbedding
from nnef_dists.posterior._simulations import Simulations
from nnef_dists.posterior._trunk import Trunk, check_head, make_coordinates

# Largest number of points in a table of probabilities.
_MOST_POINTS = 2**16


@final
class CategoricalPosterior(AbstractPosterior):
    """An autoregressive posterior of discrete parameters.

        q(theta | x) = prod_j q(theta_j | theta_1, ..., theta_{j-1}, x)

    Entry j takes the values 0, ..., k_j - 1, as whole numbers of a floating dtype. The network of
    each entry maps features of x and the earlier entries to k_j logits, so that entries can depend
    on each other. `log_prob` returns the logarithm of a probability, minus infinity for other
    values. `parameters(x)` returns the probabilities of all points, `(k_1, ..., k_d)`.

    Args:
        data: Simulations. Each theta contains whole numbers.
        values: Number of values of an entry, at least 2: one number for all entries, or one per
            entry.
        features: Number of outputs of the trunk. Defaults to 32.
        embedding: Network from one observation to a vector. By default, x is flattened.
        key: PRNG key for the initial means of the weights.
        **trunk: `width`, `depth`, `activation` and `param_type` of the `Trunk`. The networks of the
            entries take them too, but have one hidden layer.

    Attributes:
        coordinates: Coordinates of theta, which are theta itself, and of x.
        trunk: The network from x to features.
        entries: The networks from features and earlier entries to the logits of each entry.
        values: Number of values of each entry.

    Raises:
        ValueError: If an entry of theta is not a whole number in 0, ..., k_j - 1, or `values` has
            another length than theta, or `PosteriorCoordinates` or `Trunk` raises.

    Reference:
        Bengio and Bengio, *Modeling high-dimensional discrete data with multi-layer neural
        networks*, NeurIPS (2000).
    """

    coordinates: PosteriorCoordinates
    trunk: Trunk
    entries: tuple[BayesianMLP, ...]
    values: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        data: Simulations,
        values: int | Sequence[int],
        *,
        features: int = 32,
        embedding: AbstractEmbedding | None = None,
        key: PRNGKeyArray,
        **trunk: Any,
    ):
        check_head(data, trunk, type(self).__init__)
        self.values = _check_values(data, values)
        self.coordinates = make_coordinates(
            data, None, embedding, standardized=False, discrete=True
        )
        key_trunk, *keys = jax.random.split(as_key(key), 1 + data.theta_dim)
        self.trunk = Trunk(data, features, embedding=embedding, key=key_trunk, **trunk)
        layers = self.trunk.mlp.layers
        options: dict[str, Any] = {
            "activation": self.trunk.mlp.activation,
            "param_type": type(layers[0].W),
            "dtype": data.theta.dtype,
        }
        width = layers[0].out_features
        self.entries = tuple(
            BayesianMLP(features + sum(self.values[:j]), k, width, 1, key=keys[j], **options)
            for j, k in enumerate(self.values)
        )

    def law_at(self, inputs: Any) -> "CategoricalLaw":
        """Returns the distribution of theta for one standardized observation."""
        return CategoricalLaw(self.entries, self.trunk(inputs), self.values)


@final
class CategoricalLaw(AbstractLaw):
    """The autoregressive distribution of whole numbers z."""

    entries: tuple[BayesianMLP, ...]
    features: Float[Array, "*k features"]
    values: tuple[int, ...] = eqx.field(static=True)

    def log_prob(self, z: Vector) -> Float[Array, ""]:
        inside = self.contains(z)
        z = jnp.where(inside, z, 0)
        value, earlier = jnp.zeros((), self.features.dtype), self.features
        for j, network in enumerate(self.entries):
            logs = jax.nn.log_softmax(network(earlier))
            value += logs[z[j].astype(int)]
            earlier = jnp.append(earlier, self._indicators(z[j], j))
        return jnp.where(inside, value, -jnp.inf)

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        def draw(key):
            z, earlier = [], self.features
            keys = jax.random.split(key, len(self.entries))
            for j, network in enumerate(self.entries):
                found = jax.random.categorical(keys[j], network(earlier))
                z.append(found.astype(self.features.dtype))
                earlier = jnp.append(earlier, self._indicators(found, j))
            return jnp.stack(z)

        return jax.vmap(draw)(jax.random.split(key, n))

    def parameters(self, shift: Vector, scale: Vector) -> Float[Array, "*values"]:
        logs = jax.vmap(self.log_prob)(jnp.asarray(self.points(), self.features.dtype))
        return jnp.exp(logs).reshape(self.values)

    def contains(self, z: Vector) -> Bool[Array, ""]:
        """Returns whether z is one of the points."""
        high = jnp.asarray(self.values, z.dtype)
        return jnp.all((z == jnp.round(z)) & (z >= 0) & (z < high))

    def points(self) -> np.ndarray:
        """Returns all points, `(number, theta_dim)`."""
        number = math.prod(self.values)
        if number > _MOST_POINTS:
            raise ValueError(
                f"Expected at most {_MOST_POINTS} points for a table of all; got {number}. Use "
                "log_prob or sample"
            )
        return np.indices(self.values).reshape(len(self.values), -1).T

    def _indicators(self, value: Array, j: int) -> Float[Array, " k"]:
        return (value == jnp.arange(self.values[j])).astype(self.features.dtype)


def _check_values(data: Simulations, values: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(values, Sequence):
        counts = tuple(check_integer(f"values[{j}]", k, 2) for j, k in enumerate(values))
    else:
        counts = (check_integer("values", values, 2),) * data.theta_dim
    if len(counts) != data.theta_dim:
        raise ValueError(
            f"Expected values for {data.theta_dim} entries of theta; got {len(counts)}"
        )
    theta = data.theta
    bad = (theta != np.round(theta)) | (theta < 0) | (theta >= np.array(counts))
    if bad.any():
        row, j = (int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"Expected theta[{j}] among the whole numbers 0, ..., {counts[j] - 1}; got "
            f"{theta[row, j]}. Number its values from 0. If it is continuous, use another head, or "
            "MixedPosterior for both kinds"
        )
    return counts
