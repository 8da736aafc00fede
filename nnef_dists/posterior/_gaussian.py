"""The head whose posterior is normal."""

from typing import Any, final

import equinox as eqx
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from nnef_dists.posterior._base import AbstractPosterior
from nnef_dists.posterior._coordinates import PosteriorCoordinates
from nnef_dists.posterior._embeddings import AbstractEmbedding
from nnef_dists.posterior._normal import Normal, lower_size, normal_at
from nnef_dists.posterior._simulations import Simulations
from nnef_dists.posterior._truncated_normal import TruncatedNormal, bounded_support, truncate
from nnef_dists.posterior._trunk import Trunk, buffers, make_coordinates


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
        **trunk: `width`, `depth`, `activation` and `param_type` of the `Trunk`.

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
        d = data.theta_dim
        size = 2 * d + lower_size(d, diagonal=diagonal)
        support = bounded_support(support, bounds)
        self.coordinates = make_coordinates(data, support, embedding)
        self.trunk = Trunk(data, size, embedding=embedding, key=key, **trunk)
        self.diagonal = diagonal

    def law_at(self, inputs: Float[Array, "*x_shape"]) -> Normal | TruncatedNormal:
        """Returns the normal law of u for one standardised observation."""
        normal = normal_at(self.trunk(inputs), *buffers(self.coordinates))
        return truncate(normal, self.coordinates.support)

    def law_log_prob(
        self, law: Normal | TruncatedNormal, u: Float[Array, " theta_dim"]
    ) -> Float[Array, ""]:
        """Returns its log-density at u, in nats."""
        return law.log_prob(u)

    def law_sample(
        self, key: PRNGKeyArray, law: Normal | TruncatedNormal, n: int
    ) -> Float[Array, "n theta_dim"]:
        """Draws n points u."""
        return law.sample(key, n)
