"""Faults of families with a discrete support."""

import functools
import math
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from nnef_dists.families import (
    AbstractDiscreteSupport,
    AbstractNamedFamily,
    Counts,
    ExponentialFamily,
    support_point,
)
from nnef_dists.moments._family_finding import FamilyFinding
from nnef_dists.moments._family_statistics import find_dependence
from nnef_dists.sampling import first_panels, gibbs_plan, states_table, sum_counts, sum_states

# Number of random points at which T is evaluated.
_POINTS = 512
# Largest binary logarithm of the number of points that are summed to check a closed form.
_MOST_SUMMED = 16.0
# Largest error of a convergent sum over counts, in nats and z units.
_MOST_ERROR = 1e-6
# Largest difference between a closed form and a sum, in sd(T) or relative to A.
_MOST_DIFFERENCE = 1e-6


def find_discrete_faults(
    family: ExponentialFamily, etas: Array, is_beyond: np.ndarray
) -> list[FamilyFinding]:
    """Returns the faults of a discrete family at valid etas, in double precision.

    Args:
        family: A family with a discrete support.
        etas: Valid natural parameters, `(n, eta_dim)`.
        is_beyond: Mask of the etas beyond the requested ranges, `(n,)`.
    """
    support = family.support
    assert isinstance(support, AbstractDiscreteSupport)
    try:
        _ = first_panels(family) if isinstance(support, Counts) else gibbs_plan(family)
    except ValueError as error:
        message, _, remedy = str(error).partition("; got ")
        return [FamilyFinding("not finite", "error", message, None, None, remedy)]
    u = np.random.default_rng(0).normal(size=(_POINTS, *support.shape))
    x = jax.vmap(functools.partial(support_point, family))(jnp.asarray(u))
    stats = np.asarray(jax.vmap(family.sufficient_statistics)(x))
    log_h = np.asarray(jax.vmap(family.log_base_measure)(x))
    values = np.column_stack([stats, log_h])[None]
    probes = SimpleNamespace(values=values, far_values=values[:, :0])
    # Only constants and equations, since near collinearity depends on eta.
    found = [f for f in find_dependence(family, etas, probes) if f.severity == "error"]
    if isinstance(support, Counts):
        found += _find_divergence(family, etas, is_beyond)
    is_small = isinstance(support, Counts) or support.log2_states <= _MOST_SUMMED
    if isinstance(family, AbstractNamedFamily) and is_small and not found:
        found += _find_wrong_formulas(family, etas)
    return found


def _find_divergence(
    family: ExponentialFamily, etas: Array, is_beyond: np.ndarray
) -> list[FamilyFinding]:
    rule = jax.jit(jax.vmap(functools.partial(sum_counts, family)))(etas)
    bad = ~(np.asarray(rule.error) <= _MOST_ERROR)
    if not bad.any():
        return []
    i = int(np.argmax(bad))
    where = "beyond the ranges, in the natural domain" if is_beyond[i] else "in the ranges"
    return [
        FamilyFinding(
            "not normalizable",
            "error",
            f"the sum over counts diverges or has too many separate parts, {where}",
            np.asarray(etas[i]),
            None,
            "correct natural_domain, so that sum_x h(x) exp(eta . T(x)) is finite in all of it",
        )
    ]


def _find_wrong_formulas(family: Any, etas: Array) -> list[FamilyFinding]:
    if isinstance(family.support, Counts):
        of_eta = functools.partial(sum_counts, family)
    else:
        of_eta = functools.partial(sum_states, family, table=states_table(family))

    @jax.jit
    def both(etas):
        sums = jax.lax.map(of_eta, etas)
        formulas = jax.vmap(lambda eta: (family.log_partition(eta), family.mean(eta)))(etas)
        return sums.log_partition, sums.mean, sums.covariance, *formulas

    log_partition, mean, covariance, own, own_mean = map(np.asarray, both(etas))
    sd = np.sqrt(np.diagonal(covariance, axis1=1, axis2=2))
    off = np.abs(own_mean - mean) / np.where(sd > 0, sd, 1)
    i, j = np.unravel_index(np.argmax(np.where(np.isfinite(off), off, math.inf)), off.shape)
    if not off[i, j] <= _MOST_DIFFERENCE:
        return [
            FamilyFinding(
                "closed form",
                "error",
                f"mean of {family.stat_names[j]!r} is {own_mean[i, j]:.6g}, but the sum over x is "
                f"{mean[i, j]:.6g}",
                np.asarray(etas[i]),
                None,
                "correct `mean`: it is E[T | eta]",
            )
        ]
    off = np.abs(own - log_partition) / np.maximum(1, np.abs(log_partition))
    i = int(np.argmax(np.where(np.isfinite(off), off, math.inf)))
    if not off[i] <= _MOST_DIFFERENCE:
        return [
            FamilyFinding(
                "closed form",
                "error",
                f"log_partition is {own[i]:.6g}, but the sum over x is {log_partition[i]:.6g}",
                np.asarray(etas[i]),
                None,
                "correct `log_partition`: exp(A) is the sum of h(x) exp(eta . T(x))",
            )
        ]
    return []
