"""Normal approximations of densities as bases, with the next order of their log-partitions."""

import functools
import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import check_instance
from nnef_dists._factorizations import product
from nnef_dists.families import (
    ExponentialFamily,
    continuous_support,
    support_dim,
    unconstrained_logdensity,
)
from nnef_dists.networks._importance import Normal, importance_sample
from nnef_dists.networks._sphere_rule import sphere_rule
from nnef_dists.networks._terms import AbstractBase, BaseTerms, Gap

# Number of Gauss-Legendre points per node.
_TIMES = 3
# Largest dimension of x with estimates of A.
_MOST_SAMPLED = 32
# Largest number of statistics whose correlations are inputs, as these grow with the square.
_MOST_CORRELATED = 16


class AbstractNormalBase(AbstractBase):
    """A base around a normal approximation of the density in unconstrained coordinates.

    `LaplaceBase` has the equations of the terms, for its own mean u* and covariance S.

    Attributes:
        family: The exponential family, with a smooth log-density.
    """

    family: eqx.AbstractVar[ExponentialFamily]

    @abstractmethod
    def normal(self, eta: Float[Array, " eta_dim"]) -> Normal:
        """Returns the normal approximation at eta, `(eta_dim,)`; NaN if it does not exist."""

    def __call__(self, eta: Float[Array, " eta_dim"]) -> BaseTerms:
        """Returns the terms at eta; NaN if the normal approximation does not exist."""
        return self._terms(eta, self.normal(eta))

    def estimate_gap(self, eta: Float[Array, " eta_dim"]) -> Gap:
        """Estimates A - A_B at eta by importance sampling around the normal approximation.

        Args:
            eta: Natural parameters, `(eta_dim,)`.

        Returns:
            The estimate. Its error is infinite for x of more than 32 dimensions, because importance
            sampling is then inaccurate and takes much memory.
        """
        family = self.family
        if support_dim(family) > _MOST_SAMPLED:
            return Gap.unknown(eta)
        normal = self.normal(eta)
        found = importance_sample(
            functools.partial(unconstrained_logdensity, family, eta),
            lambda u: _statistics_and_rest(family, u)[0],
            normal,
            _key_of(eta),
        )
        gap = Gap(found.log - (self._terms(eta, normal).value - normal.height), *found[1:])
        known = jnp.isfinite(gap.value) & jnp.isfinite(gap.error)
        return jax.tree.map(functools.partial(jnp.where, known), gap, Gap.unknown(eta))

    def _terms(self, eta: Float[Array, " eta_dim"], normal: Normal) -> BaseTerms:
        family, n, dtype = self.family, support_dim(self.family), eta.dtype
        mean, height, factor = normal
        log_det = jnp.sum(jnp.log(jnp.diagonal(factor)))
        value = height + n * math.log(2 * math.pi) / 2 + log_det

        nodes, weight = sphere_rule(n)
        nodes = jnp.asarray(nodes, dtype)
        displacements = product(nodes, factor)
        time, time_weight = (
            jnp.asarray(part, dtype) for part in np.polynomial.legendre.leggauss(_TIMES)
        )
        time, time_weight = (1 + time) / 2, time_weight / 2

        def along(displacement, time):
            """Returns the statistics at one time on the path, and the slope of l at this time."""

            def at(time):
                return _statistics_and_rest(family, mean + time * displacement)

            (statistics, _), (moved, rest) = jax.jvp(at, (time,), (jnp.ones_like(time),))
            return statistics, jnp.sum(eta * moved) + rest

        times = jnp.append(time, jnp.ones((), dtype))
        over_times = jax.vmap(along, (None, 0))
        statistics, slopes = jax.vmap(over_times, (0, None))(displacements, times)
        r = (slopes[:, :-1] + time * (n + 2)) @ time_weight
        first, second = weight * jnp.sum(r), weight * jnp.sum(r**2)
        next_order = first + (second - first**2) / 2
        value = value + next_order / jnp.sqrt(1 + next_order**2)

        origin, _ = _statistics_and_rest(family, mean)
        deviations = statistics[:, -1] - origin
        shift = weight * jnp.sum(deviations, 0)
        covariance = weight * deviations.T @ deviations - jnp.outer(shift, shift)
        sd = jnp.sqrt(jnp.diagonal(covariance))
        parts = [jnp.arcsinh(eta * sd), jnp.arcsinh((origin + shift) / sd)]
        if len(eta) <= _MOST_CORRELATED:
            rows, columns = np.triu_indices(len(eta), 1)
            correlations = covariance[rows, columns] / (sd[rows] * sd[columns])
            parts.append(jnp.arctanh(correlations * (1 - 1e-6)))
        parts.append(jnp.log(second + 1e-8)[None])
        return BaseTerms(value, second / (1 + second), jnp.concatenate(parts))


def check_smooth(family: ExponentialFamily) -> ExponentialFamily:
    """Returns a family whose log-density is smooth.

    Raises:
        ValueError: If the family is not smooth.
    """
    check_instance(family, ExponentialFamily, "family")
    if not family.is_smooth:
        raise ValueError(
            f"Expected a family with a smooth log-density; got {family!r}, whose is_smooth is "
            "False. Use base=None"
        )
    return family


def _key_of(eta: Float[Array, " eta_dim"]) -> PRNGKeyArray:
    """Returns a key that depends on eta."""
    bits = lax.bitcast_convert_type(eta.astype(jnp.float32), jnp.uint32)
    return lax.fori_loop(
        0, len(bits), lambda i, key: jax.random.fold_in(key, bits[i]), jax.random.key(0)
    )


def _statistics_and_rest(
    family: ExponentialFamily, u: Float[Array, " n"]
) -> tuple[Float[Array, " eta_dim"], Float[Array, ""]]:
    """Returns T, and the terms of the log-density in u that do not depend on eta."""
    support = continuous_support(family, "a normal approximation")
    x, log_det = support.transform_and_log_det(u.reshape(support.shape))
    rest = family.log_base_measure(x) + log_det.astype(u.dtype)
    return family.sufficient_statistics(x), rest
