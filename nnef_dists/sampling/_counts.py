"""Sums over counts by adaptive rules with few integer nodes."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from nnef_dists.families import ExponentialFamily
from nnef_dists.sampling._count_panels import (
    LEAST,
    first_panels,
    panel_lengths,
    panel_nodes,
)
from nnef_dists.sampling._count_refinement import (
    log_rounding,
    log_weights_of,
    panel_sums,
    parts_of,
    refine_panels,
    short_panels,
)
from nnef_dists.sampling._density import ROUNDING
from nnef_dists.sampling._line import NOWHERE

# Largest error bound of the sums at which draws are valid.
_MOST_ERROR = 1e-3


class CountsRule(NamedTuple):
    """Moments at one eta by summation, and the panels of the sum.

    Attributes:
        mean: E[T], `(eta_dim,)`.
        covariance: Cov[T], `(eta_dim, eta_dim)`.
        log_partition: A(eta), in nats.
        error: Upper bound of the errors of the mean, in z units, of the covariance, in units of
            both sd(T), and of A, in nats. It includes the error of the rule, the tail, and the
            rounding of eta . T, which is epsilon times its size.
        start: First count of each panel, `(panels,)`.
        level: log2 of the length of each panel, `(panels,)`.
        log_mass: Logarithm of the probability of each panel, `(panels,)`.
    """

    mean: Float[Array, " eta_dim"]
    covariance: Float[Array, "eta_dim eta_dim"]
    log_partition: Float[Array, ""]
    error: Float[Array, ""]
    start: Float[Array, " panels"]
    level: Int[Array, " panels"]
    log_mass: Float[Array, " panels"]


def sum_counts(family: ExponentialFamily, eta: Float[Array, " eta_dim"]) -> CountsRule:
    """Sums T and its products over all counts, in the dtype of eta.

    The counts are divided into panels of 2^k, from 16 counts at the lower end to at most 2^44. A
    rule of 16 nodes sums each panel. Panels whose sums of terms, or of terms times T or T^2, differ
    most from the sums of their halves are halved, down to 16 counts, which are summed term by term.
    Modes are also located between the nodes of the first panels.

    If the traced program of T contains operations such as comparisons or remainders, a rule may
    miss jumps of T. The first 2^15 counts are then summed term by term, and the error includes the
    weight of the last half of them.

    Derivatives in eta, of any order, are taken at fixed nodes. The gradient of A is E[T].

    Args:
        family: A family whose support is `Counts`.
        eta: Valid natural parameters, `(eta_dim,)`.

    Returns:
        The moments, with an error bound, which is infinite if the sum diverges or has too many
        separate parts.

    Raises:
        ValueError: If the support is not `Counts`, or T is not finite at the first counts.
    """
    starts, levels, is_complete, is_smooth = first_panels(family)
    fixed = lax.stop_gradient(eta)
    panels = (refine_panels if is_smooth else short_panels)(family, fixed, starts, levels)
    top = jnp.max(panels.peak)

    # The nodes in the halves of all panels are fixed when eta changes.
    is_short = panels.level <= LEAST
    child = jnp.where(is_short, panels.level, panels.level - 1)
    second = panels.start + panel_lengths(child, eta.dtype)
    x, log_weights = panel_nodes(jnp.stack([panels.start, second], 1), child[:, None])
    unused = is_short[:, None, None] & (jnp.arange(2) == 1)[:, None]
    unused = unused | (panels.peak == -jnp.inf)[:, None, None]
    log_weights = jnp.where(unused, -jnp.inf, log_weights)
    fine = _moments(family, eta, x.ravel(), log_weights.ravel(), top)
    mean, covariance, log_partition = fine
    sd = jnp.sqrt(jnp.diagonal(lax.stop_gradient(covariance)))
    sd = jnp.where(sd > 0, sd, 1)
    # The error of a panel is weighted by the largest z^2 at its ends.
    ends = jnp.stack([panels.start, panels.start + panel_lengths(panels.level, eta.dtype) - 1], 1)
    z = (jax.vmap(jax.vmap(family.sufficient_statistics))(ends) - mean) / sd
    left = panels.errors(log_partition) * (1 + jnp.max(z**2, (1, 2)))
    error = jnp.sum(jnp.where(panels.peak > -jnp.inf, left, 0))
    log_mass = jax.nn.logsumexp(panels.halves, axis=1) - log_partition
    if not is_complete and is_smooth:
        end = float(starts[-1] + 2.0 ** levels[-1] - 1)
        error += _tail(family, fixed, end, log_partition, mean, sd)
    elif not is_complete:
        # T may jump later. The bound assumes that the tail weighs at most as much as the last half.
        mass = jnp.exp(log_mass) * (1 + jnp.max(z**2, (1, 2)))
        error += jnp.sum(mass[len(starts) // 2 :])
    at = jnp.argmax(panels.peak)
    error += ROUNDING * log_rounding(family, fixed, panels.start[at])
    error = jnp.where(jnp.isnan(error), jnp.inf, lax.stop_gradient(error))
    return CountsRule(mean, covariance, log_partition, error, panels.start, panels.level, log_mass)


def _moments(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    x: Float[Array, " n"],
    log_weights: Float[Array, " n"],
    top: Float[Array, ""],
) -> tuple[Array, Array, Array]:
    """Returns E[T], Cov[T] and A."""
    stats = jax.vmap(family.sufficient_statistics)(x)
    used = jnp.isfinite(log_weights) & jnp.isfinite(stats).all(1)
    stats = jnp.where(used[:, None], stats, 0)
    base = jax.vmap(family.log_base_measure)(x)
    logs = jnp.where(used, stats @ eta + base + log_weights, -jnp.inf)
    # Terms without density have no derivative.
    exists = logs > NOWHERE / 2
    terms = jnp.where(exists, jnp.exp(jnp.where(exists, logs, top) - top), 0)
    total = jnp.sum(terms)
    p = terms / total
    center = lax.stop_gradient(p @ stats)
    centered = jnp.where(used[:, None], stats - center, 0)
    shift = p @ centered
    covariance = (centered - shift).T @ ((centered - shift) * p[:, None])
    return center + shift, covariance, top + jnp.log(total)


def _tail(
    family: ExponentialFamily,
    eta: Float[Array, " eta_dim"],
    end: float,
    log_partition: Float[Array, ""],
    mean: Float[Array, " eta_dim"],
    sd: Float[Array, " eta_dim"],
) -> Float[Array, ""]:
    """Returns a bound of the sum beyond the last count of all panels, in units of z^2.

    Weights are assumed to decay at least like the power of x fitted between `end` / 2 and `end`.
    """
    x = jnp.asarray([end / 2, end], eta.dtype)
    half, last = log_weights_of(family, eta, x)
    power = (half - last) / jnp.log(x[1] / x[0])
    z = (family.sufficient_statistics(x[1]) - mean) / sd
    tail = jnp.exp(last + jnp.log(end) - log_partition) * (1 + jnp.max(z**2)) / (power - 1)
    return jnp.where(last <= NOWHERE / 2, 0, jnp.where(power > 1, tail, jnp.inf))


def draw_counts(
    key: PRNGKeyArray, family: ExponentialFamily, eta: Float[Array, " eta_dim"], n: int
) -> tuple[Int[Array, " n"], Bool[Array, ""]]:
    """Draws counts by choosing a panel, then halves of it, by their probabilities.

    Args:
        key: PRNG key.
        family: A family whose support is `Counts`.
        eta: Valid natural parameters, `(eta_dim,)`.
        n: Number of draws.

    Returns:
        Draws, `(n,)`, and whether the error bound of the sums is below 1e-3.
    """
    rule = sum_counts(family, eta)
    logs = functools.partial(log_weights_of, family, eta)
    parts = functools.partial(parts_of, family, eta)

    def one(key):
        first, descent, last = jax.random.split(key, 3)
        row = jax.random.categorical(first, rule.log_mass)

        def choose(carry):
            start, level, key = carry
            key, here = jax.random.split(key)
            _, halves, _ = panel_sums(parts, start, level)
            side = jax.random.categorical(here, halves)
            return start + side * panel_lengths(level - 1, eta.dtype), level - 1, key

        start, level, _ = lax.while_loop(
            lambda carry: carry[1] > LEAST, choose, (rule.start[row], rule.level[row], descent)
        )
        x, log_weights = panel_nodes(start, level)
        return x[jax.random.categorical(last, logs(x) + log_weights)]

    found = jax.vmap(one)(jax.random.split(key, n))
    return found.astype(int), rule.error < _MOST_ERROR
