"""What a law needs to serve as a prior: small capabilities, apart from being a parameter."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, Float

from ._parameter import AbstractParameter


class AbstractPriorLaw(eqx.Module):
    """A law with a density and, against the laws it knows, a closed cross-entropy."""

    @abstractmethod
    def log_probs(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the log density of every entry of `value`, in nats."""

    @abstractmethod
    def cross_entropies(self, q: AbstractParameter) -> Float[Array, "..."]:
        """Returns `-E_q[log p(x)]` for every entry of `q`, in nats and in the shape of `q`.

        Raises:
            ValueError: If there is no closed form for the law of `q`.
        """


class AbstractAbsoluteMoment(eqx.Module):
    """A law whose mean distance to a point is known: what a Laplace prior asks of it."""

    @abstractmethod
    def mean_distance(self, centre: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns `E|x - centre|` for every entry."""
