"""What a posterior head is."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import Module, draw_or_mean
from nnef_dists.posterior._coordinates import PosteriorCoordinates


class AbstractPosterior(Module):
    """A learned posterior: for every observation x a distribution q(theta | x), sampled at will.

        log q(theta | x) = log q(u(theta) | x) + log |d u / d theta|

    with u the unconstrained coordinates of theta, so that no mass is outside of its support.

    Methods take one theta and one x; `jax.vmap` batches. A `key` draws one set of weights, without
    one the means are used; `nd.sample_all_parameters(head, key)` is a head with drawn weights.

    Attributes:
        coordinates: Those of theta and of x, set from simulations.
    """

    coordinates: eqx.AbstractVar[PosteriorCoordinates]

    def parameters(
        self,
        x: Float[Array, "*x_shape"],
        *,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
    ) -> Any:
        """Returns the parameters of the law of u at one observation.

        Without a support, u is theta itself.

        Args:
            x: One observation, of the simulations' shape.
            key: Draws the weights; without a key the means are used.
            sample: True insists on a draw, False on the means.

        Returns:
            What the head is made of; see its class.

        Raises:
            ValueError: If x has another shape, or `sample=True` comes without a key.
        """
        head = draw_or_mean(self, key=key, sample=sample)
        return head.law_at(head.coordinates.inputs(x))

    def log_prob(
        self,
        theta: Float[Array, " theta_dim"],
        x: Float[Array, "*x_shape"],
        *,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
    ) -> Float[Array, ""]:
        """Returns log q(theta | x), in nats.

        Args:
            theta: Parameters, `(theta_dim,)`.
            x: One observation, of the simulations' shape.
            key: Draws the weights; without a key the means are used.
            sample: True insists on a draw, False on the means.

        Returns:
            A scalar; minus infinity outside the support.

        Raises:
            ValueError: If a shape is another, or `sample=True` comes without a key.
        """
        head = draw_or_mean(self, key=key, sample=sample)
        u, log_det, inside = head.coordinates.unconstrain(theta)
        value = head.law_log_prob(head.law_at(head.coordinates.inputs(x)), u) + log_det
        return jnp.where(inside, value, -jnp.inf)

    def sample(
        self, key: PRNGKeyArray, x: Float[Array, "*x_shape"], n: int
    ) -> Float[Array, "n theta_dim"]:
        """Draws from q(theta | x), at the weights' means.

        Args:
            key: PRNG key for the draws.
            x: One observation, of the simulations' shape.
            n: How many draws, at least 1.

        Returns:
            The draws, `(n, theta_dim)`, all inside the support.

        Raises:
            ValueError: If x has another shape, or n < 1.
        """
        if n < 1:
            raise ValueError(f"Expected n >= 1; got {n}")
        u = self.law_sample(key, self.law_at(self.coordinates.inputs(x)), n)
        return jax.vmap(self.coordinates.constrain)(u)

    @abstractmethod
    def law_at(self, inputs: Float[Array, "*x_shape"]) -> Any:
        """Returns the law of u for one standardised observation: a pytree of arrays."""

    @abstractmethod
    def law_log_prob(self, law: Any, u: Float[Array, " theta_dim"]) -> Float[Array, ""]:
        """Returns the log-density of u under such a law, in nats."""

    @abstractmethod
    def law_sample(self, key: PRNGKeyArray, law: Any, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points u of such a law."""
