"""Functions whose Stein transforms have mean zero: what control variates are made of."""

from abc import abstractmethod
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float


class SteinFunctions(NamedTuple):
    """Smooth functions phi_1, ..., phi_k of a point u in R^n, with two derivatives at that point.

    Attributes:
        value: phi(u), `(k,)`.
        gradient: The gradients, `(k, n)`.
        laplacian: The sums of the second derivatives, `(k,)`.
    """

    value: Float[Array, " k"]
    gradient: Float[Array, "k n"]
    laplacian: Float[Array, " k"]

    def stein(self, score: Float[Array, " n"]) -> Float[Array, " k"]:
        """Returns `laplacian + gradient . score`, which has mean zero under the density.

        Args:
            score: The gradient of the log-density at u, `(n,)`.

        Returns:
            One number for each function. Its mean is zero because it is div(p grad phi) / p,
            where p grad phi vanishes at infinity.
        """
        return self.laplacian + jnp.sum(self.gradient * score, -1)

    def times(self, other: "SteinFunctions") -> "SteinFunctions":
        """Returns the products phi_i psi_i with another set of as many functions."""
        return SteinFunctions(
            self.value * other.value,
            self.value[:, None] * other.gradient + other.value[:, None] * self.gradient,
            self.value * other.laplacian
            + other.value * self.laplacian
            + 2 * jnp.sum(self.gradient * other.gradient, -1),
        )

    def products(self) -> "SteinFunctions":
        """Returns all products phi_i phi_j, i <= j: k (k + 1) / 2 of them."""
        i, j = jnp.triu_indices(len(self.value))
        return self.take(i).times(self.take(j))

    def take(self, which: Array) -> "SteinFunctions":
        """Returns the functions of the given indices."""
        return SteinFunctions(self.value[which], self.gradient[which], self.laplacian[which])

    def join(self, other: "SteinFunctions") -> "SteinFunctions":
        """Returns the functions of both sets."""
        return SteinFunctions(*(jnp.concatenate(parts) for parts in zip(self, other, strict=True)))


class AbstractSteinFamily(eqx.Module):
    """A family that names the functions of its own control variates.

    By default they are found by differentiating the statistics, which costs as many passes as the
    space has dimensions. A family mixes this class in where it knows better functions, or their
    derivatives in closed form.
    """

    @abstractmethod
    def stein_functions(self, u: Array) -> SteinFunctions:
        """Returns functions of a point in the unconstrained coordinates of the support.

        Args:
            u: One point, `(n,)`: flat, whatever the support's shape.

        Returns:
            The functions, which with their gradients may grow like any power of |u|. Their scales
            do not matter. They stand in place of the statistics and their products; name these,
            too, where they are worth having.
        """
