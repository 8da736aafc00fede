"""Bases: computed log-partitions that a network corrects."""

from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class BaseTerms(NamedTuple):
    """The terms of a base at one eta, all twice differentiable.

    Attributes:
        value: The base's log-partition A_B, in nats.
        scale: Measure of the error of the base, dimensionless, in [0, 1). 0 if the base is exact.
        inputs: Dimensionless inputs of a correction, `(m,)`.
    """

    value: Float[Array, ""]
    scale: Float[Array, ""]
    inputs: Float[Array, " m"]


class AbstractBase(eqx.Module):
    """A computed approximation of the log-partition, with the inputs of its correction."""

    @abstractmethod
    def __call__(self, eta: Float[Array, " eta_dim"]) -> BaseTerms:
        """Returns the terms at eta, `(eta_dim,)`, or NaN if the approximation does not exist."""

    def estimate_gap(self, eta: Float[Array, " eta_dim"]) -> "Gap":
        """Estimates A - A_B at eta, for training. The estimate is not differentiable.

        Args:
            eta: Natural parameters, `(eta_dim,)`.

        Returns:
            The estimate. By default its error is infinite.
        """
        return Gap.unknown(eta)


class Gap(NamedTuple):
    """An estimate of the difference between the log-partition and a base.

    Attributes:
        value: A - A_B, in nats.
        error: Standard error of `value`.
        mean: Estimate of E[T] from these samples, `(eta_dim,)`, for a comparison with labels.
    """

    value: Float[Array, ""]
    error: Float[Array, ""]
    mean: Float[Array, " eta_dim"]

    @classmethod
    def unknown(cls, eta: Float[Array, " eta_dim"]) -> "Gap":
        """Returns an estimate of infinite error at eta."""
        zero = jnp.zeros((), eta.dtype)
        return cls(zero, zero + jnp.inf, jnp.full_like(eta, jnp.nan))
