"""Starting points of chains, dispersed around modes that are found from dispersed points."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, PRNGKeyArray

from nnef_dists._factorizations import cholesky
from nnef_dists.families import support_dim
from nnef_dists.sampling._density import Density, ModeMasses, Tails, finite_or_lowest

# Smallest and largest distance of the first points in unconstrained coordinates, because a mode may
# be narrow, or far.
_NEAREST, _FARTHEST = 1e-2, 1e4
_CANDIDATES = 8
_STEPS = 17
# Lengths that are tried in each step, besides the length of the quasi-Newton step.
_LENGTHS = tuple(1e-5 * 6.0**k for k in range(14))
# Factors that stretch a displacement from a mode until the log-density has dropped.
_STRETCHES = tuple(2.0 ** (k / 2) for k in range(-16, 17))
# Smallest barrier between separate modes, in nats, and number of tested points between them.
_LEAST_BARRIER = 0.1
_BARRIER_POINTS = 15
# Radii at which the decay of tails is measured, in widths of a mode.
_RADII = (1e2, 1e3, 1e4, 1e5, 1e6)
# Exponent a of p ~ r^-a far out, below which a tail is heavy and coordinates compress it.
_HEAVY = 40.0
# Smallest fall of compressed tails up to the largest numbers, in nats, and number of tested points.
_LEAST_FALL = 20.0
_DEPTHS = 48

LogDensity = Callable[[Float[Array, " n"]], Float[Array, ""]]


class Modes(NamedTuple):
    """Modes from hill climbing, one per chain.

    Attributes:
        point: The modes, `(chains, n)`.
        height: Log-density at the modes, in nats, `(chains,)`.
        covariance: Estimate of the inverse negative Hessian at the modes, `(chains, n, n)`.
    """

    point: Float[Array, "chains n"]
    height: Float[Array, " chains"]
    covariance: Float[Array, "chains n n"]


class Start(NamedTuple):
    """Starting points of chains, in the coordinates v of a density.

    Attributes:
        points: The starts, `(chains, n)`.
        scouts: Points farther out, which the proposal of global moves has to cover, `(chains, n)`.
        factor: The Cholesky factor of the mean covariance within modes, `(n, n)`.
    """

    points: Float[Array, "chains n"]
    scouts: Float[Array, "chains n"]
    factor: Float[Array, "n n"]


def start_chains(
    density: Density, key: PRNGKeyArray, chains: int, dispersion: float
) -> tuple[Density, Start]:
    """Finds modes, compresses heavy tails and disperses starts around the modes.

    Half of the climbs begin at normal points of standard deviation `dispersion`. The others begin
    at the best of eight points at distances from 0.01 to 10,000. A start is a mode plus a normal
    displacement of the local covariance. The displacement is stretched until the log-density has
    dropped by 2 n + 2 nats, which is about twice the scale of a normal density.

    Args:
        density: The density, in unconstrained coordinates.
        key: PRNG key.
        chains: Number of starts.
        dispersion: Standard deviation of the near points.

    Returns:
        The density in coordinates without heavy tails, and the starts in these coordinates.

    Reference:
        Nocedal and Wright, *Numerical Optimization* (2006), section 6.1, for the quasi-Newton
        updates (BFGS).
    """
    dim, dtype = support_dim(density.family), density.eta.dtype
    points = _first_points(density, chains, dim, dispersion, dtype)
    modes = Modes(*jax.vmap(lambda x: _climb(density, x))(points))
    starts, scouts, covariance = _disperse(density, modes, key)
    tails = _find_tails(density, modes)
    factor = cholesky(covariance)
    identity = jnp.eye(dim, dtype=dtype)
    factor = jnp.where(jnp.all(jnp.isfinite(factor)), factor, identity)
    masses = ModeMasses(jax.vmap(tails.to_v)(modes.point), _masses(density, modes), factor)
    density = Density(density.family, density.eta, tails, masses)
    to_v = jax.vmap(tails.to_v)
    return density, Start(to_v(starts), to_v(scouts), factor)


def _first_points(
    log_density: LogDensity, chains: int, dim: int, dispersion: float, dtype: DTypeLike
) -> Float[Array, "chains n"]:
    # One design serves all densities, because no draws come from it.
    generator = np.random.default_rng(0)
    far = chains // 2
    near = dispersion * generator.normal(size=(chains - far, dim))
    directions = generator.normal(size=(far, _CANDIDATES, dim))
    # One radius of each stratum in every group.
    strata = np.arange(_CANDIDATES) + generator.uniform(size=(far, _CANDIDATES))
    radii = _NEAREST * (_FARTHEST / _NEAREST) ** (strata / _CANDIDATES)
    groups = np.concatenate(
        [
            np.broadcast_to(near[:, None], (chains - far, _CANDIDATES, dim)),
            directions / math.sqrt(dim) * radii[..., None],
        ]
    )
    candidates = jnp.asarray(groups, dtype)
    logs = jax.vmap(jax.vmap(lambda u: finite_or_lowest(log_density(u))))(candidates)
    points = jnp.take_along_axis(candidates, jnp.argmax(logs, 1)[:, None, None], 1)[:, 0]
    heights = jnp.max(logs, 1)
    return jnp.where(jnp.isfinite(heights)[:, None], points, points[jnp.argmax(heights)])


def _climb(log_density: LogDensity, x: Float[Array, " n"]):
    """Returns a mode uphill of x, its log-density and the inverse negative Hessian."""
    dtype, dim = x.dtype, len(x)
    lengths = jnp.asarray(_LENGTHS, dtype)
    identity = jnp.eye(dim, dtype=dtype)

    def learn(inverse, is_first, s, y):
        """Updates the inverse negative Hessian by a step s that changed the slope by -y."""
        sy, yy = s @ y, y @ y
        curved = jnp.isfinite(yy) & (sy > 1e-6 * jnp.sqrt(yy * (s @ s)))
        sy_safe, yy_safe = jnp.where(curved, sy, 1), jnp.where(curved, yy, 1)
        base = jnp.where(is_first, sy_safe / yy_safe * identity, inverse)
        project = identity - jnp.outer(s, y) / sy_safe
        updated = project @ base @ project.T + jnp.outer(s, s) / sy_safe
        return jnp.where(curved, updated, inverse), is_first & ~curved

    def step(carry, _):
        x, last_step, last_slope, inverse, is_first = carry
        value, slope = jax.value_and_grad(log_density)(x)
        inverse, is_first = learn(inverse, is_first, last_step, last_slope - slope)
        newton = inverse @ slope
        uphill = jnp.isfinite(newton).all() & (newton @ slope > 0)
        newton = jnp.where(uphill, newton, slope)
        size = jnp.max(jnp.abs(newton))
        unit = newton / jnp.where(size > 0, size, 1)
        unit = unit * jax.lax.rsqrt(jnp.maximum(jnp.sum(unit**2), jnp.finfo(dtype).tiny))
        steps = jnp.concatenate([newton[None], lengths[:, None] * unit])
        values = finite_or_lowest(jax.vmap(lambda d: log_density(x + d))(steps))
        # Take the first maximum along the line, because farther maxima may belong to other modes.
        noise = 4 * jnp.finfo(dtype).eps * jnp.abs(value)
        rises = jnp.diff(values[1:], prepend=value) >= -noise
        last = jnp.sum(jnp.cumprod(rises))
        reach = lengths[jnp.minimum(last, len(lengths) - 1)]
        is_near = jnp.sum(newton**2) <= reach**2
        is_allowed = jnp.append(is_near, jnp.arange(len(lengths)) < last)
        best = jnp.argmax(jnp.where(is_allowed, values, -jnp.inf))
        moved = is_allowed[best] & (values[best] > value)
        chosen = jnp.where(moved, steps[best], 0)
        height = jnp.where(moved, values[best], value)
        return (x + chosen, chosen, slope, inverse, is_first), height

    carry = x, jnp.zeros_like(x), jnp.zeros_like(x), identity, jnp.asarray(True)
    (x, _, _, inverse, _), heights = jax.lax.scan(step, carry, None, length=_STEPS)
    return x, heights[-1], inverse


def _disperse(
    log_density: LogDensity, modes: Modes, key: PRNGKeyArray
) -> tuple[Float[Array, "chains n"], Float[Array, "chains n"], Float[Array, "n n"]]:
    """Returns a start near each mode, a point farther out, and the mean covariance within modes."""
    dim = modes.point.shape[1]
    noise = jax.random.normal(key, modes.point.shape, modes.point.dtype)

    def one(mode, height, covariance, noise):
        factor = cholesky(covariance)
        factor = jnp.where(jnp.isfinite(factor).all(), factor, jnp.eye(dim, dtype=noise.dtype))
        drops = jnp.asarray([2.0 * dim + 2, 2.0 * dim + 9], noise.dtype)
        near, far = _stretch(log_density, mode, height, factor @ noise, drops)
        displacement = factor @ noise
        covariance = (near / 2) ** 2 * factor @ factor.T
        return mode + near * displacement, mode + far * displacement, covariance

    starts, scouts, covariances = jax.vmap(one)(modes.point, modes.height, modes.covariance, noise)
    return starts, scouts, jnp.mean(covariances, 0)


def _masses(log_density: LogDensity, modes: Modes) -> Float[Array, " chains"]:
    """Returns the mass around each mode by Laplace's method, 0 for repetitions of a mode.

    A mode is a repetition unless the log-density falls by `_LEAST_BARRIER` nats on the line to
    every higher mode.
    """
    dtype = modes.point.dtype
    logs = finite_or_lowest(modes.height)
    fractions = jnp.arange(1, _BARRIER_POINTS + 1, dtype=dtype) / (_BARRIER_POINTS + 1)

    def barrier(mode, other):
        line = mode + fractions[:, None] * (other - mode)
        return jnp.min(finite_or_lowest(jax.vmap(log_density)(line)))

    lowest = jax.vmap(lambda a: jax.vmap(lambda b: barrier(a, b))(modes.point))(modes.point)
    rank = jnp.argsort(jnp.argsort(-logs))
    noise = 8 * jnp.finfo(dtype).eps * jnp.abs(logs)
    is_joined = lowest > (logs - _LEAST_BARRIER - noise)[:, None]
    is_separate = ~jnp.any(is_joined & (rank < rank[:, None]), 1)
    factors = jax.vmap(cholesky)(modes.covariance)
    volume = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=1, axis2=2)), 1)
    weight = jnp.where(is_separate & jnp.isfinite(volume), logs + volume, -jnp.inf)
    # The highest mode has a weight even if its curvature is not definite.
    weight = jnp.where((rank == 0) & ~jnp.isfinite(weight), logs, weight)
    return jax.nn.softmax(weight)


def _stretch(log_density, mode, height, direction, drops):
    """Returns the largest factors of a direction with a drop of the log-density up to `drops`."""
    stretches = jnp.asarray(_STRETCHES, mode.dtype)
    logs = jax.vmap(lambda s: finite_or_lowest(log_density(mode + s * direction)))(stretches)
    is_high = logs >= height - drops[:, None]
    return jnp.max(jnp.where(is_high, stretches, stretches[0]), 1)


def _find_tails(density: Density, modes: Modes) -> Tails:
    """Returns coordinates that compress the heavy tails.

    Far out, p falls like r^-a along each axis and diagonal, in both directions. It is integrable
    along an axis if a > 1, and along a diagonal if a > n.
    """
    dim, dtype = modes.point.shape[1], modes.point.dtype
    best = jnp.argmax(finite_or_lowest(modes.height))
    mode, height = modes.point[best], modes.height[best]
    axes = jnp.eye(dim, dtype=dtype)
    either_way = jnp.concatenate([axes, -axes])
    drop = jnp.full(1, 2.0, dtype)
    widths = jax.vmap(lambda axis: _stretch(density, mode, height, axis, drop)[0])(either_way)
    widths = jnp.max(widths.reshape(2, dim), 0)
    radii = jnp.asarray(_RADII, dtype)

    def exponent(direction):
        logs = jax.vmap(lambda r: density(mode + r * widths * direction))(radii)
        slopes = (logs[:-1] - logs[1:]) / jnp.log(radii[1:] / radii[:-1])
        # If no slope is finite, there is a wall or an overflow.
        known = jnp.isfinite(slopes)
        last = jnp.max(jnp.where(known, jnp.arange(len(slopes)), -1))
        farthest = jnp.where(last >= 0, slopes[jnp.maximum(last, 0)], jnp.inf)
        return farthest, jnp.min(jnp.where(known, slopes, jnp.inf))

    # A fixed pattern of signs, whose diagonals lie in no coordinate plane.
    signs = jnp.where(jnp.arange(dim) % 2 == 0, 1.0, -0.7).astype(dtype)
    diagonals = jnp.stack([signs, -signs, jnp.abs(signs), -jnp.abs(signs)])
    farthest, least = jax.vmap(exponent)(jnp.concatenate([either_way, diagonals]))
    is_heavy = jnp.any(least[: 2 * dim].reshape(2, dim) < _HEAVY, 0)
    is_heavy = is_heavy | (jnp.any(least[2 * dim :] < _HEAVY) & ~jnp.any(is_heavy))
    along, across = farthest[: 2 * dim].reshape(2, dim), farthest[2 * dim :]
    tails = Tails(mode, widths, is_heavy, jnp.asarray(True))
    compressed = Density(density.family, density.eta, tails, density.modes)
    reach = jnp.asarray(math.log(float(jnp.finfo(dtype).max)) * 0.98, dtype)
    distances = reach * jnp.arange(1, _DEPTHS + 1, dtype=dtype) / _DEPTHS

    def fall(direction):
        points = mode + distances[:, None] * widths * direction
        logs = jax.vmap(compressed)(points)
        return height - jnp.min(jnp.where(jnp.isfinite(logs), logs, jnp.inf))

    falls = jax.vmap(fall)(either_way).reshape(2, dim)
    deep_enough = jnp.all((along >= _HEAVY) | (falls > _LEAST_FALL))
    integrable = jnp.all(along > 1) & jnp.all(across > dim) & deep_enough
    return tails._replace(integrable=integrable)
