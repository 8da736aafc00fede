"""The average of several heads, from an ensemble or from draws of the weights."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import as_key, check_instance
from nnef_dists._ranges import check_integer
from nnef_dists.bayes import sample_all_parameters
from nnef_dists.posterior._base import AbstractLaw, AbstractPosterior, Vector
from nnef_dists.posterior._coordinates import PosteriorCoordinates


@final
class EnsemblePosterior(AbstractPosterior):
    """The average of several posteriors, which includes the uncertainty of the weights.

        q(theta | x) = mean over members m of q_m(theta | x)

    Members are independently trained heads, or draws of the weights of one head (the predictive
    posterior). `parameters(x)` returns the parameters of all members, with a leading axis.

    Args:
        members: One head with a leading axis on each array, from `eqx.filter_vmap` over keys or
            from stacking. All members must have equal coordinates.

    Attributes:
        members: The stacked heads.

    Raises:
        ValueError: If the leading axes or the coordinates differ.
    """

    members: AbstractPosterior

    def __init__(self, members: AbstractPosterior):
        sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(eqx.filter(members, eqx.is_array))}
        if len(sizes) != 1 or () in sizes:
            raise ValueError(f"Expected one leading axis of all arrays; got {sorted(sizes)}")
        each = eqx.filter_vmap(lambda head: head.coordinates)(members)
        coordinates = jax.tree.leaves(eqx.filter(each, eqx.is_array))
        if not all(isinstance(leaf, Tracer) or jnp.all(leaf == leaf[:1]) for leaf in coordinates):
            raise ValueError(
                "Expected members with equal coordinates; got heads made from different "
                "simulations. Make all heads from the same ones, and train each on its own."
            )
        self.members = members

    @classmethod
    def of_draws(cls, head: AbstractPosterior, key: PRNGKeyArray, n: int) -> "EnsemblePosterior":
        """Averages over n draws of the weights of a head.

        Args:
            head: A head with random weights.
            key: PRNG key for the weights.
            n: Number of draws, at least 1.

        Returns:
            The predictive posterior.

        Raises:
            ValueError: If `head` is not a posterior head, `key` is not one key, or n < 1.
        """
        check_instance(head, AbstractPosterior, "head")
        key, n = as_key(key), check_integer("n", n, 1)
        arrays, rest = eqx.partition(head, eqx.is_array)

        def draw(key):
            drawn = sample_all_parameters(eqx.combine(arrays, rest), key)
            return eqx.filter(drawn, eqx.is_array)

        return cls(eqx.combine(jax.vmap(draw)(jax.random.split(key, n)), rest))

    @property
    def n_members(self) -> int:
        """Number of heads in the average."""
        return _leading_axis(self.members)

    @property
    def coordinates(self) -> PosteriorCoordinates:
        """Coordinates of theta and x, from the first member."""
        arrays, rest = eqx.partition(self.members, eqx.is_array)
        return eqx.combine(jax.tree.map(lambda leaf: leaf[0], arrays), rest).coordinates

    def law_at(self, inputs: Any) -> "_AverageLaw":
        """Returns the average of the members' distributions."""
        return _AverageLaw(eqx.filter_vmap(lambda head: head.law_at(inputs))(self.members))


@final
class _AverageLaw(AbstractLaw):
    """The mixture of stacked distributions with equal weights."""

    members: AbstractLaw

    def log_prob(self, z: Vector) -> Float[Array, ""]:
        each = eqx.filter_vmap(lambda law: law.log_prob(z))(self.members)
        return jax.nn.logsumexp(each) - jnp.log(jnp.asarray(each.size, each.dtype))

    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        """Draws equal numbers of points, up to one, from all members in a random order."""
        key_draws, key_order = jax.random.split(key)
        members = _leading_axis(self.members)
        keys = jax.random.split(key_draws, members)
        draws = eqx.filter_vmap(lambda law, key: law.sample(key, -(-n // members)))(
            self.members, keys
        )
        # Each point comes from each member with equal probability.
        draws = jnp.swapaxes(jax.random.permutation(key_order, draws), 0, 1)
        return draws.reshape(-1, draws.shape[-1])[:n]

    def parameters(self, shift: Vector, scale: Vector) -> Any:
        return eqx.filter_vmap(lambda law: law.parameters(shift, scale))(self.members)


def _leading_axis(stacked: eqx.Module) -> int:
    return jax.tree.leaves(eqx.filter(stacked, eqx.is_array))[0].shape[0]
