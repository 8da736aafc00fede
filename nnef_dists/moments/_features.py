"""Features of control variates: functions of the draws with mean zero."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nnef_dists._factorizations import inverse_factor
from nnef_dists.families import (
    AbstractFlipFamily,
    AbstractSteinFamily,
    ExponentialFamily,
    SteinFunctions,
)
from nnef_dists.moments._validity import Validity
from nnef_dists.sampling import Density, Whitening

# Largest number of monomials, unless all are linear, and their largest degree.
_MOST_MONOMIALS = 100
_HIGHEST_DEGREE = 4
# Largest number of derivatives of T per draw: d statistics in n dimensions have n d.
_MOST_DERIVATIVES = 256
# Largest number of statistics whose products are features.
_MOST_STATISTICS = 6
# Number of splines, their depth below the maximum in nats, and the reach of the grid of z.
_SPLINES = 14
_SPLINE_DEPTH = 4.0
_SPLINE_REACH = 6.0


def statistics_functions(density: Density, u: Float[Array, " n"]) -> SteinFunctions | None:
    """Returns the statistics as Stein functions, with their products if they are few.

    Args:
        density: A density of the family.
        u: A point in its coordinates.

    Returns:
        The functions. None if the family is not smooth, or if they are too expensive.
    """
    family = density.family
    if not family.is_smooth or family.eta_dim * len(u) > _MOST_DERIVATIVES:
        return None

    def along(direction):
        """Returns the first and second derivatives of the statistics along a direction."""
        return jax.jvp(lambda u: jax.jvp(density.stats, (u,), (direction,))[1], (u,), (direction,))

    first, second = jax.vmap(along)(jnp.eye(len(u), dtype=u.dtype))
    # In one dimension splines do better, and products of high powers only fit noise in the tails.
    multiplied = 0 if len(u) == 1 or family.eta_dim > _MOST_STATISTICS else family.eta_dim
    return SteinFunctions(density.stats(u), first.T, jnp.sum(second, 0), multiplied)


def flip_features(
    family: ExponentialFamily,
    flips: tuple[dict[str, Array], ...],
    eta: Float[Array, " eta_dim"],
    centered: Float[Array, " eta_dim"],
) -> Float[Array, " k"]:
    """Returns the sums of a(x) (f(g x) - f(x)) over each kind of flips g.

    Args:
        family: The exponential family.
        flips: The changes T(g x) - T(x), from `AbstractFlipFamily.flips`.
        eta: Natural parameters, `(eta_dim,)`.
        centered: T(x) minus its approximate mean, `(eta_dim,)`.

    Returns:
        One number for each kind and each f. The functions f are the centered statistics that flips
        of this kind change, and their products with all statistics.
    """
    features = []
    for changes in flips:
        # Entry by entry, since stacked entries would be computed again for each of their products.
        change = dict(_columns(family, changes))
        accept = jax.nn.sigmoid(sum(eta[i] * change[i] for i in change))
        weighted = {i: accept * change[i] for i in change}
        single = {i: jnp.sum(weighted[i]) for i in change}
        features += single.values()
        for i, j in itertools.combinations_with_replacement(range(len(eta)), 2):
            products = [centered[a] * single[b] for a, b in ((i, j), (j, i)) if b in change]
            if i in change and j in change:
                products.append(jnp.sum(weighted[i] * change[j]))
            if products:
                features.append(sum(products))
    return jnp.stack(features)


def _columns(
    family: ExponentialFamily, changes: dict[str, Array]
) -> Iterator[tuple[int, Float[Array, " m"]]]:
    """Yields the index of each entry of T that flips change, and its changes."""
    first = 0
    for name, shape in family.stat_shapes.items():
        size = math.prod(shape)
        if name in changes:
            columns = jnp.reshape(changes[name], (-1, size))
            yield from ((first + k, columns[:, k]) for k in range(size))
        first += size


def monomial_features(z: Float[Array, " n"], score: Float[Array, " n"]) -> Float[Array, " k"]:
    """Returns the Stein transforms of the monomials of z, up to degree four if they are few.

    With A phi = laplacian(phi) + grad(phi) . score and a monomial m, A(m z_i) is
    m score_i + z_i A(m) + 2 dm / dz_i.

    Args:
        z: A point, in whitened coordinates.
        score: The gradient of the log-density at z.

    Returns:
        One number for each monomial except the constant.
    """
    n = len(z)
    values, transforms = jnp.ones(1, z.dtype), jnp.zeros(1, z.dtype)
    features, lower = [], jnp.zeros(0, z.dtype)
    for parent, factor, derived, count in _monomial_tables(n):
        # The derivative of the constant is zero, so `derived` points at a padded zero.
        slopes = count * jnp.pad(lower, (0, 1))[derived]
        grown = values[parent] * z[factor]
        transforms = values[parent] * score[factor] + z[factor] * transforms[parent] + 2 * slopes
        lower, values = values, grown
        features.append(transforms)
    return jnp.concatenate(features)


def quadratics(n: int) -> int:
    """Returns the number of leading features from linear and quadratic monomials."""
    return sum(len(table[0]) for table in itertools.islice(_monomial_tables(n), 2))


def spline_features(
    log_density: Callable[[Float[Array, ""]], Float[Array, ""]], dtype
) -> Callable[[Float[Array, ""], Float[Array, ""]], Float[Array, " k"]]:
    """Returns local functions of one whitened coordinate, divided by the density.

    All B-splines b of one grid have equal integrals. So E[b(z) / p~(z)] is equal for all of them,
    for any normalizer of p~, and their differences have mean zero. Unlike Stein transforms of
    smooth functions, they compare the masses of separate modes. Splines whose support leaves the
    region of p~ within a factor exp(-4) of its maximum are left out, so all features are bounded.

    Args:
        log_density: The unnormalized log-density of z, in nats.
        dtype: Floating dtype of z.

    Returns:
        Function of a point and its log-density.

    Reference:
        Gelfand and Dey, *Bayesian model choice*, J. R. Statist. Soc. B 56 (1994), section 3, for
        the identity.
    """
    grid = jnp.linspace(-_SPLINE_REACH, _SPLINE_REACH, 241, dtype=dtype)
    logs = jax.vmap(log_density)(grid)
    logs = jnp.where(jnp.isnan(logs), -jnp.inf, logs)
    highest = jnp.max(logs)
    is_high = logs > highest - _SPLINE_DEPTH
    low = jnp.min(jnp.where(is_high, grid, jnp.inf))
    high = jnp.max(jnp.where(is_high, grid, -jnp.inf))
    spacing = (high - low) / (_SPLINES + 3)
    centers = low + spacing * (2 + jnp.arange(_SPLINES, dtype=dtype))
    is_near = jnp.abs(grid - centers[:, None]) <= 2 * spacing
    is_kept = ~jnp.any(is_near & ~is_high, 1)
    # Subtracts the mean of the kept splines from each of them.
    kept = is_kept.astype(dtype)
    differences = jnp.diag(kept) - jnp.outer(kept, kept) / jnp.maximum(jnp.sum(kept), 1)

    def features(z, log_p):
        t = jnp.abs(z - centers) / spacing
        spline = jnp.where(t < 1, 4 - 6 * t**2 + 3 * t**3, jnp.maximum(2 - t, 0) ** 3)
        # The exponent is bounded on the support of a spline. Elsewhere it must not overflow.
        ratio = spline * jnp.exp(jnp.minimum(highest - log_p, 2 * _SPLINE_DEPTH))
        return differences @ ratio

    return features


class Features(NamedTuple):
    """All features of one density.

    Attributes:
        of_draw: Function of a draw, with values of mean zero under the density. For HMC its
            arguments are z, the gradient of the log-density and the log-density.
        simple: Number of leading features that are Stein transforms of linear and quadratic
            functions.
    """

    of_draw: Callable[..., Array]
    simple: int


def draw_features(
    density: Density,
    whitening: Whitening,
    validity: Validity,
    center: Float[Array, " eta_dim"],
) -> Features:
    """Returns the map from a draw to all its features.

    Args:
        density: The density, in coordinates u.
        whitening: The affine map from z to u.
        validity: Validity of the control variates. Invalid ones are set to zero.
        center: Approximate mean of T.

    Returns:
        The features. Functions that the family declares replace monomials and statistics.
    """
    dtype = whitening.center.dtype
    family, n = density.family, len(whitening.center)
    inverse = inverse_factor(whitening.factor)
    splines = None
    if n == 1:
        splines = spline_features(lambda z: density(whitening.to_u(z[None])), dtype)
    # Functions that a family declares assume coordinates without compressed tails.
    own = validity.polynomials & ~jnp.any(density.tails.is_heavy)

    def of_draw(z, score, log_p):
        u, score_u = whitening.to_u(z), jnp.sum(inverse * score[:, None], 0)
        if isinstance(family, AbstractSteinFamily):
            found = [jnp.where(own, family.stein_functions(u).stein(score_u), 0)]
        else:
            found = [jnp.where(validity.polynomials, monomial_features(z, score), 0)]
            functions = statistics_functions(density, u)
            if functions is not None:
                found.append(jnp.where(validity.statistics, functions.stein(score_u), 0))
        if splines is not None:
            found.append(splines(z[0], log_p))
        if isinstance(family, AbstractFlipFamily):
            flips = family.flips(density.point(u))
            centered = density.stats(u) - center
            found.append(flip_features(family, flips, density.eta, centered))
        return jnp.concatenate(found)

    return Features(of_draw, 0 if isinstance(family, AbstractSteinFamily) else quadratics(n))


def _monomial_tables(n: int):
    """Yields, for each degree, tables of its monomials in terms of lower degrees.

    Monomial number k of a degree is `parent[k]` of the degree below times z[factor[k]]. The
    derivative of this parent by the factor is `count[k]` times `derived[k]` of two degrees below.
    """
    below: list[tuple[int, ...]] = []
    parents: list[tuple[int, ...]] = [()]
    total = 0
    for degree in range(1, _HIGHEST_DEGREE + 1):
        total += math.comb(n + degree - 1, degree)
        if degree > 1 and total > _MOST_MONOMIALS:
            return
        monomials = list(itertools.combinations_with_replacement(range(n), degree))
        parent = np.array([parents.index(m[:-1]) for m in monomials])
        factor = np.array([m[-1] for m in monomials])
        count = np.array([m[:-1].count(m[-1]) for m in monomials])
        derived = np.array(
            [below.index(m[:-2]) if m[-1:] == m[-2:-1] else len(below) for m in monomials]
        )
        yield parent, factor, derived, count
        below, parents = parents, monomials
