"""Exponential families whose log-partition and mean can be computed."""

import functools
from abc import abstractmethod
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped

from nnef_dists._ranges import check_integer
from nnef_dists.distributions._accuracy import rounding_of_mean
from nnef_dists.distributions._curvature import covariance_and_mean, directions, is_definite
from nnef_dists.distributions._distribution import Distribution
from nnef_dists.distributions._extrapolation import check_found
from nnef_dists.distributions._inverse import invert_mean
from nnef_dists.distributions._method import compiled
from nnef_dists.families import ExponentialFamily, restricted_logdensity
from nnef_dists.sampling import AbstractSampler


class AbstractTractableFamily(eqx.Module):
    """An exponential family whose log-partition A and mean mu can be computed.

        log p(x | eta) = eta . T(x) + log h(x) - A(eta)
        mu(eta) = E[T | eta] = grad A(eta),    Cov[T | eta] = d mu / d eta

    `ClosedForm` has formulas, `Quadrature` integrates, and `AmortizedFamily` has a network.

    Each method takes one eta. Use `jax.vmap` for a batch. A call outside `jax.jit` runs one
    compiled program, which the next call with the same shapes reuses. `jax.jit(q.mean)` works too.

    An invalid eta raises. Inside a compiled program the result is NaN, and so are its derivatives,
    without a host callback. With `strict`, it raises there too.

    A subclass declares the attributes, `_potential` and `_mean`. Other methods have defaults for
    exact sources. Their arguments are checked in advance, and are NaN if they are invalid.

    Attributes:
        family: The exponential family.
        sampler: The sampler that `sample` uses.
        strict: Whether eta that is invalid, or outside the training region, also raises inside
            compiled programs, by `equinox.error_if`, which is a host callback.
    """

    family: eqx.AbstractVar[ExponentialFamily]
    sampler: eqx.AbstractVar[AbstractSampler]
    strict: eqx.AbstractVar[bool]
    # The name of the set that `_invert` searches, for messages.
    _region: ClassVar[str] = "natural domain"
    # Whether calls outside of compiled programs run in double precision.
    _in_double: ClassVar[bool] = False

    @abstractmethod
    def _potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns A(eta) up to a constant, in nats."""

    @abstractmethod
    def _mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        """Returns mu(eta), differentiable in eta."""

    def _potential_and_mean(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, " eta_dim"]]:
        """Returns the potential and the mean, for sources that compute them together."""
        return self._potential(eta), self._mean(eta)

    def _constant(self) -> Float[Array, ""] | float:
        """Returns the constant that the potential lacks."""
        return 0.0

    def _invert(
        self, mu: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, " eta_dim"], Bool[Array, ""]]:
        """Returns the eta with mean parameters mu, and whether it was found in the region."""
        return invert_mean(self, mu)

    def _is_inside(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        """Returns whether a valid eta is in the training region. True without a network."""
        return jnp.asarray(True)

    def _accuracy(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns an upper limit of the largest error of mu(eta), in z units."""
        return rounding_of_mean(eta, *covariance_and_mean(self, eta))

    def _predictive(
        self, eta: Float[Array, " eta_dim"], key: PRNGKeyArray, n: int
    ) -> tuple[Float[Array, " eta_dim"], Float[Array, " eta_dim"]]:
        """Returns mean and standard deviation of mu(eta) over draws of the weights."""
        return self._mean(eta), jnp.zeros_like(eta)

    def at(self, eta: Float[Array, " eta_dim"]) -> Distribution:
        """Returns p(x | eta) at a valid eta, `(eta_dim,)`, as a pytree with the same methods."""
        return Distribution(self, eta)

    @compiled
    def checked(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        """Returns eta as an array if it is valid and inside, with the checks of all methods.

        Args:
            eta: Natural parameters, `(eta_dim,)`.

        Returns:
            The same eta. Inside a compiled program, NaN if it is invalid.
        """
        return eta

    @functools.partial(compiled, within="space")
    def is_inside(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        """Returns whether eta, `(eta_dim,)`, is valid and in the training region of a network."""
        return self.family.is_valid_eta(eta) & self._is_inside(eta)

    def eta_at(self, u: Float[Array, " m"]) -> Float[Array, " eta_dim"]:
        """Returns valid natural parameters for each u, `(unconstrained_dim,)`.

        An `AmortizedFamily` maps u into its training box, others into the natural domain.
        """
        return self.family.constrain_eta(u)

    @compiled
    def predictive(
        self, eta: Float[Array, " eta_dim"], key: PRNGKeyArray, n: int = 64
    ) -> tuple[Float[Array, " eta_dim"], Float[Array, " eta_dim"]]:
        """Returns mean and standard deviation of mu(eta) over draws of a network's weights.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.
            key: PRNG key of the draws of the weights.
            n: Number of draws of the weights, at least 2. Defaults to 64.

        Returns:
            Both `(eta_dim,)`, in units of T. Without a network, the standard deviation is 0.

        Raises:
            ValueError: If `n` is less than 2.
        """
        return self._predictive(eta, key, check_integer("n", n, 2))

    @functools.partial(compiled, within="space")
    def accuracy(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns an upper limit of the largest error of the mean parameters, in z units.

            max over statistics i of |mu_i(eta) - E[T_i | eta]| / sd(T_i | eta) <= accuracy(eta)

        It is the rounding for closed forms, and the error bound for `Quadrature`. For an
        `AmortizedFamily`, `nd.validate` calibrates it to hold for 95% of etas from the distribution
        of the held-out etas. For other etas, it is an estimate that grows with the distance from
        the training etas. It is infinite before that, and where `network.is_inside` is False.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A scalar, in z units. Infinite if eta is invalid, too.
        """
        limit = self._accuracy(eta)
        return jnp.where(self._is_inside(eta) & jnp.isfinite(limit), limit, jnp.inf)

    @compiled
    def mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        """Returns the mean parameters mu = E[T | eta].

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            The mean parameters, `(eta_dim,)`.

        Raises:
            ValueError: If eta is outside the natural domain, or the family is strict and eta is
                outside the training region. Other methods raise in these cases, too, except
                `is_inside` and `accuracy`, and `sample` outside the training region.
        """
        return self._mean(eta)

    @compiled
    def covariance(self, eta: Float[Array, " eta_dim"]) -> Float[Array, "eta_dim eta_dim"]:
        """Returns Cov[T | eta], the symmetric part of the Jacobian of `mean`.

        The covariance of a network may be indefinite. See `is_positive_definite`.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A matrix, `(eta_dim, eta_dim)`.
        """
        return covariance_and_mean(self, eta)[0]

    @compiled
    def is_positive_definite(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        """Returns whether the covariance is positive along all directions in which eta can move.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A scalar.
        """
        tangents = directions(self.family, eta)
        return is_definite(tangents.T @ covariance_and_mean(self, eta)[0] @ tangents)

    @compiled
    def log_partition(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns A(eta), the log of the integral of h(x) exp(eta . T(x)) over x, in nats.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A scalar.

        Raises:
            ValueError: If a network predicts only moments, or its A has no anchor.
        """
        return self._potential(eta) + self._constant()

    @compiled
    def entropy(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns the differential entropy A(eta) - eta . mu(eta), in nats.

        Terms much larger than the result cancel: the error is about eps (|A| + |eta| . |mu|) nats.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A scalar, which may be negative.

        Raises:
            ValueError: If the family has a base measure, whose entropy also needs E[log h], or if
                `log_partition` raises.
        """
        if not self.family.has_unit_base_measure:
            raise ValueError(
                f"Expected a family without a base measure: the entropy of {self.family!r} needs "
                "E[log h]. Use BaseMeasureAsStatistic(family), at whose log_h = 1 it is this "
                "family."
            )
        potential, mean = self._potential_and_mean(eta)
        return potential + self._constant() - jnp.sum(eta * mean)

    @compiled
    def kl(
        self, eta_p: Float[Array, " eta_dim"], eta_q: Float[Array, " eta_dim"]
    ) -> Float[Array, ""]:
        """Returns KL(p || q) = (eta_p - eta_q) . mu_p - A(eta_p) + A(eta_q), in nats.

        No anchor of A is needed, but a direct network raises. If A is not convex, the result may be
        negative. Large terms cancel as in `entropy`.

        Args:
            eta_p: Valid natural parameters of p, `(eta_dim,)`.
            eta_q: Valid natural parameters of q, `(eta_dim,)`.

        Returns:
            A scalar.
        """
        potential, mean = self._potential_and_mean(eta_p)
        return jnp.sum((eta_p - eta_q) * mean) - potential + self._potential(eta_q)

    @compiled
    def log_prob(self, x: Array, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns log p(x | eta), in nats. Raises if `log_partition` raises.

        Large terms cancel as in `entropy`.

        Args:
            x: One point, of shape `family.x_shape`.
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A scalar. -inf outside a support that is discrete or a flowjax bijection.
        """
        log_partition = self._potential(eta) + self._constant()
        return restricted_logdensity(self.family, eta, x) - log_partition

    @compiled
    def natural_parameters(
        self, mu: Float[Array, " eta_dim"], *, throw: bool = True
    ) -> Float[Array, " eta_dim"]:
        """Returns the eta whose mean parameters are mu, the inverse of `mean`.

        An over-complete family gets the symmetric eta. An `AmortizedFamily` searches its training
        region. The derivative in mu is the inverse of the covariance, in the coordinates of eta.

        Args:
            mu: Mean parameters, `(eta_dim,)`.
            throw: Whether to raise if there is no such eta. Otherwise the result is NaN.

        Returns:
            Valid natural parameters, `(eta_dim,)`.

        Raises:
            RuntimeError: If no eta of the region has a mean within sqrt(eps) of mu, in z units.
                Inside a compiled program, the result is NaN, or a strict family raises.
        """
        eta, found = self._invert(mu)
        if not throw:
            return jnp.where(found, eta, jnp.nan)
        return check_found(eta, found, mu, self._region, strict=self.strict)

    @functools.partial(compiled, within="domain")
    def sample(
        self, key: PRNGKeyArray, eta: Float[Array, " eta_dim"], n: int
    ) -> Shaped[Array, "n *x_shape"]:
        """Draws from p(x | eta) by the sampler.

        Args:
            key: PRNG key.
            eta: Valid natural parameters, `(eta_dim,)`, anywhere in the natural domain.
            n: Number of draws, at least 1.

        Returns:
            The draws, `(n, *x_shape)`.

        Raises:
            RuntimeError: If the sampler's checks fail.
        """
        return self.sampler.sample(key, self.family, eta, check_integer("n", n, 1))
