"""The head whose posterior is any exponential family with a learned log-partition."""

import math
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import DeterministicParameter, is_parameter
from nnef_dists.distributions import AmortizedFamily
from nnef_dists.posterior._base import AbstractPosterior
from nnef_dists.posterior._coordinates import PosteriorCoordinates
from nnef_dists.posterior._embeddings import AbstractEmbedding
from nnef_dists.posterior._simulations import Simulations
from nnef_dists.posterior._trunk import Trunk, buffers, make_coordinates

# Scales are within e^-8 and e^8 of those of the simulations.
_MOST_LOG_SCALE = 8.0


class NaturalLaw(NamedTuple):
    """A member of an exponential family, moved and scaled: u = location + scale y, y ~ p(y | eta).

    Attributes:
        eta: Natural parameters, `(eta_dim,)`, inside the box of the training etas.
        location: The location, `(theta_dim,)`.
        scale: The scale, `(theta_dim,)`.
    """

    eta: Float[Array, " eta_dim"]
    location: Float[Array, " theta_dim"]
    scale: Float[Array, " theta_dim"]


@final
class ExponentialFamilyPosterior(AbstractPosterior):
    """A posterior of any exponential family: a network gives its natural parameters.

        log q(u | x) = eta(x) . T(y) + log h(y) - A(eta(x)) - log |scale(x)|,
        y = (u - location(x)) / scale(x)

    The log-partition A is that of an `AmortizedFamily`, learned once for all simulators. The
    network gives unconstrained coordinates of eta, each kept inside the range of the training etas
    by a sigmoid, so that A is never extrapolated. `parameters(x)` is a `NaturalLaw`.

    Args:
        q: The family with its log-partition; trained before, and never here.
        data: Simulations, from which coordinates are set.
        affine: Whether the network gives location and scale too. Without, y is u itself: for a
            family whose support is that of theta.
        support: A flowjax bijection from R^d onto the support of theta, such as `BoxSupport`; None
            is R^d itself.
        embedding: A network from one observation to a vector; None flattens it.
        key: PRNG key for the weights' means.
        **trunk: `width`, `depth`, `activation` and `param_type` of the `Trunk`.

    Attributes:
        coordinates: Those of theta and of x.
        trunk: The network.
        q: The family, a buffer whose uncertain weights are at their means.
        affine: Whether the network gives location and scale too.

    Raises:
        ValueError: If the family's points have another size than theta, or it has no log-partition;
            what `PosteriorCoordinates` and `Trunk` raise.
    """

    coordinates: PosteriorCoordinates
    trunk: Trunk
    q: paramax.NonTrainable[AmortizedFamily]
    affine: bool = eqx.field(static=True)

    def __init__(
        self,
        q: AmortizedFamily,
        data: Simulations,
        *,
        affine: bool = True,
        support: AbstractBijection | None = None,
        embedding: AbstractEmbedding | None = None,
        key: PRNGKeyArray,
        **trunk: Any,
    ):
        d = data.theta_dim
        if math.prod(q.family.x_shape) != d:
            raise ValueError(
                f"Expected a family of points of size theta_dim = {d}; got {q.family!r} with x of "
                f"shape {q.family.x_shape}"
            )
        q.log_partition(q.center)  # Refused here, and not at the first call, where there is none.
        # Its weights are not the head's: no draw changes them, and no entropy counts them.
        q = jax.tree.map(
            lambda node: DeterministicParameter(node.mean) if is_parameter(node) else node,
            q,
            is_leaf=is_parameter,
        )
        size = q.family.unconstrained_dim + (2 * d if affine else 0)
        self.coordinates = make_coordinates(data, support, embedding)
        self.trunk = Trunk(data, size, embedding=embedding, key=key, **trunk)
        self.q = paramax.NonTrainable(q)
        self.affine = affine

    def compute_prior(self) -> Float[Array, ""]:
        """Returns the negative log prior of the trunk's means, up to a constant."""
        return self.trunk.compute_prior()

    def law_at(self, inputs: Float[Array, "*x_shape"]) -> NaturalLaw:
        """Returns the member of the family for one standardised observation."""
        shift, scale = buffers(self.coordinates)
        box = paramax.unwrap(self.q.tree.network.standardisation)
        outputs = self.trunk(inputs)
        raw, rest = jnp.split(outputs, [box.low.shape[0]])
        eta = box.eta_at(box.low + (box.high - box.low) * jax.nn.sigmoid(raw))
        if not self.affine:
            return NaturalLaw(eta, jnp.zeros_like(shift), jnp.ones_like(scale))
        location, log_scale = jnp.split(rest, 2)
        log_scale = _MOST_LOG_SCALE * jnp.tanh(log_scale / _MOST_LOG_SCALE)
        return NaturalLaw(eta, shift + scale * location, scale * jnp.exp(log_scale))

    def law_log_prob(self, law: NaturalLaw, u: Float[Array, " theta_dim"]) -> Float[Array, ""]:
        """Returns its log-density at u, in nats."""
        q = self._fixed_family()
        y = ((u - law.location) / law.scale).reshape(q.family.x_shape)
        return q.log_prob(y, law.eta) - jnp.sum(jnp.log(law.scale))

    def law_sample(self, key: PRNGKeyArray, law: NaturalLaw, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points u, as the family's sampler does."""
        y = self._fixed_family().sample(key, law.eta, n)
        return law.location + law.scale * y.reshape(n, -1)

    def _fixed_family(self) -> AmortizedFamily:
        return jax.tree.map(jax.lax.stop_gradient, self.q.tree)
