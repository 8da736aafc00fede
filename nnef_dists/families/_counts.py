"""Families of counts: Conway-Maxwell-Poisson, Poisson and binomial."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer, check_range
from nnef_dists.families._base import ExponentialFamily
from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._constraints import negative
from nnef_dists.families._discrete import Counts
from nnef_dists.families._domain import ProductDomain, domain
from nnef_dists.families._gamma_functions import log_factorial


@final
class ConwayMaxwellPoisson(ExponentialFamily):
    """The Conway-Maxwell-Poisson distribution of counts x = 0, 1, ...

        p(x | eta) proportional to exp(eta1 x + eta2 log x!),    eta2 < 0

    Statistics `x` and `log_factorial`. With dispersion nu = -eta2 and rate lambda = exp(eta1), the
    probability is proportional to lambda^x / (x!)^nu. Dispersion 1 is a Poisson distribution. Below
    1 the variance exceeds the mean, above 1 it is smaller. The mode is near lambda^(1 / nu).

    The sum over counts exists for eta2 < 0, because x! grows faster than any exponential of x. The
    edge eta2 = 0, a geometric distribution if eta1 < 0, is excluded, so that the domain is open.

    Reference:
        Shmueli, Minka, Kadane, Borle and Boatwright, *A useful distribution for fitting discrete
        data*, J. R. Stat. Soc. C 54 (2005).
    """

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain(log_factorial=negative)

    @property
    def support(self) -> Counts:
        """All counts."""
        return Counts()

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns x and log x!."""
        return {"x": x, "log_factorial": log_factorial(x)}

    def to_natural(self, rate: Float[Array, ""], dispersion: Float[Array, ""]) -> Float[Array, "2"]:
        """Returns eta for a positive rate lambda and a positive dispersion nu."""
        rate = check_range("rate", rate, 0)
        return self.check_eta(jnp.stack([jnp.log(rate), -jnp.asarray(dispersion, float)]))


@final
class Poisson(AbstractNamedFamily):
    """The Poisson distribution of counts x = 0, 1, ...

        p(x | eta) proportional to exp(eta x) / x!

    Statistic `x`. The rate is exp(eta), for all real eta.
    """

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain()

    @property
    def support(self) -> Counts:
        """All counts."""
        return Counts()

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns x."""
        return {"x": x}

    def log_base_measure(self, x: Array) -> Float[Array, ""]:
        """Returns -log x!."""
        return -log_factorial(x)

    def log_partition(self, eta: Float[Array, "1"]) -> Float[Array, ""]:
        """Returns A = exp(eta), in nats."""
        return jnp.exp(self.check_eta(eta)[0])

    def mean(self, eta: Float[Array, "1"]) -> Float[Array, "1"]:
        """Returns exp(eta)."""
        return jnp.exp(self.check_eta(eta))


@final
class Binomial(AbstractNamedFamily):
    """The binomial distribution of x successes in n trials.

        p(x | eta) = C(n, x) exp(eta x - A),    A = n log(1 + exp(eta))

    Statistic `x`. The probability of a success is 1 / (1 + exp(-eta)), for all real eta.

    Args:
        n: Number of trials, at least 1.

    Raises:
        ValueError: If `n < 1`.
    """

    n: int = eqx.field(static=True)

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain()

    def __init__(self, n: int):
        self.n = check_integer("n", n, 1)

    @property
    def support(self) -> Counts:
        """The counts up to n."""
        return Counts(0, self.n)

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns x."""
        return {"x": x}

    def log_base_measure(self, x: Array) -> Float[Array, ""]:
        """Returns log C(n, x)."""
        n = jnp.asarray(float(self.n), x.dtype)
        return log_factorial(n) - log_factorial(x) - log_factorial(n - x)

    def log_partition(self, eta: Float[Array, "1"]) -> Float[Array, ""]:
        """Returns A, in nats."""
        return self.n * jax.nn.softplus(self.check_eta(eta)[0])

    def mean(self, eta: Float[Array, "1"]) -> Float[Array, "1"]:
        """Returns n / (1 + exp(-eta))."""
        return self.n * jax.nn.sigmoid(self.check_eta(eta))
