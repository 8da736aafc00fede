"""The head whose posterior is a mixture of normal laws."""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer
from nnef_dists.posterior._base import AbstractPosterior
from nnef_dists.posterior._coordinates import PosteriorCoordinates
from nnef_dists.posterior._embeddings import AbstractEmbedding
from nnef_dists.posterior._normal import Normal, lower_size, normal_at
from nnef_dists.posterior._simulations import Simulations
from nnef_dists.posterior._truncated_normal import TruncatedNormal, bounded_support, truncate
from nnef_dists.posterior._trunk import Trunk, buffers, make_coordinates


class Mixture(NamedTuple):
    """A mixture of normal laws in unconstrained coordinates.

    Attributes:
        log_weights: Normalised logarithms of the weights, `(k,)`.
        components: The components, with a leading axis of length k: `mean`, `scale_tril`,
            `covariance`, `log_variance`. A head with bounds has a `TruncatedNormal`.
    """

    log_weights: Float[Array, " k"]
    components: Normal | TruncatedNormal

    @property
    def weights(self) -> Float[Array, " k"]:
        """The weights, with sum 1."""
        return jnp.exp(self.log_weights)


@final
class MixturePosterior(AbstractPosterior):
    """A mixture of normal laws with full covariances: a mixture density network.

        q(u | x) = sum_k weight_k(x) N(u; mean_k(x), covariance_k(x))

    With `bounds` each component is truncated to the box: choose this for theta in a box, such as
    one with a uniform prior. `BoxSupport` changes coordinates instead, in which the density tends
    to zero or infinity at every bound.

    `parameters(x)` is a `Mixture`. At the start all weights are equal, means are as spread as the
    simulations and covariances are diagonal.

    Args:
        data: Simulations, from which coordinates are set.
        components: How many components k.
        diagonal: Whether entries of u are independent, given x and the component.
        support: A flowjax bijection from R^d onto the support of theta, such as `BoxSupport`; None
            is R^d itself.
        bounds: Lower and upper bounds of theta, each `(theta_dim,)`, infinite where there is none.
            The normal distributions are then truncated to this box, and the density at the bounds
            is finite and positive. Takes the place of `support`.
        embedding: A network from one observation to a vector; None flattens it.
        key: PRNG key for the weights' means.
        **trunk: `width`, `depth`, `activation` and `param_type` of the `Trunk`.

    Attributes:
        coordinates: Those of theta and of x.
        trunk: The network.
        n_components: How many components.

    Raises:
        ValueError: For less than one component; what `PosteriorCoordinates` and `Trunk` raise.

    Reference:
        Bishop, *Mixture density networks* (1994).
    """

    coordinates: PosteriorCoordinates
    trunk: Trunk
    n_components: int = eqx.field(static=True)

    def __init__(
        self,
        data: Simulations,
        components: int = 8,
        *,
        diagonal: bool = False,
        support: AbstractBijection | None = None,
        bounds: tuple[ArrayLike, ArrayLike] | None = None,
        embedding: AbstractEmbedding | None = None,
        key: PRNGKeyArray,
        **trunk: Any,
    ):
        components = check_integer("components", components, 1)
        d = data.theta_dim
        each = 2 * d + lower_size(d, diagonal=diagonal)
        key_trunk, key_means = jax.random.split(key)
        support = bounded_support(support, bounds)
        self.coordinates = make_coordinates(data, support, embedding)
        trunk_ = Trunk(data, components * (1 + each), embedding=embedding, key=key_trunk, **trunk)
        # Apart from each other, or they would all learn the same.
        bias = jnp.zeros((components, 1 + each), data.theta.dtype)
        spread = jax.random.normal(key_means, (components, d), bias.dtype)
        self.trunk = trunk_.with_last_bias(bias.at[:, 1 : 1 + d].set(spread).ravel())
        self.n_components = components

    def law_at(self, inputs: Float[Array, "*x_shape"]) -> Mixture:
        """Returns the mixture for one standardised observation."""
        outputs = self.trunk(inputs).reshape(self.n_components, -1)
        normals = normal_at(outputs[:, 1:], *buffers(self.coordinates))
        components = truncate(normals, self.coordinates.support)
        return Mixture(jax.nn.log_softmax(outputs[:, 0]), components)

    def law_log_prob(self, law: Mixture, u: Float[Array, " theta_dim"]) -> Float[Array, ""]:
        """Returns its log-density at u, in nats."""
        return jax.nn.logsumexp(law.log_weights + law.components.log_prob(u))

    def law_sample(self, key: PRNGKeyArray, law: Mixture, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points u."""
        key_which, key_noise = jax.random.split(key)
        uniform = jax.random.uniform(key_which, (n, 1), law.log_weights.dtype)
        # Rounding may leave the sum below 1: the last component takes the rest.
        which = jnp.sum(uniform > jnp.cumsum(law.weights)[:-1], 1)
        return law.components.sample_of(key_noise, which)
