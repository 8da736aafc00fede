"""Warnings and errors for eta outside the training region, and for failed inversions."""

import warnings
from typing import TypeVar

from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from nnef_dists._checks import guard

_T = TypeVar("_T")

_REMEDY = "Add labels there and train again, or sample with nd.mean_or_oracle."


class ExtrapolationWarning(UserWarning):
    """Warning that a network is used away from its training data.

    Either eta is outside the training region, or an observation is unlike the simulated ones.
    """


def check_extrapolation(
    value: _T, eta: Float[Array, " eta_dim"], inside: Bool[Array, ""], *, strict: bool
) -> _T:
    """Returns a value that depends on eta, and reports eta outside the training region.

    Args:
        value: A pytree that was computed from eta.
        eta: Valid natural parameters, `(eta_dim,)`, for the message.
        inside: Whether eta is in the training region.
        strict: Whether eta outside the training region raises.

    Returns:
        The same value. If strict, inside a compiled program, it has an `equinox.error_if`.

    Warns:
        ExtrapolationWarning: If a concrete eta is outside, unless strict.

    Raises:
        ValueError: If a concrete eta is outside, and `strict`.
    """
    message = "Expected eta in the training region, beyond which the network extrapolates"
    if strict:
        return guard(value, inside, message, eta, _REMEDY, strict=True)
    if not isinstance(inside, Tracer) and not inside:
        # Report the line that calls the method, past the two frames of the compiled method.
        warnings.warn(f"{message}; got {eta}. {_REMEDY}", ExtrapolationWarning, stacklevel=4)
    return value


def check_found(
    eta: Float[Array, " eta_dim"],
    found: Bool[Array, ""],
    mu: Float[Array, " eta_dim"],
    region: str,
    *,
    strict: bool,
) -> Float[Array, " eta_dim"]:
    """Returns the eta of mean parameters mu if a search has found it. See `guard`."""
    return guard(
        eta,
        found,
        f"Expected mean parameters of some eta in the {region}",
        mu,
        "Check that mu is attainable, or use throw=False for NaN.",
        strict=strict,
        error=RuntimeError,
    )
