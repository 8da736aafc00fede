"""A chain of coupled quartic sites."""

from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer
from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._constraints import negative
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._stein_functions import (
    AbstractFlipFamily,
    AbstractSteinFamily,
    SteinFunctions,
)
from nnef_dists.families._symmetries import SignFlip
from nnef_dists.families._symmetry import AbstractSymmetry

_HIGHEST_POWER = 6


@final
class LatticePhi4(ExponentialFamily, AbstractSteinFamily, AbstractFlipFamily):
    """The phi^4 model on an open chain of n sites, with four statistics for any n.

        p(x | eta) proportional to exp(sum_i (eta1 x_i + eta2 x_i^2 + eta4 x_i^4)
                                       + eta_nn sum_{i<n} x_i x_{i+1}),    eta4 < 0

    Statistics `x`, `x2`, `x4` (sums over the sites) and `neighbors` (the sum over the n - 1 bonds,
    without a bond between the ends). For eta2 > 0 each site has a double well. eta_nn > 0 aligns
    neighbors, which leads to several modes and long correlations.

    The integral exists for eta4 < 0 and all values of the other parameters. The reason is that
    sum_i x_i^4 >= |x|^4 / n, and all other terms are at most quadratic in |x|. The integral is
    infinite for eta4 > 0. On the edge eta4 = 0 the model is Gaussian, and normalizable for some
    etas. This edge is excluded, so that the domain is open and a product.

    Transfer matrices give the exact log-partition and moments of an open chain. The sites are
    integrated out one after another, by n - 1 integrals in one dimension.

    Args:
        n: Number of sites, at least 2.

    Raises:
        ValueError: If `n < 2`.

    Reference:
        Scalapino, Sears and Ferrell, *Statistical mechanics of one-dimensional Ginzburg-Landau
        fields*, Phys. Rev. B 6 (1972), for the transfer integral.
    """

    n: int = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain(x4=negative)

    def __init__(self, n: int):
        self.n = check_integer("n", n, 2)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one point: `(n,)`."""
        return (self.n,)

    @property
    def symmetries(self) -> tuple[AbstractSymmetry, ...]:
        """Sign."""
        return (SignFlip("x"),)

    def compute_stats(self, x: Float[Array, " n"]) -> dict[str, Array]:
        """Returns the sums of x_i, x_i^2, x_i^4 and x_i x_{i+1}."""
        return {
            "x": jnp.sum(x),
            "x2": jnp.sum(x**2),
            "x4": jnp.sum(x**4),
            "neighbors": jnp.sum(x[1:] * x[:-1]),
        }

    def stein_functions(self, u: Float[Array, " n"]) -> SteinFunctions:
        """Returns sums over sites and bonds. Products of the first seven sums are used as well."""
        power = [jnp.ones_like(u)]
        for _ in range(_HIGHEST_POWER):
            power.append(power[-1] * u)
        sites = [_power_sum(power, k) for k in range(1, _HIGHEST_POWER + 1)]
        order = [_order_sum(u, k) for k in (1, 2)]
        both = [*sites[:4], *order, _bond_sum(power, 1, 1, 1)]
        local = [
            *sites[4:],
            *(_bond_sum(power, p, q, 1) for p, q in ((1, 3), (2, 2), (1, 2))),
            *(_bond_sum(power, 1, 1, distance) for distance in (2, 3, 4)),
        ]
        columns = zip(*both, *local, strict=True)
        return SteinFunctions(*(jnp.stack(column) for column in columns), multiplied=len(both))

    def flips(self, x: Float[Array, " n"]) -> tuple[dict[str, Array], ...]:
        """Returns the changes by sign flips of single sites, and of all sites up to or from one."""
        left, right = jnp.pad(x, (1, 0))[:-1], jnp.pad(x, (0, 1))[1:]
        up_to = jnp.cumsum(x)
        beyond = up_to[-1] - up_to[:-1]
        bond = x * right
        return (
            {"x": -2 * x, "neighbors": -2 * x * (left + right)},
            {
                "x": -2 * jnp.concatenate([up_to, beyond]),
                "neighbors": -2 * jnp.concatenate([bond, bond[:-1]]),
            },
        )


# Value, gradient and Laplacian of a function of u.
_Function = tuple[Float[Array, ""], Float[Array, " n"], Float[Array, ""]]


def _power_sum(power: list[Array], k: int) -> _Function:
    """Returns the sum of u_i^k over the sites."""
    return jnp.sum(power[k]), _slope(power, k), jnp.sum(_curvature(power, k))


def _order_sum(u: Float[Array, " n"], k: int) -> _Function:
    """Returns the sum of tanh(k u_i) over the sites."""
    value = jnp.tanh(k * u)
    slope = k * (1 - value**2)
    return jnp.sum(value), slope, jnp.sum(-2 * k * value * slope)


def _bond_sum(power: list[Array], p: int, q: int, distance: int) -> _Function:
    """Returns the sum of u_i^p u_j^q + u_i^q u_j^p over all j = i + distance."""
    left, right = [a[:-distance] for a in power], [a[distance:] for a in power]
    value = left[p] * right[q] + left[q] * right[p]
    by_left = _slope(left, p) * right[q] + _slope(left, q) * right[p]
    by_right = left[p] * _slope(right, q) + left[q] * _slope(right, p)
    curvature = _curvature(left, p) * right[q] + _curvature(left, q) * right[p]
    curvature += left[p] * _curvature(right, q) + left[q] * _curvature(right, p)
    # The chain may be shorter than the distance.
    shift = min(distance, len(power[0]))
    gradient = jnp.pad(by_left, (0, shift)) + jnp.pad(by_right, (shift, 0))
    return jnp.sum(value), gradient, jnp.sum(curvature)


def _slope(power: list[Array], k: int) -> Array:
    return k * power[k - 1]


def _curvature(power: list[Array], k: int) -> Array:
    return k * (k - 1) * power[max(k - 2, 0)]
