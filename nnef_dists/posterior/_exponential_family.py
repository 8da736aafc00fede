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
from nnef_dists.distributions import AbstractTractableFamily
from nnef_dists.posterior._base import AbstractLaw, AbstractPosterior, Vector
from nnef_dists.posterior._coordinates import PosteriorCoordinates
from nnef_dists.posterior._embeddings import AbstractEmbedding
from nnef_dists.posterior._simulations import Simulations
from nnef_dists.posterior._trunk import Trunk, check_head, make_coordinates

# Scales are within e^-8 and e^8 of those of the simulations.
_MOST_LOG_SCALE = 8.0


class NaturalLaw(NamedTuple):
    """A member of an exponential family, moved and scaled: u = location + scale y, y ~ p(y | eta).

    Attributes:
        eta: Natural parameters, `(eta_dim,)`.
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

    The log-partition A is that of a tractable family, such as `Quadrature`, or an `AmortizedFamily`
    that is learned once for all simulators. The network gives the coordinates of `q.eta_at`, so
    that a learned A is never extrapolated. `parameters(x)` is a `NaturalLaw`.

    Args:
        q: The family with its log-partition. A network in it is trained before, and never here.
        data: Simulations, from which coordinates are set.
        affine: Whether the network gives location and scale too. Without, y is u itself: for a
            family whose support is that of theta.
        support: A flowjax bijection from R^d onto the support of theta, such as `BoxSupport`; None
            is R^d itself.
        embedding: A network from one observation to a vector; None flattens it.
        key: PRNG key for the weights' means.
        **trunk: `width`, `depth`, `activation`, `param_type` and `context` of the `Trunk`.

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
    q: paramax.NonTrainable[AbstractTractableFamily]
    affine: bool = eqx.field(static=True)

    def __init__(
        self,
        q: AbstractTractableFamily,
        data: Simulations,
        *,
        affine: bool = True,
        support: AbstractBijection | None = None,
        embedding: AbstractEmbedding | None = None,
        key: PRNGKeyArray,
        **trunk: Any,
    ):
        check_head(data, trunk, type(self).__init__)
        d = data.theta_dim
        if math.prod(q.family.x_shape) != d:
            raise ValueError(
                f"Expected a family of points of size theta_dim = {d}; got {q.family!r} with x of "
                f"shape {q.family.x_shape}"
            )
        # Refused here, and not at the first call, where there is none.
        jax.eval_shape(q.log_partition, jax.ShapeDtypeStruct((q.family.eta_dim,), data.theta.dtype))
        # Its weights are not the head's: no draw changes them, and no entropy counts them.
        q = jax.tree.map(
            lambda node: DeterministicParameter(node.mean) if is_parameter(node) else node,
            q,
            is_leaf=is_parameter,
        )
        size = q.family.unconstrained_dim + (2 * d if affine else 0)
        self.coordinates = make_coordinates(data, support, embedding, standardized=affine)
        self.trunk = Trunk(data, size, embedding=embedding, key=key, **trunk)
        self.q = paramax.NonTrainable(q)
        self.affine = affine

    def compute_prior(self) -> Float[Array, ""]:
        """Returns the negative log prior of the trunk's means, up to a constant."""
        return self.trunk.compute_prior()

    def law_at(self, inputs: Any) -> "_FamilyLaw":
        """Returns the member of the family for one standardized observation."""
        q = jax.tree.map(jax.lax.stop_gradient, self.q.tree)
        raw, rest = jnp.split(self.trunk(inputs), [q.family.unconstrained_dim])
        eta = q.eta_at(raw)
        d = self.coordinates.theta_dim
        location, log_scale = jnp.split(rest, 2) if self.affine else jnp.zeros((2, d), raw.dtype)
        log_scale = _MOST_LOG_SCALE * jnp.tanh(log_scale / _MOST_LOG_SCALE)
        return _FamilyLaw(q, NaturalLaw(eta, location, jnp.exp(log_scale)))


@final
class _FamilyLaw(AbstractLaw):
    """The distribution of z = location + scale y, with y a member of a family."""

    q: AbstractTractableFamily
    natural: NaturalLaw

    def log_prob(self, z: Vector) -> Float[Array, ""]:
        eta, location, scale = self.natural
        y = ((z - location) / scale).reshape(self.q.family.x_shape)
        return self.q.log_prob(y, eta) - jnp.sum(jnp.log(scale))

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        eta, location, scale = self.natural
        return location + scale * self.q.sample(key, eta, n).reshape(n, -1)

    def parameters(self, shift: Vector, scale: Vector) -> NaturalLaw:
        eta, location, scale_z = self.natural
        return NaturalLaw(eta, shift + scale * location, scale * scale_z)
