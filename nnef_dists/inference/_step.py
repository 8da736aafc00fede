"""The evidence lower bound and its coordinate ascent."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from nnef_dists._checks import guard
from nnef_dists.inference._node import (
    ByNode,
    Etas,
    Node,
    Nodes,
    NodeStatistics,
    Statistics,
    check_etas_of,
    check_name,
    expected_statistics,
    over_plate,
    where_inside,
)

# energy(statistics, *args), a scalar in nats.
Energy = Callable[..., Any]

# Number of step sizes, each half of the one before, among which a retreat chooses.
_HALVINGS = 24


def elbo(
    energy: Energy,
    nodes: Nodes,
    eta: Etas,
    *args: Any,
    extra: Float[Array, ""] | float = 0.0,
    scale: Mapping[str, Any] | None = None,
) -> Float[Array, ""]:
    """Returns the evidence lower bound of a factorized posterior, in nats.

        ELBO = energy(E[T]) + sum over nodes and plates of (A(eta) - eta . mu(eta)) + extra

    This holds if the energy is linear in the statistics of each plate element, so that its
    expectation is its value at E[T]. Otherwise, the result is NaN. This function tests the first
    element of each plate, and `check_energy` tests all. The bound holds up to the constant that
    `check_energy` returns. If an eta is outside the domain, a compiled program returns NaN.

    Args:
        energy: The log joint density as a function of statistics by node and name,
            `energy(statistics, *args)`, a scalar.
        nodes: The nodes by name.
        eta: Natural parameters by node, each `(*plate, eta_dim)`.
        *args: Data and settings, passed to `energy`.
        extra: Expected terms that are not in the energy, in nats. Defaults to 0.
        scale: Factors of the entropies by node. Defaults to 1. With a minibatch of B out of N plate
            elements, use N / B for the nodes of the plate.

    Returns:
        A scalar.

    Raises:
        ValueError: If names or shapes do not match, moments of a node are NaN, or `energy` does not
            return a scalar.
    """
    eta = check_etas_of(nodes, eta)
    scale = (
        {} if scale is None else {name: scale[name] for name in scale if check_name(nodes, name)}
    )
    for name, value in {
        "extra": extra,
        **{f"scale[{name!r}]": scale[name] for name in scale},
    }.items():
        if jnp.shape(value):
            raise ValueError(f"Expected {name} as a number; got shape {jnp.shape(value)}.")
    statistics, entropies = {}, jnp.zeros(())
    for name, node in nodes.items():
        known = where_inside(node, eta[name])
        # The mean is the gradient of A, so that one evaluation gives both.
        both = jax.value_and_grad(node.q.log_partition)
        log_partition, mean = over_plate(node, both, known)
        _check_known(name, node, eta[name], mean)
        statistics[name] = NodeStatistics(node.q.family, mean)
        # Subtract within elements first, because A and eta . mu are large, and cancel.
        entropy = jnp.sum(log_partition - jnp.sum(known * mean, -1))
        entropies = entropies + scale.get(name, 1.0) * entropy
    total = energy_of(energy, statistics, args) + extra + entropies
    linear = jnp.stack([_is_linear(energy, statistics, name, args) for name in nodes])
    return jnp.where(jnp.all(linear), total, jnp.nan)


def message(
    energy: Energy, statistics: Statistics, name: str, *args: Any
) -> Float[Array, "*plate eta_dim"]:
    """Returns the sum of all messages to a node, d energy / d E[T] of the node.

    If the energy is linear in the node's statistics, these are the natural parameters of the
    optimal factor, given the other nodes.

    Args:
        energy: The log joint density, `energy(statistics, *args)`.
        statistics: Expected statistics, from `expected_statistics`.
        name: The node.
        *args: Data and settings, passed to `energy`.

    Returns:
        Natural parameters, `(*plate, eta_dim)`.

    Raises:
        ValueError: If there is no such node, or `energy` does not return a scalar.
    """
    check_name(statistics, name)
    return jax.grad(of_node(energy, statistics, name, args))(statistics[name].flat)


def step(
    energy: Energy,
    nodes: Nodes,
    eta: Etas,
    name: str,
    *args: Any,
    rho: Float[Array, ""] | float = 1.0,
    extra: Float[Array, "*plate eta_dim"] | None = None,
    retreat: bool = False,
) -> dict[str, Array]:
    """Returns natural parameters after one step of coordinate ascent at a node.

        eta_name <- (1 - rho) eta_name + rho (message + extra)

    With rho = 1 the step maximizes the ELBO over the factors of the node, if no two elements of its
    plate are coupled. Smaller values damp it, or make it a step of stochastic natural-gradient
    ascent. This function does not test whether the energy is linear in the node's statistics.
    `elbo` and `check_energy` do.

    Example:
        ```python
        def sweep(eta, _):
            for name in nodes:
                eta = nd.inference.step(energy, nodes, eta, name, data)
            return eta, nd.inference.elbo(energy, nodes, eta, data)

        eta, bounds = jax.lax.scan(sweep, eta, length=40)
        ```

    Args:
        energy: The log joint density, `energy(statistics, *args)`.
        nodes: The nodes by name.
        eta: Natural parameters by node, each `(*plate, eta_dim)`.
        name: The node.
        *args: Data and settings, passed to `energy`.
        rho: Step size in (0, 1]. Defaults to 1.
        extra: Further messages, `(*plate, eta_dim)`, of terms that are not in the energy.
        retreat: Whether an element that would leave the natural domain, or the training region of a
            network, takes a shorter step instead: half of the longest of rho, rho / 2, rho / 4, ...
            that stays inside. At least half of its distance to the edge of the domain is then left.
            The element has not reached its message, but another step may. Defaults to False.

    Returns:
        The same dict with the new natural parameters of the node. An element that leaves the
        natural domain, or the training region of a network, is NaN inside a compiled program. It
        is never clipped.

    Raises:
        ValueError: If the new eta of an element, or the eta of another node, is outside the natural
            domain or the training region. If `rho` is not in (0, 1], names or shapes do not match,
            or `energy` does not return a scalar.

    Reference:
        Winn and Bishop, *Variational message passing*, JMLR 6 (2005). Hoffman, Blei, Wang and
        Paisley, *Stochastic variational inference*, JMLR 14 (2013).
    """
    eta, node = check_etas_of(nodes, eta), check_name(nodes, name)
    old = eta[name]
    rho = jnp.asarray(rho, old.dtype)
    if rho.shape:
        raise ValueError(f"Expected rho as a number in (0, 1]; got shape {rho.shape}.")
    rho = guard(
        rho, (rho > 0) & (rho <= 1), "Expected rho in (0, 1]", rho, "Use rho=1.0 for a full step."
    )
    statistics = expected_statistics(nodes, eta)
    target = message(energy, statistics, name, *args)
    if extra is not None:
        if jnp.shape(extra) != old.shape:
            raise ValueError(
                f"Expected extra of shape {old.shape}, that of eta of node {name!r}; got "
                f"{jnp.shape(extra)}."
            )
        target = target + extra
    target = target.astype(old.dtype)

    def moved(rho):
        return (1 - rho) * old + rho * target

    if retreat:
        rho = _shortened(rho, lambda rho: over_plate(node, node.q.is_inside, moved(rho)))
    new = moved(rho)
    found = where_inside(node, new)
    lost = jnp.any(jnp.isnan(found), -1)
    if not isinstance(lost, Tracer) and jnp.any(lost):
        for other in nodes:
            if other != name:
                _check_known(other, nodes[other], eta[other], statistics[other].flat)
        first = _first(lost)
        is_valid = node.q.family.is_valid_eta(new[first])
        what = "in the training region" if is_valid else f"that is a valid eta of {node.q.family!r}"
        raise ValueError(
            f"Expected a message to node {name!r} {what}; got {new[first]}{_at(first)}. Check "
            "that the prior is proper, the energy with check_energy, or use a smaller rho or "
            "retreat=True."
        )
    return {**eta, name: found}


def _check_known(name: str, node: Node, eta: Array, mean: Array) -> None:
    """Raises if a concrete E[T] of a node is NaN."""
    lost = jnp.any(jnp.isnan(mean), -1)
    if isinstance(lost, Tracer) or not jnp.any(lost):
        return
    first = _first(lost)
    if node.q.family.is_valid_eta(eta[first]) and node.q.is_inside(eta[first]):
        raise ValueError(
            f"Expected known moments of node {name!r}; got NaN at eta {eta[first]}{_at(first)}: "
            f"their error is above the limit of {node.q!r}. Use 64-bit mode, or another source."
        )
    raise ValueError(
        f"Expected eta of node {name!r} in the domain of {node.q.family!r}; got "
        f"{eta[first]}{_at(first)}. Start from a valid eta of each node."
    )


def _first(lost: Bool[Array, "*plate"]) -> tuple[int, ...]:
    return tuple(int(i) for i in jnp.argwhere(lost)[0])


def _at(element: tuple[int, ...]) -> str:
    return f" at plate element {element}" if element else ""


def _shortened(
    rho: Float[Array, ""], is_inside: Callable[[Array], Bool[Array, "*plate"]]
) -> Float[Array, "*plate 1"]:
    """Returns the step size of each element: rho, or half of the first smaller one inside."""
    sizes = rho * 0.5 ** jnp.arange(_HALVINGS, dtype=rho.dtype)
    inside = jax.vmap(is_inside)(sizes)
    first = jnp.argmax(inside, 0)
    size = jnp.where(first > 0, sizes[first] / 2, sizes[0])
    return jnp.where(jnp.any(inside, 0), size, jnp.nan)[..., None]


def of_node(
    energy: Energy, statistics: Statistics, name: str, args: tuple
) -> Callable[[Array], Float[Array, ""]]:
    """Returns the energy as a function of the flat statistics of one node."""
    family = statistics[name].family

    def function(flat):
        return energy_of(energy, {**statistics, name: NodeStatistics(family, flat)}, args)

    return function


def energy_of(energy: Energy, statistics: Statistics, args: tuple) -> Float[Array, ""]:
    """Returns the energy of statistics.

    Raises:
        ValueError: If the value is not a floating-point scalar, or the energy uses an unknown node.
    """
    value = energy(ByNode(statistics), *args)
    shape, dtype = jnp.shape(value), jnp.result_type(value)
    if shape != () or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"Expected energy(statistics, *args) to return a floating-point scalar, in nats; got "
            f"{dtype} of shape {shape}. Sum the terms over plates with jnp.sum."
        )
    return jnp.asarray(value)


def _is_linear(energy: Energy, statistics: Statistics, name: str, args: tuple) -> Bool[Array, ""]:
    """Returns whether the energy is linear in the statistics of the first plate element."""
    flat = jax.lax.stop_gradient(statistics[name].flat)
    elements = flat.reshape(-1, flat.shape[-1])
    # Not equal for equal statistics, so that differences of statistics do not cancel.
    factor = 1 + 0.37 * jnp.cos(jnp.arange(elements.shape[-1]))
    along = jnp.zeros_like(elements).at[0].set((1 + jnp.abs(elements[0])) * factor)
    function = of_node(energy, jax.lax.stop_gradient(statistics), name, args)

    def slope(flat):
        return jax.jvp(function, (flat,), (along.reshape(flat.shape),))[1]

    value, curvature = jax.jvp(slope, (flat,), (along.reshape(flat.shape),))
    # The second derivative of most linear code is exactly zero.
    return jnp.abs(curvature) <= jnp.sqrt(jnp.finfo(flat.dtype).eps).astype(flat.dtype) * jnp.abs(
        value
    )
