"""Exponential families with a trained moment network."""

from typing import ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._checks import check_instance
from nnef_dists.bayes import Module, check_whole, predictive_moments
from nnef_dists.distributions._accuracy import error_terms, rounding_of_mean
from nnef_dists.distributions._base import AbstractTractableFamily
from nnef_dists.distributions._curvature import covariance_and_mean
from nnef_dists.distributions._inverse import invert_mean, invert_network
from nnef_dists.distributions._report import ValidationReport
from nnef_dists.distributions._sampler import HMCSampler, default_sampler
from nnef_dists.families import AbstractDiscreteSupport, ExponentialFamily
from nnef_dists.moments import LogPartitionEstimate, exact_log_partition
from nnef_dists.networks import AbstractLogPartitionNetwork, AbstractMomentNetwork
from nnef_dists.sampling import AbstractSampler


@final
class AmortizedFamily(AbstractTractableFamily, Module):
    """An exponential family with a trained moment network.

        mu(eta) = E[T | eta],    Cov[T | eta] = d mu / d eta
        A(eta) = net(eta) + (A_0 - net(eta_0))

    Except in `predictive`, the weights are at their means. For one draw of the weights, use
    `nd.sample_all_parameters(q, key)`. The anchor A_0 = A(eta_0) fixes the additive constant of A.
    `log_partition`, `entropy` and `log_prob` need it, but `kl` does not. With a direct network,
    which predicts only moments, these four raise.

    An eta outside the natural domain raises. Inside a compiled program the result is NaN. An eta
    outside the training region issues an `ExtrapolationWarning`. A compiled program cannot warn:
    use `accuracy`, or `strict=True`, which raises in all cases.

    Args:
        family: The exponential family.
        network: A moment network of `family`.
        anchor: A at one eta, from `estimate_log_partition`. By default, A at `center`, the medoid
            of the training etas, if a closed form, sum, or quadrature in one or two dimensions
            gives it. A network with a base needs no anchor, and has none by default.
        sampler: The sampler that `sample` uses. Defaults to `HMCSampler()`. For discrete x,
            defaults to the sampling algorithm of the family if it has one. Otherwise, it defaults
            to a sampler by sums, or to `GibbsSampler()` if there are too many points.
        strict: Whether eta outside the training region raises instead of warning.

    Attributes:
        anchor: The anchor of A, a buffer that is not trained. None without an anchor.
        report: The errors on held-out labels, from `nd.validate`, a buffer that is not trained.
            None without validation. `print(q)` shows it.

    Raises:
        ValueError: If the network, or the anchor's eta, is of another family.

    Example:
        ```python
        q = nd.AmortizedFamily(family, network)
        q.entropy(eta), q.kl(eta, other), q.natural_parameters(q.mean(eta))
        ```
    """

    family: ExponentialFamily = eqx.field(static=True)
    network: AbstractMomentNetwork
    anchor: paramax.NonTrainable[LogPartitionEstimate] | None
    sampler: AbstractSampler
    strict: bool = eqx.field(static=True)
    # The report is no argument, because a copy with another network has none.
    report: paramax.NonTrainable[ValidationReport] | None = eqx.field(init=False)
    _region: ClassVar[str] = "training region"

    def __init__(
        self,
        family: ExponentialFamily,
        network: AbstractMomentNetwork,
        *,
        anchor: LogPartitionEstimate | paramax.NonTrainable[LogPartitionEstimate] | None = None,
        sampler: AbstractSampler | None = None,
        strict: bool = False,
    ):
        check_instance(family, ExponentialFamily, "family")
        check_instance(network, AbstractMomentNetwork, "network")
        check_whole(network)
        if network.family != family:
            raise ValueError(f"Expected a network of {family!r}; got one of {network.family!r}")
        self.family, self.network, self.strict = family, network, strict
        if sampler is None:
            is_discrete = isinstance(family.support, AbstractDiscreteSupport)
            sampler = default_sampler(family) if is_discrete else HMCSampler()
        self.sampler = sampler
        if anchor is None and _lacks_constant(network):
            anchor = exact_log_partition(family, self.center)
        if anchor is not None and not isinstance(anchor, paramax.NonTrainable):
            check_instance(anchor, LogPartitionEstimate, "anchor")
            anchor = paramax.NonTrainable(anchor)
        if anchor is not None and anchor.tree.eta.shape != (family.eta_dim,):
            raise ValueError(
                f"Expected an anchor with eta of shape {(family.eta_dim,)}; got "
                f"{anchor.tree.eta.shape}"
            )
        self.anchor, self.report = anchor, None

    def __repr__(self) -> str:
        """Returns the family, the network's class and unused features, and the verdict."""
        verdict = "not validated" if self.report is None else repr(self.report.tree)
        verdict = verdict.removeprefix("ValidationReport(").removesuffix(")")
        left_out = self.network.unused_features() if _is_concrete(self.network) else 0
        if left_out:
            verdict += f"; {left_out} convex features of the domain are left out by the fit"
        return f"AmortizedFamily of {self.family!r} by {type(self.network).__name__}: {verdict}"

    @property
    def center(self) -> Float[Array, " eta_dim"]:
        """The medoid of the training etas, `(eta_dim,)`, where A is anchored by default.

        It has the least summed distance to the other training etas, of which at most 512 are used,
        in whitened unconstrained coordinates.
        """
        return paramax.unwrap(self.network.standardization).center

    def eta_at(self, u: Float[Array, " m"]) -> Float[Array, " eta_dim"]:
        """Returns natural parameters in the training box, by a sigmoid of each u."""
        box = paramax.unwrap(self.network.standardization)
        return box.eta_at(box.low + (box.high - box.low) * jax.nn.sigmoid(u))

    def _predictive(
        self, eta: Float[Array, " eta_dim"], key: PRNGKeyArray, n: int
    ) -> tuple[Float[Array, " eta_dim"], Float[Array, " eta_dim"]]:
        return predictive_moments(self.network, lambda network: network(eta), key, n)

    def _potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        return self._log_partition_network().log_partition(eta)

    def _constant(self) -> Float[Array, ""]:
        network, anchor = self._log_partition_network(), paramax.unwrap(self.anchor)
        if anchor is None and network.is_absolute:
            return jnp.zeros((), self.center.dtype)
        if anchor is None:
            raise ValueError(
                f"Expected an anchor of A for {self.family!r}; got none. Build the AmortizedFamily "
                "with anchor=estimate_log_partition(family, q.center, key)."
            )
        return anchor.value - network.log_partition(anchor.eta)

    def _mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        return self.network(eta)

    def _potential_and_mean(
        self, eta: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, ""], Float[Array, " eta_dim"]]:
        return jax.value_and_grad(self._log_partition_network().log_partition)(eta)

    def _invert(
        self, mu: Float[Array, " eta_dim"]
    ) -> tuple[Float[Array, " eta_dim"], Bool[Array, ""]]:
        if isinstance(self.network, AbstractLogPartitionNetwork) and self.network.is_absolute:
            # With a base, A is accurate far from all training etas.
            eta, found = invert_mean(self, mu)
            return eta, found & self.network.is_inside(eta)
        return invert_network(self, self.network, mu)

    def _is_inside(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        return self.network.is_inside(eta)

    def _accuracy(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        if self.report is None:
            return jnp.full((), jnp.inf, eta.dtype)
        report = paramax.unwrap(self.report)
        covariance, mean = covariance_and_mean(self, eta)
        scale = jnp.sqrt(jnp.diagonal(covariance))
        terms = error_terms(self.network, eta, scale)
        limit = terms.limit(report.accuracy_factor, report.accuracy_floor)
        return limit + rounding_of_mean(eta, covariance, mean)

    def _log_partition_network(self) -> AbstractLogPartitionNetwork:
        if not isinstance(self.network, AbstractLogPartitionNetwork):
            raise ValueError(
                "Expected an AbstractLogPartitionNetwork, which models A(eta); got "
                f"{type(self.network).__name__}, which predicts only moments."
            )
        return self.network


def _lacks_constant(network: AbstractMomentNetwork) -> bool:
    return isinstance(network, AbstractLogPartitionNetwork) and not network.is_absolute


def _is_concrete(network: AbstractMomentNetwork) -> bool:
    """Returns whether the network has concrete arrays, without tracers or `ShapeDtypeStruct`."""
    leaves = jax.tree.leaves(network)
    return not any(isinstance(leaf, Tracer | jax.ShapeDtypeStruct) for leaf in leaves)
