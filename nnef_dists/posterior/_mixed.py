"""The head for discrete and continuous parameters."""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from flowjax.bijections import Concatenate, Identity
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.posterior._base import AbstractLaw, AbstractPosterior, Vector
from nnef_dists.posterior._categorical import CategoricalLaw, CategoricalPosterior
from nnef_dists.posterior._coordinates import PosteriorCoordinates


class MixedParameters(NamedTuple):
    """The parameters of a distribution of discrete and continuous entries.

    Attributes:
        probabilities: Probabilities of the points of the discrete entries, `(k_1, ..., k_m)`.
        continuous: Parameters of the continuous entries given each point, as arrays with leading
            axes `(k_1, ..., k_m)`.
    """

    probabilities: Float[Array, "*values"]
    continuous: Any


@final
class MixedPosterior(AbstractPosterior):
    """A posterior of discrete entries k and continuous entries phi, theta = (k, phi).

        q(theta | x) = q(k | x) q(phi | k, x)

    The first entries of theta are discrete. Both parts are heads, built from the same observations.
    The loss of this head trains them together. The continuous part needs `context=sum(values)`: k
    enters its network as indicators of the values of each entry.

    `parameters(x)` returns `MixedParameters`. `log_prob` returns the logarithm of a probability
    times a density.

    Args:
        discrete: The head for k.
        continuous: A head for phi with a `Trunk`, such as a `MixturePosterior`. It may have bounds
            or a support.

    Attributes:
        discrete: The head for k.
        continuous: The head for phi.

    Raises:
        ValueError: If the continuous part has no trunk or another context, or the observations
            differ.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> import nnef_dists as nd
        >>> rng = np.random.default_rng(0)
        >>> k, phi = rng.integers(0, 3, (100, 1)), rng.normal(size=(100, 2))
        >>> x = (k + phi).astype(np.float32)
        >>> data_k = nd.Simulations(k.astype(np.float32), x)
        >>> data_phi = nd.Simulations(phi.astype(np.float32), x)
        >>> one, two = jax.random.split(jax.random.key(0))
        >>> discrete = nd.posterior.CategoricalPosterior(data_k, 3, key=one)
        >>> continuous = nd.MixturePosterior(data_phi, 4, context=3, key=two)
        >>> head = nd.posterior.MixedPosterior(discrete, continuous)
        >>> head.sample(jax.random.key(1), x[0], 5).shape
        (5, 3)
    """

    discrete: CategoricalPosterior
    continuous: AbstractPosterior

    def __init__(self, discrete: CategoricalPosterior, continuous: AbstractPosterior):
        trunk = getattr(continuous, "trunk", None)
        context = sum(discrete.values)
        if trunk is None:
            raise ValueError(
                f"Expected a continuous part with a trunk; got {type(continuous).__name__}. To "
                "average, make an EnsemblePosterior of MixedPosteriors"
            )
        if getattr(trunk, "context", 0) != context:
            raise ValueError(
                f"Expected a continuous part with context={context}, the values of all discrete "
                f"entries; got {getattr(trunk, 'context', 0)}. Make it with "
                f"{type(continuous).__name__}(..., context={context})"
            )
        one, two = (part.coordinates for part in (discrete, continuous))
        leaves = [jax.tree.leaves((c.x_shift, c.x_scale, c.region)) for c in (one, two)]
        known = not any(isinstance(leaf, Tracer) for leaf in (*leaves[0], *leaves[1]))
        if (one.x_shape, one.masked, len(leaves[0])) != (
            two.x_shape,
            two.masked,
            len(leaves[1]),
        ) or (
            # NumPy results are concrete, also under `jax.jit`.
            known and not all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True))
        ):
            raise ValueError(
                "Expected two heads of the same observations; got different ones. Make both from "
                "one x, and with embeddings of one kind"
            )
        self.discrete, self.continuous = discrete, continuous

    @property
    def coordinates(self) -> PosteriorCoordinates:
        """Coordinates of all entries: k itself, and the coordinates of phi."""
        fixed = self.continuous.coordinates
        m = len(self.discrete.values)
        shift, scale = fixed.shift.tree, fixed.scale.tree
        ones = jnp.ones((*shift.shape[:-1], m), shift.dtype)
        support = fixed.support
        if support is not None:
            support = paramax.non_trainable(Concatenate([Identity((m,)), support]))
        joined = [jnp.concatenate(pair, -1) for pair in ((0 * ones, shift), (ones, scale))]
        return eqx.tree_at(
            lambda c: (c.shift, c.scale, c.support),
            fixed,
            (*map(paramax.NonTrainable, joined), support),
            is_leaf=lambda leaf: leaf is None,
        )

    def compute_prior(self) -> Float[Array, ""]:
        """Returns the negative log prior of the means of both parts, up to a constant."""
        return self.discrete.compute_prior() + self.continuous.compute_prior()

    def law_at(self, inputs: Any) -> "_MixedLaw":
        """Returns the distribution of k and z for one standardized observation."""
        return _MixedLaw(self.discrete.law_at(inputs), self.continuous, inputs)


@final
class _MixedLaw(AbstractLaw):
    """The distribution of k, and of z given k."""

    discrete: CategoricalLaw
    continuous: AbstractPosterior
    inputs: Any

    def _given(self, k: Vector) -> AbstractLaw:
        values = self.discrete.values
        context = [(k[j] == jnp.arange(n)).astype(k.dtype) for j, n in enumerate(values)]
        return self.continuous.law_at((self.inputs, jnp.concatenate(context)))

    def log_prob(self, z: Vector) -> Float[Array, ""]:
        k, phi = jnp.split(z, [len(self.discrete.values)])
        return self.discrete.log_prob(k) + self._given(k).log_prob(phi)

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        key_k, key_phi = jax.random.split(key)
        k = self.discrete.sample(key_k, n)
        keys = jax.random.split(key_phi, n)
        phi = jax.vmap(lambda k, key: self._given(k).sample(key, 1)[0])(k, keys)
        return jnp.concatenate([k, phi], 1)

    def parameters(self, shift: Vector, scale: Vector) -> MixedParameters:
        m = len(self.discrete.values)
        probabilities = self.discrete.parameters(shift[:m], scale[:m])
        points = jnp.asarray(self.discrete.points(), shift.dtype)
        each = jax.vmap(lambda k: self._given(k).parameters(shift[m:], scale[m:]))(points)
        values = self.discrete.values
        return MixedParameters(
            probabilities, jax.tree.map(lambda leaf: leaf.reshape(*values, *leaf.shape[1:]), each)
        )
