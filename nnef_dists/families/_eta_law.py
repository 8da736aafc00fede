"""Distributions of natural parameters, from which the etas of labels are drawn."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from nnef_dists._checks import as_array, as_vector, check_concrete
from nnef_dists._ranges import check_range


class AbstractEtaLaw(eqx.Module):
    """A distribution of natural parameters, for `family.sample_eta` and `RandomEtas`.

    `posterior_etas`, `ellipsoid_etas` and `nearby_etas` return instances. `sample_eta` also
    converts ranges by statistic, and functions that map a key to one flat eta.
    """

    @abstractmethod
    def sample(self, key: PRNGKeyArray, family: Any, dtype: DTypeLike) -> Float[Array, " eta_dim"]:
        """Draws one eta.

        Args:
            key: PRNG key.
            family: The exponential family.
            dtype: Floating dtype.

        Returns:
            The eta, `(eta_dim,)`. If it is invalid, `sample_eta` raises.
        """


EtaLaw = Mapping[str, tuple] | AbstractEtaLaw | Callable[[PRNGKeyArray], Array]


@final
class RangeEtas(AbstractEtaLaw):
    """Independent parts, uniform or log-uniform in a range for each statistic.

    Attributes:
        ranges: By statistic, `(low, high)` or `(low, high, "log")`.
    """

    ranges: Mapping[str, tuple]

    def sample(self, key: PRNGKeyArray, family: Any, dtype: DTypeLike) -> Float[Array, " eta_dim"]:
        """Draws one eta, or NaN if 1,000 draws for a coupled domain are invalid."""
        shapes = family.stat_shapes
        if set(self.ranges) != set(shapes):
            raise ValueError(f"Expected ranges for {list(shapes)}; got {list(self.ranges)}")
        parts = family.natural_domain.sample(key, shapes, self.ranges, dtype)
        return family.flatten_stats_or_eta(parts)


@final
class FunctionEtas(AbstractEtaLaw):
    """Etas that a function of a key returns, such as the `sample` of a NumPyro distribution.

    Attributes:
        draw: Function from a key to a flat eta, `(eta_dim,)`, traceable by JAX.
    """

    draw: Callable[[PRNGKeyArray], Array]

    def sample(self, key: PRNGKeyArray, family: Any, dtype: DTypeLike) -> Float[Array, " eta_dim"]:
        """Draws one eta."""
        return as_vector(self.draw(key), family.eta_dim, "a drawn eta", family).astype(dtype)


@final
class PosteriorEtas(AbstractEtaLaw):
    """The etas prior + n s of posteriors, with n log-uniform, from `posterior_etas`.

    Attributes:
        prior: Natural parameters of the prior, `(eta_dim,)`.
        statistics: Mean statistics, `(k, eta_dim)`, or a function from a key to one row.
        low: Smallest number of observations.
        high: Largest number of observations.
    """

    prior: Float[Array, " eta_dim"]
    statistics: Float[Array, "k eta_dim"] | Callable[[PRNGKeyArray], Array]
    low: float
    high: float

    def sample(self, key: PRNGKeyArray, family: Any, dtype: DTypeLike) -> Float[Array, " eta_dim"]:
        """Draws one eta."""
        key_n, key_row = jax.random.split(key)
        prior = as_vector(self.prior, family.eta_dim, "prior_eta", family)
        if callable(self.statistics):
            row = as_vector(self.statistics(key_row), family.eta_dim, "mean statistics", family)
        else:
            row = jax.random.choice(key_row, self.statistics)
        low, high = math.log(self.low), math.log(self.high)
        log_n = low + (high - low) * jax.random.uniform(key_n, (), dtype)
        return prior.astype(dtype) + jnp.exp(log_n) * row.astype(dtype)


@final
class EllipsoidEtas(AbstractEtaLaw):
    """Etas uniform inside an ellipsoid, from `ellipsoid_etas`.

    Attributes:
        center: The center, `(eta_dim,)`.
        axes: A matrix L, `(eta_dim, m)`. The ellipsoid is center + L b for all |b| <= 1.
    """

    center: Float[Array, " eta_dim"]
    axes: Float[Array, "eta_dim m"]

    def sample(self, key: PRNGKeyArray, family: Any, dtype: DTypeLike) -> Float[Array, " eta_dim"]:
        """Draws one eta."""
        center = as_vector(self.center, family.eta_dim, "center", family)
        inside = jax.random.ball(key, self.axes.shape[1], dtype=dtype)
        return center.astype(dtype) + self.axes.astype(dtype) @ inside


@final
class NearbyEtas(AbstractEtaLaw):
    """Etas around a guess, normal in unconstrained coordinates, from `nearby_etas`.

    Attributes:
        eta: The guess, `(eta_dim,)`.
        scale: Standard deviation of the coordinates, `()` or `(unconstrained_dim,)`.
    """

    eta: Float[Array, " eta_dim"]
    scale: Float[Array, "*m"]

    def sample(self, key: PRNGKeyArray, family: Any, dtype: DTypeLike) -> Float[Array, " eta_dim"]:
        """Draws one eta."""
        u = family.unconstrain_eta(family.check_eta(self.eta)).astype(dtype)
        if self.scale.shape not in ((), u.shape):
            raise ValueError(f"Expected scale of shape () or {u.shape}; got {self.scale.shape}")
        noise = jax.random.normal(key, u.shape, dtype)
        return family.constrain_eta(u + self.scale.astype(dtype) * noise)


def posterior_etas(
    prior_eta: Any, statistics: Any, n_range: tuple[float | int, float | int]
) -> PosteriorEtas:
    """Declares the etas of posteriors of n observations, with n log-uniform.

        eta = prior_eta + n s,    log n uniform,    s a random row of `statistics`

    A conjugate posterior has this form, because each observation adds a row of statistics. s is
    the mean over the n observations. n may be any positive real number: eta, A and the moments are
    smooth in n, so that a network can interpolate.

    Example:
        `etas = family.sample_eta(key, 1024, nd.posterior_etas(eta_0, rows, (1, 1e6)))`

    Args:
        prior_eta: Natural parameters of the prior, `(eta_dim,)`.
        statistics: Mean statistics of data sets, `(k, eta_dim)`, for example of simulated data, or
            a function from a key to one row, `(eta_dim,)`. The statistics of single observations
            cover a wider range than means, but may have no proper posterior.
        n_range: Smallest and largest number of observations, positive.

    Returns:
        The distribution of etas.

    Raises:
        ValueError: If a number is not finite, shapes do not fit, or `n_range` is not a pair of
            positive numbers in increasing order.
    """
    if len(n_range) != 2 or not 0 < n_range[0] <= n_range[1] < np.inf:
        raise ValueError(f"Expected n_range as (low, high) with 0 < low <= high; got {n_range}")
    prior = check_range("prior_eta", as_array(prior_eta))
    rows: Any = statistics
    if not callable(statistics):
        rows = check_range("statistics", as_array(statistics))
        if prior.ndim != 1 or rows.ndim != 2 or rows.shape[1:] != prior.shape:
            raise ValueError(
                "Expected prior_eta of shape (eta_dim,) and statistics of shape (k, eta_dim); got "
                f"{prior.shape} and {rows.shape}"
            )
    return PosteriorEtas(prior, rows, float(n_range[0]), float(n_range[1]))


def ellipsoid_etas(center: Any, covariance: Any) -> EllipsoidEtas:
    """Declares etas that are uniform inside an ellipsoid.

        (eta - center)^T C^-1 (eta - center) <= 1

    Args:
        center: The center, `(eta_dim,)`.
        covariance: The matrix C, `(eta_dim, eta_dim)`, symmetric and positive semidefinite. If C
            is singular, the ellipsoid is flat. For example, 4 times the covariance of a set of
            etas gives an ellipsoid of two standard deviations.

    Returns:
        The distribution of etas.

    Raises:
        ValueError: If the shapes do not fit, or C is not symmetric and positive semidefinite.
    """
    center = check_range("center", as_array(center))
    matrix = np.asarray(check_range("covariance", as_array(covariance)), np.float64)
    d = center.size
    if center.ndim != 1 or matrix.shape != (d, d):
        raise ValueError(
            "Expected center of shape (eta_dim,) and covariance of shape (eta_dim, eta_dim); got "
            f"{center.shape} and {matrix.shape}"
        )
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    rounding = 1e-5 * np.max(np.abs(matrix))
    if np.max(np.abs(matrix - matrix.T)) > rounding or values[0] < -rounding:
        raise ValueError(
            "Expected a symmetric positive semidefinite covariance; got one with eigenvalues "
            f"{values} and asymmetry {np.max(np.abs(matrix - matrix.T))}"
        )
    axes = vectors * np.sqrt(np.maximum(values, 0))
    return EllipsoidEtas(center, jnp.asarray(axes, center.dtype))


def nearby_etas(eta: Any, scale: Any) -> NearbyEtas:
    """Declares etas around a guess, normal in unconstrained coordinates, and so always valid.

    Args:
        eta: The guess, valid natural parameters, `(eta_dim,)`.
        scale: Standard deviation of each unconstrained coordinate (`family.unconstrain_eta`), a
            number or `(unconstrained_dim,)`. For a parameter with a constraint `positive` or
            `negative`, the scale is relative.

    Returns:
        The distribution of etas.

    Raises:
        ValueError: If a scale is negative or not finite.
    """
    guess = check_range("eta", as_array(eta))
    return NearbyEtas(guess, check_range("scale", as_array(scale), 0.0, closed="low"))


def as_eta_law(etas: Any) -> AbstractEtaLaw:
    """Returns a distribution of etas.

    Args:
        etas: Ranges by statistic, an `AbstractEtaLaw`, or a function that maps a key to one flat
            eta.

    Raises:
        ValueError: If `etas` has another type.
    """
    if isinstance(etas, AbstractEtaLaw):
        return etas
    if isinstance(etas, Mapping):
        return RangeEtas(etas)
    if callable(etas):
        draw: Any = etas
        return FunctionEtas(draw)
    raise ValueError(
        "Expected ranges by statistic, such as {'x': (-1, 1)}, a distribution of etas such as "
        f"posterior_etas(...), or a function from a key to an eta; got {type(etas).__name__}"
    )


def draw_etas(
    law: AbstractEtaLaw, family: Any, key: PRNGKeyArray, first: Any, n: int, dtype: DTypeLike
) -> Float[Array, "n eta_dim"]:
    """Draws and checks etas `first` to `first + n - 1`, each with a separate key.

    Raises:
        ValueError: If concrete etas are invalid. The message has their number and the first of
            them.
    """

    def one(number):
        eta = law.sample(jax.random.fold_in(key, number), family, dtype)
        valid = family.is_valid_eta(eta)
        return jnp.where(valid, eta, jnp.nan), eta, valid

    numbers = first + jnp.arange(n)
    checked, etas, valid = jax.vmap(one)(numbers)
    got = ""
    if not isinstance(valid, Tracer) and not valid.all():
        worst = int(jnp.argmin(valid))
        eta = np.asarray(etas[worst])
        found = f"the first, number {int(numbers[worst])}, is {eta}"
        if np.isnan(eta).all():
            found = "none valid in 1,000 draws"
        got = f"{int(jnp.sum(~valid))} invalid of {n}: {found}"
    domain = family.natural_domain
    whole = "; ".join(dict.fromkeys(map(domain.expectation, family.stat_shapes)))
    if isinstance(law, RangeEtas):
        expected = f"Expected ranges that meet the natural domain of {family!r} ({whole})"
        remedy = "Move or widen the ranges."
    else:
        expected = f"Expected etas in the natural domain of {family!r} ({whole})"
        remedy = "Move or narrow the distribution, or use nearby_etas, whose draws are valid."
    return check_concrete(checked, jnp.all(valid), expected, got, remedy)
