"""What a posterior head is."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer
from nnef_dists.bayes import Module, draw_or_mean
from nnef_dists.posterior._coordinates import PosteriorCoordinates


class AbstractPosterior(Module):
    """A learned posterior: for every observation x a distribution q(theta | x), sampled at will.

        log q(theta | x) = log q(u(theta) | x) + log |d u / d theta|

    with u the unconstrained coordinates of theta, so that no mass is outside of its support.

    An observation x that is not finite raises, and gives NaN under a transformation. One that is
    unlike the simulated observations issues an `ExtrapolationWarning`, but not under a
    transformation: use `is_inside` there.

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
            ValueError: If x has another shape or is not finite, or `sample=True` comes without a
                key.
        """
        head = draw_or_mean(self, key=key, sample=sample)
        law, finite = head._law(x)
        return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), law)

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
            ValueError: If a shape is another, x is not finite, or `sample=True` comes without a
                key.
        """
        head = draw_or_mean(self, key=key, sample=sample)
        u, log_det, inside = head.coordinates.unconstrain(theta)
        law, finite = head._law(x)
        value = head.law_log_prob(law, u) + log_det
        return jnp.where(finite, jnp.where(inside, value, -jnp.inf), jnp.nan)

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
            ValueError: If x has another shape or is not finite, or n < 1.
        """
        n = check_integer("n", n, 1)
        law, finite = self._law(x)
        u = self.law_sample(key, law, n)
        return jnp.where(finite, jax.vmap(self.coordinates.constrain)(u), jnp.nan)

    def is_inside(self, x: Float[Array, "*x_shape"]) -> Bool[Array, ""]:
        """Returns whether an observation is like the simulated ones; see `ObservationRegion`.

        Methods warn of a concrete observation that is not. Under a transformation they cannot.

        Args:
            x: One observation, of the simulations' shape.
        """
        return self.coordinates.region.is_inside(x)

    def _law(self, x: Float[Array, "*x_shape"]) -> tuple[Any, Bool[Array, ""]]:
        """Returns the law of u, and whether x is finite: results at others are NaN."""
        inputs = self.coordinates.inputs(x)
        finite = jnp.all(jnp.isfinite(inputs))
        # The network and the law are evaluated at a finite point.
        return self.law_at(jnp.where(finite, inputs, 0)), finite

    @abstractmethod
    def law_at(self, inputs: Float[Array, "*x_shape"]) -> Any:
        """Returns the law of u for one standardised observation: a pytree of arrays."""

    @abstractmethod
    def law_log_prob(self, law: Any, u: Float[Array, " theta_dim"]) -> Float[Array, ""]:
        """Returns the log-density of u under such a law, in nats."""

    @abstractmethod
    def law_sample(self, key: PRNGKeyArray, law: Any, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points u of such a law."""
