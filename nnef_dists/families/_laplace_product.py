"""Products of exponentials of absolute values around two centers."""

import math
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer
from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._domain import CoupledDomain
from nnef_dists.families._symmetries import Permutation
from nnef_dists.families._symmetry import AbstractSymmetry


@final
class LaplaceProduct(ExponentialFamily):
    """The product of Laplace-like factors around 1 and -1, in each of d coordinates.

        p(x | eta) proportional to exp(- sum_i (minus_i |x_i - 1| + plus_i |x_i + 1|))

    Statistics `minus`, -|x_i - 1|, and `plus`, -|x_i + 1|, both of shape `(d,)`. Beyond the centers
    the exponent is linear in x_i: -(minus_i + plus_i) |x_i| plus a constant, with equal slopes on
    both sides. So the integral exists if and only if

        minus_i + plus_i > 0    for every i;

    one of the two may be negative. The coordinates are independent and piecewise exponential, with
    kinks at the centers. In the unconstrained coordinates u the exponential tails become Gaussian,
    because x grows as u^2.

    Args:
        d: Dimension, at least 1.

    Raises:
        ValueError: If `d < 1`.
    """

    d: int = eqx.field(static=True)

    def __init__(self, d: int):
        self.d = check_integer("d", d, 1)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one point: `(d,)`."""
        return (self.d,)

    @property
    def support(self) -> AbstractBijection:
        """The whole space, in coordinates u such that x_i grows as u_i^2."""
        return _QuadraticGrowth((self.d,))

    @property
    def natural_domain(self) -> CoupledDomain:
        """The set of eta with a positive sum minus_i + plus_i in every coordinate."""
        return CoupledDomain(
            _SumAndDifference(self.d),
            "of positive sum minus + plus, entry by entry",
            _convex_features,
        )

    @property
    def is_smooth(self) -> bool:
        """False: the statistics have kinks at 1 and -1."""
        return False

    @property
    def symmetries(self) -> tuple[AbstractSymmetry, ...]:
        """Permutations of the coordinates."""
        return (Permutation("minus", self.d),) if self.d > 1 else ()

    def compute_stats(self, x: Float[Array, " d"]) -> dict[str, Array]:
        """Returns the negative distances from 1 and from -1."""
        return {"minus": -jnp.abs(x - 1), "plus": -jnp.abs(x + 1)}


def _convex_features(eta: Float[Array, " d"]) -> Float[Array, " k"]:
    """Returns -log(minus_i + plus_i) for every i, the leading terms of A near the edge."""
    return -jnp.log(jnp.sum(eta.reshape(2, -1), axis=0))


@final
class _QuadraticGrowth(AbstractBijection):
    """The map x = u sqrt(1 + u^2 / 4), elementwise: about u near 0 and u |u| / 2 for large |u|."""

    shape: tuple[int, ...]

    cond_shape: ClassVar[None] = None

    def transform_and_log_det(
        self, x: ArrayLike, condition: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        u = jnp.asarray(x)
        return u * jnp.sqrt(1 + u**2 / 4), _log_slope(u)

    def inverse_and_log_det(
        self, y: ArrayLike, condition: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        y = jnp.asarray(y)
        u = y * jnp.sqrt(2 / (1 + jnp.sqrt(1 + y**2)))
        return u, -_log_slope(u)


def _log_slope(u: Array) -> Array:
    return jnp.sum(jnp.log1p(u**2 / 2) - jnp.log1p(u**2 / 4) / 2)


@final
class _SumAndDifference(AbstractBijection):
    """The bijection from (log of the sum, difference) to (minus, plus), all of shape `(d,)`."""

    d: int = eqx.field(static=True)

    cond_shape: ClassVar[None] = None

    def __init__(self, d: int):
        self.d = d

    @property
    def shape(self) -> tuple[int, ...]:
        return (2 * self.d,)

    def transform_and_log_det(
        self, x: ArrayLike, condition: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        log_sum, difference = jnp.split(jnp.asarray(x), 2)
        total = jnp.exp(log_sum)
        y = jnp.concatenate([total + difference, total - difference]) / 2
        return y, jnp.sum(log_sum) - self.d * math.log(2)

    def inverse_and_log_det(
        self, y: ArrayLike, condition: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        minus, plus = jnp.split(jnp.asarray(y), 2)
        log_sum = jnp.log(minus + plus)
        x = jnp.concatenate([log_sum, minus - plus])
        return x, self.d * math.log(2) - jnp.sum(log_sum)
