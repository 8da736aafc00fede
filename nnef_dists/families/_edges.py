"""Declared parts of the edge of an open natural domain."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from nnef_dists._checks import guard
from nnef_dists._ranges import check_number
from nnef_dists.families._constraints import AbstractConstraint
from nnef_dists.families._domain import AbstractDomain, ProductDomain, Ranges, Shapes

# Fraction of the way from an edge to the middle of the domain, for the test of a declared edge.
_STEP = 1e-3


@final
class Edge(eqx.Module):
    """Natural parameters on the edge of a domain: some parts are fixed, others constrained.

    `edge(x4=0.0, x2=nd.negative)` makes one, and `domain | edge` declares it.

    Attributes:
        fixed: Values of the fixed parts, by statistic, one number for all entries.
        domain: The constraints on the other parts.
    """

    fixed: dict[str, float]
    domain: ProductDomain

    def __ror__(self, other: AbstractDomain) -> "ClosedDomain":
        """Returns the union of a domain and this part of its edge."""
        if isinstance(other, ClosedDomain):
            return ClosedDomain(other.inside, (*other.edges, self))
        return ClosedDomain(other, (self,))

    @property
    def description(self) -> str:
        """The edge in words, for error messages."""
        parts = [f"{name} = {value:g}" for name, value in self.fixed.items()]
        parts += [f"{name} {c.description}" for name, c in self.domain.constraints.items()]
        return ", ".join(parts)

    def contains(self, parts: dict[str, Array]) -> Bool[Array, ""]:
        """Returns whether eta, by its parts, lies on this edge."""
        free = {name: value for name, value in parts.items() if name not in self.fixed}
        holds = [jnp.all(parts[name] == value) for name, value in self.fixed.items()]
        holds += list(self.domain.contains(free).values())
        return jnp.all(jnp.stack(holds))

    def free_shapes(self, shapes: Shapes) -> Shapes:
        """Returns the shapes of the parts that are not fixed."""
        return {name: shape for name, shape in shapes.items() if name not in self.fixed}

    def constrain(self, u: Float[Array, " k"], shapes: Shapes) -> dict[str, Array]:
        """Returns the eta on this edge with unconstrained coordinates `u` of its free parts."""
        free = self.domain.constrain(u, self.free_shapes(shapes))
        fixed = {n: jnp.full(shapes[n], value, u.dtype) for n, value in self.fixed.items()}
        return {name: {**free, **fixed}[name] for name in shapes}

    def project(self, parts: dict[str, Array]) -> dict[str, Array]:
        """Returns the eta on this edge that keeps each free part of eta that the edge allows.

        Other free parts take the values of the middle of the edge.
        """
        shapes = {name: value.shape for name, value in parts.items()}
        size = self.domain.unconstrained_dim(self.free_shapes(shapes))
        middle = self.constrain(jnp.zeros(size, next(iter(parts.values())).dtype), shapes)
        holds = self.domain.contains(parts)
        return {
            name: middle[name]
            if name in self.fixed
            else jnp.where(holds[name], value, middle[name])
            for name, value in parts.items()
        }


@final
class ClosedDomain(AbstractDomain):
    """An open domain with parts of its edge: `domain | edge`.

    Unconstrained coordinates and convex features exist only inside the open domain. If eta is on an
    edge, `unconstrain` and `convex_features` raise, or return NaN under `jax.jit`. Networks and
    flows of natural parameters need both. Samplers, quadrature and closed forms need neither.

    Attributes:
        inside: The open domain.
        edges: The declared parts of its edge.
    """

    inside: AbstractDomain
    edges: tuple[Edge, ...]

    def on_edge(self, parts: dict[str, Array]) -> Bool[Array, ""]:
        """Returns whether eta, by its parts, lies on a declared edge."""
        return jnp.any(jnp.stack([edge.contains(parts) for edge in self.edges]))

    def contains(self, parts: dict[str, Array]) -> dict[str, Bool[Array, ""]]:
        """Returns the validity of each part. On an edge, all parts are valid."""
        on_edge = self.on_edge(parts)
        return {name: valid | on_edge for name, valid in self.inside.contains(parts).items()}

    def expectation(self, name: str) -> str:
        """Returns the expectation of the open domain for a part, and the edges that name it."""
        edges = [f"({e.description})" for e in self.edges if name in e.fixed or name == "eta"]
        return " or on the edge ".join([self.inside.expectation(name), *edges])

    def unconstrained_dim(self, shapes: Shapes) -> int:
        """Returns the number of unconstrained coordinates of the open domain."""
        return self.inside.unconstrained_dim(shapes)

    def constrain(self, u: Float[Array, " m"], shapes: Shapes) -> dict[str, Array]:
        """Returns the eta inside the open domain with unconstrained coordinates `u`, `(m,)`."""
        return self.inside.constrain(u, shapes)

    def unconstrain(self, parts: dict[str, Array]) -> Float[Array, " m"]:
        """Returns the unconstrained coordinates, `(m,)`, of eta inside the open domain."""
        return self._inner(self.inside.unconstrain(parts), parts)

    def sample(
        self, key: PRNGKeyArray, shapes: Shapes, ranges: Ranges, dtype: DTypeLike
    ) -> dict[str, Array]:
        """Draws from the open domain."""
        return self.inside.sample(key, shapes, ranges, dtype)

    def convex_features(self, parts: dict[str, Array]) -> Float[Array, " k"]:
        """Returns the convex features, `(k,)`, of eta inside the open domain."""
        return self._inner(self.inside.convex_features(parts), parts)

    def _inner(self, value: Array, parts: dict[str, Array]) -> Array:
        edges = "; ".join(edge.description for edge in self.edges)
        return guard(
            value,
            ~self.on_edge(parts),
            f"Expected eta inside the open natural domain; its edges ({edges}) have no "
            "unconstrained coordinates, which networks and flows need",
            jnp.concatenate([jnp.ravel(part) for part in parts.values()]),
            "Leave such etas out, or use Quadrature, ClosedForm or HMC for them.",
        )

    def check_statistics(self, shapes: Shapes) -> None:
        """Checks the open domain, and that each edge touches it from outside."""
        self.inside.check_statistics(shapes)
        for edge in self.edges:
            unknown = [name for name in edge.fixed if name not in shapes]
            if unknown or not edge.free_shapes(shapes):
                raise ValueError(
                    f"Expected an edge that fixes some of the statistics {list(shapes)}; got "
                    f"{edge.description}"
                )
            edge.domain.check_statistics(edge.free_shapes(shapes))
            with jax.ensure_compile_time_eval():
                touches = self._touches(edge, shapes)
            if not touches:
                raise ValueError(
                    f"Expected an edge of the open natural domain; got {edge.description}, which "
                    "lies inside of it or apart from it. Fix a part at a bound of its constraint"
                )

    def _touches(self, edge: Edge, shapes: Shapes) -> bool:
        inner = self.inside.constrain(jnp.zeros(self.inside.unconstrained_dim(shapes)), shapes)
        outer = edge.project(inner)
        # The domain is convex, so a point between the edge and `inner` is inside.
        near = {name: (1 - _STEP) * outer[name] + _STEP * inner[name] for name in shapes}
        is_in = [jnp.all(jnp.stack(list(self.inside.contains(p).values()))) for p in (outer, near)]
        return bool(~is_in[0] & is_in[1])


def edge(**parts: Any) -> Edge:
    """Declares a part of the edge of a natural domain on which densities are normalizable too.

    Example:
        `nd.domain(x4=nd.negative) | nd.edge(x4=0.0, x2=nd.negative)`: quartic densities, and the
        normal densities in their limit.

    Args:
        **parts: By statistic, a number, at which all entries are fixed, or a constraint, such as
            `negative`. Statistics that are not named are `real`. At least one part is a number.

    Returns:
        The edge. `domain | edge` is the domain with this edge. For several edges, use
        `domain | edge_1 | edge_2`.

    Raises:
        ValueError: If no part is a number, or a part is neither a number nor a constraint.
    """
    constraints = {n: part for n, part in parts.items() if isinstance(part, AbstractConstraint)}
    fixed = {n: check_number(n, part) for n, part in parts.items() if n not in constraints}
    if not fixed:
        raise ValueError(f"Expected an edge with a fixed part, such as x4=0.0; got {parts}")
    return Edge(fixed, ProductDomain(constraints))


def edge_charts(family: Any) -> list[tuple[int, Callable[[Array], Array]]]:
    """Returns the coordinates of each declared edge of a family.

    Args:
        family: The exponential family.

    Returns:
        For each edge, the number k of coordinates and the map from `(k,)` to the flat eta. An empty
        list if no edge is declared.
    """
    domain, shapes = family.natural_domain, family.stat_shapes
    if not isinstance(domain, ClosedDomain):
        return []

    def chart(edge: Edge) -> tuple[int, Callable[[Array], Array]]:
        def constrain(u: Array) -> Array:
            return family.flatten_stats_or_eta(edge.constrain(u, shapes))

        return edge.domain.unconstrained_dim(edge.free_shapes(shapes)), constrain

    return [chart(edge) for edge in domain.edges]


def unconstrain_etas(family: Any, etas: Float[Array, "n eta_dim"]) -> Float[Array, "n m"]:
    """Returns the unconstrained coordinates of valid etas, `(n, m)`.

    Raises:
        ValueError: If a concrete eta is on an edge of the natural domain.
    """
    coordinates = jax.vmap(family.unconstrain_eta)(etas)
    finite = jnp.all(jnp.isfinite(coordinates), 1)
    if not isinstance(finite, Tracer) and not finite.all():
        # Outside of `jax.vmap` the error names the edge.
        family.unconstrain_eta(etas[jnp.argmin(finite)])
    return coordinates
