"""The label of one eta: chains, their diagnostics, and control variates."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._factorizations import inverse_factor
from nnef_dists.moments._control_variates import WideDraws, correct_label
from nnef_dists.moments._diagnostics import MomentLabel, Status, label_draws, refuse
from nnef_dists.moments._features import draw_features
from nnef_dists.moments._validity import find_validity
from nnef_dists.sampling import (
    Chains,
    Density,
    HMCConfig,
    drop_of_draws,
    finite_or_lowest,
    sample_chains,
)

# Largest mass of a rare mode. Chains visit it too seldom for the scatter of draws to include it.
_RARE = 0.02
# Number of expected visits above which a mode must have been visited.
_VISITS = 50.0
# Largest rounding error of the log-density, in nats. Above it the draws have another density.
_MOST_ROUNDING = 0.05
# Largest Pareto k of importance weights. Above it averages do not converge (see `pareto_k`).
_MOST_K = 0.7


def label_chains(
    config: HMCConfig, density: Density, chains: Chains
) -> tuple[Float[Array, "chains draws *x_shape"], MomentLabel]:
    """Labels one eta from the draws of any sampler.

    Args:
        config: The configuration, with the thresholds of valid labels.
        density: The density of the draws.
        chains: The draws.

    Returns:
        The draws of x, and the label.
    """
    to_u = chains.whitening.to_u
    x = jax.vmap(jax.vmap(lambda z: density.point(to_u(z))))(chains.z)
    stats = jax.vmap(jax.vmap(density.family.sufficient_statistics))(x)
    rounding = jnp.max(jax.vmap(lambda z: density.rounding(to_u(z)))(chains.z[:, -1]))
    fault = jnp.select(
        [~density.tails.integrable, ~(rounding <= _MOST_ROUNDING)],
        [Status.HEAVY_TAILS, Status.ROUNDING],
        Status.OK,
    )
    label = label_draws(stats, chains.info, config, fault)
    logs = finite_or_lowest(chains.log_density)
    highest = jnp.max(logs)
    is_lost = highest - jnp.min(logs) > drop_of_draws(chains.z.shape[-1])
    label = refuse(label, is_lost, Status.NOT_CONVERGED)
    if config.control_variates:
        sd = jnp.sqrt(jnp.diagonal(label.covariance))
        sd = jnp.where(sd > 0, sd, 1)
        validity = find_validity(density, chains.whitening, chains.z, highest, sd)
        features = draw_features(density, chains.whitening, validity, label.mean)
        wide = WideDraws.of(density, chains)
        draws = chains.z, chains.score, chains.log_density
        label = correct_label(
            label, stats, features, draws, wide, flux=validity.flux, rounding=rounding
        )
    # The covariance is around the estimated mean, whose error enters as a product of two.
    of_mean = label.standard_error[:, None] * label.standard_error
    label = label._replace(covariance_error=jnp.hypot(label.covariance_error, of_mean))
    label = _count_rare_modes(label, density, chains)
    label = refuse(label, ~(label.influence <= config.max_influence), Status.INFLUENTIAL)
    return x, refuse(label, ~(chains.info.weight_k <= _MOST_K), Status.HEAVY_WEIGHTS)


def _count_rare_modes(label: MomentLabel, density: Density, chains: Chains) -> MomentLabel:
    """Adds the contributions of rare modes to the standard errors.

    The scatter of N draws does not include a mode of small mass m. Such a mode adds
    sqrt(m / N) |T(mode) - mean| to the error of E[T]. If the share v of its visits is less than m,
    it adds (m - v) |T(mode) - mean| as well. Modes add in quadrature. The label is rejected if a
    mode of more than 50 expected visits has less than 2% of them.
    """
    modes, dtype = density.modes, chains.z.dtype
    u = jax.vmap(chains.whitening.to_u)(chains.z.reshape(-1, modes.point.shape[1]))
    inverse = inverse_factor(modes.factor)
    points = (modes.point - modes.point[0]) @ inverse.T
    # -|a - b|^2 / 2, up to a term that all modes share, from one product of matrices.
    nearness = (u - modes.point[0]) @ inverse.T @ points.T - jnp.sum(points**2, 1) / 2
    nearest = jnp.argmax(jnp.where(modes.mass > 0, nearness, -jnp.inf), 1)
    n = u.shape[0]
    visits = jnp.sum(jax.nn.one_hot(nearest, len(modes.mass), dtype=dtype), 0) / n
    is_rare = (modes.mass > 0) & (modes.mass < _RARE)
    missing = jnp.where(is_rare, jnp.maximum(modes.mass - visits, 0), 0)
    error = jnp.where(is_rare, jnp.sqrt(modes.mass / n), 0) + missing
    shift = jax.vmap(density.stats)(modes.point) - label.mean
    shift = jnp.where(is_rare[:, None], shift, 0)
    products = shift[:, :, None] * shift[:, None]
    squares = jnp.sum((error[:, None] * shift) ** 2, 0)
    product_squares = jnp.sum((error[:, None, None] * products) ** 2, 0)
    is_missed = jnp.any((modes.mass * n > _VISITS) & (visits < modes.mass / 50))
    label = label._replace(
        standard_error=jnp.sqrt(label.standard_error**2 + squares),
        covariance_error=jnp.sqrt(label.covariance_error**2 + product_squares),
    )
    return refuse(label, is_missed, Status.NOT_CONVERGED)


@functools.partial(jax.jit, static_argnums=(0, 1))
def label_tile(family, config, etas, keys) -> MomentLabel:
    """Labels a tile of etas, in one compiled program."""

    def one(eta, key):
        return label_chains(config, *sample_chains(family, config, eta, key))[1]

    return jax.vmap(one)(etas, keys)
