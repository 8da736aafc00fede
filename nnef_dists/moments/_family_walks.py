"""Searches of the density of a family, for its probes: for modes, around them and along rays."""

import jax
import jax.numpy as jnp


def _derivatives(raw_logdensity, u):
    """Returns log-density, gradient and Hessian, with -inf or 0 for values that are not finite."""

    def gradient(u):
        log, slopes = jax.value_and_grad(raw_logdensity)(u)
        return slopes, (log, slopes)

    hessian, (log, slopes) = jax.jacfwd(gradient, has_aux=True)(u)
    log = jnp.where(jnp.isfinite(log), log, -jnp.inf)
    return log, *(jnp.where(jnp.isfinite(d), d, 0.0) for d in (slopes, hessian))


def find_modes(raw_logdensity, dim, key):
    """Maximizes the log-density by damped Newton steps, from starts at several scales.

    Returns:
        Points `(starts, dim)`, their log-densities, and factors `(starts, dim, dim)` that map
        standard normal samples to steps at the local scale of the density.
    """
    starts = {1: 16, 2: 16, 3: 12, 4: 12}.get(dim, 6)
    scales = jnp.geomspace(0.1, 30.0, starts)[:, None]

    def climb(state, _):
        """Evaluates the trial point, keeps it if it is higher, and proposes the next one."""
        trial, best, damping = state
        log, slopes, hessian = _derivatives(raw_logdensity, trial)
        better = log > best[1]
        found = trial, log, slopes, hessian
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best)
        damping = jnp.clip(damping * jnp.where(better, 0.2, 6.0), 1e-12, 1e12)
        curvatures, axes = jnp.linalg.eigh(best[3])
        step = axes @ ((axes.T @ best[2]) / (jnp.abs(curvatures) + damping))
        widest = 1 + jnp.linalg.norm(best[0])
        sizes = 1 / jnp.sqrt(jnp.maximum(jnp.abs(curvatures), widest**-2.0))
        return (best[0] + step, best, damping), axes * sizes

    def one(u):
        nothing = u, jnp.full((), -jnp.inf, u.dtype), jnp.zeros_like(u), jnp.zeros((dim, dim))
        state = u, nothing, jnp.full((), 5.0, u.dtype)
        (_, best, _), deviations = jax.lax.scan(climb, state, None, length=41)
        return best[0], best[1], deviations[-1]

    return jax.vmap(one)(scales * jax.random.normal(key, (starts, dim)))


def draw_around(raw_logdensity, modes, mode_logs, deviations, key):
    """Draws around the modes by an affine-invariant ensemble: `(n, dim)`.

    Reference:
        Goodman and Weare, *Ensemble samplers with affine invariance* (2010), section 2.
    """
    dim = modes.shape[1]
    half = max(32, dim + 1)
    start_key, key = jax.random.split(key)
    ranks = jnp.argsort(-mode_logs)
    high = jnp.maximum(jnp.sum(mode_logs > jnp.max(mode_logs) - 10), 1)
    starts = ranks[jnp.arange(2 * half) % high]
    noise = jax.random.normal(start_key, (2 * half, dim))
    u = modes[starts] + jnp.einsum("wij,wj->wi", deviations[starts], noise)

    def step(state, key):
        """Moves one half of the ensemble, along lines to the other half."""
        (u, log), others = state
        pick_key, stretch_key, accept_key = jax.random.split(key, 3)
        partners = others[0][jax.random.randint(pick_key, (half,), 0, half)]
        stretch = (1 + jax.random.uniform(stretch_key, (half,), u.dtype)) ** 2 / 2
        new = partners + stretch[:, None] * (u - partners)
        new_log = jax.vmap(raw_logdensity)(new)
        log_ratio = (dim - 1) * jnp.log(stretch) + new_log - log
        accept = jnp.log(jax.random.uniform(accept_key, (half,), u.dtype)) < log_ratio
        accept &= jnp.isfinite(new_log)
        moved = jnp.where(accept[:, None], new, u), jnp.where(accept, new_log, log)
        return (others, moved), moved

    # Each start has log-density -inf, so that the first valid point replaces it.
    log = jnp.full((half,), -jnp.inf, u.dtype)
    state = (u[:half], log), (u[half:], log)
    _, (history, logs) = jax.lax.scan(step, state, jax.random.split(key, 480))
    draws, logs = history[200::15].reshape(-1, dim), logs[200::15].reshape(-1, 1)
    return jnp.where(jnp.isfinite(logs), draws, modes[ranks[0]])


def follow_rays(raw_logdensity, center, radii, key):
    """Follows directions outward and back, and turns each to the largest density at its radius.

    Returns:
        Directions `(R, r, d)`, and the log of the volume across each ray `(R, r)`.
    """
    dim = len(center)
    if dim == 1:
        ends = jnp.broadcast_to(jnp.array([[1.0], [-1.0]]), (len(radii), 2, 1))
        return ends, jnp.zeros((len(radii), 2))
    count = {2: 16, 3: 20, 4: 24}.get(dim, 16)
    axes = jnp.concatenate([jnp.eye(dim), -jnp.eye(dim)])[: count - 4]
    random = jax.random.normal(key, (count - len(axes), dim))
    start = jnp.concatenate([axes, random / jnp.linalg.norm(random, axis=1, keepdims=True)])
    turns = 6 if dim <= 4 else 3

    def turn(state, radius):
        """Evaluates the trial direction, keeps it if it is higher, and proposes the next one."""
        trial, best, last_radius, factor = state
        found = trial, *_derivatives(raw_logdensity, center + radius * trial)
        better = (found[1] >= best[1]) | (radius != last_radius)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), found, best)
        factor = jnp.where(better, 1.0, 0.1 * factor)
        v, _, slopes, hessian = best
        across = jnp.eye(dim) - jnp.outer(v, v)
        curvatures, axes = jnp.linalg.eigh(
            across @ hessian @ across - across * (slopes @ v / radius)
        )
        flattest = 1e-3 * jnp.max(jnp.abs(curvatures)) + radius**-2.0
        step = axes @ ((axes.T @ across @ slopes) / jnp.maximum(jnp.abs(curvatures), flattest))
        step *= factor / jnp.maximum(1.0, 2 * jnp.linalg.norm(step) / radius)
        new = v + step / radius
        widths = -jnp.log(jnp.maximum(-curvatures, radius**-2.0)) / 2
        widths = jnp.minimum(widths, jnp.log(radius))
        # The eigenvector along the ray itself does not count.
        volume = jnp.sum((1 - (axes.T @ v) ** 2) * widths)
        return (new / jnp.linalg.norm(new), best, radius, factor), (v, volume, best[1])

    def one(v):
        nothing = v, jnp.full((), -jnp.inf, v.dtype), jnp.zeros_like(v), jnp.zeros((dim, dim))
        state = v, nothing, jnp.zeros((), v.dtype), jnp.ones((), v.dtype)
        path = jnp.repeat(jnp.concatenate([radii, radii[::-1]]), turns)
        found = jax.lax.scan(turn, state, path)[1]
        out, back = zip(*(jnp.split(part[turns - 1 :: turns], 2) for part in found), strict=True)
        back = [part[::-1] for part in back]
        higher = back[2] > out[2]
        return jnp.where(higher[:, None], back[0], out[0]), jnp.where(higher, back[1], out[1])

    return jax.vmap(one, out_axes=1)(start)
