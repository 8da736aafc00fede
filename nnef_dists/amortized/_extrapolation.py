"""What happens to an eta that no training eta is near."""

import warnings

from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from nnef_dists._checks import guard

_REMEDY = "Add labels there and train again, or sample with nd.mean_or_oracle."


class ExtrapolationWarning(UserWarning):
    """A network is used away from its training data.

    It is an eta outside the training region, or an observation unlike the simulated ones.
    """


def check_extrapolation(
    eta: Float[Array, " eta_dim"], inside: Bool[Array, ""], *, strict: bool
) -> Float[Array, " eta_dim"]:
    """Returns eta, and reports one that is outside the box.

    Args:
        eta: Valid natural parameters, `(eta_dim,)`.
        inside: Whether they are inside.
        strict: Whether to refuse what is outside.

    Returns:
        The same eta; if strict, inside a compiled program, with an `equinox.error_if`.

    Warns:
        ExtrapolationWarning: For a concrete eta outside, unless strict.

    Raises:
        ValueError: For a concrete eta outside, if strict.
    """
    message = "Expected eta in the training region, beyond which the network extrapolates"
    if strict:
        return guard(eta, inside, message, eta, _REMEDY, strict=True)
    if not isinstance(inside, Tracer) and not inside:
        # The line that calls the method: past `_checked`, whose bound method is a frame too.
        warnings.warn(f"{message}; got {eta}. {_REMEDY}", ExtrapolationWarning, stacklevel=5)
    return eta
