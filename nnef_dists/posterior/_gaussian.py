"""Heads for normal posteriors and mixtures of normal distributions."""

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
    """A normal posterior of u, whose mean and covariance come from a network.

        q(u | x) = N(u; mean(x), covariance(x))

    `parameters(x)` returns a `Normal`: `mean`, `log_variance`, `scale_tril` (the Cholesky factor)
    and `covariance`. With `bounds` it returns a `TruncatedNormal`.

    Args:
        data: Simulations, which set the coordinates.
        diagonal: Whether the entries of u are independent, given x. Defaults to False.
        support: Flowjax bijection from R^d onto the support of theta, such as `BoxSupport`. By
            default, the support is R^d.
        bounds: Lower and upper bounds of theta, each `(theta_dim,)`, possibly infinite. The normal
            distributions are then truncated to this box, and the density at the bounds is finite
            and positive. An alternative to `support`.
        embedding: Network from one observation to a vector. By default, x is flattened.
        key: PRNG key for the initial means of the weights.
        **trunk: `width`, `depth`, `activation`, `param_type` and `context` of the `Trunk`.

    Attributes:
        coordinates: Coordinates of theta and x.
        trunk: The network.
        diagonal: Whether the entries of u are independent, given x.

    Raises:
        ValueError: If both `bounds` and `support` are given, or `PosteriorCoordinates` or `Trunk`
            raises.

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

    With `bounds` each component is truncated to the box. Use them for theta in a box, for example
    with a uniform prior. `BoxSupport` changes coordinates instead, and the density tends to zero
    or infinity at each bound.

    `parameters(x)` returns a `Mixture`. Before training, the means have the spread of the
    simulations, and weights are about equal and covariances about diagonal.

    Args:
        data: Simulations, which set the coordinates.
        components: Number of components k, at least 1. Defaults to 8.
        diagonal: Whether the entries of u are independent, given x and the component. Defaults to
            False.
        support: Flowjax bijection from R^d onto the support of theta, such as `BoxSupport`. By
            default, the support is R^d.
        bounds: Lower and upper bounds of theta, each `(theta_dim,)`, possibly infinite. The normal
            distributions are then truncated to this box, and the density at the bounds is finite
            and positive. An alternative to `support`.
        embedding: Network from one observation to a vector. By default, x is flattened.
        key: PRNG key for the initial means of the weights.
        **trunk: `width`, `depth`, `activation`, `param_type` and `context` of the `Trunk`.

    Attributes:
        coordinates: Coordinates of theta and x.
        trunk: The network.
        n_components: Number of components.

    Raises:
        ValueError: If `components` is below 1, both `bounds` and `support` are given, or
            `PosteriorCoordinates` or `Trunk` raises.

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
        # Different initial means, so that the components do not stay equal in training.
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
    """Returns the normal distribution of z at the outputs, truncated if there are bounds."""
    normal = normal_at(outputs, coordinates.theta_dim)
    bounds = coordinates.bounds
    return normal if bounds is None else TruncatedNormal(normal, *bounds)
