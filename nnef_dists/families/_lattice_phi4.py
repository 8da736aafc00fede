"""A chain of coupled quartic sites."""

from collections.abc import Callable
from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer
from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._constraints import negative
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._stein_functions import AbstractSteinFamily, SteinFunctions


@final
class LatticePhi4(ExponentialFamily, AbstractSteinFamily):
    """The phi^4 model on an open chain of n sites: four statistics in any dimension.

        p(x | eta) proportional to exp(sum_i (eta1 x_i + eta2 x_i^2 + eta4 x_i^4)
                                       + eta_nn sum_{i<n} x_i x_{i+1}),    eta4 < 0

    Statistics `x`, `x2`, `x4` (sums over the sites) and `neighbors` (the sum over the n - 1 bonds
    of an open chain; the ends are not joined). For eta2 > 0 each site is a double well, and
    eta_nn > 0 aligns neighbors: modes and long correlations.

    The integral exists for eta4 < 0 and all other values: sum_i x_i^4 >= |x|^4 / n, while all else
    is at most quadratic in |x|. It is infinite for eta4 > 0. On the edge eta4 = 0 the model is
    Gaussian, normalizable for some etas; that edge is left out, so that the domain is open and a
    product.

    On an open chain the log-partition and all moments are exact by transfer matrices: the sites are
    integrated out one after another, n - 1 integrals in one dimension.

    Args:
        n: The number of sites, at least 2.

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

    def compute_stats(self, x: Float[Array, " n"]) -> dict[str, Array]:
        """Returns the sums of x_i, x_i^2, x_i^4 and x_i x_{i+1}."""
        return {
            "x": jnp.sum(x),
            "x2": jnp.sum(x**2),
            "x4": jnp.sum(x**4),
            "neighbors": jnp.sum(x[1:] * x[:-1]),
        }

    def stein_functions(self, u: Float[Array, " n"]) -> SteinFunctions:
        """Returns sums over sites and bonds, and products of the sums that order the chain."""
        power = [_sites(lambda u, k=k: u**k, u) for k in range(1, 7)]
        order = [_sites(lambda u, k=k: jnp.tanh(k * u), u) for k in (1, 2)]
        both = _stack(*power[:4], *order, _bonds(1, 1, 1, u))
        local = _stack(
            *power[4:],
            *(_bonds(p, q, 1, u) for p, q in ((1, 3), (2, 2), (1, 2))),
            *(_bonds(1, 1, distance, u) for distance in (2, 3, 4)),
        )
        return both.join(both.products()).join(local)


def _stack(*functions: SteinFunctions) -> SteinFunctions:
    """Joins single functions."""
    return SteinFunctions(*(jnp.stack(parts) for parts in zip(*functions, strict=True)))


def _sites(f: Callable[[Array], Array], u: Float[Array, " n"]) -> SteinFunctions:
    """Returns the sum of f over the sites, for an elementwise f."""

    def slope(u):
        return jax.jvp(f, (u,), (jnp.ones_like(u),))

    (value, first), (_, second) = jax.jvp(slope, (u,), (jnp.ones_like(u),))
    return SteinFunctions(jnp.sum(value), first, jnp.sum(second))


def _bonds(p: int, q: int, distance: int, u: Float[Array, " n"]) -> SteinFunctions:
    """Returns the sum of u_i^p u_j^q + u_i^q u_j^p over all j = i + distance."""
    left, right = u[:-distance], u[distance:]

    def bond(a, b):
        return a**p * b**q + a**q * b**p

    def slopes(a, b):
        ones = jnp.ones_like(a)
        return jax.jvp(lambda a: bond(a, b), (a,), (ones,))[1], jax.jvp(
            lambda b: bond(a, b), (b,), (ones,)
        )[1]

    ones = jnp.ones_like(left)
    by_left, by_right = slopes(left, right)
    curved_left = jax.jvp(lambda a: slopes(a, right)[0], (left,), (ones,))[1]
    curved_right = jax.jvp(lambda b: slopes(left, b)[1], (right,), (ones,))[1]
    gradient = jnp.pad(by_left, (0, min(distance, len(u)))) + jnp.pad(
        by_right, (min(distance, len(u)), 0)
    )
    return SteinFunctions(
        jnp.sum(bond(left, right)), gradient, jnp.sum(curved_left) + jnp.sum(curved_right)
    )
