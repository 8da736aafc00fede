"""Natural domains: which etas a family accepts, and coordinates in which everything is accepted."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flowjax.bijections import AbstractBijection
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists.families._constraints import AbstractConstraint, Range, real

Shapes = Mapping[str, tuple[int, ...]]


class AbstractDomain(eqx.Module):
    """The set of valid etas of a family; eta as the dict of its parts, one for each statistic."""

    @abstractmethod
    def contains(self, parts: dict[str, Array]) -> dict[str, Bool[Array, ""]]:
        """Validity of each part (or of groups of parts), by name."""

    @abstractmethod
    def expectation(self, name: str) -> str:
        """What is expected of the part called `name`, in words."""

    @abstractmethod
    def unconstrained_dim(self, shapes: Shapes) -> int:
        """The number of unconstrained coordinates."""

    @abstractmethod
    def constrain(self, u: Float[Array, " m"], shapes: Shapes) -> dict[str, Array]:
        """The valid eta with unconstrained coordinates `u`."""

    @abstractmethod
    def unconstrain(self, parts: dict[str, Array]) -> Float[Array, " m"]:
        """The unconstrained coordinates of a valid eta."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray, shapes: Shapes, ranges, dtype) -> dict[str, Array]:
        """One random eta within `ranges`."""

    @abstractmethod
    def check_statistics(self, shapes: Shapes) -> None:
        """Raises `ValueError` where the domain does not fit the family's statistics."""


@final
class ProductDomain(AbstractDomain):
    """One constraint for each statistic; statistics that are not named take any finite value."""

    constraints: dict[str, AbstractConstraint]

    def _constraint(self, name: str) -> AbstractConstraint:
        return self.constraints.get(name, real)

    def contains(self, parts: dict[str, Array]) -> dict[str, Bool[Array, ""]]:
        """Validity of each part, by its name."""
        return {name: self._constraint(name).contains(value) for name, value in parts.items()}

    def expectation(self, name: str) -> str:
        """What is expected of the part called `name`, in words."""
        return self._constraint(name).description

    def unconstrained_dim(self, shapes: Shapes) -> int:
        """The sum over the parts."""
        return sum(self._constraint(name).unconstrained_dim(shapes[name]) for name in shapes)

    def constrain(self, u: Float[Array, " m"], shapes: Shapes) -> dict[str, Array]:
        """The valid eta with unconstrained coordinates `u`."""
        parts, start = {}, 0
        for name, shape in shapes.items():
            constraint = self._constraint(name)
            stop = start + constraint.unconstrained_dim(shape)
            parts[name] = constraint.constrain(u[start:stop], shape)
            start = stop
        return parts

    def unconstrain(self, parts: dict[str, Array]) -> Float[Array, " m"]:
        """The unconstrained coordinates of a valid eta."""
        return jnp.concatenate(
            [self._constraint(name).unconstrain(value) for name, value in parts.items()]
        )

    def sample(self, key: PRNGKeyArray, shapes: Shapes, ranges, dtype) -> dict[str, Array]:
        """Each part independently, as its constraint draws it."""
        keys = jax.random.split(key, len(shapes))
        return {
            name: self._constraint(name).sample(k, name, shape, ranges[name], dtype)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }

    def check_statistics(self, shapes: Shapes) -> None:
        """Every constraint must name a statistic, and fit its shape."""
        for name, constraint in self.constraints.items():
            if name not in shapes:
                raise ValueError(
                    f"Expected natural_domain to name statistics among {list(shapes)}; got {name!r}"
                )
            constraint.unconstrained_dim(shapes[name])


@final
class CoupledDomain(AbstractDomain):
    """Valid etas are the image of R^eta_dim under a bijection, for statistics that couple.

    An eta is valid where the bijection's inverse is finite and maps back onto it. `sample` draws from
    the box of the ranges and keeps what is valid.
    """

    bijection: AbstractBijection
    description: str = "inside the family's coupled natural domain"

    def _flat(self, parts: dict[str, Array]) -> Array:
        return jnp.concatenate([jnp.ravel(value) for value in parts.values()])

    def contains(self, parts: dict[str, Array]) -> dict[str, Bool[Array, ""]]:
        """Validity of eta as a whole, under the name `"eta"`."""
        eta = self._flat(parts)
        u = self.bijection.inverse(eta)
        finite = jnp.all(jnp.isfinite(eta)) & jnp.all(jnp.isfinite(u))
        tolerance = jnp.sqrt(jnp.finfo(eta.dtype).eps)
        back = self.bijection.transform(jnp.where(finite, u, 0.0))
        return {"eta": finite & jnp.allclose(back, eta, rtol=tolerance, atol=tolerance)}

    def expectation(self, name: str) -> str:
        """The domain's description."""
        return self.description

    def unconstrained_dim(self, shapes: Shapes) -> int:
        """eta_dim."""
        return math.prod(self.bijection.shape)

    def constrain(self, u: Float[Array, " m"], shapes: Shapes) -> dict[str, Array]:
        """The valid eta with unconstrained coordinates `u`."""
        sizes = np.cumsum([math.prod(shape) for shape in shapes.values()])
        pieces = jnp.split(self.bijection.transform(u), sizes[:-1])
        return {name: p.reshape(shapes[name]) for name, p in zip(shapes, pieces, strict=True)}

    def unconstrain(self, parts: dict[str, Array]) -> Float[Array, " m"]:
        """The unconstrained coordinates of a valid eta."""
        return self.bijection.inverse(self._flat(parts))

    def sample(self, key: PRNGKeyArray, shapes: Shapes, ranges, dtype) -> dict[str, Array]:
        """Draws from the box until valid; an error after 1,000 invalid draws in a row."""
        box = {name: Range(name, ranges[name], shape) for name, shape in shapes.items()}

        def draw(key):
            keys = jax.random.split(key, len(box))
            return {n: r.sample(k, dtype) for k, (n, r) in zip(keys, box.items(), strict=True)}

        def in_order(parts):
            return {name: parts[name] for name in shapes}

        def unlucky(state):
            attempt, _, parts = state
            return (attempt < 1000) & ~self.contains(in_order(parts))["eta"]

        def retry(state):
            attempt, key, _ = state
            key, key_draw = jax.random.split(key)
            return attempt + 1, key, draw(key_draw)

        attempts, _, parts = jax.lax.while_loop(unlucky, retry, retry((0, key, None)))
        parts = in_order(parts)
        return eqx.error_if(
            parts,
            (attempts >= 1000) & ~self.contains(parts)["eta"],
            f"Expected ranges that meet the natural domain ({self.description}); "
            "got none valid in 1,000 draws",
        )

    def check_statistics(self, shapes: Shapes) -> None:
        """The bijection must act on flat etas."""
        eta_dim = sum(math.prod(shape) for shape in shapes.values())
        if self.bijection.shape != (eta_dim,):
            raise ValueError(
                f"Expected a natural_domain bijection of shape {(eta_dim,)}; "
                f"got {self.bijection.shape}"
            )


def domain(**constraints: AbstractConstraint) -> ProductDomain:
    """Declares a natural domain, statistic by statistic: `domain(x4=nd.negative)`.

    **Arguments:** a constraint for each statistic by name: `real`, `positive`, `negative`,
    `interval(lower, upper)` or `negative_definite`. Statistics that are not named are `real`.

    **Returns:** the `ProductDomain`. (Where statistics couple, use `CoupledDomain(bijection)`.)
    """
    for name, constraint in constraints.items():
        if not isinstance(constraint, AbstractConstraint):
            raise ValueError(
                f"Expected a constraint such as nnef_dists.negative for {name!r}; got {constraint!r}"
            )
    return ProductDomain(dict(constraints))
