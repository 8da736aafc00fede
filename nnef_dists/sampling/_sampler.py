"""The base class of samplers."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from nnef_dists.families import ExponentialFamily


class AbstractSampler(eqx.Module):
    """A sampler of p(x | eta) of a family, by HMC, a flow or a custom method."""

    @abstractmethod
    def sample(
        self, key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
    ) -> Shaped[Array, "n *x_shape"]:
        """Draws n points.

        Args:
            key: PRNG key.
            family: The exponential family.
            eta: Valid natural parameters, `(eta_dim,)`.
            n: Number of draws, at least 1.

        Returns:
            The draws, `(n, *x_shape)`.
        """
