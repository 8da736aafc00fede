"""What draws from an exponential family."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from nnef_dists.families import ExponentialFamily


class AbstractSampler(eqx.Module):
    """Draws from p(x | eta) of a family: by HMC, by a flow, or in a way of the user's own."""

    @abstractmethod
    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Shaped[Array, "n *x_shape"]:
        """Draws n points.

        Args:
            key: PRNG key.
            family: The exponential family.
            eta: Valid natural parameters, `(eta_dim,)`.
            n: How many, at least 1.

        Returns:
            The draws, `(n, *x_shape)`.
        """
