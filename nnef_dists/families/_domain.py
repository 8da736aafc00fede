"""Natural domains: sets of valid etas, with unconstrained coordinates."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from nnef_dists.families._constraints import AbstractConstraint, Range, real

Shapes = Mapping[str, tuple[int, ...]]
Ranges = Mapping[str, Sequence[Any]]


def _flat(parts: dict[str, Array]) -> Array:
    return jnp.concatenate([jnp.ravel(value) for value in parts.values()])


class AbstractDomain(eqx.Module):
    """The set of valid etas of a family.

    Methods take eta as a dict `parts`, with one array per statistic. `shapes` are the shapes of
    the parts, in the order of the flat eta.
    """

    @abstractmethod
    def contains(self, parts: dict[str, Array]) -> dict[str, Bool[Array, ""]]:
        """Returns the validity of each part (or of groups of parts), by name."""

    @abstractmethod
    def expectation(self, name: str) -> str:
        """Returns the requirement on the part named `name`, in words, for error messages."""

    @abstractmethod
    def unconstrained_dim(self, shapes: Shapes) -> int:
        """Returns the number m of unconstrained coordinates."""

    @abstractmethod
    def constrain(self, u: Float[Array, " m"], shapes: Shapes) -> dict[str, Array]:
        """Returns the valid eta with unconstrained coordinates `u`, `(m,)`."""

    @abstractmethod
    def unconstrain(self, parts: dict[str, Array]) -> Float[Array, " m"]:
        """Returns the unconstrained coordinates, `(m,)`, of a valid eta."""

    @abstractmethod
    def sample(
        self, key: PRNGKeyArray, shapes: Shapes, ranges: Ranges, dtype: DTypeLike
    ) -> dict[str, Array]:
        """Draws one random eta.

        Args:
            key: PRNG key.
            shapes: The shape of every part, by name.
            ranges: By part, `(low, high)` or `(low, high, "log")`.
            dtype: Floating dtype.

        Returns:
            A valid eta within the ranges.

        Raises:
            ValueError: If a range is malformed or outside the domain.
        """

    @abstractmethod
    def convex_features(self, parts: dict[str, Array]) -> Float[Array, " k"]:
        """Returns convex functions of a valid eta that resemble A near the edge of the domain.

        A log-partition is convex, and infinite beyond the edge. Often it diverges toward the edge,
        as a sum of functions such as -log of a distance and squares over distances. Networks of
        the log-partition take these functions as inputs.

        Args:
            parts: A valid eta, by statistic.

        Returns:
            Finite numbers, `(k,)`, each convex in eta. k is 0 if no such functions are known, for
            example if the domain has no edge.
        """

    @abstractmethod
    def check_statistics(self, shapes: Shapes) -> None:
        """Checks that the domain fits the family's statistics.

        Args:
            shapes: The shape of every statistic, by name.

        Raises:
            ValueError: If the domain does not fit.
        """


@final
class ProductDomain(AbstractDomain):
    """One constraint per statistic. Parameters of unnamed statistics take any finite value.

    Attributes:
        constraints: The constraints, by statistic.
        features: Convex functions of the flat eta, in addition to the convex features of the
            constraints. Defaults to None.
    """

    constraints: dict[str, AbstractConstraint]
    features: Callable[[Array], Array] | None = None

    def _constraint(self, name: str) -> AbstractConstraint:
        return self.constraints.get(name, real)

    def contains(self, parts: dict[str, Array]) -> dict[str, Bool[Array, ""]]:
        """Returns the validity of each part, by name."""
        return {name: self._constraint(name).contains(value) for name, value in parts.items()}

    def expectation(self, name: str) -> str:
        """Returns the requirement on the part named `name`, in words, for error messages."""
        return self._constraint(name).description

    def unconstrained_dim(self, shapes: Shapes) -> int:
        """Returns the sum of the dimensions of the parts."""
        return sum(self._constraint(name).unconstrained_dim(shapes[name]) for name in shapes)

    def constrain(self, u: Float[Array, " m"], shapes: Shapes) -> dict[str, Array]:
        """Returns the valid eta with unconstrained coordinates `u`, `(m,)`."""
        parts, start = {}, 0
        for name, shape in shapes.items():
            constraint = self._constraint(name)
            stop = start + constraint.unconstrained_dim(shape)
            parts[name] = constraint.constrain(u[start:stop], shape)
            start = stop
        return parts

    def unconstrain(self, parts: dict[str, Array]) -> Float[Array, " m"]:
        """Returns the unconstrained coordinates, `(m,)`, of a valid eta."""
        return jnp.concatenate(
            [self._constraint(name).unconstrain(value) for name, value in parts.items()]
        )

    def sample(
        self, key: PRNGKeyArray, shapes: Shapes, ranges: Ranges, dtype: DTypeLike
    ) -> dict[str, Array]:
        """Draws each part independently, by its constraint."""
        keys = jax.random.split(key, len(shapes))
        return {
            name: self._constraint(name).sample(k, name, shape, ranges[name], dtype)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def convex_features(self, parts: dict[str, Array]) -> Float[Array, " k"]:
        """Returns the features of each constraint, also with the free parts, and `features`."""
        free = {name: value for name, value in parts.items() if self._constraint(name) == real}
        bound = {name: value for name, value in parts.items() if name not in free}
        dtype = next(iter(parts.values())).dtype
        found = [jnp.zeros(0, dtype)]
        for name, value in bound.items():
            constraint = self._constraint(name)
            found.append(constraint.convex_features(value))
            for linear in free.values():
                found.append(constraint.quadratic_features(value, jnp.ravel(linear)))
        if self.features is not None:
            found.append(self.features(_flat(parts)))
        return jnp.concatenate(found)

    def check_statistics(self, shapes: Shapes) -> None:
        """Checks that every constraint names a statistic, and fits its shape."""
        for name, constraint in self.constraints.items():
            if name not in shapes:
                raise ValueError(
                    f"Expected natural_domain to name statistics among {list(shapes)}; got "
                    f"{name!r}. Use the names that compute_stats returns."
                )
            try:
                constraint.unconstrained_dim(shapes[name])
            except ValueError as error:
                raise ValueError(f"statistic {name!r}: {error}") from None


@final
class CoupledDomain(AbstractDomain):
    """The image of R^eta_dim under a bijection, for natural parameters that are coupled.

    Eta is valid if the inverse of the bijection is finite and maps back onto eta. `sample` draws
    from the box of the ranges until eta is valid.

    Attributes:
        bijection: Bijection from unconstrained coordinates to flat etas, of shape `(eta_dim,)`.
        description: The expected set in words, for error messages.
        features: Convex functions of the flat eta, for `convex_features`. Defaults to None, for no
            functions.
    """

    bijection: AbstractBijection
    description: str = "inside the family's coupled natural domain"
    features: Callable[[Array], Array] | None = None

    def contains(self, parts: dict[str, Array]) -> dict[str, Bool[Array, ""]]:
        """Returns the validity of eta as a whole, under the name `"eta"`."""
        eta = _flat(parts)
        u = self.bijection.inverse(eta)
        finite = jnp.all(jnp.isfinite(eta)) & jnp.all(jnp.isfinite(u))
        tolerance = jnp.sqrt(jnp.finfo(eta.dtype).eps)
        back = self.bijection.transform(jnp.where(finite, u, 0.0))
        return {"eta": finite & jnp.allclose(back, eta, rtol=tolerance, atol=tolerance)}

    def expectation(self, name: str) -> str:
        """Returns the domain's description."""
        return self.description

    def unconstrained_dim(self, shapes: Shapes) -> int:
        """Returns eta_dim."""
        return math.prod(self.bijection.shape)

    def constrain(self, u: Float[Array, " m"], shapes: Shapes) -> dict[str, Array]:
        """Returns the valid eta with unconstrained coordinates `u`, `(m,)`."""
        sizes = np.cumsum([math.prod(shape) for shape in shapes.values()])
        pieces = jnp.split(self.bijection.transform(u), sizes[:-1])
        return {name: p.reshape(shapes[name]) for name, p in zip(shapes, pieces, strict=True)}

    def unconstrain(self, parts: dict[str, Array]) -> Float[Array, " m"]:
        """Returns the unconstrained coordinates, `(m,)`, of a valid eta."""
        return self.bijection.inverse(_flat(parts))

    def sample(
        self, key: PRNGKeyArray, shapes: Shapes, ranges: Ranges, dtype: DTypeLike
    ) -> dict[str, Array]:
        """Draws from the box until eta is valid, or returns NaN after 1,000 invalid draws."""
        return draw_until_valid(self, key, shapes, ranges, dtype)

    def convex_features(self, parts: dict[str, Array]) -> Float[Array, " k"]:
        """Returns the declared functions of the flat eta, if any."""
        eta = _flat(parts)
        return jnp.zeros(0, eta.dtype) if self.features is None else self.features(eta)

    def check_statistics(self, shapes: Shapes) -> None:
        """Checks that the bijection acts on flat etas."""
        eta_dim = sum(math.prod(shape) for shape in shapes.values())
        if self.bijection.shape != (eta_dim,):
            raise ValueError(
                f"Expected a natural_domain bijection of shape {(eta_dim,)}; "
                f"got {self.bijection.shape}"
            )


def draw_until_valid(
    domain: AbstractDomain, key: PRNGKeyArray, shapes: Shapes, ranges: Ranges, dtype: DTypeLike
) -> dict[str, Array]:
    """Draws from the box of the ranges until the domain contains eta, at most 1,000 times.

    Args:
        domain: A domain that tests eta as a whole, under the name `"eta"`.
        key: PRNG key.
        shapes: The shape of every part, by name.
        ranges: By part, `(low, high)` or `(low, high, "log")`.
        dtype: Floating dtype.

    Returns:
        A valid eta, or NaN if all draws are invalid.
    """
    box = {name: Range(name, ranges[name], shape) for name, shape in shapes.items()}

    def draw(key):
        keys = jax.random.split(key, len(box))
        return {n: r.sample(k, dtype) for k, (n, r) in zip(keys, box.items(), strict=True)}

    def in_order(parts):
        return {name: parts[name] for name in shapes}

    def unlucky(state):
        attempt, _, parts = state
        return (attempt < 1000) & ~domain.contains(in_order(parts))["eta"]

    def retry(state):
        attempt, key, _ = state
        key, key_draw = jax.random.split(key)
        return attempt + 1, key, draw(key_draw)

    attempts, _, parts = jax.lax.while_loop(unlucky, retry, retry((0, key, None)))
    parts = in_order(parts)
    found = (attempts < 1000) | domain.contains(parts)["eta"]
    return {name: jnp.where(found, part, jnp.nan) for name, part in parts.items()}


def domain(**constraints: AbstractConstraint) -> ProductDomain:
    """Declares a natural domain, statistic by statistic: `domain(x4=nd.negative)`.

    If the natural parameters are coupled, use `half_space(A, b)` or `CoupledDomain(bijection)`.

    Args:
        **constraints: A constraint for each statistic by name: `real`, `positive`, `negative`,
            `interval(lower, upper)` or `negative_definite`. Statistics that are not named are
            `real`.

    Returns:
        The `ProductDomain`.

    Raises:
        ValueError: If an argument is not a constraint.
    """
    for name, constraint in constraints.items():
        if not isinstance(constraint, AbstractConstraint):
            raise ValueError(
                f"Expected a constraint such as nnef_dists.negative for {name!r}; "
                f"got {constraint!r}. Use real, positive, negative, interval(lower, upper) or "
                "negative_definite."
            )
    return ProductDomain(dict(constraints))
