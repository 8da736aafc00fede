"""Results of samplers: draws of several chains, and the modes around which these stayed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from nnef_dists._factorizations import cholesky
from nnef_dists.sampling._proposal import Whitening

_SPREAD = 1.2


class SamplerInfo(NamedTuple):
    """Summary of a sampler's run, over all chains after adaptation.

    Attributes:
        acceptance: Mean acceptance probability of the HMC transitions. NaN without HMC transitions.
        divergences: Fraction of the chains' transitions that diverged. 0 without chains.
        step_size: Step size of the HMC transitions, in whitened coordinates. NaN without HMC
            transitions.
        jumps: Fraction of accepted global moves. 0 without global moves.
        effective_fraction: 1 / (n sum_i w_i^2) of the normalized weights w of the n draws. 1 if all
            weights are equal.
        weight_k: Pareto k of the weights. -inf if all weights are equal.
        finite: Whether the log-density (T, in Gibbs sampling) is finite at the end of all chains,
            or at all draws. False also if tempering stops before it reaches the density.
    """

    acceptance: Float[Array, ""]
    divergences: Float[Array, ""]
    step_size: Float[Array, ""]
    jumps: Float[Array, ""]
    effective_fraction: Float[Array, ""]
    weight_k: Float[Array, ""]
    finite: Bool[Array, ""]


class Chains(NamedTuple):
    """Draws of several chains, in whitened coordinates z.

    Attributes:
        z: The draws, `(chains, draws, n)`.
        score: The gradients of the log-density of z at the draws, `(chains, draws, n)`.
        log_density: The unnormalized log-density at the draws, in nats, `(chains, draws)`.
        whitening: The coordinates. `whitening.to_u(z)` is the point.
        info: Summary of the run.
    """

    z: Float[Array, "chains draws n"]
    score: Float[Array, "chains draws n"]
    log_density: Float[Array, "chains draws"]
    whitening: Whitening
    info: SamplerInfo


class Modes(NamedTuple):
    """Means and covariances of the chains of a run, from which fallback samplers start.

    Attributes:
        whitening: The coordinates z of the run.
        center: The mean of each chain, in z.
        factor: The Cholesky factor of each chain's covariance, in z.
        step_size: The adapted step size, in z.
    """

    whitening: Whitening
    center: Float[Array, "*batch chains n"]
    factor: Float[Array, "*batch chains n n"]
    step_size: Float[Array, "*batch"]

    @classmethod
    def of(cls, chains: Chains) -> "Modes":
        """Returns center and factor of each chain, with standard deviations increased by 20%."""
        center = jnp.mean(chains.z, 1)
        spread = chains.z - center[:, None]
        covariance = jnp.swapaxes(spread, 1, 2) @ spread / spread.shape[1]
        # A small floor keeps the covariance of a chain that hardly moved positive definite.
        least = 1e-4 * jnp.eye(center.shape[-1], dtype=center.dtype)
        factor = _SPREAD * jax.vmap(cholesky)(covariance + least)
        return cls(chains.whitening, center, factor, chains.info.step_size)
