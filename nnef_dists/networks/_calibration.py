"""Whether a network's stated uncertainty matches its errors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import sample_all_parameters
from nnef_dists.moments import MomentBatch
from nnef_dists.networks._base import AbstractMomentNetwork


def calibration_ratio(
    network: AbstractMomentNetwork,
    batch: MomentBatch,
    key: PRNGKeyArray,
    *,
    samples: int = 64,
) -> Float[Array, ""]:
    """The network's squared error in units of its predictive variance: 1 when calibrated.

        rho = sum of ((label - mu)^2 - s^2) / (v + s^2)  /  sum of v / (v + s^2)

    over all labels and statistics, with mu the moments at the weights' means, v the variance of the
    moments over draws of the weights, and s the labels' standard errors. The labels' own noise is
    taken off the squared error, and labels too noisy to tell count little; with exact labels rho is
    the mean of (label - mu)^2 / v. Above 1 the network is too sure, below 1 not sure enough. The
    labels have to be new to the network, and best be no noisier than it errs: otherwise rho is
    itself noisy, and may even be negative.

    Widths that were trained with a given `temperature` of `negative_elbo` have variances that grow
    with it: continue with `temperature * rho`, with rho clipped, say to [0.02, 50].

    **Arguments:**

    - `network`: a moment network.
    - `batch`: good labels that were not trained on.
    - `key`: for the draws of the weights.
    - `samples`: how many sets of weights are drawn, at least 2.

    **Returns:** a scalar.

    **Raises:** `ValueError` for fewer than 2 samples.
    """
    if samples < 2:
        raise ValueError(f"Expected samples >= 2; got {samples}")

    def moments(key: PRNGKeyArray) -> Float[Array, "n eta_dim"]:
        return jax.vmap(sample_all_parameters(network, key))(batch.eta)

    drawn = jax.lax.map(moments, jax.random.split(key, samples))
    noise = batch.standard_error**2
    # Weights that carry no uncertainty at all would divide by zero.
    variance = jnp.maximum(jnp.var(drawn, axis=0, ddof=1), jnp.finfo(drawn.dtype).tiny)
    excess = (jax.vmap(network)(batch.eta) - batch.mean) ** 2 - noise
    total = variance + noise
    return jnp.sum(excess / total) / jnp.sum(variance / total)
