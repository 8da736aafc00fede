"""Heads whose posterior is a normal distribution, or a mixture of these."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer
from nnef_dists.posterior._base import AbstractPosterior
from nnef_dists.posterior._box import bounded_support
from nnef_dists.posterior._coordinates import PosteriorCoordinates
from nnef_dists.posterior._embeddings import AbstractEmbedding
from nnef_dists.posterior._normal import Mixture, Normal, TruncatedNormal, normal_at, normal_size
from nnef_dists.posterior._simulations import Simulations
from nnef_dists.posterior._trunk import Trunk, check_head, make_coordinates


@final
class GaussianPosterior(AbstractPosterior):
    """A normal posterior of u, whose mean and covariance a network gives.

        q(u | x) = N(u; mean(x), covariance(x))

    `parameters(x)` is a `Normal`: `mean`, `log_variance`, `scale_tril` (the Cholesky factor) and
    `covariance`; with `bounds` a `TruncatedNormal`.

    Args:
        data: Simulations, from which coordinates are set.
        diagonal: Whether entries of u are independent, given x.
        support: A flowjax bijection from R^d onto the support of theta, such as `BoxSupport`; None
            is R^d itself.
        bounds: Lower and upper bounds of theta, each `(theta_dim,)`, infinite where there is none.
            The normal distributions are then truncated to this box, and the density at the bounds
            is finite and positive. Takes the place of `support`.
        embedding: A network from one observation to a vector; None flattens it.
        key: PRNG key for the weights' means.
        **trunk: `width`, `depth`, `activation`, `param_type` and `context` of the `Trunk`.

    Attributes:
        coordinates: Those of theta and of x.
        trunk: The network.
        diagonal: Whether entries of u are independent, given x.

    Raises:
        ValueError: What `PosteriorCoordinates` and `Trunk` raise.

    Reference:
        Papamakarios and Murray, *Fast epsilon-free inference of simulation models with Bayesian
        conditional density estimation*, NeurIPS (2016).
    """

    coordinates: PosteriorCoordinates
    trunk: Trunk
    diagonal: bool = eqx.field(static=True)

    def __init__(
        self,
        data: Simulations,
        *,
        diagonal: bool = False,
        support: AbstractBijection | None = None,
        bounds: tuple[ArrayLike, ArrayLike] | None = None,
        embedding: AbstractEmbedding | None = None,
        key: PRNGKeyArray,
        **trunk: Any,
    ):
        check_head(data, trunk, type(self).__init__)
        size = normal_size(data.theta_dim, diagonal=diagonal)
        support = bounded_support(support, bounds)
        self.coordinates = make_coordinates(data, support, embedding)
        self.trunk = Trunk(data, size, embedding=embedding, key=key, **trunk)
        self.diagonal = diagonal

    def law_at(self, inputs: Any) -> Normal | TruncatedNormal:
        """Returns the distribution of z for one standardized observation."""
        return _normal_within(self.coordinates, self.trunk(inputs))


@final
class MixturePosterior(AbstractPosterior):
    """A mixture of normal distributions with full covariances: a mixture density network.

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
        **trunk: `width`, `depth`, `activation`, `param_type` and `context` of the `Trunk`.

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
        check_head(data, trunk, type(self).__init__)
        components = check_integer("components", components, 1)
        d = data.theta_dim
        each = normal_size(d, diagonal=diagonal)
        key_trunk, key_means = jax.random.split(as_key(key))
        support = bounded_support(support, bounds)
        self.coordinates = make_coordinates(data, support, embedding)
        trunk_ = Trunk(data, components * (1 + each), embedding=embedding, key=key_trunk, **trunk)
        # Apart from each other, or they would all learn the same.
        bias = jnp.zeros((components, 1 + each), data.theta.dtype)
        spread = jax.random.normal(key_means, (components, d), bias.dtype)
        self.trunk = trunk_.with_last_bias(bias.at[:, 1 : 1 + d].set(spread).ravel())
        self.n_components = components

    def law_at(self, inputs: Any) -> Mixture:
        """Returns the mixture for one standardized observation."""
        outputs = self.trunk(inputs).reshape(self.n_components, -1)
        components = jax.vmap(lambda each: _normal_within(self.coordinates, each))(outputs[:, 1:])
        return Mixture(jax.nn.log_softmax(outputs[:, 0]), components)


def _normal_within(
    coordinates: PosteriorCoordinates, outputs: Float[Array, " size"]
) -> Normal | TruncatedNormal:
    """Returns the normal distribution of z for some outputs, truncated if there are bounds."""
    normal = normal_at(outputs, coordinates.theta_dim)
    bounds = coordinates.bounds
    return normal if bounds is None else TruncatedNormal(normal, *bounds)
