"""Tempered sequential Monte Carlo, from a wide Gaussian around the chains."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from blackjax.mcmc import hmc
from blackjax.smc import adaptive_tempered, resampling, tempered
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.sampling._chains import Chains, Modes, SamplerInfo
from nnef_dists.sampling._config import HMCConfig
from nnef_dists.sampling._density import Density

_WIDE = 1.5
_TARGET_ESS = 0.6
_MOST_TEMPERATURES = 60
_MOVES = 2


def tempered_chains(
    log_density: Density, modes: Modes, key: PRNGKeyArray, config: HMCConfig
) -> tuple[Chains, Float[Array, " chains"]]:
    """Draws by sequential Monte Carlo, tempered from a wide Gaussian around the chains.

    Each of `config.chains` independent populations has `config.draws` // 4 particles, at least 16.
    The disagreement of the populations indicates their accuracy. Each population also estimates the
    integral of the density: the integral of the Gaussian times the product of the mean weights over
    temperatures.

    Args:
        log_density: The density of u.
        modes: Modes of the chains of a longer run.
        key: PRNG key.
        config: Sampler settings.

    Returns:
        The particles, and the log of the integral over u from each population, in nats.

    Reference:
        Del Moral, Doucet and Jasra, *Sequential Monte Carlo samplers*, J. R. Statist. Soc. B 68
        (2006).
    """
    n = modes.center.shape[-1]
    dtype = modes.center.dtype
    particles = max(config.draws // 4, 16)

    def log_prior(z):
        return -jnp.sum((z / _WIDE) ** 2) / 2

    def value(z):
        return log_density(modes.whitening.to_u(z))

    hmc_kernel: Any = hmc.build_kernel()

    def move(key, state, log_density_fn):
        return hmc_kernel(
            key,
            state,
            log_density_fn,
            modes.step_size,
            jnp.ones(n, dtype),
            config.leapfrog_steps,
        )

    kernel: Any = adaptive_tempered.build_kernel(
        log_prior,
        lambda z: value(z) - log_prior(z),
        move,
        hmc.init,
        resampling.systematic,
        _TARGET_ESS,
    )

    def population(key):
        key_start, key_moves = jax.random.split(key)
        start = _WIDE * jax.random.normal(key_start, (particles, n), dtype)
        state = tempered.init(start)
        state = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), state)

        def step(carry):
            count, state, log_ratio = carry
            state, info = kernel(jax.random.fold_in(key_moves, count), state, _MOVES, {})
            log_ratio += info.log_likelihood_increment.astype(dtype)
            state = jax.tree.map(lambda leaf: leaf.astype(dtype), state)
            return (count + 1, state, log_ratio), info.update_info

        def unfinished(carry):
            count, state, _ = carry
            return (state.tempering_param < 1) & (count < _MOST_TEMPERATURES)

        carry = jax.lax.while_loop(
            unfinished, lambda carry: step(carry)[0], (0, state, jnp.zeros((), dtype))
        )
        # Particles are only weighted for the last temperature. Resample and move them once more.
        (_, state, log_ratio), moves = step(carry)
        log_p, score = jax.vmap(jax.value_and_grad(value))(state.particles)
        acceptance = jnp.mean(moves.acceptance_rate.astype(dtype))
        return state.particles, score, log_p, log_ratio, acceptance, carry[1].tempering_param >= 1

    z, score, log_p, log_ratio, acceptance, finished = jax.lax.map(
        population, jax.random.split(key, config.chains)
    )
    zero = jnp.zeros((), dtype)
    info = SamplerInfo(
        acceptance=jnp.mean(acceptance),
        divergences=zero,
        step_size=modes.step_size,
        jumps=zero,
        effective_fraction=jnp.ones((), dtype),
        weight_k=jnp.full((), -jnp.inf, dtype),
        finite=jnp.all(jnp.isfinite(log_p)) & jnp.all(finished),
    )
    # Logarithms of the integral of the Gaussian in z, and of the volume du / dz.
    log_start = n * math.log(_WIDE * math.sqrt(2 * math.pi))
    log_volume = jnp.sum(jnp.log(jnp.diagonal(modes.whitening.factor)))
    chains = Chains(z, score, log_p, modes.whitening, info)
    return chains, log_ratio + log_start + log_volume
