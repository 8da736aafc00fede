"""Exponential random graphs."""

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from nnef_dists._ranges import check_integer, check_number
from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._discrete import Bits
from nnef_dists.families._domain import AbstractDomain, ProductDomain, domain


class AbstractRandomGraph(ExponentialFamily):
    """An exponential random graph model (ERGM): a distribution of undirected simple graphs.

        p(graph | eta) proportional to exp(eta . T(adjacency))

    A point x has one bit per pair of nodes i < j, in the order of `numpy.triu_indices(nodes, 1)`.
    `adjacency` and `from_adjacency` convert between x and adjacency matrices. A subclass declares
    the statistics, which may be any functions of the adjacency matrix.

    Attributes:
        nodes: Number of nodes.

    Example:
        ```python
        class Homophily(nd.families.AbstractRandomGraph):
            nodes = 20
            group = (0,) * 10 + (1,) * 10

            def graph_statistics(self, adjacency):
                group = jnp.asarray(self.group)
                same = group[:, None] == group
                return {"edges": adjacency.sum() / 2, "within": (adjacency * same).sum() / 2}
        ```
    """

    nodes: eqx.AbstractVar[int]

    natural_domain: ClassVar[AbstractDomain] = domain()

    @abstractmethod
    def graph_statistics(self, adjacency: Float[Array, "nodes nodes"]) -> dict[str, Array]:
        """Returns statistics of a graph by name.

        Args:
            adjacency: The symmetric matrix of zeros and ones, with a zero diagonal.
        """

    @property
    def x_shape(self) -> tuple[int, ...]:
        """One bit per pair: `(nodes (nodes - 1) / 2,)`."""
        return (math.comb(self.nodes, 2),)

    @property
    def support(self) -> Bits:
        """All graphs."""
        return Bits(self.x_shape)

    @final
    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns the statistics of the graph with bits x."""
        return self.graph_statistics(self.adjacency(x))

    @final
    def adjacency(self, x: Float[Array, " pairs"]) -> Float[Array, "nodes nodes"]:
        """Returns the adjacency matrix of the graph with bits x."""
        x = jnp.asarray(x)
        upper = jnp.zeros((self.nodes, self.nodes), x.dtype)
        upper = upper.at[np.triu_indices(self.nodes, 1)].set(x)
        return upper + upper.T

    @final
    def from_adjacency(self, adjacency: ArrayLike) -> Float[Array, " pairs"]:
        """Returns the bits x of a graph, from its adjacency matrix, `(nodes, nodes)`.

        Raises:
            ValueError: If the matrix is not symmetric, of zeros and ones, with a zero diagonal.
        """
        matrix = np.asarray(adjacency)
        expected = (self.nodes, self.nodes)
        is_graph = matrix.shape == expected and np.isin(matrix, (0, 1)).all()
        if not is_graph or (matrix != matrix.T).any() or matrix.diagonal().any():
            raise ValueError(
                f"Expected a symmetric matrix {expected} of zeros and ones with a zero diagonal; "
                f"got one of shape {matrix.shape}. Undirected simple graphs have no other."
            )
        return jnp.asarray(matrix[np.triu_indices(self.nodes, 1)], float)


def _edges(adjacency: Array, decay: float) -> Array:
    return jnp.sum(adjacency) / 2


def _two_stars(adjacency: Array, decay: float) -> Array:
    # The squares of entries cancel, so that this is affine in each entry.
    return (jnp.sum(jnp.sum(adjacency, 0) ** 2) - jnp.sum(adjacency**2)) / 2


def _triangles(adjacency: Array, decay: float) -> Array:
    return jnp.sum((adjacency @ adjacency) * adjacency) / 6


def _shared_partners(adjacency: Array, decay: float) -> Array:
    partners = adjacency @ adjacency
    weights = math.exp(decay) * (1 - (1 - math.exp(-decay)) ** partners)
    return jnp.sum(adjacency * weights) / 2


_STATISTICS: dict[str, Callable[[Array, float], Array]] = {
    "edges": _edges,
    "two_stars": _two_stars,
    "triangles": _triangles,
    "shared_partners": _shared_partners,
}


@final
class ExponentialRandomGraph(AbstractRandomGraph):
    """An exponential random graph model with the most common statistics.

    - `edges`: the number of edges
    - `two_stars`: pairs of edges that share a node
    - `triangles`: the number of triangles
    - `shared_partners`: geometrically weighted edgewise shared partners (GWESP),
      e^decay sum over edges of (1 - (1 - e^-decay)^s) with s common neighbors of both ends

    For other statistics, subclass `AbstractRandomGraph`.

    If the parameter of two-stars or triangles is positive, the distribution may be degenerate: a
    mixture of nearly empty and nearly complete graphs. Labels of such etas are rejected.

    Args:
        nodes: Number of nodes, at least 3.
        statistics: Names of different statistics. Defaults to `("edges", "triangles")`.
        decay: Decay of `shared_partners`, positive. Defaults to 0.5.

    Raises:
        ValueError: If `nodes < 3`, a name is unknown or repeated, or the decay is not positive.

    Reference:
        Snijders, Pattison, Robins and Handcock, *New specifications for exponential random graph
        models*, Sociological Methodology 36 (2006); Hunter and Handcock, *Inference in curved
        exponential family models for networks*, J. Comput. Graph. Stat. 15 (2006).
    """

    nodes: int = eqx.field(static=True)
    statistics: tuple[str, ...] = eqx.field(static=True)
    decay: float = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain()

    def __init__(
        self,
        nodes: int,
        statistics: Sequence[str] = ("edges", "triangles"),
        *,
        decay: float = 0.5,
    ):
        self.nodes = check_integer("nodes", nodes, 3)
        self.statistics = (statistics,) if isinstance(statistics, str) else tuple(statistics)
        known = set(self.statistics) <= set(_STATISTICS)
        if not self.statistics or not known or len(set(self.statistics)) < len(self.statistics):
            raise ValueError(
                f"Expected different statistics of {list(_STATISTICS)}; got "
                f"{list(self.statistics)}. For others subclass AbstractRandomGraph."
            )
        self.decay = check_number("decay", decay, 0)

    def graph_statistics(self, adjacency: Float[Array, "nodes nodes"]) -> dict[str, Array]:
        """Returns the statistics by name, as in `AbstractRandomGraph`."""
        return {name: _STATISTICS[name](adjacency, self.decay) for name in self.statistics}
