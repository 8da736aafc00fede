"""The head for posteriors in an exponential family with a known log-partition."""

import math
from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import DeterministicParameter, is_parameter
from nnef_dists.distributions import AbstractTractableFamily, fills_space, is_discrete
from nnef_dists.posterior._base import AbstractLaw, AbstractPosterior, Vector
from nnef_dists.posterior._coordinates import PosteriorCoordinates
from nnef_dists.posterior._embeddings import AbstractEmbedding
from nnef_dists.posterior._simulations import Simulations
from nnef_dists.posterior._trunk import Trunk, check_head, make_coordinates

# Largest absolute log of the scale, relative to the scale of the simulations.
_MOST_LOG_SCALE = 8.0


class NaturalLaw(NamedTuple):
    """A shifted and scaled member of a family: u = location + scale y, y ~ p(y | eta).

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
    """A posterior in an exponential family, whose natural parameters come from a network.

        log q(u | x) = eta(x) . T(y) + log h(y) - A(eta(x)) - log |scale(x)|,
        y = (u - location(x)) / scale(x)

    The log-partition A comes from a tractable family, such as `Quadrature`, or an `AmortizedFamily`
    that is learned once for all simulators. The method `q.eta_at` maps the output of the network to
    eta, so that a learned A is evaluated only in its training box. `parameters(x)` returns a
    `NaturalLaw`.

    Args:
        q: The family with its log-partition. A network in it must already be trained.
        data: Simulations, which set the coordinates.
        affine: Whether the network also predicts location and scale, for a family on all of R^d.
            If False, y is u, for a family with the support of theta. Defaults to True.
        support: Flowjax bijection from R^d onto the support of theta, such as `BoxSupport`. By
            default, the support is R^d.
        embedding: Network from one observation to a vector. By default, x is flattened.
        key: PRNG key for the initial means of the weights.
        **trunk: `width`, `depth`, `activation`, `param_type` and `context` of the `Trunk`.

    Attributes:
        coordinates: Coordinates of theta and x.
        trunk: The network.
        q: The family, not trainable, with the weights of its network at their means.
        affine: Whether the network also predicts location and scale.

    Raises:
        ValueError: If the points of the family have another size than theta, are discrete, or do
            not fill R^d although `affine` is True. If `q` has no log-partition, or
            `PosteriorCoordinates` or `Trunk` raises.
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
        _check_support(q.family, affine=affine)
        # If q has no log-partition, this raises before the first call.
        jax.eval_shape(q.log_partition, jax.ShapeDtypeStruct((q.family.eta_dim,), data.theta.dtype))
        # Draws and the entropy of the head's weights exclude the weights of q.
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


def _check_support(family: Any, *, affine: bool) -> None:
    support = family.support
    if is_discrete(support):
        raise ValueError(
            f"Expected a family of continuous x; got {family!r} with the support {support!r}. Use "
            "nnef_dists.posterior.CategoricalPosterior for discrete theta, or MixedPosterior if "
            "other entries are continuous."
        )
    if affine and not fills_space(support):
        raise ValueError(
            f"Expected a family whose x fill R^d, because affine=True moves and scales them; got "
            f"{family!r} with the support {support!r}. Use affine=False if this is the support of "
            "theta."
        )


@final
class _FamilyLaw(AbstractLaw):
    """The distribution of z = location + scale y, for y from a member of a family."""

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
