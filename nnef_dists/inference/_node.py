"""The nodes of a model: variables and their tractable families."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._checks import as_array, check_instance
from nnef_dists.distributions import AbstractTractableFamily
from nnef_dists.families import ExponentialFamily

_T = TypeVar("_T")

Nodes = Mapping[str, "Node"]
# Natural parameters by node, each of shape `(*plate, eta_dim)`.
Etas = Mapping[str, Array]


@final
class NodeStatistics(eqx.Module):
    """Statistics of one node by name: `t["x2"]` has the shape `(*plate, *stat_shape)`.

    Args:
        family: The exponential family.
        flat: The flat statistics, `(*plate, eta_dim)`.
    """

    family: ExponentialFamily = eqx.field(static=True)
    flat: Float[Array, "*plate eta_dim"]

    def __getitem__(self, name: str) -> Array:
        start = 0
        for own, shape in self.family.stat_shapes.items():
            stop = start + math.prod(shape)
            if own == name:
                return self.flat[..., start:stop].reshape(*self.flat.shape[:-1], *shape)
            start = stop
        raise ValueError(
            f"Expected a statistic of {self.family!r}, one of {self.keys()}; got {name!r}."
        )

    def keys(self) -> list[str]:
        """Returns the names of the statistics."""
        return list(self.family.stat_shapes)


Statistics = dict[str, NodeStatistics]


@jax.tree_util.register_pytree_with_keys_class
class ByNode(dict):
    """A dict by node, which is passed to energies and log joint densities."""

    def __missing__(self, name: str):
        raise ValueError(
            f"Expected the name of a node, one of {list(self)}; got {name!r}. Add the node, or "
            "correct the name."
        )

    def tree_flatten_with_keys(self):
        """Returns the children with their keys, sorted by name, as for a dict."""
        names = tuple(sorted(self))
        return [(jax.tree_util.DictKey(name), self[name]) for name in names], names

    @classmethod
    def tree_unflatten(cls, names, children):
        """Returns the dict of the children."""
        return cls(zip(names, children, strict=True))


@final
class Node(eqx.Module):
    """A latent variable of a model, or a plate of independent ones.

    Attributes:
        q: The tractable family of its factor in the variational posterior.
        plate: Shape of the plate, `()` for one variable. Natural parameters of the node have the
            shape `(*plate, eta_dim)`, and its statistics `(*plate, *stat_shape)`.

    Raises:
        ValueError: If `q` is not a tractable family, or `plate` is not a tuple of positive sizes.
    """

    q: AbstractTractableFamily
    plate: tuple[int, ...] = eqx.field(static=True, default=())

    def __check_init__(self):
        if isinstance(self.q, ExponentialFamily):
            raise ValueError(
                f"Expected q as an AbstractTractableFamily; got the family {self.q!r}. Use "
                "ClosedForm(family) for families with formulas, Quadrature(family) in one or two "
                "dimensions, or a trained AmortizedFamily(family, network)."
            )
        check_instance(self.q, AbstractTractableFamily, "q")
        if not isinstance(self.plate, tuple) or not all(
            isinstance(size, int) and size > 0 for size in self.plate
        ):
            raise ValueError(
                f"Expected plate as a tuple of positive sizes; got {self.plate!r}. Use (n,) for "
                "n variables."
            )


def over_plate(node: Node, function: Callable, *arrays: Array) -> Any:
    """Applies a function of one plate element to all elements. Leaves are `(*plate, ...)`."""
    depth = len(node.plate)
    flat = [array.reshape(-1, *array.shape[depth:]) for array in arrays]
    out = jax.vmap(function)(*flat)
    return jax.tree.map(lambda leaf: leaf.reshape(*node.plate, *leaf.shape[1:]), out)


def where_inside(node: Node, eta: Array) -> Array:
    """Returns natural parameters, `(*plate, eta_dim)`. Elements without known A and mu are NaN."""
    inside = over_plate(node, node.q.is_inside, eta)
    return jnp.where(inside[..., None], eta, jnp.nan)


def check_name(nodes: Mapping[str, _T], name: str) -> _T:
    """Returns the entry of a node.

    Raises:
        ValueError: If there is no entry of this name.
    """
    if name not in nodes:
        raise ValueError(f"Expected the name of a node, one of {list(nodes)}; got {name!r}.")
    return nodes[name]


def check_etas_of(nodes: Nodes, eta: Etas) -> dict[str, Array]:
    """Returns natural parameters as arrays, with the shapes that the nodes require.

    Raises:
        ValueError: If names or shapes do not match the nodes, or a dtype is not floating-point.
    """
    if not isinstance(eta, Mapping) or set(eta) != set(nodes):
        got = list(eta) if isinstance(eta, Mapping) else type(eta).__name__
        raise ValueError(
            f"Expected eta as a dict with the nodes {list(nodes)}; got {got}. Give each node an "
            "array of shape (*plate, eta_dim)."
        )
    found = {}
    for name, node in nodes.items():
        value, shape = as_array(eta[name]), (*node.plate, node.q.family.eta_dim)
        if value.shape != shape:
            raise ValueError(
                f"Expected eta of node {name!r} of shape {shape}, its plate and eta_dim of "
                f"{node.q.family!r}; got {value.shape}. Use jnp.broadcast_to for equal elements."
            )
        if not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"Expected eta of node {name!r} of a floating-point dtype; got {value.dtype}. "
                "Convert it with .astype(float)."
            )
        found[name] = value
    return found


def expected_statistics(nodes: Nodes, eta: Etas) -> Statistics:
    """Returns E[T] of each node under its factor.

    Args:
        nodes: The nodes by name.
        eta: Natural parameters by node, each `(*plate, eta_dim)`.

    Returns:
        For each node, its expected statistics by name, each `(*plate, *stat_shape)`. Plate elements
        with eta outside the natural domain, or outside the training region of a network, are NaN.

    Raises:
        ValueError: If the names or shapes of `eta` do not match `nodes`.
    """
    eta = check_etas_of(nodes, eta)
    return {
        name: NodeStatistics(
            node.q.family, over_plate(node, node.q.mean, where_inside(node, eta[name]))
        )
        for name, node in nodes.items()
    }
