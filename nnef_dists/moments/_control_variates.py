"""Means of draws, corrected by functions whose means are known to be zero."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from nnef_dists.moments._diagnostics import MomentLabel, Status, largest_share, refuse
from nnef_dists.moments._features import quadratics
from nnef_dists.moments._hmc import Chains
from nnef_dists.moments._linalg import cholesky, solve_definite

# Of features scaled to mean square 1. A smaller one halves errors and makes them look far smaller.
_RIDGE = 3e-3
# What changes from the ridge to this one is not certain: it shows tails that few draws have seen.
_ROUGH_RIDGE = 0.03
# Of transforms of linear and quadratic functions: with these alone a Gaussian's moments are exact.
_SIMPLE_RIDGE = 1e-6
# Of the largest deviation over the number of draws: what regions add that no draw has visited.
_UNSEEN, _UNSEEN_IF_HEAVY = 1.0, 3.0
# What a ten times larger ridge changes, as a part of the standard error.
_SENSITIVITY = 0.6
# Of the machine epsilon: the standard error of one rounding is 0.3 of it.
_ROUNDING = 0.5
# Products of so many statistics have their means corrected; of more, the covariance stays plain.
_MOST_STATISTICS = 16
# Of plain standard errors: a larger correction is that of draws, or of functions, that are wrong.
_MOST_CORRECTION = 6.0


class Estimate(NamedTuple):
    """Means of several targets, and how far they may be off.

    Attributes:
        mean: The means, `(d,)`.
        standard_error: Their standard errors, `(d,)`.
        influence: The largest share of one draw in the sum of squared deviations, `(d,)`.
        unseen: What a region adds that no draw has visited: of mass 1 / n, with a deviation like
            the largest one that was seen, `(d,)`.
    """

    mean: Float[Array, " d"]
    standard_error: Float[Array, " d"]
    influence: Float[Array, " d"]
    unseen: Float[Array, " d"]


def correct_means(
    target: Callable[..., Float[Array, " d"]],
    features: Callable[..., Float[Array, " k"]],
    draws: tuple[Array, ...],
    simple: int,
) -> tuple[Estimate, Estimate]:
    """Estimates means by cross-fitted ridge regression on features of mean zero.

    The draws come in blocks, halves of chains. The coefficients that correct a block are fitted to
    all other blocks, so that they do not depend on the noise that they correct. The standard error
    is the largest of four: jackknife estimates over blocks and over chains, of the estimator with
    its coefficients refitted, so that it counts the noise of the coefficients; that of independent
    draws; and, in part, what a ten times larger ridge would change, which is much where few draws
    decide.

    Args:
        target: A function of one draw: what is averaged. Best centred and scaled to about 1.
        features: A function of one draw: numbers whose expectation is zero.
        draws: Arrays of all draws, of shapes `(chains, draws, ...)`, the arguments of both.
        simple: How many of the first features have a ridge that hardly shrinks.

    Returns:
        The corrected means, and the plain averages.

    Reference:
        Mira, Solgi and Imparato, *Zero variance Markov chain Monte Carlo for Bayesian estimators*,
        Statistics and Computing 23 (2013), for control variates from gradients; South, Oates,
        Mira and Drovandi, *Regularized zero-variance control variates*, Bayesian Analysis 18
        (2023), for their regularisation.
    """
    chains, length = draws[0].shape[:2]
    half = length // 2
    blocks = jax.tree.map(
        lambda leaf: leaf[:, : 2 * half].reshape(2 * chains, half, *leaf.shape[2:]), draws
    )

    def sums(block):
        x = jax.vmap(features)(*block)
        y = jax.vmap(target)(*block)
        return (x.T @ x / half, x.T @ y / half, jnp.mean(x, 0), jnp.mean(y, 0)), x, y

    (gram, cross, x, y), all_x, all_y = jax.lax.map(sums, blocks)
    # Features that vanish or overflow in some draw can correct nothing.
    square = jnp.mean(jnp.diagonal(gram, axis1=1, axis2=2), 0)
    usable = jnp.isfinite(square) & (square > 0)
    scale = jnp.where(usable, jax.lax.rsqrt(jnp.where(usable, square, 1)), 0)

    def scaled(leaf, factor):
        return jnp.where(factor == 0, 0, leaf * factor)

    gram = scaled(gram, scale[:, None] * scale)
    cross = scaled(cross, scale[:, None])
    x = scaled(x, scale)

    def without(leaf):
        """The mean of all blocks but each."""
        return (jnp.sum(leaf, 0) - leaf) / (len(leaf) - 1)

    x_rest, y_rest = without(x), without(y)
    is_simple = jnp.arange(len(scale)) < simple

    def regress(gram, cross, x, y, ridge):
        """The coefficients of y on x, from the means of their products and of themselves."""
        ridges = jnp.where(is_simple, _SIMPLE_RIDGE, ridge).astype(scale.dtype)
        return solve_definite(gram - jnp.outer(x, x) + jnp.diag(ridges), cross - jnp.outer(x, y))

    coefficients = jax.vmap(regress, (0, 0, 0, 0, None))(
        without(gram), without(cross), x_rest, y_rest, _RIDGE
    )
    pooled = jnp.mean(gram, 0), jnp.mean(cross, 0), jnp.mean(x, 0), jnp.mean(y, 0)
    fine, rough = (regress(*pooled, ridge) for ridge in (_RIDGE, _ROUGH_RIDGE))
    sensitivity = (fine - rough).T @ pooled[2]

    def corrected(y, x):
        return y - jnp.sum(coefficients * x[:, :, None], 1)

    def jackknife(rest):
        count = len(rest)
        pseudo = (count - 1) * (jnp.mean(rest, 0) - rest)
        by_chain = jnp.mean(pseudo.reshape(chains, 2, -1), 1)
        return jnp.maximum(
            jnp.std(pseudo, 0, ddof=1) / count**0.5, jnp.std(by_chain, 0, ddof=1) / chains**0.5
        )

    error = jnp.maximum(
        jackknife(corrected(y_rest, x_rest)), _SENSITIVITY * jnp.abs(sensitivity)
    )

    def estimate(means, error, values):
        mean, values = jnp.mean(means, 0), values.reshape(-1, values.shape[-1])
        if_independent = jnp.std(values, 0) / len(values) ** 0.5
        unseen = jnp.max(jnp.abs(values - mean), 0) / len(values)
        return Estimate(mean, jnp.maximum(error, if_independent), largest_share(values), unseen)

    residuals = all_y - scaled(all_x, scale) @ coefficients
    return (
        estimate(corrected(y, x), error, residuals),
        estimate(y, jackknife(y_rest), all_y),
    )


def correct_label(
    label: MomentLabel,
    stats: Float[Array, "chains draws eta_dim"],
    features: Callable[..., Float[Array, " k"]],
    flux: Float[Array, ""],
    chains: Chains,
    is_heavy: Bool[Array, ""],
) -> MomentLabel:
    """Corrects the moments of a label by control variates, where that lowers their error.

    Args:
        label: What plain averages of the draws say.
        stats: T at the draws, `(chains, draws, eta_dim)`.
        features: A function of z, score and log-density of a draw, with mean zero.
        flux: How far from zero these means may be.
        chains: The draws.
        is_heavy: Whether tails were compressed: few draws then see what functions leave there.

    Returns:
        The label with corrected mean, covariance and standard errors. A statistic whose corrected
        mean would be less certain keeps its average; so does the covariance, as a whole, and where
        the corrected one is not positive definite. A correction of more than 6 standard errors of
        the average refuses the label.
    """
    eta_dim = stats.shape[-1]
    sd = jnp.sqrt(jnp.diagonal(label.covariance))
    sd = jnp.where(sd > 0, sd, 1)
    rows, columns = np.triu_indices(eta_dim if eta_dim <= _MOST_STATISTICS else 0)

    def target(stats, *_):
        t = (stats - label.mean) / sd
        return jnp.concatenate([t, t[rows] * t[columns]])

    corrected, plain = correct_means(
        target,
        lambda _, *draw: features(*draw),
        (stats, chains.z, chains.score, chains.log_density),
        quadratics(chains.z.shape[-1]),
    )
    mean = label.mean + sd * corrected.mean[:eta_dim]
    rounding = _ROUNDING * jnp.finfo(stats.dtype).eps
    unseen = jnp.where(is_heavy, _UNSEEN_IF_HEAVY, _UNSEEN) * corrected.unseen
    errors = jnp.sqrt(corrected.standard_error**2 + unseen**2 + flux**2 + rounding**2)
    error = jnp.hypot(sd * errors[:eta_dim], rounding * jnp.abs(mean))
    is_better = error < label.standard_error
    is_far = jnp.abs(mean - label.mean) > _MOST_CORRECTION * label.standard_error
    least_influence = jnp.minimum(corrected.influence, plain.influence)
    influence = jnp.where(is_better, least_influence[:eta_dim], plain.influence[:eta_dim])
    covariance, covariance_error = label.covariance, label.covariance_error
    if len(rows):
        shift = corrected.mean[:eta_dim]

        def matrix(products):
            upper = jnp.zeros((eta_dim, eta_dim), stats.dtype).at[rows, columns].set(products)
            return upper + upper.T - jnp.diag(jnp.diagonal(upper))

        second = matrix(corrected.mean[eta_dim:]) - jnp.outer(shift, shift)
        is_definite = jnp.all(jnp.isfinite(cholesky(second)))
        is_tighter = jnp.sum(corrected.standard_error[eta_dim:] ** 2) < jnp.sum(
            plain.standard_error[eta_dim:] ** 2
        )
        is_used = is_definite & is_tighter
        covariance = jnp.where(is_used, sd[:, None] * second * sd, covariance)
        chosen = jnp.where(is_used, errors, plain.standard_error)[eta_dim:]
        covariance_error = sd[:, None] * matrix(chosen) * sd
        shares = jnp.where(is_used, least_influence, plain.influence)[eta_dim:]
        influence = jnp.concatenate([influence, shares])
    label = label._replace(
        mean=jnp.where(is_better, mean, label.mean),
        standard_error=jnp.where(is_better, error, label.standard_error),
        covariance=covariance,
        covariance_error=covariance_error,
        influence=jnp.max(influence),
    )
    return refuse(label, jnp.any(is_better & is_far), Status.DISAGREES)
