"""Checks of an energy against a log joint density."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from nnef_dists._checks import as_key, check_instance
from nnef_dists.families import support_point
from nnef_dists.inference._node import ByNode, Node, Nodes, NodeStatistics, over_plate
from nnef_dists.inference._step import Energy, energy_of, of_node

# Number of random points, and largest number of plate elements with computed second derivatives.
_POINTS = 8
_ELEMENTS = 128
# Largest relative difference in double precision, also if parts are computed in float32, and
# largest difference in nats, but for the rounding of double precision.
_TOLERANCE, _MOST_NATS, _ROUNDING = 1e-7, 1e-3, 1e-12


class EnergyReport(NamedTuple):
    """The report of a valid energy.

    Attributes:
        constant: energy(T(x)) + log h(x) - log_joint(x), in nats. `elbo` exceeds the bound of the
            log joint by this constant.
        coupled: Nodes with elements of one plate that are coupled in the energy. Update them by
            colors, or with rho < 1.
    """

    constant: float
    coupled: tuple[str, ...]

    def __str__(self) -> str:
        text = f"conjugate energy; elbo is {self.constant:+.6g} nats above that of log_joint"
        if self.coupled:
            names = ", ".join(map(repr, self.coupled))
            text += f"; coupled plate elements in {names}: update them by colors, or with rho < 1"
        return text


def check_energy(
    energy: Energy,
    log_joint: Callable[..., Any],
    nodes: Nodes,
    key: PRNGKeyArray,
    *args: Any,
) -> EnergyReport:
    """Checks that an energy is the log joint density in terms of statistics, and conjugate.

        energy(T(x)) + sum of log h(x) - log_joint(x) = constant

    at random x of each node, with all other nodes fixed. Then it checks that the energy is linear
    in the statistics of each plate element, also off the image of T. Both run in double precision,
    on the host, with small compiled programs. Data are converted to double precision.

    The check cannot detect a missing constant, which is in the report, or an error in both
    functions. In a plate of more than 128 elements, the second check locates coupled or nonlinear
    statistics among 128 of them only.

    Args:
        energy: `energy(statistics, *args)`, a scalar, in nats.
        log_joint: `log_joint(x, *args)`, a scalar in nats, where x is a dict of the values of the
            nodes, each `(*plate, *x_shape)`. Terms that do not depend on x may be left out.
        nodes: The nodes by name.
        key: PRNG key of the points.
        *args: Data and settings, passed to both.

    Returns:
        A report with the constant and the nodes with coupled plate elements. Print it.

    Raises:
        ValueError: If a term is NaN, if the difference varies with a node, or if the energy is not
            linear in the statistics of a node. The message names all nodes with which the
            difference varies, or the node and the statistics whose product is in the energy.

    Example:
        `print(nd.inference.check_energy(energy, log_joint, nodes, jax.random.key(0), data))`
    """
    key = as_key(key)
    for name, node in nodes.items():
        check_instance(node, Node, f"nodes[{name!r}]")
    seed = np.asarray(jax.random.key_data(key))
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        args = jax.tree.map(_double, args)
        key = jax.random.wrap_key_data(jnp.asarray(seed), impl=jax.random.key_impl(key))
        keys = jax.random.split(key, (len(nodes), 2))
        points = {
            name: _draw(node, keys[i, 0], 1 + _POINTS)
            for i, (name, node) in enumerate(nodes.items())
        }
        constant = _check_difference(energy, log_joint, nodes, points, args)
        start = {name: _statistics(node, points[name][0]) for name, node in nodes.items()}
        coupled = tuple(
            name
            for i, (name, node) in enumerate(nodes.items())
            if _check_linear(energy, node, start, name, keys[i, 1], args)
        )
    return EnergyReport(constant, coupled)


def _double(leaf: Any) -> Any:
    is_floating = isinstance(leaf, jax.Array | np.ndarray | np.floating)
    is_floating = is_floating and jnp.issubdtype(leaf.dtype, jnp.floating)
    return jnp.asarray(np.asarray(leaf), jnp.float64) if is_floating else leaf


def _draw(node: Node, key: PRNGKeyArray, n: int) -> Array:
    """Returns points of a node, `(n, *plate, *x_shape)`, normal in unconstrained coordinates."""
    family = node.q.family
    u = jax.random.normal(key, (n, *node.plate, *family.support.shape), jnp.float64)
    to_point = functools.partial(support_point, family)
    return jax.jit(jax.vmap(functools.partial(over_plate, node, to_point)))(u)


def _statistics(node: Node, x: Array) -> NodeStatistics:
    family = node.q.family
    return NodeStatistics(family, over_plate(node, family.sufficient_statistics, x))


def _check_difference(
    energy: Energy, log_joint: Callable[..., Any], nodes: Nodes, points: dict[str, Array], args: Any
) -> float:
    """Moves one node at a time, and returns the constant."""

    @jax.jit
    def terms(x, args):
        statistics = {name: _statistics(node, x[name]) for name, node in nodes.items()}
        measures = [
            jnp.sum(over_plate(node, node.q.family.log_base_measure, x[name]))
            for name, node in nodes.items()
        ]
        joint = log_joint(ByNode(x), *args)
        if jnp.shape(joint) != ():
            raise ValueError(
                f"Expected log_joint(x, *args) to return a scalar, in nats; got shape "
                f"{jnp.shape(joint)}. Sum over plates with jnp.sum."
            )
        return energy_of(energy, statistics, args) + sum(measures), joint

    first = {name: x[0] for name, x in points.items()}
    ours, theirs = terms(first, args)
    constant, changes, size = float(ours - theirs), {}, 0.0
    for name in nodes:
        for i in range(1, 1 + _POINTS):
            ours, theirs = (float(part) for part in terms({**first, name: points[name][i]}, args))
            change = ours - theirs - constant
            size = max(size, abs(ours) + abs(theirs) + abs(constant))
            if not abs(change) <= _tolerance(abs(ours) + abs(theirs) + abs(constant)):
                changes.setdefault(name, change)
    unknown = [name for name, change in changes.items() if np.isnan(change)]
    if np.isnan(constant) or unknown:
        where = f"when node {unknown[0]!r} alone moves" if unknown else "at the first points"
        raise ValueError(
            f"Expected the energy and log_joint to be finite at points of the supports; got NaN "
            f"{where}. Check the support of each family (a positive variable needs "
            "`support = Exp()`) and the arguments of logarithms."
        )
    if changes:
        found = ", ".join(
            f"by {change:.6g} nats when node {name!r} alone moves"
            for name, change in changes.items()
        )
        is_small = max(map(abs, changes.values())) <= _TOLERANCE * size
        rounding = (
            f" Terms of {size:.2g} nats that are rounded to float32 also change it so: check with "
            "fewer data, or pass all arrays as arguments."
        )
        raise ValueError(
            "Expected energy(T(x)) + log h(x) - log_joint(x) to be constant; got a change "
            f"{found}. Check the terms of {' and '.join(map(repr, changes))} in both: signs, "
            "factors, plates, and the Jacobian of the parametrization."
            f"{rounding if is_small else ''}"
        )
    return constant


def _tolerance(size: float) -> float:
    """Returns the largest difference of terms of a size, in nats, that may be rounding."""
    return min(_TOLERANCE * (1 + size), max(_MOST_NATS, _ROUNDING * size))


def _check_linear(
    energy: Energy, node: Node, statistics: Any, name: str, key: PRNGKeyArray, args: Any
) -> bool:
    """Returns whether elements of the node's plate are coupled. Raises if one is not linear."""
    flat = statistics[name].flat
    d = flat.shape[-1]

    @jax.jit
    def curvature(statistics, args, along):
        gradient = jax.grad(of_node(energy, statistics, name, args))
        value, change = jax.jvp(gradient, (statistics[name].flat,), (along,))
        return change.reshape(-1, d), jnp.max(jnp.abs(value))

    def is_curved(along):
        change, slope = curvature(statistics, args, along)
        return np.abs(np.asarray(change)) > _tolerance(float(slope))

    key_directions, key_elements = jax.random.split(key)
    # Normal, since signs may cancel in the square of a sum.
    directions = jax.random.normal(key_directions, (2, *flat.shape), jnp.float64)
    if not any(is_curved(along).any() for along in directions):
        return False
    n = flat.size // d
    elements = np.asarray(jax.random.permutation(key_elements, n))[:_ELEMENTS]
    coupled = False
    for element in elements:
        for j, statistic in enumerate(node.q.family.stat_names):
            along = jnp.zeros((n, d), flat.dtype).at[element, j].set(1.0)
            curved = is_curved(along.reshape(flat.shape))
            if curved[element].any():
                other = node.q.family.stat_names[int(np.argmax(curved[element]))]
                term = (
                    f"with a product of its statistics {statistic!r} and {other!r}"
                    if other != statistic
                    else f"that is curved in its statistic {statistic!r}, as its square would be"
                )
                raise ValueError(
                    f"Expected an energy that is linear in the statistics of node {name!r}; got "
                    f"one {term}. Give the node a family that has this term as a statistic, or "
                    "pass it as `extra`."
                )
            coupled |= bool(curved.any())
    return coupled
