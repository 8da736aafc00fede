"""Control variates: means of draws, corrected by functions of mean zero."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nnef_dists._factorizations import cholesky, solve_definite
from nnef_dists.moments._diagnostics import MomentLabel, Status, largest_share, refuse
from nnef_dists.moments._features import Features
from nnef_dists.sampling import (
    ROUNDING,
    Chains,
    Density,
    finite_or_lowest,
)

# Ridge, for features scaled to mean square 1. A smaller ridge halves the errors, but the estimated
# standard errors then become far too small.
_RIDGE = 3e-3
# Ridge of a second fit. The change of the means indicates tails that few draws have reached.
_ROUGH_RIDGE = 0.03
# Ridge of Stein transforms of linear and quadratic functions, which make Gaussian moments exact.
_SIMPLE_RIDGE = 1e-6
# Smallest standard error, relative to the change of the mean under the ten times larger ridge.
_SENSITIVITY = 0.3
# Smallest error, in machine epsilons, at which the jackknife corrects the bias. Smaller errors are
# rounding, which the jackknife would amplify.
_ROUNDED = 300.0
# Range and number of the values of w in `WideDraws.of`, and the stride between the draws used.
_WIDENING = (0.25, 2.0)
_FACTORS = 8
_STRIDE = 4
# Largest number of statistics whose covariance is corrected. Above it the plain estimate stays.
_MOST_STATISTICS = 16
# Largest correction, in plain standard errors. A larger one indicates wrong draws or features.
_MOST_CORRECTION = 6.0


class Estimate(NamedTuple):
    """Means of several targets, with their standard errors.

    Attributes:
        mean: The means, `(d,)`.
        standard_error: Their standard errors, `(d,)`.
    """

    mean: Float[Array, " d"]
    standard_error: Float[Array, " d"]


class WideDraws(NamedTuple):
    """Draws from a wider density: some of the draws, times a factor.

    Attributes:
        stats: T at these draws, `(more, eta_dim)`.
        draws: The arguments of the features, `(more, ...)`.
        weights: Ratio of the density to the wider density, `(more,)`.
    """

    stats: Float[Array, "more eta_dim"]
    draws: tuple[Array, ...]
    weights: Float[Array, " more"]

    @classmethod
    def of(cls, density: Density, chains: Chains) -> "WideDraws":
        """Evaluates a density at every fourth draw z, times 1 + w / sqrt(n), w from 1/4 to 2."""
        n = chains.z.shape[-1]
        to_u = chains.whitening.to_u
        z = chains.z.reshape(-1, n)[::_STRIDE]
        widening = jnp.geomspace(*_WIDENING, _FACTORS)[jnp.arange(len(z)) % _FACTORS]
        factor = (1 + widening / n**0.5).astype(z.dtype)
        z = factor[:, None] * z

        def at(z):
            log_density, score = jax.value_and_grad(lambda z: density(to_u(z)))(z)
            return density.stats(to_u(z)), score, finite_or_lowest(log_density)

        stats, score, log_density = jax.vmap(at)(z)
        before = chains.log_density.reshape(-1)[::_STRIDE]
        weights = jnp.exp(log_density - before + n * jnp.log(factor))
        return cls(stats, (z, score, log_density), weights)


def correct_means(
    target: Callable[..., Float[Array, " d"]],
    features: Callable[..., Float[Array, " k"]],
    draws: tuple[Array, ...],
    wide: tuple[Array, ...],
    weights: Float[Array, " more"],
    simple: int,
) -> tuple[Estimate, Estimate]:
    """Estimates means by ridge regression on features of mean zero.

    One regression uses all draws. The jackknife over blocks of half a chain removes its bias.
    Cross-fitting, with coefficients from other draws than the corrected ones, has many times the
    error if few draws reach a tail or a minor mode.

    The standard error is the largest of four estimates:

    - The jackknife over blocks, which includes the noise of the coefficients.
    - The jackknife over chains, which includes this noise too.
    - The error of independent draws, from the wider draws. Coefficients that fit the draws may be
      wrong in regions without draws.
    - 0.3 times the change under a ten times larger ridge. The change is large if few draws dominate
      the regression.

    Args:
        target: Function of one draw with the values to average, best centered and scaled to about
            1.
        features: Function of one draw with values of expectation zero.
        draws: Arrays of all draws, of shapes `(chains, draws, ...)`, the arguments of both
            functions.
        wide: These arguments at draws from a wider density, of shapes `(more, ...)`.
        weights: Ratio of the density to the wider density at these draws, `(more,)`.
        simple: Number of leading features with a ridge that hardly shrinks them.

    Returns:
        The corrected means, and the plain averages.

    Reference:
        Mira, Solgi and Imparato, *Zero variance Markov chain Monte Carlo for Bayesian estimators*,
        Statistics and Computing 23 (2013), for control variates from gradients. South, Oates,
        Mira and Drovandi, *Regularized zero-variance control variates*, Bayesian Analysis 18
        (2023), for their regularization.
    """
    chains, length = draws[0].shape[:2]
    half = length // 2
    blocks = jax.tree.map(
        lambda leaf: leaf[:, : 2 * half].reshape(2 * chains, half, *leaf.shape[2:]), draws
    )

    def means(block):
        x, y = jax.vmap(features)(*block), jax.vmap(target)(*block)
        return x.T @ x / half, x.T @ y / half, jnp.mean(x, 0), jnp.mean(y, 0)

    # Block by block on CPUs, since all blocks together are too large for the processor's cache.
    gram, cross, x, y = jax.lax.platform_dependent(
        blocks, cpu=functools.partial(jax.lax.map, means), default=jax.vmap(means)
    )
    # Features that are zero at all draws, or overflow at one, are not used.
    square = jnp.mean(jnp.diagonal(gram, axis1=1, axis2=2), 0)
    usable = jnp.isfinite(square) & (square > 0)
    scale = jnp.where(usable, jax.lax.rsqrt(jnp.where(usable, square, 1)), 0)

    def scaled(leaf, factor):
        return jnp.where(factor == 0, 0, leaf * factor)

    gram = scaled(gram, scale[:, None] * scale)
    cross = scaled(cross, scale[:, None])
    x = scaled(x, scale)

    def without(leaf):
        """Returns, for each block, the mean of the other blocks."""
        return (jnp.sum(leaf, 0) - leaf) / (len(leaf) - 1)

    is_simple = jnp.arange(len(scale)) < simple

    def regress(ridge, gram, cross, x, y):
        """Returns the coefficients of y on x, from the means of x, y and their products."""
        ridges = jnp.where(is_simple, _SIMPLE_RIDGE, ridge).astype(scale.dtype)
        return solve_definite(gram - jnp.outer(x, x) + jnp.diag(ridges), cross - jnp.outer(x, y))

    def correct(gram, cross, x, y):
        coefficients = regress(_RIDGE, gram, cross, x, y)
        return y - x @ coefficients, coefficients

    sums = gram, cross, x, y
    pooled = tuple(jnp.mean(leaf, 0) for leaf in sums)
    rest = tuple(without(leaf) for leaf in sums)
    biased, coefficients = correct(*pooled)
    biased_rest, _ = jax.vmap(correct)(*rest)
    of_ridge = pooled[2] @ (coefficients - regress(_ROUGH_RIDGE, *pooled))

    def jackknife(rest):
        count = len(rest)
        pseudo = (count - 1) * (jnp.mean(rest, 0) - rest)
        by_chain = jnp.mean(pseudo.reshape(chains, 2, -1), 1)
        return jnp.maximum(
            jnp.std(pseudo, 0, ddof=1) / count**0.5, jnp.std(by_chain, 0, ddof=1) / chains**0.5
        )

    error = jnp.maximum(jackknife(biased_rest), _SENSITIVITY * jnp.abs(of_ridge))
    bias = (len(biased_rest) - 1) * (jnp.mean(biased_rest, 0) - biased)
    corrected = biased - jnp.where(error > _ROUNDED * jnp.finfo(error.dtype).eps, bias, 0)

    wide_x, wide_y = jax.vmap(features)(*wide), jax.vmap(target)(*wide)
    wide_x = jnp.where(jnp.isfinite(wide_x), wide_x * scale, 0)

    def estimate(mean, error, wide):
        squares = jnp.where(weights[:, None] > 0, weights[:, None] * (wide - mean) ** 2, 0)
        if_independent = jnp.sqrt(jnp.mean(squares, 0) / (chains * length))
        return Estimate(mean, jnp.maximum(error, if_independent))

    return (
        estimate(corrected, error, wide_y - wide_x @ coefficients),
        estimate(pooled[3], jackknife(rest[3]), wide_y),
    )


def correct_label(
    label: MomentLabel,
    stats: Float[Array, "chains draws eta_dim"],
    features: Features,
    draws: tuple[Array, ...],
    wide: WideDraws,
    *,
    flux: Float[Array, ""] | float = 0.0,
    rounding: Float[Array, ""] | float = 0.0,
) -> MomentLabel:
    """Corrects the moments of a label by control variates, if this lowers their errors.

    Args:
        label: The label of plain averages of the draws.
        stats: T at the draws, `(chains, draws, eta_dim)`.
        features: The features of a draw.
        draws: Arrays of all draws, `(chains, draws, ...)`: the arguments of the features.
        wide: Draws of a wider density.
        flux: Bound on the means of the features, which should be zero.
        rounding: Rounding error of the log-density, in nats.

    Returns:
        The label with corrected mean, covariance and standard errors. A statistic keeps its plain
        average if the correction does not lower its standard error. The covariance, as a whole,
        keeps its plain estimate if its error does not fall, or if the corrected matrix is not
        positive definite. A correction of more than 6 plain standard errors rejects the label.
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
        lambda _, *draw: features.of_draw(*draw),
        (stats, *draws),
        (wide.stats, *wide.draws),
        wide.weights,
        features.simple,
    )
    mean = label.mean + sd * corrected.mean[:eta_dim]
    # The terms of eta . T cancel in the score. Its rounding error is epsilon times their square
    # root.
    eps = jnp.finfo(stats.dtype).eps
    square = ROUNDING**2 * eps * (eps + 2 * rounding)
    errors = jnp.sqrt(corrected.standard_error**2 + flux**2 + square)
    error = jnp.hypot(sd * errors[:eta_dim], ROUNDING * eps * jnp.abs(mean))
    is_better = error < label.standard_error
    is_far = jnp.abs(mean - label.mean) > _MOST_CORRECTION * label.standard_error
    covariance, covariance_error = label.covariance, label.covariance_error
    influence = label.influence
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
        # Few draws dominate squares of powers. Control variates correct this, so only means count.
        of_means = jnp.max(largest_share(stats.reshape(-1, eta_dim)))
        influence = jnp.where(is_used, of_means, influence)
    label = label._replace(
        mean=jnp.where(is_better, mean, label.mean),
        standard_error=jnp.where(is_better, error, label.standard_error),
        covariance=covariance,
        covariance_error=covariance_error,
        influence=influence,
    )
    return refuse(label, jnp.any(is_better & is_far), Status.DISAGREES)
