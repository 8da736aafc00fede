"""Which sites of a discrete x are updated together in Gibbs sampling."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from nnef_dists.families import AbstractFiniteSupport, ExponentialFamily

# Random points at which T is examined.
_PROBES = 4
# Of the largest change of T: a smaller one is rounding.
_TOLERANCE = 1e-9
# Pairs of sites whose second differences are computed; of more sites each is its own color.
_MOST_PAIRS = 2**20
# Changes of T in one block.
_BLOCK = 2**16


class GibbsPlan(NamedTuple):
    """Which sites of a family are updated together.

    Attributes:
        colors: Numbers of sites, `(colors, sites)`, rows padded with the number of sites. Given all
            others, the sites of one color are independent.
        is_affine: Whether T and log h are affine in each entry of x. Then one gradient has the
            conditional distributions of all sites.
    """

    colors: np.ndarray
    is_affine: bool


@functools.cache
def gibbs_plan(family: ExponentialFamily) -> GibbsPlan:
    """Finds the colors of a family at random points, in double precision.

    Sites interact if the second derivative of T or log h in both is not zero, or the second
    difference where T is not affine in each entry.

    Args:
        family: A family with a finite support.

    Raises:
        ValueError: If the support is not finite, or T is not finite at random points of it.
    """
    support = finite_support(family)
    n, rng = support.sites, np.random.default_rng(0)
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        values = jnp.asarray(support.values)

        def rows(x):
            x = x.reshape(family.x_shape)
            return jnp.append(family.sufficient_statistics(x), family.log_base_measure(x))

        ranks = jnp.asarray(rng.integers(0, len(values), (_PROBES, n)))
        points = values[ranks].astype(support.dtype(float))
        found = np.asarray(jax.vmap(rows)(points))
        if not np.isfinite(found[:, :-1]).all():
            name = family.stat_names[int(np.argmin(np.isfinite(found[:, :-1]).all(0)))]
            raise ValueError(
                f"Expected statistics of {family!r} that are finite on {support!r}; got {name!r} "
                "that is not. Write T so that it is finite on the support."
            )
        # Random combinations: one function, whose terms do not cancel.
        weights = jnp.asarray(rng.uniform(1, 2, found.shape[1]))

        def combined(x):
            return rows(x) @ weights

        is_affine, unit = _is_affine(combined, points, values)
        if is_affine:
            inside = jnp.asarray(rng.uniform(values[0], values[-1], (2, n)))
            coupled = _coupled_by_derivatives(combined, inside, unit)
        else:
            coupled = _coupled_by_differences(combined, points, values, unit)
    return GibbsPlan(_color(coupled), is_affine)


def finite_support(family: ExponentialFamily) -> AbstractFiniteSupport:
    """Returns the support of a family whose x has finitely many values at each of its sites.

    Raises:
        ValueError: If the support is another one.
    """
    support = family.support
    if not isinstance(support, AbstractFiniteSupport):
        remedy = getattr(support, "remedy", "Use Hamiltonian Monte Carlo.")
        raise ValueError(
            "Expected a support of finitely many values at each site for Gibbs sampling, such as "
            f"nd.Spins; {family!r} has {support!r}. {remedy}"
        )
    return support


def _is_affine(combined, points, values) -> tuple[bool, float]:
    """Returns whether a function is affine in each entry, and the size of its changes."""
    if not jnp.issubdtype(points.dtype, jnp.floating):
        return False, 1.0
    worst, unit = 0.0, 0.0
    for x in points:
        slopes = np.asarray(jax.grad(combined)(x))
        value = float(combined(x))
        for v in (values[0], values[-1]):
            moved = _moved(combined, x, v)
            expected = np.asarray((v - x) * slopes)
            unit = max(unit, float(np.max(np.abs(moved - value))))
            worst = max(worst, float(np.max(np.abs(moved - value - expected))))
    return worst <= _TOLERANCE * max(unit, 1e-300), unit


def _moved(combined, x, value) -> np.ndarray:
    """Returns the function where each entry in turn has a value."""

    def one(site):
        return combined(x.at[site].set(value))

    return np.asarray(lax.map(one, jnp.arange(len(x)), batch_size=_block(len(x))))


def _block(sites: int) -> int:
    return max(1, min(sites, _BLOCK // sites))


def _coupled_by_derivatives(combined, points, unit: float) -> np.ndarray:
    coupled = np.zeros((points.shape[1],) * 2, bool)
    for x in points:

        def row(site, x=x):
            tangent = jnp.zeros_like(x).at[site].set(1)
            return jax.jvp(jax.grad(combined), (x,), (tangent,))[1]

        hessian = lax.map(row, jnp.arange(len(x)), batch_size=_block(len(x)))
        coupled |= np.abs(np.asarray(hessian)) > _TOLERANCE * unit
    return coupled


def _coupled_by_differences(combined, points, values, unit: float) -> np.ndarray:
    n = points.shape[1]
    if n * n > _MOST_PAIRS:
        return np.ones((n, n), bool)
    coupled = np.zeros((n, n), bool)
    for x in points:
        # Each entry moves to another of its values.
        other = jnp.where(x == values[0], values[-1], values[0]).astype(x.dtype)
        unit = max(unit, float(np.max(np.abs(_moved_to(combined, x, other) - combined(x)))))

        def row(site, x=x, other=other):
            one = x.at[site].set(other[site])
            change = _changes(combined, one, other) - _changes(combined, x, other)
            return change

        second = np.array(lax.map(row, jnp.arange(n)))
        np.fill_diagonal(second, 0)
        coupled |= np.abs(second) > _TOLERANCE * unit
    return coupled | coupled.T


def _changes(combined, x, other) -> Array:
    return jax.vmap(lambda i: combined(x.at[i].set(other[i])))(jnp.arange(len(x))) - combined(x)


def _moved_to(combined, x, other) -> np.ndarray:
    return np.asarray(_changes(combined, x, other) + combined(x))


def _color(coupled: np.ndarray) -> np.ndarray:
    """Returns the colors of a greedy coloring, most coupled sites first."""
    n = len(coupled)
    neighbors = coupled & ~np.eye(n, dtype=bool)
    color = np.full(n, -1)
    for site in np.argsort(-neighbors.sum(1), kind="stable"):
        taken = np.unique(color[neighbors[site]])
        free = np.setdiff1d(np.arange(n), taken)
        color[site] = free[0]
    members = [np.flatnonzero(color == c) for c in range(color.max() + 1)]
    width = max(map(len, members))
    return np.stack([np.pad(m, (0, width - len(m)), constant_values=n) for m in members])
