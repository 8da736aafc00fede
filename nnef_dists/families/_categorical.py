"""The categorical distribution."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer
from nnef_dists.families._closed_form import AbstractNamedFamily
from nnef_dists.families._discrete import Categories
from nnef_dists.families._domain import ProductDomain, domain


@final
class Categorical(AbstractNamedFamily):
    """The categorical distribution on x = 0, ..., k - 1.

        p(x | eta) proportional to exp(eta_x) for x < k - 1, and to 1 for the last category

    Statistic `is`, shape `(k - 1,)`, the indicators of all categories but the last. This form is
    minimal. Eta, which may be any real vector, has the log-odds against the last category.

    Args:
        k: The number of categories, at least 2.

    Raises:
        ValueError: If `k < 2`.
    """

    k: int = eqx.field(static=True)

    x_shape: ClassVar[tuple[int, ...]] = ()
    natural_domain: ClassVar[ProductDomain] = domain()

    def __init__(self, k: int):
        self.k = check_integer("k", k, 2)

    @property
    def support(self) -> Categories:
        """The categories."""
        return Categories(self.k)

    def compute_stats(self, x: Array) -> dict[str, Array]:
        """Returns the indicators of all categories but the last."""
        return {"is": (x == jnp.arange(self.k - 1)).astype(float)}

    def log_partition(self, eta: Float[Array, " m"]) -> Float[Array, ""]:
        """Returns A = log(1 + sum exp(eta)), in nats."""
        return jax.nn.logsumexp(jnp.append(self.check_eta(eta), 0))

    def mean(self, eta: Float[Array, " m"]) -> Float[Array, " m"]:
        """Returns the probabilities of all categories but the last."""
        return jax.nn.softmax(jnp.append(self.check_eta(eta), 0))[:-1]

    def to_natural(self, probabilities: Float[Array, " k"]) -> Float[Array, " m"]:
        """Returns eta for positive probabilities, `(k,)`."""
        logs = jnp.log(jnp.asarray(probabilities, float))
        return self.check_eta(logs[:-1] - logs[-1])
