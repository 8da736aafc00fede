"""Numerical probes of a family: draws, rays, lines and rounding, in one compiled program."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from nnef_dists.families import ExponentialFamily, support_dim, unconstrained_logdensity
from nnef_dists.moments._family_walks import draw_around, find_modes, follow_rays

# Number of halvings of an interval with a possible jump, to 1e-10 of its length.
_HALVINGS = 34


class FamilyProbes(NamedTuple):
    """Results of the probes of one eta. A batch has a leading axis of etas.

    There are d unconstrained coordinates u, k statistics, n draws, p far points, r directions and R
    radii. Values are the k statistics and log h.

    Attributes:
        draws: Approximate draws of x, `(n, *x_shape)`.
        values: Values at the draws, `(n, k + 1)`.
        rounding: Error of the float32 log-density at the draws, in nats, `(n,)`.
        value_rounding: Error of the float32 values at the draws, `(n, k + 1)`.
        far: Points x at several distances from the draws, `(p, *x_shape)`.
        far_values: Values at these points, `(p, k + 1)`.
        log_det_error: Error of the support's log-determinant for u of order one, in nats, `(64,)`.
        scale: Standard deviation of the draws of u, the largest of all coordinates.
        radii: Distances in u along the rays, `(R,)`.
        directions: Unit vectors of u, `(R, r, d)`. They follow the ridges of the density.
        ray_x: Points of the rays, `(R, r, *x_shape)`.
        ray_values: Values at these points, `(R, r, k + 1)`.
        ray_logs: Log-density of u, `(R, r)`.
        ray_mass: Log of the density times the volume that it covers across the ray, `(R, r)`.
        ray_is_finite_32: Whether the values are finite in float32, `(R, r)`.
        jump: Largest jump of each value along lines, in standard deviations, `(k + 1,)`.
        slope_jump: Largest jump of each slope, relative to its mean size, `(k + 1,)`.
        jump_x: Point x of the largest jump of the values, of shape `x_shape`.
        slope_jump_x: Point x of the largest jump of the slopes, of shape `x_shape`.
    """

    draws: Array
    values: Array
    rounding: Array
    value_rounding: Array
    far: Array
    far_values: Array
    log_det_error: Array
    scale: Array
    radii: Array
    directions: Array
    ray_x: Array
    ray_values: Array
    ray_logs: Array
    ray_mass: Array
    ray_is_finite_32: Array
    jump: Array
    slope_jump: Array
    jump_x: Array
    slope_jump_x: Array


# Compiling takes nearly all of the time. This level halves it.
_COMPILER_OPTIONS = {"xla_backend_optimization_level": 0}


@functools.partial(jax.jit, static_argnums=0, compiler_options=_COMPILER_OPTIONS)
def probe_family(
    family: ExponentialFamily, etas: Float[Array, "m eta_dim"], keys: Key[Array, " m"]
) -> FamilyProbes:
    """Probes each eta: finds modes, draws around them, follows rays and looks for jumps.

    To compile quickly, each loop evaluates the family at one place only.

    Args:
        family: The exponential family.
        etas: Natural parameters in float64, `(m, eta_dim)`. They must be float32 numbers.
        keys: PRNG keys, `(m,)`.

    Returns:
        The probes, with a leading axis of m.
    """
    return jax.vmap(functools.partial(_probe, family))(etas, keys)


def _probe(family, eta, key) -> FamilyProbes:
    support = family.support
    dim = support_dim(family)
    keys = jax.random.split(key, 5)

    def raw_logdensity(u):
        return unconstrained_logdensity(family, eta.astype(u.dtype), u)

    def values(u):
        x = support.transform(u.reshape(support.shape))
        stats, log_h = family.sufficient_statistics(x), family.log_base_measure(x)
        return jnp.append(stats, log_h.astype(stats.dtype))

    def everything(u):
        x, log_det = support.transform_and_log_det(u.reshape(support.shape))
        stats, log_h = family.sufficient_statistics(x), family.log_base_measure(x)
        log = jnp.sum(eta.astype(u.dtype) * stats) + log_h + log_det
        return x, jnp.append(stats, log_h.astype(stats.dtype)), log

    modes, mode_logs, deviations = find_modes(raw_logdensity, dim, keys[0])
    u = draw_around(raw_logdensity, modes, mode_logs, deviations, keys[1])
    scale = jnp.maximum(jnp.max(jnp.std(u, axis=0)), 1e-8)
    u = u.astype(jnp.float32).astype(u.dtype)  # so that both precisions have the same points

    spread = jnp.geomspace(0.1, 10.0, 64)[:, None]
    near, wide = jax.random.normal(keys[2], (2, 64, dim))
    unit_u = jnp.clip(wide, -2, 2)
    far_u = jnp.concatenate([spread * wide, u[:64] + 3 * scale * near])

    center = modes[jnp.argmax(mode_logs)]
    radii = scale * jnp.logspace(-1, *((12, 66) if dim == 1 else (5, 31)), dtype=u.dtype)
    directions, ray_mass = follow_rays(raw_logdensity, center, radii, keys[3])
    ray_u = center + radii[:, None, None] * directions

    points = jnp.concatenate([u, far_u, ray_u.reshape(-1, dim)])
    x, all_values, logs = jax.vmap(everything)(points)
    _, values_32, logs_32 = jax.vmap(everything)(points.astype(jnp.float32))
    n, far = len(u), slice(len(u), len(u) + len(far_u))

    def on_rays(array):
        return array[far.stop :].reshape(*directions.shape[:2], *array.shape[1:])

    ray_logs = on_rays(logs)
    # Only the central half, since the tails may be longer by many orders of magnitude.
    central = u[jnp.argsort(-logs[:n])[: n // 2]]
    jumps = _find_jumps(values, central, all_values[:n], keys[4])
    return FamilyProbes(
        draws=x[:n],
        values=all_values[:n],
        rounding=logs_32[:n].astype(u.dtype) - logs[:n],
        value_rounding=values_32[:n].astype(u.dtype) - all_values[:n],
        far=x[far],
        far_values=all_values[far],
        log_det_error=jax.vmap(lambda u: _log_det_error(family, u))(unit_u),
        scale=scale,
        radii=radii,
        directions=directions,
        ray_x=on_rays(x),
        ray_values=on_rays(all_values),
        ray_logs=ray_logs,
        ray_mass=ray_logs + ray_mass,
        ray_is_finite_32=jnp.all(jnp.isfinite(on_rays(values_32)), axis=-1),
        jump=jumps[0],
        slope_jump=jumps[1],
        jump_x=support.transform(jumps[2].reshape(support.shape)),
        slope_jump_x=support.transform(jumps[3].reshape(support.shape)),
    )


def _find_jumps(values, u, at_draws, key):
    """Looks for jumps of the values and of their slopes along lines through draws.

    The difference over an interval with a jump remains as the interval is halved. The difference of
    a smooth function vanishes.
    """
    dim = u.shape[1]
    if dim == 1:
        low, high = jnp.min(u, axis=0), jnp.max(u, axis=0)
        starts, ends = (2 * low - high)[None], (2 * high - low)[None]
    else:
        first, last = u[jax.random.randint(key, (2, 8), 0, len(u))]
        starts, ends = first - (last - first), last + (last - first)
    value_scale = jnp.std(at_draws, axis=0)
    value_scale = jnp.where(value_scale > 0, value_scale, 1.0)

    def gap(a, b):
        """Returns absolute differences, 0 for values beyond an edge of the support."""
        difference = jnp.abs(a - b)
        return jnp.where(jnp.isfinite(difference), difference, 0.0)

    def along(start, end):
        def curve(t):
            value, slope = jax.jvp(
                lambda t: values(start + t * (end - start)), (t,), (jnp.ones_like(t),)
            )
            return jnp.stack([value, slope])

        times = jnp.linspace(0, 1, 257 if dim == 1 else 129, dtype=u.dtype)
        on_line = jax.vmap(curve)(times)
        # The line may leave the bulk, and T can be steep there, so its changes set the scale too.
        slopes = jnp.where(jnp.isfinite(on_line[:, 1]), jnp.abs(on_line[:, 1]), 0.0)
        unit = jnp.mean(slopes, axis=0)
        unit = jnp.stack([jnp.maximum(value_scale, 1e-3 * unit), jnp.where(unit > 0, unit, 1.0)])
        on_line /= unit

        steps = jnp.diff(on_line, axis=0)
        steps = jnp.where(jnp.isfinite(steps), steps, 0.0)
        unlike = jnp.abs(steps[1:-1] - (steps[:-2] + steps[2:]) / 2)
        suspects = jnp.argsort(-jnp.max(unlike, axis=(1, 2)))[:6] + 1

        def halve(state, _):
            low, high = state
            time = (low[0] + high[0]) / 2
            middle = time, curve(time) / unit
            in_left = jnp.max(gap(middle[1], low[1])) > jnp.max(gap(high[1], middle[1]))
            choose = functools.partial(jnp.where, in_left)
            low = jax.tree.map(choose, low, middle)
            return (low, jax.tree.map(choose, middle, high)), None

        def narrow(k):
            state = (times[k], on_line[k]), (times[k + 1], on_line[k + 1])
            (low, high), _ = jax.lax.scan(halve, state, None, length=_HALVINGS)
            return gap(high[1], low[1]), start + low[0] * (end - start)

        return jax.vmap(narrow)(suspects)

    jumps, places = jax.vmap(along)(starts, ends)
    jumps = jumps.reshape(-1, 2, at_draws.shape[1])
    places = places.reshape(-1, dim)
    worst = jnp.argmax(jnp.max(jumps, axis=2), axis=0)
    return *jnp.max(jumps, axis=0), places[worst[0]], places[worst[1]]


def _log_det_error(family, u):
    """Returns the error of the declared log-determinant, 0 if the support is not a bijection."""
    support = family.support
    if not hasattr(support, "inverse_and_log_det"):  # an AbstractSupport may have any weight
        return jnp.zeros(())
    jacobian = jax.jacfwd(lambda u: support.transform(u.reshape(support.shape)).ravel())(u)
    declared = support.transform_and_log_det(u.reshape(support.shape))[1]
    return declared - jnp.linalg.slogdet(jacobian)[1]
