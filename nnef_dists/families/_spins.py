"""Families of interacting binary sites: Ising and pairwise maximum-entropy models."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from nnef_dists._ranges import check_integer
from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._discrete import Bits, Spins
from nnef_dists.families._domain import ProductDomain, domain


@final
class Ising(ExponentialFamily):
    """The Ising model: spins -1 and 1 on a grid of any dimension, with nearest neighbors.

        p(x | eta) proportional to exp(eta1 sum_i x_i + eta2 sum over bonds of x_i x_j)

    Statistics `x`, the magnetization, and `neighbors`, the sum over bonds. eta1 is the field and
    eta2 the coupling, both real and in units of the temperature. On the infinite square lattice
    without a field, spins order above eta2 = log(1 + sqrt 2) / 2 = 0.4407 (Onsager 1944).

    Args:
        shape: Shape of the grid, such as `(10, 10)`.
        periodic: Whether the last site of each axis is a neighbor of the first. Defaults to False.

    Raises:
        ValueError: If there is no axis, or an axis has fewer than 2 sites, or fewer than 3 on a
            periodic grid.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    periodic: bool = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain()

    def __init__(self, shape: int | tuple[int, ...], *, periodic: bool = False):
        least = 3 if periodic else 2
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if not shape:
            raise ValueError("Expected a grid of at least one axis; got the shape ()")
        self.shape = tuple(check_integer("sites of an axis", size, least) for size in shape)
        self.periodic = bool(periodic)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of the grid."""
        return self.shape

    @property
    def support(self) -> Spins:
        """Spins on the grid."""
        return Spins(self.shape)

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns the sums over sites and over bonds."""
        bonds = jnp.zeros((), x.dtype)
        for axis in range(x.ndim):
            following = jnp.roll(x, -1, axis) if self.periodic else _from(x, axis, 1)
            first = x if self.periodic else _from(x, axis, 0, -1)
            bonds = bonds + jnp.sum(first * following)
        return {"x": jnp.sum(x), "neighbors": bonds}


def _from(x: Array, axis: int, start: int, stop: int | None = None) -> Array:
    return x[(slice(None),) * axis + (slice(start, stop),)]


@final
class PairwiseBinary(ExponentialFamily):
    """The pairwise maximum-entropy model of n binary units, such as neurons that fire or do not.

        p(x | eta) proportional to exp(sum_i eta_i x_i + sum_{i<j} eta_ij x_i x_j),    x_i = 0 or 1

    Statistics `x`, `(n,)`, and `xx`, the products of all pairs i < j in the order of
    `numpy.triu_indices(n, 1)`, `(n (n - 1) / 2,)`. This is the distribution of largest entropy for
    given rates E[x_i] and given E[x_i x_j].

    Args:
        n: Number of units, at least 2.

    Raises:
        ValueError: If `n < 2`.

    Reference:
        Schneidman, Berry, Segev and Bialek, *Weak pairwise correlations imply strongly correlated
        network states in a neural population*, Nature 440 (2006).
    """

    n: int = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain()

    def __init__(self, n: int):
        self.n = check_integer("n", n, 2)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one point: `(n,)`."""
        return (self.n,)

    @property
    def support(self) -> Bits:
        """Words of n bits."""
        return Bits((self.n,))

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns the units, and the products of all pairs."""
        first, second = np.triu_indices(self.n, 1)
        return {"x": x, "xx": x[first] * x[second]}
