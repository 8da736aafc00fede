"""What samplers return: draws of several chains, and where these stayed."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float

from nnef_dists.sampling._proposal import Whitening, cholesky

_SPREAD = 1.2


class HMCInfo(NamedTuple):
    """What the sampler says of a run, over all chains after adaptation.

    Attributes:
        acceptance: Mean acceptance of the HMC transitions.
        divergences: Fraction of transitions that diverged.
        step_size: The adapted step size, in units of the whitened density.
        jumps: Fraction of global moves that were accepted.
        finite: Whether all chains ended at a finite log-density.
    """

    acceptance: Float[Array, ""]
    divergences: Float[Array, ""]
    step_size: Float[Array, ""]
    jumps: Float[Array, ""]
    finite: Bool[Array, ""]


class Chains(NamedTuple):
    """Draws of several chains, in whitened coordinates z.

    Attributes:
        z: The draws, `(chains, draws, n)`.
        score: The gradients of the log-density of z at the draws, `(chains, draws, n)`.
        log_density: The unnormalised log-density at the draws, in nats, `(chains, draws)`.
        whitening: The coordinates: `whitening.to_u(z)` is the point.
        info: What the sampler says of the run.
    """

    z: Float[Array, "chains draws n"]
    score: Float[Array, "chains draws n"]
    log_density: Float[Array, "chains draws"]
    whitening: Whitening
    info: HMCInfo


class Modes(NamedTuple):
    """Where the chains of a longer run stayed: what the last rung starts from.

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
        """Returns where each chain stayed; covariances are widened by 20 % in each direction."""
        center = jnp.mean(chains.z, 1)
        spread = chains.z - center[:, None]
        covariance = jnp.swapaxes(spread, 1, 2) @ spread / spread.shape[1]
        # A chain that hardly moved still is a place to start from.
        least = 1e-4 * jnp.eye(center.shape[-1], dtype=center.dtype)
        factor = _SPREAD * jax.vmap(cholesky)(covariance + least)
        return cls(chains.whitening, center, factor, chains.info.step_size)


def without_transitions(
    acceptance: Float[Array, ""], finite: Bool[Array, ""], dtype: DTypeLike
) -> HMCInfo:
    """Returns the info of a sampler that has no HMC transitions to report."""
    zero = jnp.zeros((), dtype)
    return HMCInfo(
        acceptance=acceptance.astype(dtype),
        divergences=zero,
        step_size=zero,
        jumps=zero,
        finite=finite,
    )
