"""Moment estimates and convergence diagnostics of MCMC draws."""

from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from blackjax.diagnostics import effective_sample_size, potential_scale_reduction
from jaxtyping import Array, Bool, DTypeLike, Float, Int

from nnef_dists.sampling import HMCConfig, SamplerInfo, pareto_k


class Status(IntEnum):
    """Status of a label: OK, or the reason for NaN moments."""

    MISSING = 0
    OK = 1
    NOT_FINITE = 2
    NOT_CONVERGED = 3
    LOW_ESS = 4
    DIVERGENT = 5
    HEAVY_WEIGHTS = 6
    INFLUENTIAL = 7
    HEAVY_TAILS = 8
    ROUNDING = 9
    DISAGREES = 10
    DEGENERATE = 11
    DIVERGES = 12

    @property
    def reason(self) -> str:
        """The status, in words."""
        return {
            Status.MISSING: "not computed",
            Status.OK: "ok",
            Status.NOT_FINITE: "log-density or statistics not finite",
            Status.NOT_CONVERGED: "chains disagree (split R-hat)",
            Status.LOW_ESS: "too few effective draws",
            Status.DIVERGENT: "divergent transitions",
            Status.HEAVY_WEIGHTS: "importance weights have too heavy a tail (Pareto k)",
            Status.INFLUENTIAL: "a few draws decide",
            Status.HEAVY_TAILS: "tails too heavy to sample, or not integrable",
            Status.ROUNDING: "lost to rounding: eta . T is too large for this dtype",
            Status.DEGENERATE: "a statistic has the same value in all draws",
            Status.DIVERGES: "the sum over x diverges, or has too many separate parts",
            Status.DISAGREES: "two estimates disagree (with control variates, or with quadrature)",
        }[self]


class Rung(IntEnum):
    """The sampler that produced a label, by its number in data on disk.

    Attributes:
        method: The sampler, in words.
    """

    method: str

    HMC = 0, "HMC"
    LONGER = 1, "a longer run"
    IMPORTANCE = 2, "importance sampling"
    TEMPERED = 3, "tempered sequential Monte Carlo"
    DOUBLE = 4, "HMC in double precision"
    EXACT = 5, "an exact sum"
    GIBBS = 6, "Gibbs sampling"
    TEMPERED_GIBBS = 7, "Gibbs sampling with replica exchange"

    def __new__(cls, number: int, method: str) -> "Rung":
        rung = int.__new__(cls, number)
        rung._value_, rung.method = number, method
        return rung

    @property
    def is_first(self) -> bool:
        """Whether etas are sampled by this sampler first."""
        return self in (Rung.HMC, Rung.EXACT, Rung.GIBBS)


class MomentLabel(NamedTuple):
    """Estimated moments of T at one eta, with standard errors, diagnostics and status.

    Shapes are for one eta. A batch has leading axes.

    Attributes:
        mean: E[T], `(eta_dim,)`. NaN unless the status is OK.
        covariance: Cov[T], `(eta_dim, eta_dim)`. NaN unless the status is OK.
        standard_error: Standard error of the mean, in units of T, `(eta_dim,)`. NaN unless the
            status is OK.
        covariance_error: Standard error of each entry of the covariance, `(eta_dim, eta_dim)`. NaN
            unless the status is OK.
        ess: Split-chain effective sample size of each statistic, `(eta_dim,)`.
        rhat: Split R-hat of each statistic, `(eta_dim,)`.
        acceptance: Mean acceptance of the HMC transitions. NaN if the sampler makes none.
        divergences: Fraction of transitions of the chains that diverged. 0 without chains.
        jumps: Fraction of global moves that were accepted. 0 without global moves.
        effective_fraction: 1 / (n sum_i w_i^2) of the normalized weights w of the n draws. 1 for
            equal weights, less for importance sampling.
        influence: Largest share of one draw in the sum of squared deviations behind a mean or a
            covariance. Near 1 if one draw dominates the estimate.
        pareto_k: Largest Pareto k of the tails of T. The status does not depend on it.
        status: A `Status`.
        rung: A `Rung`.
    """

    mean: Float[Array, "*batch eta_dim"]
    covariance: Float[Array, "*batch eta_dim eta_dim"]
    standard_error: Float[Array, "*batch eta_dim"]
    covariance_error: Float[Array, "*batch eta_dim eta_dim"]
    ess: Float[Array, "*batch eta_dim"]
    rhat: Float[Array, "*batch eta_dim"]
    acceptance: Float[Array, "*batch"]
    divergences: Float[Array, "*batch"]
    jumps: Float[Array, "*batch"]
    effective_fraction: Float[Array, "*batch"]
    influence: Float[Array, "*batch"]
    pareto_k: Float[Array, "*batch"]
    status: Int[Array, "*batch"]
    rung: Int[Array, "*batch"]


def label_draws(
    stats: Float[Array, "chains draws eta_dim"],
    info: SamplerInfo,
    config: HMCConfig,
    fault: Int[Array, ""] | Status = Status.OK,
) -> MomentLabel:
    """Labels one eta from the statistics of its draws.

    The standard error is the larger of sd / sqrt(ESS) and sd(chain means) / sqrt(chains).

    Args:
        stats: T at the draws, `(chains, draws, eta_dim)`.
        info: Summary of the run.
        config: The thresholds.
        fault: Status that rejects the label beforehand. Defaults to `OK`, for none.

    Returns:
        The moments, with their diagnostics and status.

    Reference:
        Vehtari et al., *Rank-normalization, folding, and localization*, Bayesian Analysis 16
        (2021), for split-chain R-hat and ESS (here without ranks, since the mean is estimated).
    """
    chains, draws, eta_dim = stats.shape
    mean = jnp.mean(stats, (0, 1))
    centered = (stats - mean).reshape(-1, eta_dim)
    # Second pass: the mean of the deviations corrects the rounding of the first mean.
    correction = jnp.mean(centered, 0)
    mean, centered = mean + correction, centered - correction
    covariance = centered.T @ centered / (chains * draws - 1)
    split = centered[: chains * draws].reshape(chains, draws, eta_dim)[:, : draws // 2 * 2]
    split = split.reshape(2 * chains, draws // 2, eta_dim)
    ess = jnp.reshape(effective_sample_size(split), (eta_dim,)).astype(stats.dtype)
    rhat = jnp.reshape(potential_scale_reduction(split), (eta_dim,)).astype(stats.dtype)
    within = jnp.sqrt(jnp.diag(covariance) / ess)
    chain_means = jnp.mean(centered.reshape(chains, draws, eta_dim), 1)
    between = jnp.std(chain_means, 0, ddof=1) / jnp.sqrt(chains).astype(stats.dtype)
    standard_error = jnp.maximum(within, between)
    by_chain = centered.reshape(chains, draws, eta_dim)
    products = jnp.einsum("cdi,cdj->cij", by_chain, by_chain) / draws
    covariance_error = jnp.std(products, 0, ddof=1) / jnp.sqrt(chains).astype(stats.dtype)

    t = centered / jnp.where(covariance.diagonal() > 0, jnp.sqrt(covariance.diagonal()), 1)
    finite = info.finite & jnp.all(jnp.isfinite(covariance)) & jnp.all(jnp.isfinite(mean))
    # Comparisons are written so that NaN diagnostics fail them.
    status = jnp.select(
        [
            ~finite,
            fault != Status.OK,
            ~jnp.all(rhat <= config.max_rhat),
            ~jnp.all(ess >= config.min_ess),
            ~(info.divergences <= config.max_divergences),
        ],
        [Status.NOT_FINITE, fault, Status.NOT_CONVERGED, Status.LOW_ESS, Status.DIVERGENT],
        Status.OK,
    ).astype(jnp.int8)
    label = MomentLabel(
        mean=mean,
        covariance=covariance,
        standard_error=standard_error,
        covariance_error=covariance_error,
        ess=ess,
        rhat=rhat,
        acceptance=info.acceptance,
        divergences=info.divergences,
        jumps=info.jumps,
        effective_fraction=info.effective_fraction,
        influence=jnp.maximum(jnp.max(largest_share(t)), jnp.max(largest_share(t**2 - 1))),
        pareto_k=jnp.max(jax.vmap(pareto_k, 1)(jnp.log(jnp.abs(t)))),
        status=jnp.asarray(Status.OK, jnp.int8),
        rung=jnp.asarray(Rung.HMC, jnp.int8),
    )
    return refuse(label, status != Status.OK, status)


def missing_labels(n: int, eta_dim: int, dtype: DTypeLike) -> MomentLabel:
    """Returns labels that are not computed yet, as NumPy arrays of NaN, with status MISSING.

    Args:
        n: Number of labels.
        eta_dim: Length of eta.
        dtype: Dtype of the etas.

    Returns:
        The labels, with a leading axis of n.
    """
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(MomentLabel._fields, (n,))
    shapes |= dict.fromkeys(("mean", "standard_error", "ess", "rhat"), (n, eta_dim))
    shapes |= dict.fromkeys(("covariance", "covariance_error"), (n, eta_dim, eta_dim))
    arrays: dict[str, Any] = {name: np.full(shape, np.nan, dtype) for name, shape in shapes.items()}
    arrays["status"] = np.full(n, Status.MISSING, np.int8)
    arrays["rung"] = np.full(n, Rung.HMC, np.int8)
    return MomentLabel(**arrays)


def refuse(
    label: MomentLabel, condition: Bool[Array, ""], status: Int[Array, ""] | Status
) -> MomentLabel:
    """Rejects a label if a condition holds: its moments become NaN, and its status changes.

    Args:
        label: One label.
        condition: Whether to reject the label.
        status: The new status. A label that was rejected before keeps its status.

    Returns:
        The label.
    """
    refused = condition & (label.status == Status.OK)
    moments = {
        name: jnp.where(refused, jnp.nan, getattr(label, name))
        for name in ("mean", "covariance", "standard_error", "covariance_error")
    }
    return label._replace(
        **moments,
        status=jnp.where(refused, status, label.status).astype(jnp.int8),
    )


def is_out_of_range(
    mean: Float[Array, "n d"] | Float[np.ndarray, "n d"],
    covariance: Float[Array, "n d d"] | Float[np.ndarray, "n d d"],
) -> Bool[np.ndarray, " n"]:
    """Returns whether moments are too large for their dtype, or variances are below its range.

    Args:
        mean: Means, rounded to the dtype of labels, `(n, d)`.
        covariance: Covariances in the same dtype, `(n, d, d)`.
    """
    # Below the smallest normal number, variances have few digits or are 0.
    least = np.finfo(covariance.dtype).tiny
    variances = np.diagonal(covariance, axis1=1, axis2=2)
    is_finite = np.isfinite(mean).all(1) & np.isfinite(covariance).all((1, 2))
    return ~(is_finite & (variances >= least).all(1))


def largest_share(deviations: Float[Array, "draws d"]) -> Float[Array, " d"]:
    """Returns the largest share of one draw in each sum of squared deviations, 1 / draws to 1."""
    centered = deviations - jnp.mean(deviations, 0)
    squares = (centered / jnp.maximum(jnp.max(jnp.abs(centered), 0), _tiny(centered))) ** 2
    return jnp.max(squares, 0) / jnp.maximum(jnp.sum(squares, 0), 1)


def _tiny(x: Array) -> float:
    return float(jnp.finfo(x.dtype).tiny)
