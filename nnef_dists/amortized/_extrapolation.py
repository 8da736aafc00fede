"""What happens to an eta that no training eta is near."""

import warnings

import equinox as eqx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float


class ExtrapolationWarning(UserWarning):
    """A network is used away from its training data.

    It is an eta outside the box of the training etas, or an observation unlike the simulated ones.
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
        The same eta; if strict, under a transformation, with an `equinox.error_if`.

    Warns:
        ExtrapolationWarning: For a concrete eta outside, unless strict.

    Raises:
        ValueError: For a concrete eta outside, if strict.
    """
    message = "Expected eta in the box of the training etas, beyond which the network extrapolates"
    if isinstance(inside, Tracer):
        return eqx.error_if(eta, ~inside, message) if strict else eta
    if not inside:
        if strict:
            raise ValueError(f"{message}; got {eta}")
        # The caller of the method that called the method that called this.
        warnings.warn(f"{message}; got {eta}", ExtrapolationWarning, stacklevel=4)
    return eta
