"""Distributions with fixed natural parameters."""

import math
from typing import TYPE_CHECKING, Any, final

import equinox as eqx
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import check_instance
from nnef_dists._ranges import check_integer

if TYPE_CHECKING:
    from nnef_dists.distributions._base import AbstractTractableFamily


@final
class Distribution(eqx.Module):
    """The member p(x | eta) of a tractable family, a pytree with `q` and `eta` as children.

    `q.at(eta)` returns one.

    Example:
        ```python
        p = nd.Quadrature(nd.Polynomial1D((1, 2, 4))).at([0.0, 1.0, -0.5])
        p.mean(), p.entropy(), p.log_prob(0.3), p.sample(jax.random.key(0), (100,))
        ```

    Args:
        q: The tractable family.
        eta: Valid natural parameters, `(eta_dim,)`.

    Raises:
        ValueError: If eta is outside the natural domain, or q is strict and eta is outside the
            training region.
    """

    q: "AbstractTractableFamily"
    eta: Float[Array, " eta_dim"]

    def __init__(self, q: "AbstractTractableFamily", eta: Float[Array, " eta_dim"]):
        self.q, self.eta = q, q.checked(eta)

    def mean(self) -> Float[Array, " eta_dim"]:
        """Returns the mean parameters E[T], `(eta_dim,)`."""
        return self.q.mean(self.eta)

    def covariance(self) -> Float[Array, "eta_dim eta_dim"]:
        """Returns Cov[T], `(eta_dim, eta_dim)`."""
        return self.q.covariance(self.eta)

    def accuracy(self) -> Float[Array, ""]:
        """Returns the largest error of the mean, in z units. See `q.accuracy`."""
        return self.q.accuracy(self.eta)

    def entropy(self) -> Float[Array, ""]:
        """Returns the differential entropy, in nats. See `AbstractTractableFamily.entropy`."""
        return self.q.entropy(self.eta)

    def kl(self, other: "Distribution") -> Float[Array, ""]:
        """Returns KL(self || other), in nats, from A and mu of this distribution's `q`.

        Args:
            other: A distribution of the same family.

        Returns:
            A scalar.

        Raises:
            ValueError: If `other` is of another family.
        """
        check_instance(other, Distribution, "other")
        if other.q.family != self.q.family:
            raise ValueError(
                f"Expected a distribution of {self.q.family!r}; got one of {other.q.family!r}. "
                "Average log_prob differences over draws of different families."
            )
        return self.q.kl(self.eta, other.eta)

    def log_prob(self, x: Array) -> Float[Array, ""]:
        """Returns log p(x), in nats, for one point x of shape `x_shape`."""
        return self.q.log_prob(x, self.eta)

    def sample(self, key: PRNGKeyArray, sample_shape: int | tuple[int, ...] = ()) -> Array:
        """Draws independent points.

        Args:
            key: PRNG key.
            sample_shape: Shape of the array of draws. An integer n is `(n,)`. Defaults to one draw.

        Returns:
            The draws, `(*sample_shape, *x_shape)`.

        Raises:
            RuntimeError: If the sampler's checks fail.
            ValueError: If a size is less than 1.
        """
        sizes = sample_shape if isinstance(sample_shape, tuple | list) else (sample_shape,)
        shape = [check_integer("sample_shape", size, 1) for size in sizes]
        draws = self.q.sample(key, self.eta, math.prod(shape))
        return draws.reshape(*shape, *self.q.family.x_shape)

    def to_numpyro(self) -> Any:
        """Returns the distribution for `numpyro.sample`.

        The site may be observed or latent. Latent sites are sampled in the unconstrained
        coordinates of `family.support`, which must be a flowjax bijection.

        Returns:
            A `numpyro.distributions.Distribution` with an empty batch shape and the event shape
            `x_shape`. Use `numpyro.plate` for independent copies.

        Raises:
            ImportError: If NumPyro is not installed.
        """
        from nnef_dists.distributions._numpyro import as_numpyro

        return as_numpyro(self)
