"""The conjugate prior of the concentration of a Dirichlet distribution."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from flowjax.bijections import AbstractBijection, Exp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer
from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._domain import CoupledDomain
from nnef_dists.families._gamma_functions import log_beta
from nnef_dists.families._symmetries import Permutation
from nnef_dists.families._symmetry import AbstractSymmetry


@final
class DirichletPrior(ExponentialFamily):
    """The conjugate prior of the concentration alpha of a Dirichlet distribution on k entries.

        p(alpha | eta) proportional to exp(eta . alpha + eta_B log B(alpha)),    alpha_i > 0
        log B(alpha) = sum_i log Gamma(alpha_i) - log Gamma(sum_i alpha_i)

    Statistics `alpha`, shape `(k,)`, and `log_beta`, log B(alpha). Points x_1, ..., x_n on the
    simplex add sum_j log x_j to eta and -n to eta_B. So n = -eta_B is the number of observations,
    and eta_i / n is their mean log x_i. For k = 2 this is the prior of a beta distribution.

    The natural domain, which couples all parameters, is

        n > 0    and    sum_i exp(eta_i / n) < 1.

    Data are inside: the geometric means of the entries sum to less than 1, by Jensen's inequality.

    *Proof.* Let s = sum_i alpha_i and p = alpha / s, with entropy H(p). For all a > 0, Gamma(a) is
    at least sqrt(2 pi) a^(a - 1/2) e^-a, and at most e^(1 / 12 a) times this (Stirling). So

        1 / B(alpha) <= C s^((k-1)/2) exp(s H(p))    for s >= 1,

    while 1 / B is bounded for s < 1. The exponent is then at most s (eta . p + n H(p)) plus a
    logarithm of s. By Gibbs' variational principle, the maximum of eta . p + n H(p) on the simplex
    is g = n log sum_i exp(eta_i / n). It is at p_i* proportional to exp(eta_i / n). For g < 0 the
    integrand decays as exp(-|g| s), uniformly in p. Now let g >= 0, and consider the tube of width
    sqrt(s) around the ray of p*. In it, Stirling's lower bound for 1 / B holds and the exponent is
    stationary in p. So the integrand is at least a constant times s^(n (k-1)/2) exp(s g), and the
    integral over the tube is infinite.

    (For k >= 2 the integral also exists for -1 < n <= 0 if all eta_i < 0. Such etas correspond to
    no positive number of observations, and are not in this domain.)

    Args:
        k: Number of entries, at least 2.

    Raises:
        ValueError: If `k < 2`.

    Reference:
        Whittaker and Watson, *A Course of Modern Analysis* (1927), section 12.33, for the bounds.
    """

    k: int = eqx.field(static=True)

    def __init__(self, k: int):
        self.k = check_integer("k", k, 2)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one point: `(k,)`."""
        return (self.k,)

    @property
    def support(self) -> Exp:
        """The positive orthant."""
        return Exp((self.k,))

    @property
    def natural_domain(self) -> CoupledDomain:
        """The set of eta with n = -eta_B > 0 and sum_i exp(eta_i / n) < 1."""
        return CoupledDomain(
            _GapBelowOne(self.k),
            "with log_beta = -n < 0 and sum_i exp(alpha_i / n) < 1",
            _convex_features,
        )

    @property
    def symmetries(self) -> tuple[AbstractSymmetry, ...]:
        """Permutations of the entries."""
        return (Permutation("alpha", self.k),)

    def compute_stats(self, x: Float[Array, " k"]) -> dict[str, Array]:
        """Returns alpha and log B(alpha)."""
        return {"alpha": x, "log_beta": log_beta(x)}


def _convex_features(eta: Float[Array, " d"]) -> Float[Array, " k"]:
    """Returns g, -log(-g), n log(n / -g), -log n and eta_i^2 / n.

    g(eta) = n log sum_i exp(eta_i / n) is convex, as the perspective of a convex function. So are
    -log(-g) and, at each n, -n log(-g), which are convex increasing functions of g. n log(n / y) is
    convex in (n, y). Near the edge, A is about c + n (k-1) / 2 times -log(-g), with a constant c
    (see the proof above).
    """
    linear, n = eta[:-1], -eta[-1]
    # The largest entry is subtracted, so that products of n and a large ratio do not cancel. g does
    # not depend on the subtracted number, so the gradient of this number is not needed.
    largest = jax.lax.stop_gradient(jnp.max(linear))
    gap = -largest - n * jnp.log(jnp.sum(jnp.exp((linear - largest) / n)))
    found = jnp.stack([-gap, -jnp.log(gap), n * jnp.log(n / gap), -jnp.log(n)])
    return jnp.concatenate([found, linear**2 / n])


@final
class _GapBelowOne(AbstractBijection):
    """A bijection from R^(k+1) onto the natural domain.

    Let n = exp(last coordinate) and g(v) = n log sum_i exp(v_i / n), which is negative in the
    domain. A shift of all v_i shifts g by as much. The mean of the other coordinates w is
    log(-g(eta)), and w - log(-g) are the deviations of eta / n from their mean. Both are of order
    one or logarithmic, so that float32 represents them accurately for large n.
    """

    k: int = eqx.field(static=True)

    cond_shape: ClassVar[None] = None

    def __init__(self, k: int):
        self.k = k

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.k + 1,)

    def transform_and_log_det(
        self, x: ArrayLike, condition: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        x = jnp.asarray(x)
        w, log_n = x[:-1], x[-1]
        n, log_gap = jnp.exp(log_n), jnp.mean(w)
        deviations = w - log_gap
        eta = n * (deviations - jax.nn.logsumexp(deviations)) - jnp.exp(log_gap)
        return jnp.append(eta, -n), self.k * log_n + log_gap

    def inverse_and_log_det(
        self, y: ArrayLike, condition: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        y = jnp.asarray(y)
        eta, n = y[:-1], -y[-1]
        log_n, log_gap = jnp.log(n), jnp.log(-n * jax.nn.logsumexp(eta / n))
        w = (eta - jnp.mean(eta)) / n + log_gap
        return jnp.append(w, log_n), -self.k * log_n - log_gap
