"""Importance sampling from a mixture around the chains, for separate modes in few dimensions."""

import jax
import jax.numpy as jnp
from blackjax.smc import resampling
from jax.scipy.special import gammaln
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._factorizations import inverse_factor
from nnef_dists.sampling._chains import Chains, Modes, SamplerInfo
from nnef_dists.sampling._config import HMCConfig
from nnef_dists.sampling._density import Density

_DEGREES_OF_FREEDOM = 5.0


def importance_chains(
    log_density: Density, modes: Modes, key: PRNGKeyArray, config: HMCConfig
) -> Chains:
    """Draws by importance sampling, from a mixture of Student t distributions around the chains.

    Each of `config.chains` independent batches is weighted and resampled separately. The
    disagreement of the batches indicates their accuracy.

    Args:
        log_density: The density of u.
        modes: Modes of the chains of a longer run.
        key: PRNG key.
        config: Sampler settings: `chains` batches of `draws` draws each.

    Returns:
        The resampled draws, with the Pareto k of all weights in their info.

    Reference:
        Vehtari, Simpson, Gelman, Yao and Gabry, *Pareto smoothed importance sampling*, JMLR 25
        (2024), for k and its limit 0.7.
    """
    components, n = modes.center.shape
    freedom = _DEGREES_OF_FREEDOM

    def value(z):
        return log_density(modes.whitening.to_u(z))

    inverse = jax.vmap(inverse_factor)(modes.factor)

    def log_proposal(z):
        def log_component(center, inverse):
            t = inverse @ (z - center)
            log_det = jnp.sum(jnp.log(jnp.diagonal(inverse)))
            return -(freedom + n) / 2 * jnp.log1p(jnp.sum(t**2) / freedom) + log_det

        constant = (
            gammaln((freedom + n) / 2) - gammaln(freedom / 2) - n / 2 * jnp.log(freedom * jnp.pi)
        )
        parts = jax.vmap(log_component)(modes.center, inverse)
        return jax.nn.logsumexp(parts) - jnp.log(float(components)) + constant

    def draw(key):
        key_which, key_noise, key_scale = jax.random.split(key, 3)
        which = jax.random.randint(key_which, (), 0, components)
        noise = jax.random.normal(key_noise, (n,), modes.center.dtype)
        chi2 = 2 * jax.random.gamma(key_scale, freedom / 2, dtype=modes.center.dtype)
        return modes.center[which] + modes.factor[which] @ noise * jnp.sqrt(freedom / chi2)

    def batch(key):
        key_draws, key_resample = jax.random.split(key)
        z = jax.vmap(draw)(jax.random.split(key_draws, config.draws))
        log_p, score = jax.vmap(jax.value_and_grad(value))(z)
        log_weights = log_p - jax.vmap(log_proposal)(z)
        log_weights = jnp.where(jnp.isfinite(log_weights), log_weights, -jnp.inf)
        rows = resampling.systematic(key_resample, jax.nn.softmax(log_weights), config.draws)
        return z[rows], score[rows], log_p[rows], log_weights

    z, score, log_p, log_weights = jax.lax.map(batch, jax.random.split(key, config.chains))
    weights = jax.nn.softmax(log_weights.reshape(-1))
    none, zero = jnp.full((), jnp.nan, z.dtype), jnp.zeros((), z.dtype)
    info = SamplerInfo(
        acceptance=none,
        divergences=zero,
        step_size=none,
        jumps=zero,
        effective_fraction=1 / (jnp.sum(weights**2) * weights.size),
        weight_k=pareto_k(log_weights.reshape(-1)),
        finite=jnp.all(jnp.isfinite(log_p)),
    )
    return Chains(z, score, log_p, modes.whitening, info)


def pareto_k(log_weights: Float[Array, " n"]) -> Float[Array, ""]:
    """Returns the Pareto shape k of the tail of importance weights.

    Weights with k above 0.7 should not be used. A generalized Pareto distribution is fitted to the
    largest 3 sqrt(n) weights, at most n / 5, by the mean of a quasi-posterior. The estimate is
    shrunk toward 1/2 with the weight of ten draws.

    Args:
        log_weights: Logarithms of the weights, up to a constant.

    Returns:
        The shape k. Infinite if there is no tail to fit, as for fewer than six weights.

    Reference:
        Zhang and Stephens, *A new and efficient estimation method for the generalized Pareto
        distribution*, Technometrics 51 (2009), section 2.2. Vehtari et al., *Pareto smoothed
        importance sampling*, JMLR 25 (2024), appendix C, for the shrinkage.
    """
    n = log_weights.shape[0]
    size = max(5, min(n // 5, int(3 * n**0.5)))
    if n <= size:
        return jnp.full((), jnp.inf, log_weights.dtype)
    top = jax.lax.top_k(log_weights, size + 1)[0]
    weights = jnp.exp(top - top[0])
    excess = (weights[:size] - weights[size])[::-1]
    grid = 30 + int(size**0.5)
    quartile = excess[max(int(size / 4 + 0.5) - 1, 0)]
    steps = jnp.arange(1, grid + 1, dtype=excess.dtype) - 0.5
    theta = 1 / excess[-1] + (1 - jnp.sqrt(grid / steps)) / (3 * quartile)

    def shape(theta):
        return jnp.mean(jnp.log1p(-theta[..., None] * excess), -1)

    k = shape(theta)
    log_profile = size * (jnp.log(-theta / k) - k - 1)
    theta_hat = jnp.sum(theta * jax.nn.softmax(log_profile))
    k_hat = (size * shape(theta_hat) + 10 * 0.5) / (size + 10)
    return jnp.where(jnp.isfinite(k_hat), k_hat, jnp.inf)
