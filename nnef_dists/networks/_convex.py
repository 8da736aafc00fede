"""Log-partition networks that are convex for all weights."""

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists.bayes import AbstractParameter, GaussianParameter, make_parameter
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import MomentDataset
from nnef_dists.networks._base import Standardization, standardize
from nnef_dists.networks._component_start import ComponentStart, find_components
from nnef_dists.networks._log_partition import AbstractLogPartitionNetwork

# Displacement of a component per unit of the raw weights. Learning rates that suit the weights of
# perceptrons, of size 1 / sqrt(width), then suit components.
_GAIN = 8.0
# Standard deviation of the initial displacements.
_INITIAL_STDV = 0.005


@final
class ConvexLogPartitionNetwork(AbstractLogPartitionNetwork):
    """The log-partition of a mixture of components, convex for all weights.

        A(eta) = log sum_k exp(b_k + t_k . eta + p_k . phi(eta)),    p_kj > 0

    with phi the convex features of the natural domain. The log-sum-exp of convex functions is
    convex. With w the softmax over components,

        hess A = sum_k w_k sum_j p_kj hess phi_j + Cov_w[t_k + sum_j p_kj grad phi_j]

    is positive semi-definite at each valid eta, for each draw of the weights. Both terms are
    covariances, since exp(A) is a sum of Laplace transforms. Each one is of a point t_k in the
    space of T, or of a variable around it with log-partition p_k . phi. Points alone are a
    quadrature rule, whose moments stay in the hull of its nodes. With features, moments have the
    correct singularities at the edge of the domain.

    The affine coefficients b and t have any sign, and p is a softplus of the raw (random) weights.
    `find_components` sets the initial values from the data. Raw weights of zero correspond to them,
    which the prior favors. For Gaussians, the initial values are exact.

    Args:
        family: The exponential family.
        data: Moment data of that family, for the initial values.
        width: Number of components K, at least 1. Defaults to 256. More are needed if T has several
            modes, or ranges over many standard deviations.
        param_type: Type of the weights' distribution. Defaults to `GaussianParameter`.
        key: PRNG key for the weights' means, which are small displacements of the points.

    Attributes:
        displacement: Displacements of the points t_k, in units of 8 `spread`, `(K, eta_dim)`.
        logit: Changes of b_k, in units of 8 nats, `(K,)`.
        raw_weight: Changes of p_k before the softplus, in units of 8, `(K, k)`.
        start: The initial values of t, b and p.

    Raises:
        ValueError: If `data` is of another family or has too few valid labels, or `width` is below
            1.

    Reference:
        Boyd and Vandenberghe, *Convex Optimization* (2004), section 3.1.5, for log-sum-exp.
    """

    family: ExponentialFamily = eqx.field(static=True)
    standardization: Standardization
    displacement: AbstractParameter
    logit: AbstractParameter
    raw_weight: AbstractParameter
    start: ComponentStart

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
        self.standardization = standardize(family, data, width=width, depth=1)
        self.start = find_components(data, width)
        dtype: Any = data.eta.dtype
        small = _INITIAL_STDV * jax.random.normal(key, (width, family.eta_dim), dtype)
        weights = jnp.zeros((width, len(self.start.units.tree)), dtype)
        self.displacement, self.logit, self.raw_weight = (
            make_parameter(value, param_type=param_type)
            for value in (small, jnp.zeros(width, dtype), weights)
        )

    def potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns A(eta) at the weights' means (see `AbstractLogPartitionNetwork`)."""
        net = paramax.unwrap(self)
        # Components exist outside of the natural domain too, but A and its gradient do not.
        eta = eta + jnp.where(self.family.is_valid_eta(eta), 0.0, jnp.nan).astype(eta.dtype)
        start = net.start
        points = start.points + _GAIN * jnp.einsum("kij,kj->ki", start.spread, net.displacement)
        weights = start.units * jax.nn.softplus(start.raw_weights + _GAIN * net.raw_weight)
        moved = eta - start.center
        features = self.family.convex_features(eta) - start.feature_center
        logits = start.logits + _GAIN * net.logit
        return start.slope @ moved + log_sum_exp(logits + points @ moved + weights @ features)


@jax.custom_jvp
def log_sum_exp(values: Float[Array, " k"]) -> Float[Array, ""]:
    """Returns `log sum_k exp(values_k)`, with a Hessian that rounding leaves semi-definite.

    The covariance of tangents under the softmax is computed around the tangent of the largest
    value. So nothing cancels if this value has nearly all the weight.

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
    centered = tangent - tangent[jnp.argmax(values)]
    return weights, weights * (centered - jnp.sum(weights * centered))
