"""Symmetric positive definite matrices: the support, the inverse and the determinant."""

import math
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nnef_dists._ranges import check_integer
from nnef_dists.families._support import AbstractSupport


@final
class PositiveDefinite(AbstractSupport):
    """Symmetric positive definite d x d matrices: X = L L^T, with L lower triangular.

    The coordinates are the entries of L row by row, with logarithms of the diagonal entries.
    Densities are with respect to the Lebesgue measure of the lower triangle of X.

    If the density has a factor exp(-tr(P X)), the entries of L have Gaussian tails. If it has a
    factor exp(-tr(P X^-1)) instead, the tails of X are powers. With `inverse`, L is the factor of
    X^-1 = L L^T, and the tails are Gaussian again.

    At large coordinates, rounding makes X singular. So a family should compute T by `log_det` and
    `invert`, which are finite for any matrix, and h by `contains`.

    Example:
        ```python
        class Covariances(nd.ExponentialFamily):
            x_shape = (3, 3)
            natural_domain = nd.domain(trace=nd.negative, log_det=nd.positive)
            support = nd.families.PositiveDefinite(3)
            has_unit_base_measure = True

            def compute_stats(self, x):
                return {"trace": jnp.trace(x), "log_det": self.support.log_det(x)}

            def log_base_measure(self, x):
                return jnp.where(self.support.contains(x), 0.0, -jnp.inf)
        ```

    Args:
        d: Number of rows, at least 1.
        inverse: Whether L is the factor of X^-1. Defaults to False.

    Raises:
        ValueError: If `d < 1`.

    Reference:
        Muirhead, *Aspects of Multivariate Statistical Theory* (1982), theorem 2.1.9.
    """

    ill_conditioned: ClassVar[bool] = True

    d: int = eqx.field(static=True)
    inverse: bool = eqx.field(static=True)

    def __init__(self, d: int, *, inverse: bool = False):
        self.d, self.inverse = check_integer("d", d, 1), bool(inverse)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of u: `(d (d + 1) / 2,)`."""
        return (self.d * (self.d + 1) // 2,)

    def transform_and_log_det(
        self, u: Float[Array, " n"]
    ) -> tuple[Float[Array, "d d"], Float[Array, ""]]:
        """Returns the matrix, `(d, d)`, and the log Jacobian determinant, in nats."""
        starts = np.cumsum(np.arange(self.d + 1))
        rows = [jnp.pad(u[i : i + k + 1], (0, self.d - k - 1)) for k, i in enumerate(starts[:-1])]
        lower, is_diagonal = jnp.stack(rows), np.eye(self.d, dtype=bool)
        logs = jnp.where(is_diagonal, lower, 0)
        factor = jnp.where(is_diagonal, jnp.exp(logs), lower)
        # det(L -> X) is 2^d prod L_ii^(d - i), i >= 0. L_ii = exp(u_ii) adds a factor L_ii.
        powers = jnp.arange(self.d + 1, 1, -1, dtype=u.dtype)
        log_det = jnp.sum(powers * jnp.sum(logs, 1)) + self.d * math.log(2)
        matrix = jnp.sum(factor[:, None] * factor[None], -1)
        if not self.inverse:
            return matrix, log_det
        # The determinant of Y -> Y^-1 is det(Y)^-(d + 1).
        inverse, _, inside = invert_definite(matrix)
        x = jnp.where(inside, inverse, jnp.inf)  # infinite if rounding makes it singular
        return x, log_det - 2 * (self.d + 1) * jnp.sum(logs)

    def contains(self, x: Float[Array, "d d"]) -> Bool[Array, ""]:
        """Returns whether x is symmetric and, beyond rounding, positive definite."""
        return invert_definite(x)[2]

    def log_det(self, x: Float[Array, "d d"]) -> Float[Array, ""]:
        """Returns the log-determinant of x. It is finite but meaningless outside the support."""
        return invert_definite(x)[1]

    def invert(self, x: Float[Array, "d d"]) -> Float[Array, "d d"]:
        """Returns the inverse of x. It is finite but meaningless outside the support."""
        return invert_definite(x)[0]


@jax.custom_jvp
def invert_definite(
    matrix: Float[Array, "d d"],
) -> tuple[Float[Array, "d d"], Float[Array, ""], Bool[Array, ""]]:
    """Inverts a positive definite matrix by d sweeps.

    All operations are elementwise, so that a batch of small matrices compiles to one loop. A batch
    of LAPACK calls is ten times slower.

    Args:
        matrix: A symmetric matrix, `(d, d)`.

    Returns:
        The inverse, `(d, d)`, the log-determinant, and whether the matrix is finite, symmetric and
        positive definite beyond rounding. If it is not, the inverse and the log-determinant are
        meaningless.

    Reference:
        Lange, *Numerical Analysis for Statisticians* (2010), section 7.5.
    """
    d = len(matrix)
    scale = jnp.max(jnp.abs(matrix))
    rounding = float(jnp.finfo(matrix.dtype).eps)
    inside = jnp.isfinite(scale) & jnp.all(jnp.abs(matrix - matrix.T) <= rounding**0.5 * scale)
    swept = jnp.where(jnp.isfinite(scale), (matrix + matrix.T) / 2, jnp.eye(d, dtype=matrix.dtype))
    log_det = jnp.zeros((), matrix.dtype)
    for k in range(d):
        is_k = np.arange(d) == k
        pivot = swept[k, k]
        # A pivot is a difference of numbers as large as the diagonal entry, with their rounding.
        is_positive = pivot > 4 * d * rounding * matrix[k, k]
        inside &= is_positive & (pivot > 0)
        pivot = jnp.where(inside, pivot, 1)
        log_det = log_det + jnp.log(pivot)
        scaled = jnp.where(is_k, -1, swept[:, k]) / jnp.sqrt(pivot)
        others = jnp.where(is_k[:, None] | is_k[None], 0, swept)
        # Later pivots keep their sign.
        swept = others - scaled[:, None] * scaled[None]
    return -swept, log_det, inside


@invert_definite.defjvp
def _invert_definite_jvp(primals: Any, tangents: Any) -> Any:
    """Returns derivatives by the inverse, ten times cheaper than by differentiating the sweeps."""
    inverse, log_det, inside = invert_definite(*primals)
    half = _product(inverse, (tangents[0] + tangents[0].T) / 2)
    change = -_product(half, inverse), jnp.sum(inverse * tangents[0])
    return (inverse, log_det, inside), (*change, np.zeros((), jax.dtypes.float0))


def _product(a: Float[Array, "d d"], b: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Returns the product a b by elementwise operations, which fuse in a loop over a batch."""
    return jnp.sum(a[:, :, None] * b[None], 1)
