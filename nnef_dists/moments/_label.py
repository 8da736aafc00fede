"""The label of one eta: chains, their diagnostics, and control variates."""

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.families import ExponentialFamily
from nnef_dists.moments._config import HMCConfig
from nnef_dists.moments._control_variates import correct_label
from nnef_dists.moments._diagnostics import MomentLabel, label_draws
from nnef_dists.moments._features import draw_features
from nnef_dists.moments._hmc import run_chains


def sample_and_label(
    family: ExponentialFamily,
    config: HMCConfig,
    eta: Float[Array, " eta_dim"],
    key: PRNGKeyArray,
) -> tuple[Float[Array, "chains draws *x_shape"], MomentLabel]:
    """Samples one eta, in the unconstrained coordinates of the support, and labels it.

    Args:
        family: The exponential family.
        config: How to sample, and when a label is good.
        eta: Valid natural parameters.
        key: PRNG key.

    Returns:
        The draws of x, and the label.
    """
    support = family.support
    shape = support.shape

    def log_density(u):
        x, log_det = support.transform_and_log_det(u.reshape(shape))
        return family.unnormalized_logdensity(eta, x) + log_det.astype(eta.dtype)

    chains = run_chains(log_density, int(np.prod(shape)), key, config, eta.dtype)
    to_u = chains.whitening.to_u
    x = jax.vmap(jax.vmap(lambda z: support.transform(to_u(z).reshape(shape))))(chains.z)
    stats = jax.vmap(jax.vmap(family.sufficient_statistics))(x)
    label = label_draws(stats, chains.info, config)
    if config.control_variates:
        features = draw_features(family, lambda z: log_density(to_u(z)), chains.whitening)
        label = correct_label(label, stats, features, chains)
    return x, label
