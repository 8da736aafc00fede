"""Conditions of integration by parts: no jumps, no kinks, and tails that fall."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nnef_dists.sampling import Density, Whitening

# Numbers of lines through pairs of draws, of lines over all draws, and of points per line.
_LINES = 6
_LONG_LINES = 2
_POINTS = 33
# Number of halvings of an interval, to about 0.0015 sd. A step within this width contains too few
# draws to contribute its part of the mean of a Stein transform, so it counts as a jump.
_HALVINGS = 8
# Number of halvings of the radius up to which a log-density is finite.
_RADIUS_HALVINGS = 14
# Number of radii along rays, from 1 to 1,024 in whitened coordinates.
_DOUBLINGS = 11
# Largest flux at the end of a ray, in units of z. It causes an error of about this size.
_MOST_FLUX = 1e-3
# Distance below the highest log-density, in nats, at which a jump does not matter.
_DEPTH = 12.0
# Smallest jump of the log-density, in nats.
_LEAST_JUMP = 0.03
# Smallest jump of the slope of T, relative to sd(T) plus the slope.
_LEAST_KINK = 0.03
# Degree of the gradients of monomials up to the fourth degree.
_DEGREE = 3


class Validity(NamedTuple):
    """Conditions under which control variates have mean zero.

    Attributes:
        polynomials: Whether the density is continuous and falls fast enough for the Stein
            transforms of polynomials.
        statistics: Whether `polynomials` holds, the statistics are smooth, and the density falls
            fast enough for their Stein transforms.
        flux: Bound on the means of valid transforms, since the density may not reach zero within
            the floating-point range.
    """

    polynomials: Bool[Array, ""]
    statistics: Bool[Array, ""]
    flux: Float[Array, ""]


def find_validity(
    density: Density,
    whitening: Whitening,
    z: Float[Array, "chains draws n"],
    highest: Float[Array, ""],
    sd: Float[Array, " eta_dim"],
) -> Validity:
    """Tests the assumptions of control variates for one density.

    A Stein transform div(p grad phi) / p has mean zero under three conditions: p is continuous,
    grad phi has no jumps, and p |grad phi| r^(n - 1) vanishes at infinity. Jumps of log p and of
    the slopes of T are searched on lines through pairs of draws. The search halves the interval on
    which the trapezoid rule for the derivative differs most from the difference, until few draws
    lie in it. The flux is
    evaluated at the last finite point of rays along the axes.

    Args:
        density: The density.
        whitening: Its whitened coordinates z.
        z: Draws.
        highest: The highest log-density of a draw, in nats.
        sd: Standard deviations of T, `(eta_dim,)`, positive.

    Returns:
        The validity of the control variates.
    """
    dtype, n = z.dtype, z.shape[-1]

    def log_p(z):
        return density(whitening.to_u(z))

    def stats(z):
        return density.stats(whitening.to_u(z)) / sd

    chains = z.shape[0]
    which = jnp.arange(_LINES) % chains
    first = z[which, -1 - jnp.arange(_LINES) // chains]
    second = z[(which + chains // 2) % chains, z.shape[1] // 2 + jnp.arange(_LINES) // chains]
    # Some lines span all draws, since all pairs may lie on one side of a jump.
    draws = z.reshape(-1, n)
    axes = jnp.arange(min(n, _LONG_LINES))
    first = first.at[axes].set(draws[jnp.argmin(draws, 0)[axes]])
    second = second.at[axes].set(draws[jnp.argmax(draws, 0)[axes]])
    length = jnp.maximum(jnp.sqrt(jnp.sum((second - first) ** 2, 1, keepdims=True)), 1e-3)
    direction = (second - first) / length
    start = first - 0.5 * (second - first)

    def on_line(fn, start, direction):
        """Returns a function of the distance: value, derivative and whether draws are near."""

        def at(t):
            end = start + t * direction
            value, slope = jax.jvp(fn, (end,), (direction,))
            return value, slope, log_p(end) > highest - _DEPTH

        return at

    def jump_of_density(start, direction, length):
        at = on_line(lambda z: log_p(z)[None], start, direction)
        jump, where = _largest_jump(at, 2 * length)
        rounding = density.rounding(whitening.to_u(start + where * direction))
        return jump[0] > _LEAST_JUMP + 8 * rounding

    def kink_of_stats(start, direction, length):
        at = on_line(lambda z: jax.jvp(stats, (z,), (direction,))[1], start, direction)
        jump, where = _largest_jump(at, 2 * length)
        end = start + where * direction
        size = jnp.abs(at(where)[0])
        noise = jnp.finfo(dtype).eps * (size + jnp.abs(stats(end)))
        return jnp.any(jump > _LEAST_KINK * (1 + size) + 64 * noise)

    jumps = jax.vmap(jump_of_density)(start, direction, length[:, 0])
    kinks = jax.vmap(kink_of_stats)(start, direction, length[:, 0])

    axes = jnp.eye(n, dtype=dtype)
    rays = jnp.concatenate([axes, -axes])
    radius = jax.vmap(lambda ray: _last_finite(lambda r: log_p(r * ray), dtype))(rays)

    def log_flux(ray, r):
        end = r * ray
        _, slope = jax.jvp(stats, (end,), (ray,))
        # Growth of T and its products, in logarithms, since powers overflow first.
        log_growth = jnp.log(jnp.max(jnp.abs(slope))) + jnp.log1p(jnp.max(jnp.abs(stats(end))))
        log_r = jnp.log(r)
        base = log_p(end) - highest + (n - 1) * log_r
        return base + _DEGREE * jnp.maximum(log_r, 0), base + log_growth

    polynomial, statistic = jax.vmap(log_flux)(rays, radius)
    polynomial, statistic = jnp.exp(jnp.max(polynomial)), jnp.exp(jnp.max(statistic))
    polynomials = ~jnp.any(jumps) & (polynomial < _MOST_FLUX)
    statistics = polynomials & ~jnp.any(kinks) & (statistic < _MOST_FLUX)
    used = jnp.stack([jnp.where(polynomials, polynomial, 0), jnp.where(statistics, statistic, 0)])
    return Validity(polynomials, statistics, jnp.max(used))


def _largest_jump(
    at: Callable[[Array], tuple[Array, Array, Array]], length: Float[Array, ""]
) -> tuple[Float[Array, " d"], Float[Array, ""]]:
    """Returns the jumps of functions in the interval of the worst trapezoid fit, and the start."""

    def misfit(left, right, width):
        (low, low_slope, low_near), (high, high_slope, high_near) = left, right
        size = jnp.abs(high - low - width / 2 * (low_slope + high_slope))
        # A value that is not finite counts as an infinite jump.
        size = jnp.where(jnp.isfinite(size), size, jnp.inf)
        return jnp.where(low_near | high_near, size, 0)

    t = length * jnp.arange(_POINTS) / (_POINTS - 1)
    values = jax.vmap(at)(t.astype(length.dtype))
    left = jax.tree.map(lambda leaf: leaf[:-1], values)
    right = jax.tree.map(lambda leaf: leaf[1:], values)
    width = length / (_POINTS - 1)
    sizes = jax.vmap(misfit, (0, 0, None))(left, right, width)
    worst = jnp.argmax(jnp.max(sizes, 1))
    left, right = (jax.tree.map(lambda leaf: leaf[worst], part) for part in (left, right))

    def halve(_, carry):
        start, width, left, right = carry
        width = width / 2
        middle = at(start + width)
        in_left = misfit(left, middle, width)
        in_right = misfit(middle, right, width)
        goes_left = jnp.max(in_left) >= jnp.max(in_right)

        def choose(a, b):
            return jax.tree.map(lambda a, b: jnp.where(goes_left, a, b), a, b)

        start = jnp.where(goes_left, start, start + width)
        return start, width, choose(left, middle), choose(middle, right)

    carry = t[worst].astype(length.dtype), width, left, right
    start, width, left, right = jax.lax.fori_loop(0, _HALVINGS, halve, carry)
    return misfit(left, right, width), start


def _last_finite(log_p: Callable[[Array], Array], dtype) -> Float[Array, ""]:
    """Returns the largest radius up to which a log-density is finite, at most 1,024."""
    radii = jnp.asarray([2.0**k for k in range(_DOUBLINGS)], dtype)
    is_finite = jnp.isfinite(jax.vmap(log_p)(radii))
    known = jnp.cumprod(is_finite.astype(jnp.int32))
    count = jnp.sum(known)
    low = jnp.where(count > 0, radii[jnp.maximum(count - 1, 0)], 1e-3)
    high = radii[jnp.minimum(count, _DOUBLINGS - 1)]

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        fine = jnp.isfinite(log_p(middle))
        return jnp.where(fine, middle, low), jnp.where(fine, high, middle)

    return jax.lax.fori_loop(0, _RADIUS_HALVINGS, halve, (low, high))[0]
