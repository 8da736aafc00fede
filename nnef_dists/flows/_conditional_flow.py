"""A normalizing flow for a whole exponential family."""

import math
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer
from nnef_dists.families import ExponentialFamily, continuous_support, unconstrain_etas
from nnef_dists.flows._importance import ImportanceEstimate, importance_estimate

_USER = "a flow"


@final
class ConditionalFlow(eqx.Module):
    """A normalizing flow conditioned on eta, which approximates p(x | eta) for all etas in a box.

        z ~ N(0, I),    u = f(z; c(eta)),    x = support(u)

    f is a conditional flowjax bijection onto the unconstrained coordinates u of the family's
    support, so that no draw leaves the support. c(eta) are the unconstrained coordinates of eta,
    shifted and scaled to [-1, 1] over the training etas. Training needs no data, because the loss
    is `free_energy`.

    Every draw has a weight, log w = eta . T(x) + log h(x) - log q(x), with E[w] = exp(A(eta)). So
    the mean of log w is a lower bound of A(eta), and the log of the mean of w estimates A(eta)
    (`importance`).

    Methods take one eta. Use `jax.vmap` for a batch. The bijection may have leaves that are not
    arrays, so use `equinox.filter_jit`, or `eqx.partition(flow, eqx.is_inexact_array)`.

    Args:
        family: The exponential family.
        bijection: Conditional flowjax bijection from z to u, of shape `family.support.shape` or
            of the flattened shape `(n,)`, with `cond_shape (family.unconstrained_dim,)`.
        etas: Training etas, `(m, eta_dim)`, at least two. Their ranges in unconstrained
            coordinates define the box that scales the conditions.

    Attributes:
        family: The exponential family.
        bijection: The bijection.
        low: Lower edge of the box, not trainable.
        high: Upper edge of the box, not trainable.

    Raises:
        ValueError: If the shapes of the bijection do not fit the family, the support is discrete,
            or `etas` are invalid.

    Reference:
        Rezende and Mohamed, *Variational inference with normalizing flows* (2015).
    """

    family: ExponentialFamily = eqx.field(static=True)
    bijection: AbstractBijection
    low: paramax.NonTrainable[Float[Array, " m"]]
    high: paramax.NonTrainable[Float[Array, " m"]]

    def __init__(
        self,
        family: ExponentialFamily,
        bijection: AbstractBijection,
        etas: Float[Array, "n eta_dim"],
    ):
        shape = continuous_support(family, _USER).shape
        size = math.prod(shape)
        expected = (family.unconstrained_dim,)
        if bijection.shape not in (shape, (size,)) or bijection.cond_shape != expected:
            raise ValueError(
                f"Expected a bijection of shape {shape} and cond_shape {expected} for {family!r}; "
                f"got {bijection.shape} and {bijection.cond_shape}"
            )
        etas = jnp.asarray(etas)
        if etas.ndim != 2 or etas.shape[0] < 2:
            raise ValueError(f"Expected etas of shape (n, {family.eta_dim}); got {etas.shape}")
        if not bool(jnp.all(jax.vmap(family.is_valid_eta)(etas))):
            raise ValueError(f"Expected valid etas of {family!r}; got some that are not")
        coordinates = unconstrain_etas(family, etas)
        self.family, self.bijection = family, bijection
        self.low = paramax.NonTrainable(jnp.min(coordinates, 0))
        self.high = paramax.NonTrainable(jnp.max(coordinates, 0))

    def is_inside(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        """Returns whether a valid eta is in the training box, widened by 2%."""
        return jnp.all(jnp.abs(self._condition(eta)) <= 1.02)

    def sample_and_log_weight(
        self, key: PRNGKeyArray, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, "*x_shape"], Float[Array, ""]]:
        """Draws one point and its log-weight, log p(x | eta) + A(eta) - log q(x | eta), in nats.

        The draw is reparameterized, so both are differentiable in the flow's parameters and in eta.

        Args:
            key: PRNG key.
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            The point, of shape `family.x_shape`, and a scalar.
        """
        eta = self.family.check_eta(eta)
        return self._push(jax.random.normal(key, self.bijection.shape, eta.dtype), eta)

    def sample(
        self, key: PRNGKeyArray, eta: Float[Array, " eta_dim"], n: int
    ) -> Float[Array, "n *x_shape"]:
        """Draws n independent points from q(x | eta).

        Args:
            key: PRNG key.
            eta: Valid natural parameters, `(eta_dim,)`.
            n: Number of draws, at least 1.

        Returns:
            The draws, `(n, *x_shape)`.

        Raises:
            ValueError: If n < 1.
        """
        return self.draw_with_log_weights(key, eta, n)[0]

    def log_prob(
        self, x: Float[Array, "*x_shape"], eta: Float[Array, " eta_dim"]
    ) -> Float[Array, ""]:
        """Returns log q(x | eta), in nats: the density of `sample`'s draws.

        Args:
            x: One point of the support, of shape `family.x_shape`.
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A scalar.

        Raises:
            ValueError: If the support has no inverse, because it is not a flowjax bijection, for
                example on the circle, the sphere and the simplex.
        """
        support = self.family.support
        if not isinstance(support, AbstractBijection):
            raise ValueError(
                f"Expected a family whose support is a flowjax bijection; {self.family!r} has "
                f"{support!r}, which has no inverse (draws and weights need none)"
            )
        condition = self._condition(self.family.check_eta(eta))
        u, support_log_det = support.inverse_and_log_det(x)
        z, log_det = self.bijection.inverse_and_log_det(u.reshape(self.bijection.shape), condition)
        return _standard_normal(z) + log_det + support_log_det

    def importance(
        self, key: PRNGKeyArray, eta: Float[Array, " eta_dim"], n: int = 1024
    ) -> ImportanceEstimate:
        """Estimates A(eta) and E[T | eta] from n weighted draws, with diagnostics.

        Args:
            key: PRNG key.
            eta: Valid natural parameters, `(eta_dim,)`.
            n: Number of draws, at least 2. Defaults to 1024.

        Returns:
            The estimates, a lower bound of A, the effective sample fraction, and Pareto's k.

        Raises:
            ValueError: If n < 2.
        """
        n = check_integer("n", n, 2)
        x, log_weights = self.draw_with_log_weights(key, eta, n)
        return importance_estimate(log_weights, jax.vmap(self.family.sufficient_statistics)(x))

    def draw_with_log_weights(
        self, key: PRNGKeyArray, eta: Float[Array, " eta_dim"], n: int
    ) -> tuple[Float[Array, "n *x_shape"], Float[Array, " n"]]:
        """Draws n independent points and their log-weights, as in `sample_and_log_weight`.

        Args:
            key: PRNG key.
            eta: Valid natural parameters, `(eta_dim,)`.
            n: Number of draws, at least 1.

        Returns:
            The points, `(n, *x_shape)`, and log-weights, `(n,)`, in nats.

        Raises:
            ValueError: If n < 1.
        """
        n = check_integer("n", n, 1)
        eta = self.family.check_eta(eta)
        # Draws are along the last axis, which is several times faster for few coordinates.
        z = jax.random.normal(as_key(key), (*self.bijection.shape, n), eta.dtype)
        return jax.vmap(self._push, (-1, None))(z, eta)

    def _push(self, z, eta):
        """Returns the point to which z is moved, and its log-weight."""
        u, log_det = self.bijection.transform_and_log_det(z, self._condition(eta))
        x, target = self._target(eta, u)
        return x, target - _standard_normal(z) + log_det

    def _condition(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " m"]:
        low, high = paramax.unwrap((self.low, self.high))
        width = jnp.where(high > low, high - low, 1)
        return (2 * self.family.unconstrain_eta(eta) - low - high) / width

    def _target(self, eta, u):
        """Returns the point x at u, and the unnormalized log-density of u."""
        support = continuous_support(self.family, _USER)
        x, log_det = support.transform_and_log_det(u.reshape(support.shape))
        return x, self.family.unnormalized_logdensity(eta, x) + log_det.astype(eta.dtype)


def free_energy(
    flow: ConditionalFlow, etas: Float[Array, "b eta_dim"], key: PRNGKeyArray, n: int = 1
) -> Float[Array, ""]:
    """Returns an estimate of the mean of KL(q || p) - A(eta) over etas, in nats, as a loss.

        E_q[log q(x | eta) - eta . T(x) - log h(x)],    x ~ q(. | eta)

    No data are needed, because the draws are reparameterized draws of the flow. The minimum is the
    mean of -A(eta), which is reached if q equals p.

    Args:
        flow: The flow.
        etas: A batch of natural parameters, `(b, eta_dim)`.
        key: PRNG key, for the draws.
        n: Number of draws per eta, at least 1. Defaults to 1.

    Returns:
        A scalar.

    Raises:
        ValueError: If n < 1.
    """
    n = check_integer("n", n, 1)
    keys = jax.random.split(as_key(key), (etas.shape[0], n))
    weigh = jax.vmap(jax.vmap(flow.sample_and_log_weight, (0, None)))
    return -jnp.mean(weigh(keys, etas)[1])


def _standard_normal(z: Float[Array, "..."]) -> Float[Array, ""]:
    return -jnp.sum(z**2 + jnp.log(2 * jnp.pi).astype(z.dtype)) / 2
