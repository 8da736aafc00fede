"""The label of one eta: chains, their diagnostics, and control variates."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._config import HMCConfig
from nnef_dists.moments._control_variates import correct_label
from nnef_dists.moments._diagnostics import MomentLabel, label_draws
from nnef_dists.moments._features import draw_features
from nnef_dists.moments._hmc import Chains, run_chains

LogDensity: TypeAlias = Callable[[Float[Array, " n"]], Float[Array, ""]]


def unconstrained_log_density(
    family: ExponentialFamily, eta: Float[Array, " eta_dim"]
) -> LogDensity:
    """Returns the unnormalised log-density of the unconstrained coordinates u, flat, in nats."""
    support = family.support
    shape = support.shape

    def log_density(u):
        x, log_det = support.transform_and_log_det(u.reshape(shape))
        return family.unnormalized_logdensity(eta, x) + log_det.astype(eta.dtype)

    return log_density


def sample_chains(
    family: ExponentialFamily,
    config: HMCConfig,
    eta: Float[Array, " eta_dim"],
    key: PRNGKeyArray,
) -> Chains:
    """Samples one eta by HMC, in the unconstrained coordinates of the support."""
    dim = int(np.prod(family.support.shape))
    return run_chains(unconstrained_log_density(family, eta), dim, key, config, eta.dtype)


def label_chains(
    family: ExponentialFamily,
    config: HMCConfig,
    eta: Float[Array, " eta_dim"],
    chains: Chains,
) -> tuple[Float[Array, "chains draws *x_shape"], MomentLabel]:
    """Labels one eta from draws of it, by whatever sampler.

    Args:
        family: The exponential family.
        config: When a label is good, and whether to use control variates.
        eta: Valid natural parameters.
        chains: The draws.

    Returns:
        The draws of x, and the label.
    """
    support = family.support
    to_u = chains.whitening.to_u
    x = jax.vmap(jax.vmap(lambda z: support.transform(to_u(z).reshape(support.shape))))(chains.z)
    stats = jax.vmap(jax.vmap(family.sufficient_statistics))(x)
    label = label_draws(stats, chains.info, config)
    if config.control_variates:
        log_density = unconstrained_log_density(family, eta)
        features = draw_features(family, lambda z: log_density(to_u(z)), chains.whitening)
        label = correct_label(label, stats, features, chains)
    return x, label
