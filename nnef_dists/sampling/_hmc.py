"""Hamiltonian Monte Carlo on one density: several chains, adapted together."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from blackjax.adaptation.step_size import dual_averaging_adaptation
from blackjax.mcmc import hmc
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists.families import ExponentialFamily
from nnef_dists.sampling._chains import Chains, SamplerInfo
from nnef_dists.sampling._config import HMCConfig
from nnef_dists.sampling._density import Density, drop_of_draws, finite_or_lowest
from nnef_dists.sampling._proposal import KernelMixture, Whitening
from nnef_dists.sampling._start import Start, start_chains


def sample_chains(
    family: ExponentialFamily,
    config: HMCConfig,
    eta: Float[Array, " eta_dim"],
    key: PRNGKeyArray,
) -> tuple[Density, Chains]:
    """Samples p(x | eta) at one eta by HMC.

    Args:
        family: The exponential family.
        config: Sampler settings.
        eta: Valid natural parameters, `(eta_dim,)`.
        key: PRNG key.

    Returns:
        The density, in the coordinates that were sampled, and the chains.
    """
    key_start, key_chains = jax.random.split(key)
    density, start = start_chains(
        Density.unconstrained(family, eta), key_start, config.chains, config.dispersion
    )
    return density, run_chains(density, start, key_chains, config)


def run_chains(
    logdensity_fn: Callable[[Array], Array],
    start: Start,
    key: PRNGKeyArray,
    config: HMCConfig,
) -> Chains:
    """Draws from an unnormalized density on R^n by HMC in whitened coordinates.

    Chains share one step size, from dual averaging of their mean acceptance, and one whitening.
    Both are adapted in three phases, and then fixed. The first phase uses the mean covariance
    within modes, the other two the pooled covariance of the chains. After each phase, a chain whose
    log-density is too low for a draw continues from the point of another chain.

    The kernel is BlackJAX's HMC. If `config.global_moves`, an independence Metropolis step follows,
    whose proposal is a `KernelMixture` of starts and warm-up.

    Args:
        logdensity_fn: The unnormalized log-density of one point of shape `(dim,)`, in nats.
        start: Starting points of the chains, and the first coordinates.
        key: PRNG key.
        config: Sampler settings.

    Returns:
        The draws, `(chains, draws, dim)`, with the gradients that HMC computed there.

    Reference:
        Hoffman and Gelman, *The No-U-Turn Sampler*, JMLR 15 (2014), section 3.2, for the
        adaptation. Tierney, *Markov chains for exploring posterior distributions*, Ann. Statist.
        22 (1994), section 2.3, for the cycle of kernels.
    """
    dtype, dim = start.points.dtype, start.points.shape[1]
    key_phases, key_draws = jax.random.split(key)
    phase_length = config.warmup // 3
    # A whitened Gaussian has period 2 pi. After a quarter of it, draws are independent.
    longest_step = math.pi / 2 / config.leapfrog_steps

    def adapt(carry, phase):
        u, whitening = carry
        phase_key, step_limit = phase
        key_rescue, phase_key = jax.random.split(phase_key)
        kernel = _Kernel(logdensity_fn, whitening, config)
        z, logs, step_size = kernel.adapt_step_size(u, phase_key, phase_length, step_limit)
        u = jax.vmap(jax.vmap(whitening.to_u))(z)
        # The last point of a lost chain is replaced before it affects the adaptation.
        is_lost = jnp.max(logs[-1]) - logs[-1] > drop_of_draws(dim)
        others = jax.random.categorical(
            key_rescue, jnp.where(is_lost, -jnp.inf, 0.0), shape=is_lost.shape
        )
        source = jnp.where(is_lost, others, jnp.arange(config.chains))
        u, z = u[:, source], z[:, source]
        memory = u[jnp.array([phase_length // 8, phase_length - 1])]
        late = slice(phase_length // 2, None)
        next_whitening = Whitening.fit(u[late].reshape(-1, dim))
        spread = jnp.sqrt(jnp.mean(jnp.var(z[late], 0), 0))
        return (u[-1], next_whitening), (whitening, step_size, memory, spread)

    step_limits = jnp.asarray([math.inf, longest_step, longest_step], dtype)
    (u, _), phases = jax.lax.scan(
        adapt,
        (start.points, Whitening(jnp.mean(start.points, 0), start.factor)),
        (jax.random.split(key_phases, len(step_limits)), step_limits),
    )
    # Points of the starts and all phases, which include modes that chains have since left.
    centers = jnp.concatenate([start.points, start.scouts, phases[2].reshape(-1, dim)])
    whitening, step_size, _, spread = jax.tree.map(lambda leaf: leaf[-1], phases)
    proposal = KernelMixture.fit(jax.vmap(whitening.to_z)(centers), spread)
    return _Kernel(logdensity_fn, whitening, config).sample(u, key_draws, step_size, proposal)


class _Kernel(NamedTuple):
    """Transitions of all chains at once, in whitened coordinates z.

    States, infos and the kernel are annotated `Any`. BlackJAX types a position as a pytree, a flag
    as bool and a step size as float, but here all are arrays.
    """

    logdensity_fn: Callable[[Array], Array]
    whitening: Whitening
    config: HMCConfig

    def init(self, z: Float[Array, "chains n"]) -> Any:
        return jax.vmap(lambda z: hmc.init(z, self._logdensity))(z)

    def adapt_step_size(
        self,
        u: Float[Array, "chains n"],
        key: PRNGKeyArray,
        length: int,
        step_limit: Float[Array, ""],
    ) -> tuple[Float[Array, "length chains n"], Float[Array, "length chains"], Float[Array, ""]]:
        """Runs `length` transitions. Returns z, log-densities and the adapted step size."""
        dtype = u.dtype
        da_init, da_update, da_final = dual_averaging_adaptation(self.config.target_acceptance)

        def step(carry, key):
            states, da_state = carry
            step_size = jnp.minimum(jnp.exp(da_state.log_step_size), step_limit)
            states, info = self._hmc(key, states, step_size)
            da_state = da_update(da_state, jnp.mean(info.acceptance_rate))
            return (states, da_state), (states.position, states.logdensity)

        da_state = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, dtype), da_init(self.config.initial_step_size)
        )
        states = self.init(jax.vmap(self.whitening.to_z)(u))
        (_, da_state), (trace, logs) = jax.lax.scan(
            step, (states, da_state), jax.random.split(key, length)
        )
        return trace, finite_or_lowest(logs), jnp.minimum(da_final(da_state), step_limit)

    def sample(
        self,
        u: Float[Array, "chains n"],
        key: PRNGKeyArray,
        step_size: Float[Array, ""],
        proposal: KernelMixture,
    ) -> Chains:
        """Returns the draws after adaptation."""

        def step(states, key):
            key_hmc, key_jump = jax.random.split(key)
            states, info = self._hmc(key_hmc, states, step_size)
            jumped = jnp.zeros(self.config.chains, bool)
            if self.config.global_moves:
                states, jumped = self._jump(key_jump, states, proposal)
            return states, (states, info.acceptance_rate, info.is_divergent, jumped)

        states, (trace, acceptance, divergent, jumped) = jax.lax.scan(
            step,
            self.init(jax.vmap(self.whitening.to_z)(u)),
            jax.random.split(key, self.config.draws),
        )
        info = SamplerInfo(
            acceptance=jnp.mean(acceptance),
            divergences=jnp.mean(divergent.astype(u.dtype)),
            step_size=step_size,
            jumps=jnp.mean(jumped.astype(u.dtype)),
            effective_fraction=jnp.ones((), u.dtype),
            weight_k=jnp.full((), -jnp.inf, u.dtype),
            finite=jnp.all(jnp.isfinite(states.logdensity)),
        )
        z, log_density, score = (
            jnp.swapaxes(leaf, 0, 1)
            for leaf in (trace.position, trace.logdensity, trace.logdensity_grad)
        )
        return Chains(z, score, log_density, self.whitening, info)

    def _logdensity(self, z: Float[Array, " n"]) -> Float[Array, ""]:
        return self.logdensity_fn(self.whitening.to_u(z))

    def _hmc(self, key: PRNGKeyArray, states: Any, step_size: Float[Array, ""]) -> tuple[Any, Any]:
        """Takes one HMC step of each chain. Returns states and infos."""
        key_jitter, key_chains = jax.random.split(key)
        jitter = self.config.step_size_jitter
        dtype = states.position.dtype
        step_size = step_size * jax.random.uniform(key_jitter, (), dtype, 1 - jitter, 1 + jitter)
        kernel: Any = hmc.build_kernel()
        unit_metric = jnp.ones(states.position.shape[-1], dtype)

        def one(key, state):
            return kernel(
                key, state, self._logdensity, step_size, unit_metric, self.config.leapfrog_steps
            )

        return jax.vmap(one)(jax.random.split(key_chains, self.config.chains), states)

    def _jump(
        self, key: PRNGKeyArray, states: Any, proposal: KernelMixture
    ) -> tuple[Any, Bool[Array, " chains"]]:
        """Takes one independence Metropolis step of each chain. Returns states and acceptances."""
        key_proposal, key_accept = jax.random.split(key)
        chains = self.config.chains
        proposed = self.init(proposal.sample(key_proposal, chains))
        log_ratio = (proposed.logdensity - jax.vmap(proposal.log_prob)(proposed.position)) - (
            states.logdensity - jax.vmap(proposal.log_prob)(states.position)
        )
        uniform = jax.random.uniform(key_accept, (chains,), states.position.dtype)
        accept = jnp.log(uniform) < log_ratio
        return jax.tree.map(
            lambda new, old: jnp.where(accept.reshape(-1, *(1,) * (new.ndim - 1)), new, old),
            proposed,
            states,
        ), accept
