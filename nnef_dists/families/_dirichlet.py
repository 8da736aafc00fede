"""The Dirichlet distribution."""

import math
from typing import ClassVar, final

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer
from nnef_dists.families._boundary import log_above_zero, log_indicator
from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._constraints import interval
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._gamma_functions import log_multivariate_beta, mean_log_share
from nnef_dists.families._support import AdditiveLogRatio
from nnef_dists.families._symmetries import Permutation
from nnef_dists.families._symmetry import AbstractSymmetry

# Largest difference of the sum of x from 1.
_SUM_TOLERANCE = 1e-3


@final
class Dirichlet(AbstractNamedFamily):
    """The Dirichlet distribution on the simplex, in natural parameters.

        p(x | eta) proportional to exp(sum_i eta_i log x_i),    eta_i > -1

    with x_i > 0 and sum x_i = 1, as a density of the first k - 1 entries. Statistic `log_x`, shape
    `(k,)`. The concentration is alpha = eta + 1. At the face x_i = 0 the density is x_i^eta_i,
    integrable only for exponents above -1. Elsewhere it is bounded. The beta distribution is k = 2.

    In float32, x_i cannot be below 1e-38, so HMC needs concentrations above about 0.1.

    Args:
        k: Number of entries, at least 2.

    Raises:
        ValueError: If `k < 2`.
    """

    k: int = eqx.field(static=True)

    natural_domain: ClassVar[ProductDomain] = domain(log_x=interval(-1.0, math.inf))

    def __init__(self, k: int):
        self.k = check_integer("k", k, 2)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """The shape of one point: `(k,)`."""
        return (self.k,)

    @property
    def support(self) -> AdditiveLogRatio:
        """The simplex."""
        return AdditiveLogRatio(self.k)

    @property
    def symmetries(self) -> tuple[AbstractSymmetry, ...]:
        """Permutations of the entries."""
        return (Permutation("log_x", self.k),)

    def compute_stats(self, x: Float[Array, " k"]) -> dict[str, Array]:
        """Returns the logarithm of every entry."""
        return {"log_x": log_above_zero(x)}

    def log_base_measure(self, x: Float[Array, " k"]) -> Float[Array, ""]:
        """Returns 0, or -inf outside the support: entries of 0 and less, sums other than 1."""
        return log_indicator((x > 0) & (jnp.abs(jnp.sum(x) - 1) <= _SUM_TOLERANCE), x)

    @property
    def has_unit_base_measure(self) -> bool:
        """True: h is 1 on the support."""
        return True

    def log_partition(self, eta: Float[Array, " k"]) -> Float[Array, ""]:
        """Returns A = sum_i log Gamma(alpha_i) - log Gamma(sum_i alpha_i), in nats."""
        return log_multivariate_beta(self.to_concentration(eta))

    def mean(self, eta: Float[Array, " k"]) -> Float[Array, " k"]:
        """Returns digamma(alpha_i) - digamma(sum_i alpha_i)."""
        return mean_log_share(self.to_concentration(eta))

    def to_concentration(self, eta: Float[Array, " k"]) -> Float[Array, " k"]:
        """Returns the concentration alpha, `(k,)`."""
        return self.check_eta(eta) + 1

    def to_natural(self, alpha: Float[Array, " k"]) -> Float[Array, " k"]:
        """Returns eta for a positive concentration, `(k,)`."""
        return self.check_eta(alpha - 1)
