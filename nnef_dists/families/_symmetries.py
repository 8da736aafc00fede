"""Ready-made symmetries: scale, location and scale, sign, and permutations."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer, check_number
from nnef_dists.families._symmetry import AbstractSymmetry


@final
class Scaling(AbstractSymmetry):
    """The scalings x = exp(g) z of a number x.

    Statistics may be powers, logarithms, and products of these. With one named statistic, the
    canonical eta has absolute value 1 there. With several, the sum of squares of the log absolute
    values is minimal. For two of opposite powers, the absolute values are then equal.

    Example:
        `Scaling(x=1, inverse=-1)` for the generalized inverse Gaussian, `Scaling(x4=4)` for the
        quartic.

    Args:
        **powers: Power of x of each named scalar statistic, not zero. The natural parameter of a
            named statistic must not be zero.

    Raises:
        ValueError: If there is no power, or a power is zero or not finite.
    """

    powers: tuple[tuple[str, float], ...] = eqx.field(static=True)

    def __init__(self, **powers: float | int):
        self.powers = tuple((n, check_number(n, power)) for n, power in powers.items())
        if not self.powers or not all(power for _, power in self.powers):
            raise ValueError(f"Expected powers by statistic, not zero, as x4=4; got {powers}")

    def act(self, g: Any, z: Array) -> Array:
        """Returns exp(g) z."""
        return jnp.exp(g) * z

    def log_det(self, g: Any) -> Float[Array, ""]:
        """Returns g."""
        return g

    def frame(self, family: Any, eta: Float[Array, " eta_dim"]) -> Any:
        """Returns the g that minimizes the sum of (log |eta_k| + power_k g)^2."""
        parts = family.unflatten_stats_or_eta(eta)
        total = sum(power * jnp.log(jnp.abs(parts[name])) for name, power in self.powers)
        return -total / sum(power**2 for _, power in self.powers)

    def random(self, key: PRNGKeyArray, family: Any, dtype: Any) -> Any:
        """Returns g normal with standard deviation 1."""
        return jax.random.normal(key, (), dtype)


@final
class LocationScale(AbstractSymmetry):
    """The maps x = m + exp(s) z, for the statistics x, x^2, ..., x^p with p even.

    The canonical eta has -1 at x^p and 0 at x^(p - 1). An element g is (m, s).
    """

    def act(self, g: Any, z: Array) -> Array:
        """Returns m + exp(s) z."""
        return g[0] + jnp.exp(g[1]) * z

    def log_det(self, g: Any) -> Float[Array, ""]:
        """Returns s."""
        return g[1]

    def frame(self, family: Any, eta: Float[Array, " eta_dim"]) -> Any:
        """Returns (m, s), from the natural parameters of the two highest powers."""
        p = family.eta_dim
        return jnp.stack([-eta[-2] / (p * eta[-1]), -jnp.log(-eta[-1]) / p])

    def random(self, key: PRNGKeyArray, family: Any, dtype: Any) -> Any:
        """Returns m and s, normal with standard deviation 1."""
        return jax.random.normal(key, (2,), dtype)


@final
class SignFlip(AbstractSymmetry):
    """The sign flip x = g z, with g = 1 or -1.

    The canonical eta is >= 0 at the named statistic.

    Attributes:
        odd: Name of a scalar statistic that changes sign with x.
    """

    odd: str = eqx.field(static=True)

    def act(self, g: Any, z: Array) -> Array:
        """Returns g z."""
        return g * z

    def log_det(self, g: Any) -> Float[Array, ""]:
        """Returns 0."""
        return jnp.zeros_like(g)

    def frame(self, family: Any, eta: Float[Array, " eta_dim"]) -> Any:
        """Returns the sign of the natural parameter, or 1 for zero."""
        value = family.unflatten_stats_or_eta(eta)[self.odd]
        return jnp.where(value < 0, -1, 1).astype(eta.dtype)

    def random(self, key: PRNGKeyArray, family: Any, dtype: Any) -> Any:
        """Returns 1 or -1."""
        return jax.random.rademacher(key, (), dtype)


@final
class Permutation(AbstractSymmetry):
    """Permutations of the entries of a vector x.

    The canonical eta is in ascending order at the named statistic, for example in `Dirichlet`.

    Args:
        statistic: Name of a statistic with one entry per entry of x, permuted with x.
        k: Number of entries, at least 2.

    Raises:
        ValueError: If `k < 2`.
    """

    statistic: str = eqx.field(static=True)
    k: int = eqx.field(static=True)

    def __init__(self, statistic: str, k: int):
        self.statistic, self.k = statistic, check_integer("k", k, 2)

    def act(self, g: Any, z: Array) -> Array:
        """Returns z with entry g_i at place i."""
        return z[g]

    def log_det(self, g: Any) -> Float[Array, ""]:
        """Returns 0."""
        return jnp.zeros(())

    def frame(self, family: Any, eta: Float[Array, " eta_dim"]) -> Any:
        """Returns the ranks of the natural parameters."""
        return jnp.argsort(jnp.argsort(family.unflatten_stats_or_eta(eta)[self.statistic]))

    def random(self, key: PRNGKeyArray, family: Any, dtype: Any) -> Any:
        """Returns a random permutation."""
        return jax.random.permutation(key, self.k)
