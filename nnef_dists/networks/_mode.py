"""The mode of a density in unconstrained coordinates, differentiable to any order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nnef_dists.families import ExponentialFamily, support_dim, unconstrained_logdensity
from nnef_dists.networks._climb import climb, tangent_of_maximum

# Number of starts, one of them at the origin, and standard deviation of the others around it.
_STARTS, _SPREAD = 4, 2.0


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def find_mode(family: ExponentialFamily, eta: Float[Array, " eta_dim"]) -> Float[Array, " n"]:
    """Returns the highest mode u of the log-density l in unconstrained coordinates.

    Newton's method starts from four points. Derivatives of any order follow from the implicit
    equation grad l(u; eta) = 0:

        du / d eta = -(hess l)^-1 d grad l / d eta

    Args:
        family: The exponential family.
        eta: Valid natural parameters, `(eta_dim,)`.

    Returns:
        The mode, `(n,)`. NaN if no point is found with zero gradient and a negative definite
        Hessian.
    """
    n = support_dim(family)
    normal = np.random.default_rng(0).normal(size=(_STARTS - 1, n))
    starts = jnp.asarray(_SPREAD * np.concatenate([np.zeros((1, n)), normal]), eta.dtype)
    height = functools.partial(unconstrained_logdensity, family, eta)
    ends = jax.vmap(functools.partial(climb, height))(starts)
    return ends.point[jnp.argmax(ends.height)]


@find_mode.defjvp
def _(family, primals, tangents):
    (eta,), (tangent,) = primals, tangents
    mode = find_mode(family, eta)
    height = functools.partial(unconstrained_logdensity, family)
    return mode, tangent_of_maximum(height, eta, mode, tangent)
