"""Groups that act on x and map the statistics of a family to affine functions of themselves."""

import functools
from abc import abstractmethod
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_context
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from nnef_dists._checks import check_instance
from nnef_dists.families._discrete import AbstractDiscreteSupport
from nnef_dists.families._support import support_point

# Number of random elements of the group that verify closure.
_ELEMENTS = 6
# Largest misfit of a closed group, in standard deviations of the statistics at the probe points.
_TOLERANCE = 1e-9
# Rounding threshold, in units of the rounding error of the largest effect.
_ROUNDINGS = 256


class AbstractSymmetry(eqx.Module):
    """A group whose elements g act on x, such that the statistics of a family are closed under it.

        T(g z) = M(g) T(z) + c(g)

    A subclass declares the action. The library finds M and c by least squares, and verifies that
    they exist. An element g is an array or a pytree of arrays. Like a family, a symmetry is static:
    its fields are numbers, strings and tuples.

    `Scaling`, `LocationScale`, `SignFlip` and `Permutation` are ready-made.
    """

    @abstractmethod
    def act(self, g: Any, z: Array) -> Array:
        """Returns the point g z."""

    @abstractmethod
    def log_det(self, g: Any) -> Float[Array, ""]:
        """Returns the log absolute Jacobian determinant of z -> g z, which must not depend on z."""

    @abstractmethod
    def frame(self, family: Any, eta: Float[Array, " eta_dim"]) -> Any:
        """Returns the element for which M(g)^T eta is the canonical eta of the orbit.

        Args:
            family: The exponential family.
            eta: Valid natural parameters, `(eta_dim,)`.
        """

    @abstractmethod
    def random(self, key: PRNGKeyArray, family: Any, dtype: Any) -> Any:
        """Returns a random element, for verification and for `orbit`."""


class Transformation(NamedTuple):
    """The effect of an element g on the statistics and the log-partition.

        mu(eta) = M mu(M^T eta) + c,    A(eta) = A(M^T eta) + eta . c + constant

    Attributes:
        matrix: M, `(eta_dim, eta_dim)`.
        shift: c, `(eta_dim,)`.
        constant: log |det d(g z) / dz| + log h(g z) - log h(z), in nats.
        matrix_error: Rounding error of each entry of M.
        shift_error: Rounding error of each entry of c.
    """

    matrix: Float[Array, "eta_dim eta_dim"]
    shift: Float[Array, " eta_dim"]
    constant: Float[Array, ""]
    matrix_error: Float[Array, "eta_dim eta_dim"]
    shift_error: Float[Array, " eta_dim"]


def transformation(
    family: Any, symmetry: AbstractSymmetry, g: Any, dtype: DTypeLike
) -> Transformation:
    """Returns the effect of an element of a symmetry of a family.

    Args:
        family: The exponential family.
        symmetry: A symmetry that `check_symmetry` accepts.
        g: An element.
        dtype: Floating dtype of the result.
    """
    points, inverse, scale, used = _probes(family, symmetry)
    z = jnp.asarray(points, dtype)
    moved = jax.vmap(functools.partial(symmetry.act, g))(z)
    stats = jax.vmap(family.sufficient_statistics)(moved)
    # By default, an accelerator rounds the factors to fewer digits.
    inverse = jnp.asarray(inverse, dtype)
    found = jnp.matmul(inverse, stats, precision="highest")
    # Rounding errors must not leak into zero entries, for example from large into small parameters.
    effect = jnp.abs(found) * jnp.asarray(scale, dtype)[:, None]
    eps = jnp.finfo(dtype).eps.astype(dtype)
    kept = jnp.asarray(used) | (effect > _ROUNDINGS * eps * jnp.max(effect, 0))
    found = jnp.where(kept, found, 0)
    error = jnp.where(kept, eps * (jnp.abs(inverse) @ jnp.abs(stats)), 0)
    log_h = jax.vmap(family.log_base_measure)
    constant = jnp.asarray(symmetry.log_det(g), dtype) + jnp.mean(log_h(moved) - log_h(z))
    return Transformation(found[:-1].T, found[-1], constant, error[:-1].T, error[-1])


def check_symmetry(family: Any, symmetry: AbstractSymmetry) -> float:
    """Verifies that the statistics of a family are closed under a symmetry.

    Args:
        family: The exponential family.
        symmetry: The symmetry.

    Returns:
        The largest misfit of T(g z) = M T(z) + c at fresh points, in standard deviations of T. It
        is about 1e-15 if the statistics are closed.

    Raises:
        ValueError: If the misfit is above 1e-9, the base measure changes by more than a constant,
            or `log_det` is not the log-determinant of `act`.
    """
    check_instance(symmetry, AbstractSymmetry, "symmetry")
    return _check(family, symmetry)


@functools.cache
def _check(family: Any, symmetry: AbstractSymmetry) -> float:
    with jax.enable_x64(True), eval_context():
        fresh = _points(family, 1)
        worst, where = 0.0, ""
        log_h = jax.vmap(family.log_base_measure)
        for g in _elements(family, symmetry, 1):
            matrix, shift = transformation(family, symmetry, g, jnp.float64)[:2]
            moved = jax.vmap(functools.partial(symmetry.act, g))(fresh)
            stats = np.asarray(jax.vmap(family.sufficient_statistics)(moved))
            fitted = jax.vmap(family.sufficient_statistics)(fresh) @ matrix.T + shift
            misfit = np.max(np.abs(stats - np.asarray(fitted)), 0) / _spread(stats)
            if not np.max(misfit) <= worst:
                worst = float(np.max(misfit))
                where = family.stat_names[int(np.argmax(misfit))]
            change = np.asarray(log_h(moved) - log_h(fresh))
            if not np.ptp(change) <= _TOLERANCE * max(1.0, np.max(np.abs(change))):
                raise ValueError(
                    f"Expected a base measure of {family!r} that {symmetry!r} changes by a "
                    f"constant; got changes of log h that differ by {np.ptp(change):.2g} nats"
                )
            # The Jacobian in x is singular on a simplex, for example.
            is_discrete = isinstance(family.support, AbstractDiscreteSupport)
            if family.support.shape == family.x_shape and not is_discrete:
                _check_log_det(symmetry, g, fresh[0])
    if not worst <= _TOLERANCE:
        raise ValueError(
            f"Expected statistics of {family!r} that {symmetry!r} maps to affine functions of "
            f"themselves; got a misfit of {worst:.2g} standard deviations of {where!r}. Add the "
            "statistics that are missing, or declare a smaller group"
        )
    return worst


def _check_log_det(symmetry: AbstractSymmetry, g: Any, z: Array) -> None:
    jacobian = jax.jacfwd(lambda z: jnp.ravel(symmetry.act(g, z)))(z).reshape(z.size, z.size)
    exact, declared = float(jnp.linalg.slogdet(jacobian)[1]), float(symmetry.log_det(g))
    if not abs(exact - declared) <= _TOLERANCE * max(1.0, abs(exact)):
        raise ValueError(
            f"Expected log_det of {symmetry!r} as the log-determinant of act, {exact:.6g}; got "
            f"{declared:.6g}"
        )


@functools.cache
def _probes(family: Any, symmetry: AbstractSymmetry) -> tuple[np.ndarray, ...]:
    """Returns probe points, the least-squares inverse, sizes of T and 1, and the entries used.

    An entry of M or c that some of the random elements use is kept, even if it is small for another
    element. An unused entry, as with permutations, is kept only if it is above rounding.
    """
    with jax.enable_x64(True), eval_context():
        points = _points(family, 0)
        stats = np.asarray(jax.vmap(family.sufficient_statistics)(points))
        scale = np.append(np.max(np.abs(stats), 0), 1)
        design = np.column_stack([stats, np.ones(len(stats))]) / scale
        inverse = np.linalg.pinv(design) / scale[:, None]
        sizes = np.zeros((family.eta_dim + 1, family.eta_dim))
        for g in _elements(family, symmetry, 0):
            moved = jax.vmap(functools.partial(symmetry.act, g))(points)
            found = inverse @ np.asarray(jax.vmap(family.sufficient_statistics)(moved))
            effect = np.abs(found) * scale[:, None]
            sizes = np.maximum(sizes, effect / np.max(effect, 0))
        return np.asarray(points), inverse, scale, sizes > _TOLERANCE


def _points(family: Any, seed: int) -> Array:
    """Returns points of the support, spread in unconstrained coordinates."""
    u = np.random.default_rng(seed).normal(size=(8 * family.eta_dim + 16, *family.support.shape))
    return jax.vmap(functools.partial(support_point, family))(jnp.asarray(u, jnp.float64))


def _elements(family: Any, symmetry: AbstractSymmetry, seed: int) -> list[Any]:
    keys = jax.random.split(jax.random.key(seed), _ELEMENTS)
    return [symmetry.random(key, family, jnp.float64) for key in keys]


def _spread(stats: np.ndarray) -> np.ndarray:
    sd = np.std(stats, 0)
    return np.where(sd > 0, sd, 1)
