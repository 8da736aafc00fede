"""Natural domains defined by linear inequalities."""

import functools
import math
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, PRNGKeyArray

from nnef_dists.families._domain import AbstractDomain, Ranges, Shapes, draw_until_valid

# Relative tolerance: smaller singular values, distances and steps count as zero.
_ZERO = 1e-9
# Largest number of Newton steps.
_STEPS = 200
# Largest number of coefficients that messages list.
_MOST_PRINTED = 12
# Distance to all edges at which the search for an interior point ends.
_ENOUGH = 0.5
# Largest fraction of the distance to an edge that one Newton step covers.
_REACH = 0.9


@final
class Polyhedron(AbstractDomain):
    """The set of natural parameters with A eta < b, an intersection of open half-spaces.

    `half_space(A, b)` returns one. Let s_i be the distance of eta to the edge of half-space i, with
    unit normal a_i. Unconstrained coordinates are

        u = -G sum_i a_i log s_i + P eta

    P is the projection onto the directions that no inequality restricts. G is the inverse square
    root of sum_i a_i a_i^T in the other directions. Up to G, u is the gradient of a strictly convex
    function, and so a smooth bijection onto R^eta_dim. For one entry u is the logarithm of the
    distance, or the logit. Independent inequalities have a closed-form inverse. Otherwise Newton's
    method computes the inverse.

    Args:
        normals: Unit vectors a_i, k tuples of eta_dim numbers.
        offsets: Bounds of a_i . eta, k numbers.
        description: The expected set in words, for error messages.

    Attributes:
        inner: Natural parameters inside, from which Newton's method starts.

    Raises:
        ValueError: If no eta satisfies all inequalities.
    """

    normals: tuple[tuple[float, ...], ...] = eqx.field(static=True)
    offsets: tuple[float, ...] = eqx.field(static=True)
    description: str = eqx.field(static=True)
    inner: tuple[float, ...] = eqx.field(static=True)

    def __init__(
        self, normals: tuple[tuple[float, ...], ...], offsets: tuple[float, ...], description: str
    ):
        self.normals, self.offsets, self.description = normals, offsets, description
        self.inner = _interior_point(normals, offsets)

    def distances(self, parts: dict[str, Array]) -> Float[Array, " k"]:
        """Returns the Euclidean distance of eta to the edge of each half-space.

        Args:
            parts: Natural parameters, by statistic.

        Returns:
            The distances, `(k,)`, negative outside. The smallest is the distance to the edge of
            the domain.
        """
        return self._distances(_flat(parts))

    def _distances(self, eta: Float[Array, " d"]) -> Float[Array, " k"]:
        normals, offsets = (jnp.asarray(part, eta.dtype) for part in (self.normals, self.offsets))
        return offsets - normals @ eta

    def _projection(self) -> np.ndarray:
        """Returns P, the projection onto the directions along all edges."""
        normals = np.array(self.normals)
        return np.eye(normals.shape[1]) - _pinv(normals) @ normals

    def _scaling(self, power: int, dtype: DTypeLike) -> Float[Array, "d d"]:
        """Returns G + P for power -1, and its inverse for power 1."""
        _, sizes, directions = np.linalg.svd(np.array(self.normals), full_matrices=False)
        kept = sizes > _ZERO * sizes[0]
        scaled = directions[kept].T * sizes[kept] ** power
        return jnp.asarray(scaled @ directions[kept] + self._projection(), dtype)

    def contains(self, parts: dict[str, Array]) -> dict[str, Bool[Array, ""]]:
        """Returns the validity of eta as a whole, under the name `"eta"`."""
        eta = _flat(parts)
        return {"eta": jnp.all(jnp.isfinite(eta)) & jnp.all(self._distances(eta) > 0)}

    def expectation(self, name: str) -> str:
        """Returns the domain's description."""
        return self.description

    def unconstrained_dim(self, shapes: Shapes) -> int:
        """Returns eta_dim."""
        return len(self.normals[0])

    def constrain(self, u: Float[Array, " m"], shapes: Shapes) -> dict[str, Array]:
        """Returns the valid eta with unconstrained coordinates `u`, `(m,)`."""
        independent = np.linalg.matrix_rank(self.normals, _ZERO) == len(self.normals)
        u = self._scaling(1, u.dtype) @ u
        eta = self._closed_form(u) if independent else self._solve(u)
        sizes = np.cumsum([math.prod(shape) for shape in shapes.values()])
        pieces = jnp.split(eta, sizes[:-1])
        return {name: p.reshape(shapes[name]) for name, p in zip(shapes, pieces, strict=True)}

    def _closed_form(self, u: Float[Array, " d"]) -> Float[Array, " d"]:
        inverse, offsets = (jnp.asarray(x, u.dtype) for x in (_pinv(self.normals), self.offsets))
        distances = jnp.exp(-(u @ inverse))
        return inverse @ (offsets - distances) + jnp.asarray(self._projection(), u.dtype) @ u

    def _solve(self, u: Float[Array, " d"]) -> Float[Array, " d"]:
        dtype = u.dtype
        normals, projection = (
            jnp.asarray(part, dtype) for part in (self.normals, self._projection())
        )
        eps = jnp.finfo(dtype).eps.astype(dtype)

        def slope(eta):
            return normals.T @ (normals / self._distances(eta)[:, None]) + projection

        @jax.custom_jvp
        def solve(u):
            def go_on(carry):
                _, change, steps = carry
                return (change > 4 * eps) & (steps < _STEPS)

            def newton(carry):
                eta, _, steps = carry
                move = jnp.linalg.solve(slope(eta), u - self._unscaled(eta))
                # The step relative to the distances, of which it covers at most a fraction.
                nearer = normals @ move / self._distances(eta)
                length = jnp.minimum(1, _REACH / jnp.maximum(jnp.max(nearer), _REACH))
                along = projection @ move / (1 + jnp.abs(u))
                change = jnp.max(jnp.abs(jnp.concatenate([nearer, along])))
                return eta + length.astype(dtype) * move, change, steps + 1

            start = jnp.asarray(self.inner, dtype), jnp.ones((), dtype), 0
            return jax.lax.while_loop(go_on, newton, start)[0]

        @solve.defjvp
        def _(primals, tangents):
            eta = solve(*primals)
            return eta, jnp.linalg.solve(slope(eta), tangents[0])

        return solve(u)

    def unconstrain(self, parts: dict[str, Array]) -> Float[Array, " m"]:
        """Returns the unconstrained coordinates, `(m,)`, of a valid eta."""
        eta = _flat(parts)
        return self._scaling(-1, eta.dtype) @ self._unscaled(eta)

    def _unscaled(self, eta: Float[Array, " d"]) -> Float[Array, " d"]:
        logs = jnp.log(self._distances(eta))
        return jnp.asarray(self._projection(), eta.dtype) @ eta - logs @ jnp.asarray(
            self.normals, eta.dtype
        )

    def sample(
        self, key: PRNGKeyArray, shapes: Shapes, ranges: Ranges, dtype: DTypeLike
    ) -> dict[str, Array]:
        """Draws from the box until eta is valid, or returns NaN after 1,000 invalid draws."""
        return draw_until_valid(self, key, shapes, ranges, dtype)

    def convex_features(self, parts: dict[str, Array]) -> Float[Array, " k"]:
        """Returns -log of each distance, and squares along free directions over distances."""
        eta = _flat(parts)
        distances = self._distances(eta)
        values, directions = np.linalg.eigh(self._projection())
        free = jnp.asarray(directions[:, values > 0.5], eta.dtype)
        squares = (eta @ free)[:, None] ** 2 / distances
        return jnp.concatenate([-jnp.log(distances), jnp.ravel(squares)])

    def check_statistics(self, shapes: Shapes) -> None:
        """Checks that the inequalities have a coefficient for each entry of eta."""
        eta_dim = sum(math.prod(shape) for shape in shapes.values())
        if len(self.normals[0]) != eta_dim:
            raise ValueError(
                f"Expected half-spaces with {eta_dim} coefficients, one for each entry of eta; "
                f"got {len(self.normals[0])}. Their order is that of family.stat_names."
            )


def half_space(normal: Any, bound: Any) -> Polyhedron:
    """Declares the natural domain A eta < b, by one inequality or several.

    Example:
        `half_space([1, 1], 0)` is eta1 < -eta2. `half_space([[-1, 0], [1, -1]], [0, 0])` is
        0 < eta1 < eta2.

    Args:
        normal: Coefficients of the flat eta, `(eta_dim,)` for one inequality, or A,
            `(k, eta_dim)`.
        bound: Bound, a number, or b, `(k,)`.

    Returns:
        The domain.

    Raises:
        ValueError: If the shapes do not fit, a number is not finite, no inequality restricts eta,
            or no eta satisfies all inequalities.
    """
    a, b = np.atleast_2d(np.asarray(normal, np.float64)), np.atleast_1d(np.asarray(bound, float))
    if a.ndim != 2 or 0 in a.shape or b.shape != (len(a),):
        raise ValueError(
            "Expected A of shape (k, eta_dim) and b of shape (k,), or one vector and one number; "
            f"got {np.shape(normal)} and {np.shape(bound)}."
        )
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(
            f"Expected finite coefficients and bounds; got {a.tolist()} and {b.tolist()}."
        )
    terms = f"with A eta < b, A = {a.tolist()}, b = {b.tolist()}"
    if a.size > _MOST_PRINTED:
        terms = f"with A eta < b, as declared by half_space(A, b) with {len(b)} inequalities"
    size = np.linalg.norm(a, axis=1)
    if (b[size == 0] <= 0).any():
        raise ValueError(f"Expected inequalities that some eta satisfies; got 0 < b <= 0, {terms}.")
    a, b, size = a[size > 0], b[size > 0], size[size > 0]
    if not len(a):
        raise ValueError(f"Expected coefficients that are not all zero; got {terms}. Use domain().")
    rows = np.unique(np.column_stack([a, b]) / size[:, None], axis=0)
    return Polyhedron(tuple(map(tuple, rows[:, :-1].tolist())), tuple(rows[:, -1].tolist()), terms)


def _flat(parts: dict[str, Array]) -> Array:
    return jnp.concatenate([jnp.ravel(value) for value in parts.values()])


def _pinv(normals: Any) -> np.ndarray:
    return np.linalg.pinv(np.array(normals), _ZERO)


@functools.cache
def _interior_point(
    normals: tuple[tuple[float, ...], ...], offsets: tuple[float, ...]
) -> tuple[float, ...]:
    """Returns natural parameters at least 0.5 from each edge, or nearly as far as possible.

    Newton's method minimizes a smooth maximum of -distances, with ever less smoothing.
    """
    a, b = np.array(normals), np.array(offsets)
    eta = np.linalg.pinv(a, _ZERO) @ (b - 1)
    size = 1 + np.max(np.abs(b))
    best = eta
    for smoothing in size * 0.5 ** np.arange(40):

        def smooth(eta, smoothing=smoothing):
            scaled = (a @ eta - b) / smoothing
            return smoothing * (np.max(scaled) + np.log(np.sum(np.exp(scaled - np.max(scaled)))))

        for _ in range(20):
            if np.min(b - a @ best) >= _ENOUGH:
                break
            scaled = (a @ eta - b) / smoothing
            weights = np.exp(scaled - np.max(scaled))
            weights /= weights.sum()
            slope = weights @ a
            curvature = (a.T * weights) @ a - np.outer(slope, slope) + 1e-9 * np.eye(a.shape[1])
            move = -smoothing * np.linalg.solve(curvature, slope)
            move *= min(1, 10 * size / np.linalg.norm(move)) if move.any() else 1
            while smooth(eta + move) > smooth(eta) and np.linalg.norm(move) > _ZERO * smoothing:
                move = move / 4
            if np.linalg.norm(move) <= _ZERO * smoothing:
                break
            eta = eta + move
            best = eta if np.min(b - a @ eta) > np.min(b - a @ best) else best
    if not np.min(b - a @ best) > _ZERO * size:
        raise ValueError(
            "Expected inequalities with a common interior; got A eta < b that no eta satisfies, "
            f"A = {a.tolist()}, b = {b.tolist()} with rows of length 1. Check the signs."
        )
    return tuple(best.tolist())
