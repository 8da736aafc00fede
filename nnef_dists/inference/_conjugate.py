"""Conjugate updates: sums of statistics, and the evidence."""

from typing import Any, final

import equinox as eqx
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float

from nnef_dists._checks import as_array, check_instance
from nnef_dists.distributions import AbstractTractableFamily


@final
class StatisticsSum(eqx.Module):
    """A compensated sum of statistics, about as accurate as one in twice the precision.

    It stores the rounding errors of its additions. For a stream, use it as the carry of a scan,
    `total = total.add(statistics)`. For chunks of data on many machines, add the sums of the chunks
    in the order of the chunks. The result is then bitwise identical, in any order of completion.

    `StatisticsSum.zeros(eta_dim)` returns an empty sum.

    Attributes:
        value: The sum, `(*plate, eta_dim)`.
        rest: Rounding error of the sum, `(*plate, eta_dim)`.
    """

    value: Float[Array, "*plate eta_dim"]
    rest: Float[Array, "*plate eta_dim"]

    @classmethod
    def zeros(cls, *shape: int, dtype=None) -> "StatisticsSum":
        """Returns an empty sum of statistics of shape `(*plate, eta_dim)`."""
        zeros = jnp.zeros(shape, jnp.result_type(float) if dtype is None else dtype)
        return cls(zeros, zeros)

    def add(self, statistics: "Float[Array, '*plate eta_dim'] | StatisticsSum") -> "StatisticsSum":
        """Returns the sum with the statistics of one or more observations added.

        Args:
            statistics: Statistics, `(*plate, eta_dim)`, or another sum of this shape.

        Reference:
            Knuth, *The Art of Computer Programming*, volume 2, section 4.2.2, for the error of an
            addition.
        """
        if isinstance(statistics, StatisticsSum):
            return self.add(statistics.value).add(statistics.rest)
        statistics = jnp.asarray(statistics, self.value.dtype)
        if statistics.shape != self.value.shape:
            raise ValueError(
                f"Expected statistics of shape {self.value.shape}, that of the sum; got "
                f"{statistics.shape}. Sum over observations first."
            )
        value, error = _add(self.value, statistics)
        # The rest stays below the rounding of the value, so that its own rounding is negligible.
        return StatisticsSum(*_add(value, self.rest + error))


def _add(a: Array, b: Array) -> tuple[Array, Array]:
    """Returns a rounded sum and the error of its rounding."""
    total = a + b
    virtual = total - a
    return total, (a - (total - virtual)) + (b - virtual)


def conjugate_update(
    prior_eta: Float[Array, "*plate eta_dim"],
    statistics: Float[Array, "*plate eta_dim"] | StatisticsSum,
) -> Float[Array, "*plate eta_dim"]:
    """Returns the natural parameters of a posterior under conjugacy.

        eta = prior_eta + sum over observations of their statistics

    The statistics of an observation y are the vector t(y) in log p(y | x) = t(y) . T(x) + log g(y).

    Args:
        prior_eta: Natural parameters of the prior, `(*plate, eta_dim)`.
        statistics: Sum of the statistics over observations, `(*plate, eta_dim)`.

    Returns:
        Natural parameters, `(*plate, eta_dim)`, in the dtype of `prior_eta`.

    Raises:
        ValueError: If the shapes differ, `prior_eta` is not floating, or statistics are not finite.
            Compiled programs do not check this.
    """
    prior_eta = _as_array(prior_eta, "prior_eta")
    if not jnp.issubdtype(prior_eta.dtype, jnp.floating):
        raise ValueError(
            f"Expected prior_eta of a floating-point dtype; got {prior_eta.dtype}. Convert it with "
            ".astype(float)."
        )
    is_sum = isinstance(statistics, StatisticsSum)
    total = statistics.value if is_sum else _as_array(statistics, "statistics")
    if total.shape != prior_eta.shape:
        raise ValueError(
            f"Expected statistics of shape {prior_eta.shape}, that of prior_eta; got "
            f"{total.shape}. Sum them over observations."
        )
    if not isinstance(total, Tracer) and not jnp.all(jnp.isfinite(total)):
        raise ValueError(
            f"Expected finite statistics; got {total}. Look for missing or infinite observations."
        )
    dtype = jnp.promote_types(prior_eta.dtype, total.dtype)
    # Small terms are added first, before the sum is rounded to the digits of the large term.
    small = prior_eta.astype(dtype) + (statistics.rest.astype(dtype) if is_sum else 0)
    return (small + total.astype(dtype)).astype(prior_eta.dtype)


def _as_array(value: Any, what: str) -> Array:
    if isinstance(value, dict):
        raise ValueError(
            f"Expected {what} as a flat array; got a dict. Use family.flatten_stats_or_eta(parts)."
        )
    try:
        return as_array(value)
    except (TypeError, ValueError):
        raise ValueError(f"Expected {what} as an array of numbers; got {value!r}.") from None


def evidence(
    q: AbstractTractableFamily,
    prior_eta: Float[Array, " eta_dim"],
    posterior_eta: Float[Array, " eta_dim"],
    log_base: Float[Array, ""] | float = 0.0,
) -> Float[Array, ""]:
    """Returns the log-evidence of a conjugate model, in nats.

        log p(y) = A(posterior_eta) - A(prior_eta) + log_base

    For n observations, A is of order n. In float32, the error of the difference is about n * 1e-7
    nats. Use double precision for a large n.

    Args:
        q: The tractable family of prior and posterior.
        prior_eta: Natural parameters of the prior, `(eta_dim,)`.
        posterior_eta: Natural parameters of the posterior, `(eta_dim,)`.
        log_base: Sum of log g, the terms of the log-likelihood that are not in the statistics, in
            nats. Defaults to 0.

    Returns:
        A scalar. NaN inside a compiled program if either eta is invalid.

    Raises:
        ValueError: If either eta is invalid, or outside the training region of a strict family.
    """
    check_instance(q, AbstractTractableFamily, "q")
    if jnp.shape(log_base):
        raise ValueError(
            f"Expected log_base as a number; got shape {jnp.shape(log_base)}. Add them up."
        )
    return q.log_partition(posterior_eta) - q.log_partition(prior_eta) + log_base
