"""How an amortized family draws x."""

from typing import final

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import register_saveable
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import AbstractSampler, HMCConfig, Status, sample_hmc

register_saveable(HMCConfig)


@register_saveable
@final
class HMCSampler(AbstractSampler):
    """Draws by Hamiltonian Monte Carlo: `sample_hmc`, with its checks.

    Chains run for `config.draws` iterations at least, so that the diagnostics mean something, and
    the n draws are spread evenly over all of them.

    Args:
        config: How to sample, and which draws are refused; None is `HMCConfig()`.
    """

    config: HMCConfig = eqx.field(static=True)

    def __init__(self, config: HMCConfig | None = None):
        self.config = HMCConfig() if config is None else config

    def sample(
        self, family: ExponentialFamily, key: PRNGKeyArray, eta: Float[Array, " eta_dim"], n: int
    ) -> Float[Array, "n *x_shape"]:
        """Draws n points; see `AbstractSampler`.

        Raises:
            RuntimeError: If the draws fail the checks of the config: chains that disagree, too few
                effective draws, divergences. `sample_hmc` returns such draws, with diagnostics.
            ValueError: If n < 1.
        """
        if n < 1:
            raise ValueError(f"Expected n >= 1; got {n}")
        total = max(n, self.config.chains * self.config.draws)
        x, label = sample_hmc(family, eta, key, total, self.config)
        # Chains follow each other: an even spread takes the same share of each.
        rows = (np.arange(n) * total) // n
        return eqx.error_if(
            x[rows],
            label.status != jnp.asarray(Status.OK, label.status.dtype),
            "Expected draws that pass the sampler's checks; look at what sample_hmc returns",
        )
