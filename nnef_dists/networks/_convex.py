"""Networks of the log-partition that are convex, whatever their weights."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import AbstractParameter, GaussianParameter, make_parameter
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import MomentDataset
from nnef_dists.networks._base import Standardisation, standardise
from nnef_dists.networks._component_start import find_components
from nnef_dists.networks._log_partition import AbstractLogPartitionNetwork

# How far a unit of the raw weights moves a component: learning rates that suit the weights of
# perceptrons, of size 1 / sqrt(width), then suit components.
_GAIN = 8.0
_INITIAL_STDV = 0.005
# Of its unit, the least coefficient of a feature at the start: not so small that it cannot grow.
_LEAST_WEIGHT = 0.01


@final
class ConvexLogPartitionNetwork(AbstractLogPartitionNetwork):
    """A log-partition that is convex for all weights: that of a mixture of components.

        A(eta) = log sum_k exp(b_k + t_k . eta + p_k . phi(eta)),    p_kj > 0

    with phi the convex features of the natural domain. The log-sum-exp of convex functions is
    convex: with w the softmax over components,

        hess A = sum_k w_k sum_j p_kj hess phi_j + Cov_w[t_k + sum_j p_kj grad phi_j]

    is positive semi-definite at every valid eta, for each draw of the weights. Both terms are
    covariances: exp(A) is a sum of Laplace transforms, each of a point t_k in the space of T, or of
    a variable around it whose log-partition is p_k . phi. Points alone would be a quadrature rule,
    whose moments stay in the hull of its nodes; with features moments have the right singularities
    at the edge of the domain.

    The coefficients of affine functions, b and t, are free in sign; p is a softplus of the raw
    (random) weights. All start from the data by `find_components`: raw weights of zero stand for
    that start, and their prior prefers it. It is the truth for Gaussians.

    Args:
        family: The exponential family.
        data: Moment data of that family, from which the components start.
        width: Components K. One needs more where T has several modes, or ranges over many of its
            standard deviations.
        param_type: The law of the weights.
        key: PRNG key for the weights' means: small displacements of the points.

    Attributes:
        displacement: Of the points t_k, in units of `spread`, `(K, eta_dim)`.
        logit: Of b_k, from `start_logit`, in nats, `(K,)`.
        raw_weight: Of p_k, before the softplus, `(K, k)`.
        slope: The mean of the points at the start, `(eta_dim,)`.
        points: Their start less the slope, `(K, eta_dim)`.
        spread: Square roots of covariances, `(K, eta_dim, eta_dim)`.
        start_logit: The start of b, at the `centre`, `(K,)`.
        weight_start: The start of p in units of `weight_unit`, before the softplus, `(k,)`.
        weight_unit: Positive units of p, `(k,)`.
        centre: The origin of eta, `(eta_dim,)`.
        feature_centre: The origin of phi, `(k,)`.

    Raises:
        ValueError: For data of another family, for too few good labels, and for a width below 1.

    Reference:
        Boyd and Vandenberghe, *Convex Optimization* (2004), section 3.1.5, for log-sum-exp.
    """

    family: ExponentialFamily = eqx.field(static=True)
    standardisation: Standardisation
    displacement: AbstractParameter
    logit: AbstractParameter
    raw_weight: AbstractParameter
    slope: paramax.NonTrainable[Array]
    points: paramax.NonTrainable[Array]
    spread: paramax.NonTrainable[Array]
    start_logit: paramax.NonTrainable[Array]
    weight_start: paramax.NonTrainable[Array]
    weight_unit: paramax.NonTrainable[Array]
    centre: paramax.NonTrainable[Array]
    feature_centre: paramax.NonTrainable[Array]

    def __init__(
        self,
        family: ExponentialFamily,
        data: MomentDataset,
        *,
        width: int = 256,
        param_type: type[AbstractParameter] = GaussianParameter,
        key: PRNGKeyArray,
    ):
        self.family = family
        self.standardisation = standardise(family, data, width=width, depth=1)
        start = find_components(data, width)
        dtype = data.eta.dtype

        def to_buffer(leaf: np.ndarray) -> paramax.NonTrainable[Array]:
            return paramax.NonTrainable(jnp.asarray(leaf, dtype))

        self.slope, self.points = to_buffer(start.slope), to_buffer(start.points)
        self.spread, self.start_logit = to_buffer(start.spread), to_buffer(start.logits)
        relative = np.maximum(start.weights / start.units, _LEAST_WEIGHT)
        self.weight_start = to_buffer(np.log(np.expm1(relative)))
        self.weight_unit = to_buffer(start.units)
        self.centre = to_buffer(start.centre)
        self.feature_centre = to_buffer(start.feature_centre)
        small = _INITIAL_STDV * jax.random.normal(key, start.points.shape, dtype)
        self.displacement, self.logit, self.raw_weight = (
            make_parameter(value, param_type=param_type)
            for value in (
                small,
                jnp.zeros(width, dtype),
                jnp.zeros((width, len(start.weights)), dtype),
            )
        )

    def potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns A(eta) at the weights' means; see `AbstractLogPartitionNetwork`."""
        net = paramax.unwrap(self)
        # Components exist outside of the natural domain, too; A and its gradient do not.
        eta = eta + jnp.where(self.family.is_valid_eta(eta), 0.0, jnp.nan).astype(eta.dtype)
        points = net.points + _GAIN * jnp.einsum("kij,kj->ki", net.spread, net.displacement)
        raw = net.weight_start + _GAIN * net.raw_weight
        weights = net.weight_unit * jax.nn.softplus(raw)
        moved, features = eta - net.centre, self.family.convex_features(eta) - net.feature_centre
        logits = net.start_logit + _GAIN * net.logit
        return net.slope @ moved + log_sum_exp(logits + points @ moved + weights @ features)


@jax.custom_jvp
def log_sum_exp(values: Float[Array, " k"]) -> Float[Array, ""]:
    """Returns `log sum_k exp(values_k)`, its second derivative positive semi-definite in rounding.

    The covariance of tangents under the softmax is taken around the tangent of the largest value:
    where that one has nearly all the weight, nothing cancels.

    Args:
        values: Any finite values, `(k,)`.

    Returns:
        The scalar.
    """
    return jax.nn.logsumexp(values)


@log_sum_exp.defjvp
def _(primals, tangents):
    (values,), (tangent,) = primals, tangents
    return log_sum_exp(values), jnp.sum(_softmax(values) * tangent)


@jax.custom_jvp
def _softmax(values: Float[Array, " k"]) -> Float[Array, " k"]:
    return jax.nn.softmax(values)


@_softmax.defjvp
def _(primals, tangents):
    (values,), (tangent,) = primals, tangents
    weights = _softmax(values)
    centred = tangent - tangent[jnp.argmax(values)]
    return weights, weights * (centred - jnp.sum(weights * centred))
