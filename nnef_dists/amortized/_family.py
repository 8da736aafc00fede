"""A family whose moments a network has learned, as a distribution."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._checks import as_key, as_point, as_vector, check_instance, guard
from nnef_dists.amortized._extrapolation import check_extrapolation
from nnef_dists.amortized._inverse import invert
from nnef_dists.amortized._method import jittable
from nnef_dists.amortized._report import ValidationReport
from nnef_dists.amortized._sampler import HMCSampler
from nnef_dists.bayes import Module, check_whole, predictive_moments
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import LogPartitionEstimate, exact_log_partition
from nnef_dists.networks import AbstractLogPartitionNetwork, AbstractMomentNetwork
from nnef_dists.sampling import AbstractSampler
from nnef_dists.saving import register_saveable

register_saveable(LogPartitionEstimate)


@register_saveable
@final
class AmortizedFamily(Module):
    """An exponential family and its trained moment network: a distribution without a name.

        mu(eta) = E[T | eta],    Cov[T | eta] = d mu / d eta
        A(eta) = net(eta) - net(eta_0) + A_0

    Methods take one eta: use `jax.vmap` for a batch. The weights are at their means: for one draw
    of them use `nd.sample_all_parameters(q, key)`.

    A network of the log-partition knows A up to a constant, which cancels from `kl`. What needs A
    itself (`log_partition`, `entropy`, `log_prob`) takes the constant from an anchor, A_0 at some
    eta_0. A direct network has moments alone; there these methods say so.

    An eta outside the natural domain raises; inside a compiled program the result is NaN. An eta
    outside the training region issues an `ExtrapolationWarning`, which a compiled program cannot:
    use `is_inside`, or `strict=True`, which raises in all cases.

    Args:
        family: The exponential family.
        network: A moment network of that family.
        anchor: A at some eta, from `estimate_log_partition`. None computes it at `center`, the
            medoid of the training etas, where that takes no sampling: for closed forms and in one
            and two dimensions.
        sampler: The sampler of `sample`. Defaults to `HMCSampler()`.
        strict: Whether an eta outside the training region is an error.

    Attributes:
        anchor: The anchor of A, a buffer that is never trained; None without one.
        report: The errors on held-out labels, from `nd.validate`, a buffer that is never trained;
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
    # Not an argument: a copy with another network has no report.
    report: paramax.NonTrainable[ValidationReport] | None = eqx.field(init=False)

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
        self.sampler = HMCSampler() if sampler is None else sampler
        if anchor is None and isinstance(network, AbstractLogPartitionNetwork):
            anchor = exact_log_partition(family, self.center)
        if isinstance(anchor, LogPartitionEstimate):
            anchor = paramax.NonTrainable(anchor)
        if anchor is not None and anchor.tree.eta.shape != (family.eta_dim,):
            raise ValueError(
                f"Expected an anchor with eta of shape {(family.eta_dim,)}; got "
                f"{anchor.tree.eta.shape}"
            )
        self.anchor, self.report = anchor, None

    def __repr__(self) -> str:
        """The family, the network's class, and the verdict of `nd.validate`."""
        verdict = "not validated" if self.report is None else repr(self.report.tree)
        verdict = verdict.removeprefix("ValidationReport(").removesuffix(")")
        return f"AmortizedFamily of {self.family!r} by {type(self.network).__name__}: {verdict}"

    @property
    def center(self) -> Float[Array, " eta_dim"]:
        """The medoid of the training etas, `(eta_dim,)`, where A is anchored by default.

        Of at most 512 training etas, it is the one whose summed distance to the others is least, in
        whitened unconstrained coordinates.
        """
        return paramax.unwrap(self.network.standardisation).center

    @jittable
    def is_inside(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        """Returns whether a valid eta, `(eta_dim,)`, is near training etas: see `TrainingRegion`.

        An eta whose coordinates were all seen, but never together, is outside.
        """
        return self._is_inside(as_vector(eta, self.family.eta_dim, "eta", self.family))

    @jittable
    def mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        """Returns the mean parameters mu = E[T | eta], `(eta_dim,)`.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            The mean parameters.

        Raises:
            ValueError: For an eta outside the natural domain, or in a strict family outside the box
                of the training etas. Inside a compiled program the result is NaN for an eta outside
                the domain, and a strict family raises by `equinox.error_if`. All methods that take
                eta do this.
        """
        return self._mean(self._checked(eta))

    @jittable
    def covariance(self, eta: Float[Array, " eta_dim"]) -> Float[Array, "eta_dim eta_dim"]:
        """Returns Cov[T | eta]: the symmetric part of the network's Jacobian.

        The Jacobian of a log-partition's gradient is symmetric; that of a direct network is about
        so where it is well trained. Neither has to be positive definite: `is_positive_definite`
        tells, and nothing is repaired.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A symmetric matrix, `(eta_dim, eta_dim)`.
        """
        return self._covariance(self._checked(eta))

    @jittable
    def is_positive_definite(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        """Returns whether the covariance is positive along all directions in which eta can move.

        These are the unconstrained coordinates: an over-complete family, such as
        `MultivariateNormal`, has statistics that repeat each other and a singular covariance.
        """
        return self._is_positive_definite(self._checked(eta))

    @jittable
    def log_partition(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns A(eta), in nats: exact at the anchor, learned from there on.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A scalar.

        Raises:
            ValueError: For a direct network, and without an anchor.
        """
        return self._log_partition(self._checked(eta))

    @jittable
    def entropy(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns the differential entropy A(eta) - eta . mu(eta), in nats.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A scalar, which may be negative.

        Raises:
            ValueError: For a family with a base measure, whose entropy also needs E[log h]; and
                what `log_partition` raises.
        """
        if not self.family.has_unit_base_measure:
            raise ValueError(
                f"Expected a family without a base measure: the entropy of {self.family!r} needs "
                "E[log h]. Train a network of BaseMeasureAsStatistic(family), at whose log_h = 1 "
                "it is this family"
            )
        return self._entropy(self._checked(eta))

    @jittable
    def kl(
        self, eta_p: Float[Array, " eta_dim"], eta_q: Float[Array, " eta_dim"]
    ) -> Float[Array, ""]:
        """Returns KL(p || q) = (eta_p - eta_q) . mu_p - A(eta_p) + A(eta_q), in nats.

        It needs no anchor. Where the network is not convex it may be negative; nothing is clipped.

        Args:
            eta_p: Valid natural parameters of p, `(eta_dim,)`.
            eta_q: Those of q.

        Returns:
            A scalar.

        Raises:
            ValueError: For a direct network.
        """
        return self._kl(self._checked(eta_p), self._checked(eta_q))

    @jittable
    def log_prob(self, x: Array, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns log p(x | eta), in nats.

        Args:
            x: One point of the support, of shape `family.x_shape`.
            eta: Valid natural parameters, `(eta_dim,)`.

        Returns:
            A scalar.

        Raises:
            ValueError: What `log_partition` raises.
        """
        x = as_point(x, self.family.x_shape, self.family)
        return self._log_prob(x, self._checked(eta))

    @jittable
    def natural_parameters(
        self, mu: Float[Array, " eta_dim"], *, throw: bool = True
    ) -> Float[Array, " eta_dim"]:
        """Returns the eta whose mean parameters are mu: the inverse of `mean`.

        It is sought in the training region; over-complete families get the symmetric one.
        Its derivative in mu is the inverse of the covariance, in the coordinates of eta.

        Args:
            mu: Mean parameters, `(eta_dim,)`, of an eta in the training region.
            throw: Whether to raise if there is no such eta; otherwise it is NaN.

        Returns:
            Valid natural parameters, `(eta_dim,)`.

        Raises:
            RuntimeError: If no eta of the box comes within sqrt(eps) of mu, in z units, where eps
                is the rounding of mu's dtype. Inside a compiled program eta is NaN, or raises in a
                strict family.
        """
        mu = as_vector(mu, self.family.eta_dim, "mu", self.family)
        inputs, residual = invert(self.network, mu)
        coordinates = self.network.standardisation
        tolerance = jnp.sqrt(jnp.finfo(mu.dtype).eps).astype(mu.dtype)
        found = (residual <= tolerance) & coordinates.is_inside(inputs)
        eta = coordinates.eta_at(inputs)
        if not throw:
            return jnp.where(found, eta, jnp.nan)
        return guard(
            eta,
            found,
            "Expected mean parameters of an eta in the training region",
            mu,
            "Check that mu is attainable, widen the training etas, or use throw=False for NaN.",
            strict=self.strict,
            error=RuntimeError,
        )

    @jittable
    def predictive(
        self, eta: Float[Array, " eta_dim"], key: PRNGKeyArray, n: int = 64
    ) -> tuple[Float[Array, " eta_dim"], Float[Array, " eta_dim"]]:
        """Returns mean and standard deviation of mu(eta) over draws of the weights.

        Args:
            eta: Valid natural parameters, `(eta_dim,)`.
            key: For the draws of the weights.
            n: How many sets of weights are drawn, at least 2.

        Returns:
            Both `(eta_dim,)`, in units of T.

        Raises:
            ValueError: For fewer than 2 draws.
        """
        return self._predictive(self._checked(eta), as_key(key), n)

    @jittable
    def sample(
        self, key: PRNGKeyArray, eta: Float[Array, " eta_dim"], n: int
    ) -> Float[Array, "n *x_shape"]:
        """Draws from p(x | eta), as the sampler does; the network has no part in it by default.

        Args:
            key: PRNG key.
            eta: Valid natural parameters, `(eta_dim,)`.
            n: How many points, at least 1.

        Returns:
            The draws, `(n, *x_shape)`.

        Raises:
            RuntimeError: If the sampler's checks fail.
            ValueError: If n < 1, and what `family.check_eta` raises.
        """
        key, eta = as_key(key), self.family.check_eta(eta, strict=self.strict)
        x = self.sampler.sample(self.family, key, eta, n)
        if not self.strict:
            return x
        return guard(
            x,
            ~jnp.any(jnp.isnan(x)),
            "Expected draws that pass the sampler's checks",
            *("NaN", "Use another sampler."),
            strict=True,
            error=RuntimeError,
        )

    def _checked(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        eta = self.family.check_eta(eta, strict=self.strict)
        return check_extrapolation(eta, self.is_inside(eta), strict=self.strict)

    # Compiled, as operations one by one would take seconds; checks of concrete values are outside.
    @eqx.filter_jit
    def _is_inside(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        coordinates = self.network.standardisation
        return coordinates.is_inside(coordinates.inputs(eta))

    @eqx.filter_jit
    def _mean(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " eta_dim"]:
        return self.network(eta)

    @eqx.filter_jit
    def _predictive(
        self, eta: Float[Array, " eta_dim"], key: PRNGKeyArray, n: int
    ) -> tuple[Float[Array, " eta_dim"], Float[Array, " eta_dim"]]:
        return predictive_moments(self.network, lambda network: network(eta), key, n)

    @eqx.filter_jit
    def _covariance(self, eta: Float[Array, " eta_dim"]) -> Float[Array, "eta_dim eta_dim"]:
        jacobian = jax.jacfwd(self.network)(eta)
        return (jacobian + jacobian.T) / 2

    @eqx.filter_jit
    def _is_positive_definite(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        u = self.family.unconstrain_eta(eta)
        tangents = jax.jacfwd(self.family.constrain_eta)(u)
        information = tangents.T @ self._covariance(eta) @ tangents
        diagonal = jnp.diagonal(information)
        # To unit diagonal, so that scales do not matter to float arithmetic.
        scale = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1))
        factor = jnp.linalg.cholesky(information / jnp.outer(scale, scale))
        return jnp.all(diagonal > 0) & jnp.all(jnp.isfinite(factor))

    @eqx.filter_jit
    def _log_partition(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        network, anchor = self._log_partition_network(), paramax.unwrap(self.anchor)
        if anchor is None:
            raise ValueError(
                f"Expected an anchor of A for {self.family!r}; got none: build the AmortizedFamily "
                "with anchor=estimate_log_partition(family, q.center, key)"
            )
        return network.log_partition(eta) - network.log_partition(anchor.eta) + anchor.value

    @eqx.filter_jit
    def _entropy(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        return self._log_partition(eta) - jnp.sum(eta * self.network(eta))

    @eqx.filter_jit
    def _kl(
        self, eta_p: Float[Array, " eta_dim"], eta_q: Float[Array, " eta_dim"]
    ) -> Float[Array, ""]:
        network = self._log_partition_network()
        difference = network.log_partition(eta_q) - network.log_partition(eta_p)
        return jnp.sum((eta_p - eta_q) * network(eta_p)) + difference

    @eqx.filter_jit
    def _log_prob(self, x: Array, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        return self.family.unnormalized_logdensity(eta, x) - self._log_partition(eta)

    def _log_partition_network(self) -> AbstractLogPartitionNetwork:
        if not isinstance(self.network, AbstractLogPartitionNetwork):
            raise ValueError(
                "Expected an AbstractLogPartitionNetwork, which knows A; got "
                f"{type(self.network).__name__}, which has moments alone"
            )
        return self.network
