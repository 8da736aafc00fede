"""The interface of posterior heads, and of the distributions that they return."""

from abc import abstractmethod
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer
from nnef_dists.bayes import Module, draw_or_mean
from nnef_dists.posterior._coordinates import PosteriorCoordinates

Vector = Float[Array, " theta_dim"]


class AbstractLaw(eqx.Module):
    """A distribution of vectors z, as a value: the result of a head for one observation.

    A subclass is a pytree of arrays, without a batch axis. `jax.vmap` batches.
    """

    @abstractmethod
    def log_prob(self, z: Vector) -> Float[Array, ""]:
        """Returns the log-density at z, in nats."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray, n: int) -> Float[Array, "n theta_dim"]:
        """Draws n points z."""

    @abstractmethod
    def parameters(self, shift: Vector, scale: Vector) -> Any:
        """Returns the parameters of the distribution of shift + scale z: a pytree of arrays."""


class AbstractPosterior(Module):
    """A learned posterior: for every observation x a distribution q(theta | x), sampled at will.

        log q(theta | x) = log q(z(theta) | x) + log |d z / d theta|

    with z the standardized unconstrained coordinates of theta, see `PosteriorCoordinates`. So no
    mass is outside of its support. A subclass returns the distribution of z by `law_at`.

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
        """Returns the parameters of the distribution of u at one observation.

        The unconstrained coordinates u are those of `support`. Without a support, u is theta.

        Args:
            x: One observation, of the simulations' shape.
            key: Draws the weights; without a key the means are used.
            sample: True insists on a draw, False on the means.

        Returns:
            A pytree of arrays; see the class of the head.

        Raises:
            ValueError: If x has another shape or is not finite, or `sample=True` comes without a
                key.
        """
        law, finite = self._law(x, key, sample)
        parameters = law.parameters(*self.coordinates.shift_and_scale)
        return jax.tree.map(lambda leaf: jnp.where(finite, leaf, jnp.nan), parameters)

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
        z, log_det, inside = self.coordinates.unconstrain(theta)
        law, finite = self._law(x, key, sample)
        value = law.log_prob(z) + log_det
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
            ValueError: If x has another shape or is not finite, `key` is not one key, or n < 1.
        """
        key, n = as_key(key), check_integer("n", n, 1)
        law, finite = self._law(x, None, False)
        theta = jax.vmap(self.coordinates.constrain)(law.sample(key, n))
        return jnp.where(finite, theta, jnp.nan)

    def is_inside(self, x: Float[Array, "*x_shape"]) -> Bool[Array, ""]:
        """Returns whether an observation is like the simulated ones; see `ObservationRegion`.

        Methods warn of a concrete observation that is not. Under a transformation they cannot.

        Args:
            x: One observation, of the simulations' shape.
        """
        return self.coordinates.region.is_inside(x)

    def _law(
        self, x: Float[Array, "*x_shape"], key: PRNGKeyArray | None, sample: bool | None
    ) -> tuple[AbstractLaw, Bool[Array, ""]]:
        """Returns the distribution of z, and whether x is finite: results at others are NaN."""
        head = draw_or_mean(self, key=key, sample=sample)
        inputs = head.coordinates.inputs(x)
        finite = jnp.all(jnp.isfinite(inputs))
        # The network and the distribution are evaluated at a finite point, whose mask is valid.
        return head.law_at(jnp.where(finite, inputs, 1)), finite

    @abstractmethod
    def law_at(self, inputs: Any) -> AbstractLaw:
        """Returns the distribution of z.

        Args:
            inputs: One standardized observation; with the context of the `Trunk`, a pair.
        """
