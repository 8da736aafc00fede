"""Several heads as one posterior: of an ensemble, or of draws of the weights."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer
from nnef_dists.bayes import sample_all_parameters
from nnef_dists.posterior._base import AbstractPosterior
from nnef_dists.posterior._coordinates import PosteriorCoordinates


@final
class EnsemblePosterior(AbstractPosterior):
    """The average of several posteriors: what is known, given that weights are not.

        q(theta | x) = mean over members m of q_m(theta | x)

    Members are heads trained apart, or draws of one head's weights: the predictive posterior.
    `parameters(x)` are those of all members, with a leading axis.

    Args:
        members: One head with a leading axis on every array: made by `eqx.filter_vmap` over keys,
            or stacked.

    Attributes:
        members: The stacked heads.

    Raises:
        ValueError: If leading axes differ.
    """

    members: AbstractPosterior

    def __init__(self, members: AbstractPosterior):
        sizes = {leaf.shape[:1] for leaf in jax.tree.leaves(eqx.filter(members, eqx.is_array))}
        if len(sizes) != 1 or () in sizes:
            raise ValueError(f"Expected one leading axis of all arrays; got {sorted(sizes)}")
        self.members = members

    @classmethod
    def of_draws(cls, head: AbstractPosterior, key: PRNGKeyArray, n: int) -> "EnsemblePosterior":
        """Averages over n draws of the weights of a head.

        Args:
            head: A head with uncertain weights.
            key: PRNG key for the weights.
            n: How many draws, at least 1.

        Returns:
            The predictive posterior.

        Raises:
            ValueError: If n < 1.
        """
        n = check_integer("n", n, 1)
        arrays, rest = eqx.partition(head, eqx.is_array)

        def draw(key):
            drawn = sample_all_parameters(eqx.combine(arrays, rest), key)
            return eqx.filter(drawn, eqx.is_array)

        return cls(eqx.combine(jax.vmap(draw)(jax.random.split(key, n)), rest))

    @property
    def n_members(self) -> int:
        """How many heads are averaged."""
        return jax.tree.leaves(eqx.filter(self.members, eqx.is_array))[0].shape[0]

    @property
    def coordinates(self) -> PosteriorCoordinates:
        """Those of the first member."""
        arrays, rest = eqx.partition(self.members.coordinates, eqx.is_array)
        return eqx.combine(jax.tree.map(lambda leaf: leaf[0], arrays), rest)

    def law_at(self, inputs: Float[Array, "*x_shape"]) -> Any:
        """Returns the laws of all members, with a leading axis."""
        return self._over_members(lambda head: head.law_at(inputs))

    def law_log_prob(self, law: Any, u: Float[Array, " theta_dim"]) -> Float[Array, ""]:
        """Returns the log of the average density at u, in nats."""
        each = self._over_members(lambda head, law: head.law_log_prob(law, u), law)
        return jax.nn.logsumexp(each) - jnp.log(jnp.asarray(self.n_members, each.dtype))

    def law_sample(self, key: PRNGKeyArray, law: Any, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points u: as many of each member, up to one, the members in random order."""
        key_draws, key_order = jax.random.split(key)
        each = -(-n // self.n_members)
        keys = jax.random.split(key_draws, self.n_members)
        draws = self._over_members(lambda head, law, k: head.law_sample(k, law, each), law, keys)
        # Every point is of each member with equal probability.
        draws = jnp.swapaxes(jax.random.permutation(key_order, draws), 0, 1)
        return draws.reshape(-1, draws.shape[-1])[:n]

    def _over_members(self, function: Any, *arguments: Any) -> Any:
        return eqx.filter_vmap(function)(self.members, *arguments)
