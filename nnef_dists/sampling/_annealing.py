"""Sums over the points of a large finite support, by annealed importance sampling."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.families import ExponentialFamily
from nnef_dists.sampling._config import HMCConfig
from nnef_dists.sampling._gibbs import GibbsTarget
from nnef_dists.sampling._gibbs_plan import finite_support, gibbs_plan

# Number of annealing steps.
_ANNEALING = 256


def annealed_log_sum(
    family: ExponentialFamily,
    config: HMCConfig,
    eta: Float[Array, " eta_dim"],
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Estimates A(eta) by annealed importance sampling, from a uniform distribution of points.

    Args:
        family: A family with a finite support.
        config: Sampler settings: `chains` groups, each of max(1, `draws` // 16) independent runs.
        eta: Valid natural parameters, `(eta_dim,)`.
        key: PRNG key.

    Returns:
        A(eta), in nats, and its standard error over the groups.
    """
    return _annealed(family, config.chains, max(1, config.draws // 16), eta, key)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _annealed(family, groups, runs, eta, key):
    plan, support = gibbs_plan(family), finite_support(family)
    target = GibbsTarget(family, plan, eta)
    values = jnp.asarray(support.values)

    def run(key):
        key_start, key_steps = jax.random.split(key)
        ranks = jax.random.randint(key_start, (support.sites,), 0, len(values))
        x = values[ranks].astype(support.dtype(eta.dtype))

        def heat(carry, inputs):
            x, log_weight = carry
            step, key = inputs
            power = (step + 1) / _ANNEALING
            log_weight += target.height(x) / _ANNEALING
            # The sweeps leave the density of this power invariant.
            return (target.sweep(x, key, power), log_weight), None

        steps = jnp.arange(_ANNEALING).astype(eta.dtype), jax.random.split(key_steps, _ANNEALING)
        return jax.lax.scan(heat, (x, jnp.zeros((), eta.dtype)), steps)[0][1]

    keys = jax.random.split(key, (groups, runs))
    logs = jax.lax.map(jax.vmap(run), keys)
    total = support.sites * jnp.log(len(values)).astype(eta.dtype)
    by_group = jax.nn.logsumexp(logs, axis=1) - jnp.log(runs)
    highest = jnp.max(by_group)
    ratios = jnp.exp(by_group - highest)
    mean = jnp.mean(ratios)
    error = jnp.std(ratios, ddof=1) / (mean * groups**0.5)
    return total + highest + jnp.log(mean), error
