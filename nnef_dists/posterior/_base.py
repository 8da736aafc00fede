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
    """A distribution of vectors z: the result of a head for one observation.

    A subclass is a pytree of arrays, without a batch axis. Use `jax.vmap` for a batch.
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
    """A learned posterior: a distribution q(theta | x) for each observation x.

        log q(theta | x) = log q(z(theta) | x) + log |d z / d theta|

    where z are the standardized unconstrained coordinates of theta, see `PosteriorCoordinates`. No
    mass is outside the support of theta. A subclass implements `law_at`, the distribution of z.

    An observation x that is not finite raises. An x unlike the simulated observations issues an
    `ExtrapolationWarning`. Under transformations such as `jax.jit`, a non-finite x gives NaN and
    there is no warning. Use `is_inside` there.

    Each method takes one theta and one x. Use `jax.vmap` for a batch. A `key` draws one set of
    weights. Without a key the means are used. `nd.sample_all_parameters(head, key)` returns a head
    with drawn weights.

    Attributes:
        coordinates: Coordinates of theta and x, set from simulations.
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

        The bijection `support` maps unconstrained coordinates u to theta. By default, u is theta.

        Args:
            x: One observation, of the simulations' shape.
            key: PRNG key for one draw of the weights. By default, the means are used.
            sample: Whether to draw the weights. By default, they are drawn if there is a key.

        Returns:
            A pytree of arrays, documented in the class of the head.

        Raises:
            ValueError: If x has another shape or is not finite, or `sample` is True without a
                `key`.
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
            theta: Parameters, `(theta_dim,)`, an array or a list of numbers.
            x: One observation, of the simulations' shape.
            key: PRNG key for one draw of the weights. By default, the means are used.
            sample: Whether to draw the weights. By default, they are drawn if there is a key.

        Returns:
            A scalar. Minus infinity outside the support, and NaN for a theta with NaN.

        Raises:
            ValueError: If theta or x has another shape, x is not finite, or `sample` is True
                without a `key`.
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
            n: Number of draws, at least 1.

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
        """Returns whether an observation is like the simulated ones, see `ObservationRegion`.

        The other methods warn if a concrete observation is unlike the simulated ones. Under a
        transformation they cannot warn.

        Args:
            x: One observation, of the simulations' shape.
        """
        return self.coordinates.region.is_inside(x)

    def _law(
        self, x: Float[Array, "*x_shape"], key: PRNGKeyArray | None, sample: bool | None
    ) -> tuple[AbstractLaw, Bool[Array, ""]]:
        """Returns the distribution of z, and whether x is finite. If not, results are NaN."""
        head = draw_or_mean(self, key=key, sample=sample)
        inputs = head.coordinates.inputs(x)
        finite = jnp.all(jnp.isfinite(inputs))
        # A non-finite x is replaced by ones: finite, and a valid mask.
        return head.law_at(jnp.where(finite, inputs, 1)), finite

    @abstractmethod
    def law_at(self, inputs: Any) -> AbstractLaw:
        """Returns the distribution of z.

        Args:
            inputs: One standardized observation. If the `Trunk` has a context, a pair of both.
        """
