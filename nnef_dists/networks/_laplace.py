"""Laplace's approximation as a base."""

from typing import final

import equinox as eqx
import jax
from jaxtyping import Array, Float

from nnef_dists._factorizations import cholesky, inverse_factor
from nnef_dists.families import ExponentialFamily, unconstrained_logdensity
from nnef_dists.networks._importance import Normal
from nnef_dists.networks._mode import find_mode
from nnef_dists.networks._normal_base import AbstractNormalBase, check_smooth


@final
class LaplaceBase(AbstractNormalBase):
    """Laplace's approximation to second order, around the highest mode.

        q = N(u*, S),    S = -(hess l(u*))^-1

    with l the log-density in unconstrained coordinates and u* its mode. With the residual r of this
    normal approximation q, the log-partition is

        A_B = l(u*) + log det(2 pi S) / 2 + d / sqrt(1 + d^2),    d = E_q[r] + Var_q[r] / 2
        r(u) = l(u) - l(u*) + |S^(-1/2) (u - u*)|^2 / 2

    Expectations over q are sums over fixed nodes, at equal distances from u* in units of S. The
    error of the normal approximation is log E_q[exp(r)], a series of the cumulants of r, and d has
    its first two terms. They are of order 1 / n for the posterior of n observations. A large d is
    inaccurate, so its contribution is bounded. The scale is

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
        self.family = check_smooth(family)

    def normal(self, eta: Float[Array, " eta_dim"]) -> Normal:
        """Returns the normal distribution at the mode, or NaN if the log-density has no mode."""
        mode = find_mode(self.family, eta)
        height, curvature = _height_and_curvature(self.family, eta, mode)
        return Normal(mode, height, inverse_factor(cholesky(curvature)))


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
