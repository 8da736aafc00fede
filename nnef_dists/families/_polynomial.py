"""Exponentials of polynomials on the real line."""

import itertools
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._constraints import negative
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._symmetries import LocationScale, Scaling, SignFlip
from nnef_dists.families._symmetry import AbstractSymmetry


@final
class Polynomial1D(ExponentialFamily):
    """Exponentials of polynomials in chosen powers of x, on the real line.

        p(x | eta) proportional to exp(sum_k eta_k x^k),    k in powers

    The top power is even and its parameter negative. This is necessary and sufficient for the
    integral to exist for all values of the other parameters, because the highest power decides both
    tails. Powers (1, 2, 4) are the quartic, with double wells if the parameter of x^2 is positive.
    There is no closed form. Statistics are named `x`, `x2`, `x4`, ...

    Args:
        powers: Increasing positive integers, the last one even. Defaults to (1, 2, 4).

    Raises:
        ValueError: If `powers` are not increasing positive integers, the last one even.
    """

    powers: tuple[int, ...] = eqx.field(static=True)

    x_shape: ClassVar[tuple[int, ...]] = ()

    def __init__(self, powers: tuple[int, ...] = (1, 2, 4)):
        powers = tuple(powers)
        increasing = all(low < high for low, high in itertools.pairwise(powers))
        if not (
            powers
            and all(isinstance(power, int | np.integer) and power > 0 for power in powers)
            and increasing
            and powers[-1] % 2 == 0
        ):
            raise ValueError(
                f"Expected increasing positive integer powers with an even top power; got {powers}"
            )
        self.powers = tuple(map(int, powers))

    @property
    def natural_domain(self) -> ProductDomain:
        """The set of eta with a negative parameter of the top power."""
        return domain(**{_name(self.powers[-1]): negative})

    @property
    def symmetries(self) -> tuple[AbstractSymmetry, ...]:
        """Sign if there are odd powers, and scale, with location if no power is missing."""
        top = self.powers[-1]
        if self.powers == tuple(range(1, top + 1)):
            scale: AbstractSymmetry = LocationScale()
        else:
            scale = Scaling(**{_name(top): top})
        # The canonical eta of a quadratic has no linear term, so a sign flip has no effect on it.
        odd = [power for power in self.powers if power % 2 == 1 and top > 2]
        return (SignFlip(_name(odd[0])), scale) if odd else (scale,)

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns the powers of x."""
        return {_name(power): jnp.asarray(x**power) for power in self.powers}


def _name(power: int) -> str:
    return "x" if power == 1 else f"x{power}"
