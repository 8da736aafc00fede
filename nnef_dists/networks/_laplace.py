"""Bases: computed log-partitions that a network corrects."""

import functools
import math
from abc import abstractmethod
from typing import NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._checks import check_instance
from nnef_dists._factorizations import cholesky, inverse_factor, product
from nnef_dists.families import (
    ExponentialFamily,
    continuous_support,
    support_dim,
    unconstrained_logdensity,
)
from nnef_dists.networks._importance import Peak, importance_sample
from nnef_dists.networks._mode import find_mode

# Approximate number of nodes of the sphere rule, and number of Gauss-Legendre points per node.
_NODES = 48
_TIMES = 3
# Largest dimension of x with estimates of A.
_MOST_SAMPLED = 32
# Largest number of statistics whose correlations are inputs, as these grow with the square.
_MOST_CORRELATED = 16


class BaseTerms(NamedTuple):
    """The terms of a base at one eta, all twice differentiable.

    Attributes:
        value: The base's log-partition A_B, in nats.
        scale: Measure of the error of the base, dimensionless, in [0, 1). 0 if the base is exact.
        inputs: Dimensionless inputs of a correction, `(m,)`.
    """

    value: Float[Array, ""]
    scale: Float[Array, ""]
    inputs: Float[Array, " m"]


class AbstractBase(eqx.Module):
    """A computed approximation of the log-partition, with the inputs of its correction."""

    @abstractmethod
    def __call__(self, eta: Float[Array, " eta_dim"]) -> BaseTerms:
        """Returns the terms at eta, `(eta_dim,)`, or NaN if the approximation does not exist."""

    def estimate_gap(self, eta: Float[Array, " eta_dim"]) -> "Gap":
        """Estimates A - A_B at eta, for training. The estimate is not differentiable.

        Args:
            eta: Natural parameters, `(eta_dim,)`.

        Returns:
            The estimate. By default its error is infinite.
        """
        return Gap.unknown(eta)


class Gap(NamedTuple):
    """An estimate of the difference between the log-partition and a base.

    Attributes:
        value: A - A_B, in nats.
        error: Standard error of `value`.
        mean: Estimate of E[T] from these samples, `(eta_dim,)`, for a comparison with labels.
    """

    value: Float[Array, ""]
    error: Float[Array, ""]
    mean: Float[Array, " eta_dim"]

    @classmethod
    def unknown(cls, eta: Float[Array, " eta_dim"]) -> "Gap":
        """Returns an estimate of infinite error at eta."""
        zero = jnp.zeros((), eta.dtype)
        return cls(zero, zero + jnp.inf, jnp.full_like(eta, jnp.nan))


@final
class LaplaceBase(AbstractBase):
    """Laplace's approximation to second order, around the highest mode.

        A_B = l(u*) + log det(2 pi S) / 2 + d / sqrt(1 + d^2),    d = E_q[r] + Var_q[r] / 2
        q = N(u*, S),    S = -(hess l(u*))^-1,    r(u) = l(u) - l(u*) + |S^(-1/2) (u - u*)|^2 / 2

    with l the log-density in unconstrained coordinates and u* its mode. Expectations over q are
    sums over fixed nodes, at equal distances from u* in units of S. The log-partition is the sum of
    the cumulants of r, and d has the first two. They are of order 1 / n for the posterior of n
    observations. A large d is inaccurate, so its contribution is bounded. The scale is

        s = E_q[r^2] / (1 + E_q[r^2])

    The inputs need no declaration, and do not change with the units of x or T:

        arcsinh(eta_a sd_q T_a),    arcsinh(E_q T_a / sd_q T_a),    artanh corr_q(T_a, T_b)

    (correlations of at most 16 statistics) and log(E_q[r^2] + 1e-8). The integral of the slope of l
    from u* to a node gives r. So r is accurate in float32 even if l is large.

    Args:
        family: The exponential family. Its log-density must be smooth.

    Raises:
        ValueError: If the family is not smooth.

    Reference:
        Tierney and Kadane, *Accurate approximations for posterior moments and marginal densities*,
        JASA 81 (1986), for the order of the terms.
    """

    family: ExponentialFamily = eqx.field(static=True)

    def __init__(self, family: ExponentialFamily):
        check_instance(family, ExponentialFamily, "family")
        if not family.is_smooth:
            raise ValueError(
                f"Expected a family with a smooth log-density; got {family!r}, whose is_smooth is "
                "False. Use base=None"
            )
        self.family = family

    def __call__(self, eta: Float[Array, " eta_dim"]) -> BaseTerms:
        """Returns the terms at eta, or NaN if the log-density has no mode."""
        return self._terms(eta, _peak(self.family, eta))

    def estimate_gap(self, eta: Float[Array, " eta_dim"]) -> Gap:
        """Estimates A - A_B at eta by importance sampling around the mode.

        Args:
            eta: Natural parameters, `(eta_dim,)`.

        Returns:
            The estimate. Its error is infinite for x of more than 32 dimensions, because importance
            sampling is then inaccurate and takes much memory.
        """
        family = self.family
        if support_dim(family) > _MOST_SAMPLED:
            return Gap.unknown(eta)
        peak = _peak(family, eta)
        found = importance_sample(
            functools.partial(unconstrained_logdensity, family, eta),
            lambda u: _statistics_and_rest(family, u)[0],
            peak,
            _key_of(eta),
        )
        gap = Gap(found.log - (self._terms(eta, peak).value - peak.height), *found[1:])
        known = jnp.isfinite(gap.value) & jnp.isfinite(gap.error)
        return jax.tree.map(functools.partial(jnp.where, known), gap, Gap.unknown(eta))

    def _terms(self, eta: Float[Array, " eta_dim"], peak: Peak) -> BaseTerms:
        family, n, dtype = self.family, support_dim(self.family), eta.dtype
        mode, height, inverse = peak
        log_det = jnp.sum(jnp.log(jnp.diagonal(inverse)))
        value = height + n * math.log(2 * math.pi) / 2 + log_det

        nodes, weight = _sphere_rule(n)
        nodes = jnp.asarray(nodes, dtype)
        displacements = product(nodes, inverse)
        time, time_weight = (
            jnp.asarray(part, dtype) for part in np.polynomial.legendre.leggauss(_TIMES)
        )
        time, time_weight = (1 + time) / 2, time_weight / 2

        def along(displacement, time):
            """Returns the statistics at one time on the path, and the slope of l at this time."""

            def at(time):
                return _statistics_and_rest(family, mode + time * displacement)

            (statistics, _), (moved, rest) = jax.jvp(at, (time,), (jnp.ones_like(time),))
            return statistics, jnp.sum(eta * moved) + rest

        times = jnp.append(time, jnp.ones((), dtype))
        over_times = jax.vmap(along, (None, 0))
        statistics, slopes = jax.vmap(over_times, (0, None))(displacements, times)
        r = (slopes[:, :-1] + time * (n + 2)) @ time_weight
        first, second = weight * jnp.sum(r), weight * jnp.sum(r**2)
        next_order = first + (second - first**2) / 2
        value = value + next_order / jnp.sqrt(1 + next_order**2)

        origin, _ = _statistics_and_rest(family, mode)
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


def _peak(family: ExponentialFamily, eta: Float[Array, " eta_dim"]) -> Peak:
    mode = find_mode(family, eta)
    height, curvature = _height_and_curvature(family, eta, mode)
    return Peak(mode, height, inverse_factor(cholesky(curvature)))


def _key_of(eta: Float[Array, " eta_dim"]) -> PRNGKeyArray:
    """Returns a key that depends on eta."""
    bits = lax.bitcast_convert_type(eta.astype(jnp.float32), jnp.uint32)
    return lax.fori_loop(
        0, len(bits), lambda i, key: jax.random.fold_in(key, bits[i]), jax.random.key(0)
    )


def _height_and_curvature(family, eta, mode):
    """Returns l and minus its Hessian, from one program."""

    def height(u):
        value = unconstrained_logdensity(family, eta, u)
        return value, value

    def slope(u):
        gradient, value = jax.grad(height, has_aux=True)(u)
        return gradient, value

    hessian, value = jax.jacfwd(slope, has_aux=True)(mode)
    return value, -hessian


def _statistics_and_rest(
    family: ExponentialFamily, u: Float[Array, " n"]
) -> tuple[Float[Array, " eta_dim"], Float[Array, ""]]:
    """Returns T, and the terms of the log-density in u that do not depend on eta."""
    support = continuous_support(family, "Laplace's approximation")
    x, log_det = support.transform_and_log_det(u.reshape(support.shape))
    rest = family.log_base_measure(x) + log_det.astype(u.dtype)
    return family.sufficient_statistics(x), rest


def _sphere_rule(n: int) -> tuple[np.ndarray, float]:
    """Returns nodes of a rule for normal expectations of functions that vanish at the origin.

    The nodes, `(k, n)`, are plus and minus the axes of fixed random frames, at the distance
    sqrt(n + 2), and all have the returned weight. The origin has the remaining weight, of a total
    of 1. Cubic polynomials, and even ones of degree four in the distance, are integrated exactly.
    """
    frames = 1 if n == 1 else max(2, _NODES // (2 * n))
    rng = np.random.default_rng(0)
    axes = [np.linalg.qr(rng.normal(size=(n, n)))[0] for _ in range(frames)]
    nodes = np.concatenate([sign * axis for axis in axes for sign in (1, -1)])
    return nodes * math.sqrt(n + 2), n / (n + 2) / len(nodes)
