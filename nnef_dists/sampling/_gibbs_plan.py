"""Graph colorings of the sites of a discrete x, for Gibbs sampling."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import eval_context
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import Array, Float

from nnef_dists.families import AbstractFiniteSupport, ExponentialFamily

# Number of random points at which T is examined.
_PROBES = 4
# Largest change of T that is rounding, relative to other changes of T.
_TOLERANCE = 1e-9
# Smallest change of T between points that sets a unit, relative to T.
_CHANGE = 1e-4
# Largest number of entries that are evaluated in one block.
_BLOCK = 2**16
# Primitives that map polynomials to polynomials, besides divisions by constants and powers.
_POLYNOMIAL = {
    "add",
    "add_any",
    "broadcast_in_dim",
    "concatenate",
    "copy",
    "cumsum",
    "dot_general",
    "dynamic_slice",
    "dynamic_update_slice",
    "expand_dims",
    "gather",
    "mul",
} | {
    "neg",
    "pad",
    "reduce_prod",
    "reduce_sum",
    "reshape",
    "rev",
    "scatter",
    "scatter-add",
    "scatter_add",
}
_POLYNOMIAL |= {"slice", "split", "square", "squeeze", "sub", "transpose"}
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint"}

_Function = Callable[[Array], Array]


class GibbsPlan(NamedTuple):
    """Sites of a family that Gibbs sampling updates together.

    Attributes:
        colors: Indices of the sites of each color, `(colors, sites)`. Rows are padded with the
            number of sites. Given all other sites, the sites of one color are independent.
        is_affine: Whether T and log h are affine in each entry of x. Then one gradient gives the
            conditional distributions of all sites.
    """

    colors: np.ndarray
    is_affine: bool


@functools.cache
def gibbs_plan(family: ExponentialFamily) -> GibbsPlan:
    """Finds the colors of a family at random points, in double precision.

    If T and log h are polynomials that are affine in each entry, two sites interact if their mixed
    second derivative is not zero, however small: a site that is coupled by rounding only costs
    time. For other statistics, each site has a separate color, because a
    few points cannot show all interactions.

    Args:
        family: A family with a finite support.

    Raises:
        ValueError: If the support is not finite, or T is not finite at random points of it.
    """
    support = finite_support(family)
    n, rng = support.sites, np.random.default_rng(0)
    with jax.enable_x64(True), eval_context():
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
        one = jax.ShapeDtypeStruct((n,), points.dtype)
        is_floating = jnp.issubdtype(points.dtype, jnp.floating)
        if not (is_floating and _is_polynomial(jax.make_jaxpr(rows)(one).jaxpr)):
            return _one_by_one(n)
        # Random real points show all interactions of a polynomial.
        inside = jnp.asarray(rng.uniform(values[0], values[-1], (_PROBES, n)))
        # A random combination is one function, whose terms do not cancel.
        weights = rng.uniform(1, 2, found.shape[1]) / _scales(np.asarray(jax.vmap(rows)(inside)))

        def combined(x):
            return rows(x) @ jnp.asarray(weights)

        if not _is_affine(combined, inside):
            return _one_by_one(n)
        second = _second_derivatives(combined, inside)
        coupled = (second > 0) & ~np.eye(n, dtype=bool)
        # A small second derivative may be rounding, unless interactions are as small.
        least = np.min(second, 1, where=coupled, initial=np.max(second))
        if np.any(np.diagonal(second) > _TOLERANCE * least):
            return _one_by_one(n)
        return GibbsPlan(_color(coupled), True)


def _scales(found: Float[np.ndarray, "k rows"]) -> Float[np.ndarray, " rows"]:
    """Returns the sizes of the changes of T and log h between points, as their units differ."""
    # Below this part of the values, changes may be rounding.
    scales = np.maximum(np.ptp(found, axis=0), _CHANGE * np.max(np.abs(found), axis=0))
    return np.where(scales > 0, scales, 1)


def _one_by_one(n: int) -> GibbsPlan:
    """Returns the plan with a separate color for each site, which is valid for any T."""
    return GibbsPlan(np.arange(n)[:, None], False)


def finite_support(family: ExponentialFamily) -> AbstractFiniteSupport:
    """Returns the support of a family whose x has finitely many values at each of its sites.

    Raises:
        ValueError: If the support is not an `AbstractFiniteSupport`.
    """
    support = family.support
    if not isinstance(support, AbstractFiniteSupport):
        remedy = getattr(support, "remedy", "Use Hamiltonian Monte Carlo.")
        raise ValueError(
            "Expected a support of finitely many values at each site for Gibbs sampling, such as "
            f"nd.Spins; {family!r} has {support!r}. {remedy}"
        )
    return support


def _is_polynomial(jaxpr: Jaxpr, varies: list[bool] | None = None) -> bool:
    """Returns whether a traced program only has operations that give polynomials of its inputs.

    Random points may miss a jump, for example of a comparison.
    """
    varies = [True] * len(jaxpr.invars) if varies is None else varies
    varying = {v for v, does in zip(jaxpr.invars, varies, strict=True) if does}
    for equation in jaxpr.eqns:
        inputs = [not isinstance(v, Literal) and v in varying for v in equation.invars]
        if not any(inputs):
            continue
        varying.update(equation.outvars)
        name, params = equation.primitive.name, equation.params
        inner = [part for part in params.values() if isinstance(part, ClosedJaxpr)]
        if name in _CALLS and len(inner) == 1:
            if not _is_polynomial(inner[0].jaxpr, inputs):
                return False
        elif name == "integer_pow":
            if params["y"] < 0:
                return False
        elif name == "div":
            if inputs[1]:
                return False
        elif name == "convert_element_type":
            if not jnp.issubdtype(params["new_dtype"], jnp.floating):
                return False
        elif name not in _POLYNOMIAL:
            return False
    return True


def _is_affine(combined: _Function, points: Float[Array, "k n"]) -> bool:
    """Returns whether the changes of a polynomial along each entry are its slopes."""
    worst, unit = 0.0, 0.0
    for x in points:
        slopes, value = np.asarray(jax.grad(combined)(x)), float(combined(x))
        moved = lax.map(
            lambda site, x=x: combined(x.at[site].add(1)),
            jnp.arange(len(x)),
            batch_size=_block(len(x)),
        )
        change = np.asarray(moved) - value
        unit = max(unit, float(np.max(np.abs(change))), float(np.max(np.abs(slopes))))
        worst = max(worst, float(np.max(np.abs(change - slopes))))
    return worst <= _TOLERANCE * max(unit, 1e-300)


def _block(sites: int) -> int:
    return max(1, min(sites, _BLOCK // sites))


def _second_derivatives(combined: _Function, points: Float[Array, "k n"]) -> np.ndarray:
    """Returns the largest second derivatives over points, by absolute value, `(n, n)`."""
    largest = np.zeros((points.shape[1],) * 2)
    for x in points:

        def row(site, x=x):
            tangent = jnp.zeros_like(x).at[site].set(1)
            return jax.jvp(jax.grad(combined), (x,), (tangent,))[1]

        found = lax.map(row, jnp.arange(len(x)), batch_size=_block(len(x)))
        largest = np.maximum(largest, np.abs(np.asarray(found)))
    return largest


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
