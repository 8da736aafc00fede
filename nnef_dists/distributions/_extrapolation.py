"""Warnings and errors for eta outside the training region, and for failed inversions."""

import warnings
from typing import TypeVar

from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from nnef_dists._checks import guard

_T = TypeVar("_T")

_REMEDY = "Add labels there and train again, or sample with nd.mean_or_oracle."


class ExtrapolationWarning(UserWarning):
    """A network is used away from its training data.

    It is an eta outside the training region, or an observation unlike the simulated ones.
    """


def check_extrapolation(
    value: _T, eta: Float[Array, " eta_dim"], inside: Bool[Array, ""], *, strict: bool
) -> _T:
    """Returns a value that depends on eta, and reports an eta outside the training region.

    Args:
        value: A pytree that was computed from eta.
        eta: Valid natural parameters, `(eta_dim,)`, for the message.
        inside: Whether eta is inside.
        strict: Whether an eta outside is an error.

    Returns:
        The same value; if strict, inside a compiled program, with an `equinox.error_if`.

    Warns:
        ExtrapolationWarning: For a concrete eta outside, unless strict.

    Raises:
        ValueError: If strict, for a concrete eta outside.
    """
    message = "Expected eta in the training region, beyond which the network extrapolates"
    if strict:
        return guard(value, inside, message, eta, _REMEDY, strict=True)
    if not isinstance(inside, Tracer) and not inside:
        # The line that calls the method: past the two frames of the compiled method.
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
    """Returns the eta of mean parameters mu if a search has found it; see `guard`."""
    return guard(
        eta,
        found,
        f"Expected mean parameters of some eta in the {region}",
        mu,
        "Check that mu is attainable, or use throw=False for NaN.",
        strict=strict,
        error=RuntimeError,
    )
