"""Log-partition networks, whose gradients are the moments."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._checks import check_instance
from nnef_dists.bayes import AbstractParameter, BayesianMLP, GaussianParameter, draw_or_mean
from nnef_dists.families import ExponentialFamily
from nnef_dists.moments import MomentBatch, MomentDataset
from nnef_dists.networks._base import AbstractMomentNetwork, Standardization, standardize
from nnef_dists.networks._correction import LinearCorrection
from nnef_dists.networks._quadratic_potential import QuadraticPotential
from nnef_dists.networks._region import ErrorScales
from nnef_dists.networks._residual_process import ResidualProcess
from nnef_dists.networks._same_family import check_same_family
from nnef_dists.networks._taylor import choose_base, expand_labels
from nnef_dists.networks._terms import AbstractBase, BaseTerms

# Extrapolated share of a correction per unit of relative distance, and the largest error of a
# correction, in units of its size.
_EXTRAPOLATION, _MOST_LEARNED = 0.75, 2.0


class AbstractLogPartitionNetwork(AbstractMomentNetwork):
    """A learned log-partition A(eta), up to a constant, whose gradient is the moment map.

        mu(eta) = grad A(eta),    d mu / d eta = hess A(eta)

    The Jacobian of mu, which is the covariance of T, is symmetric for all weights.

    Attributes:
        family: The family whose log-partition is learned.
    """

    @property
    def is_absolute(self) -> bool:
        """Whether A has no unknown constant. False unless overridden."""
        return False

    @abstractmethod
    def potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns A(eta) at the weights' means, up to a constant, in nats.

        Args:
            eta: Raw natural parameters, valid, `(eta_dim,)`.

        Returns:
            A scalar, twice differentiable in eta.
        """

    def log_partition(
        self,
        eta: Float[Array, " eta_dim"],
        *,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
    ) -> Float[Array, ""]:
        """Returns A(eta) up to a constant, in nats.

        Args:
            eta: Raw natural parameters, valid, `(eta_dim,)`. Use `jax.vmap` for a batch.
            key: PRNG key that draws the weights. Without a key, they are at their means.
            sample: Whether to draw the weights. By default, they are drawn if there is a key.

        Returns:
            A scalar. Its gradient is the result of `__call__` with this key.

        Raises:
            ValueError: If `sample` is True without a key.
        """
        return draw_or_mean(self, key=key, sample=sample).potential(eta)

    def __call__(
        self,
        eta: Float[Array, " eta_dim"],
        *,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
    ) -> Float[Array, " eta_dim"]:
        """Returns the mean parameters mu = grad A(eta) (see `AbstractMomentNetwork`)."""
        return jax.grad(draw_or_mean(self, key=key, sample=sample).potential)(eta)


@final
class LogPartitionNetwork(AbstractLogPartitionNetwork):
    """A multilayer perceptron of Bayesian layers that corrects a base of the log-partition.

        A(eta) = A_B(eta) + s(eta) (a + b . x + c f(x)),    mu(eta) = grad A(eta)

    with A_B the log-partition of the base, s its scale, and x its standardized inputs. The
    `LinearCorrection` of the data sets a and b. The perceptron is f, and c is the size of the
    residual of the linear correction. If the base becomes exact, s vanishes, and so does the
    correction. For example, `LaplaceBase` becomes exact for posteriors of many observations.

    `choose_base` returns a `LaplaceBase`, a `VariationalBase`, or None if both are inaccurate.
    Without a base

        A(eta) = Q(eta) + c f(x(eta))

    up to a constant, with x the standardized coordinates of eta and Q the `QuadraticPotential`.

    After training, `fit_residual` adds s(eta) g(x), or c g(x) without a base. The `ResidualProcess`
    g is the posterior of the network's errors, given labels.

    A base takes longer to compute than a perceptron. For training, `batch(data)` computes the base
    once per label.

    Args:
        family: The exponential family.
        data: Moment data of that family, from which coordinates and initial values are set.
        base: The base, or None for no base. Defaults to "auto", the result of `choose_base`.
        width: Number of units per hidden layer, at least 1. Defaults to 64.
        depth: Number of hidden layers, at least 1. Defaults to 3.
        activation: Activation of the hidden layers, twice differentiable. Defaults to
            `jax.nn.silu`.
        param_type: Type of the weights' and biases' distribution. Defaults to `GaussianParameter`.
        key: PRNG key for the weights' means.

    Raises:
        ValueError: If `data` or `base` is of another family, `data` has too few valid labels, a
            size is below 1, or the base does not exist at a valid label.
    """

    family: ExponentialFamily = eqx.field(static=True)
    standardization: Standardization
    base: AbstractBase | None
    correction: LinearCorrection | None
    quadratic: QuadraticPotential | None
    mlp: BayesianMLP
    residual: ResidualProcess | None

    def __init__(
        self,
        family: ExponentialFamily,
        data: MomentDataset,
        *,
        base: AbstractBase | Literal["auto"] | None = "auto",
        width: int = 64,
        depth: int = 3,
        activation: Callable[[Array], Array] = jax.nn.silu,
        param_type: type[AbstractParameter] = GaussianParameter,
        key: PRNGKeyArray,
    ):
        self.family = family
        self.standardization = standardize(family, data, width=width, depth=depth)
        if isinstance(base, str) and base == "auto":
            base = choose_base(family, data)
        elif base is not None:
            check_instance(base, AbstractBase, "base")
            check_same_family("a base", getattr(base, "family", family), family)
        self.base, self.correction, self.quadratic, self.residual = base, None, None, None
        if base is None:
            self.quadratic = QuadraticPotential.fit(data, self.standardization)
            input_dim = self.standardization.input_dim
        else:
            self.correction = LinearCorrection.fit(expand_labels(base, data))
            input_dim = self.correction.shift.tree.shape[0]
        self.mlp = BayesianMLP(
            input_dim,
            1,
            width,
            depth,
            activation=activation,
            param_type=param_type,
            dtype=data.eta.dtype,
            key=key,
        )

    @property
    def is_absolute(self) -> bool:
        """Whether A has no unknown constant. True with a base."""
        return self.base is not None

    def unused_features(self) -> int:
        """Returns the number of features that the quadratic fit leaves out, 0 with a base."""
        if self.quadratic is None:
            return 0
        return int(np.sum(np.asarray(self.quadratic.features.tree) == 0))

    def batch(self, data: MomentDataset) -> MomentBatch:
        """Returns the valid labels, with the computed base (see `AbstractMomentNetwork`)."""
        labels = super().batch(data)
        return labels if self.base is None else expand_labels(self.base, data)

    def is_inside(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        """Returns whether eta, `(eta_dim,)`, is in the region of validity.

        With a base, the base must exist, and its scale must be at most 1.25 times the largest scale
        of the training etas. Without a base, eta must be in the training region.
        """
        if self.base is None or self.correction is None:
            return self.standardization.is_inside(self.standardization.inputs(eta))
        terms = self.base(eta)
        return jnp.isfinite(terms.value) & self.correction.is_inside(terms.scale)

    def error_scales(self, eta: Float[Array, " eta_dim"]) -> ErrorScales:
        """Returns the size of errors, relative to training etas (see `AbstractMomentNetwork`).

        With a base, the size is the scale of the base, relative to the median over training etas.
        The extrapolated share is 1 - exp(-0.75 t), with t the distance of the base's inputs from
        the training examples. The limit of errors is twice the learned correction of the mean, the
        linear one plus the others. A function that is bounded, and small in a region, grows with
        such a geometric mean outside of the region. The two constants fit the errors of families
        with two and seven statistics, up to 50 times outside the training ranges. Errors grow at
        least in proportion to `TrainingRegion.remoteness`, since a correction can be small by
        accident.

        Reference:
            Ransford, *Potential Theory in the Complex Plane* (1995), section 4.3.
        """
        if self.base is None or self.correction is None:
            return super().error_scales(eta)
        base, correction = self.base, self.correction

        def learned(eta):
            terms = base(eta)
            x = correction.standardized(terms.inputs)
            return terms.scale * jnp.stack([correction(x), self._rest(x)]), (terms.scale, x)

        parts, (scale, x) = jax.jacrev(learned, has_aux=True)(eta)
        return ErrorScales(
            correction.relative_scale(scale),
            correction.region.remoteness(x),
            -jnp.expm1(-_EXTRAPOLATION * correction.region.distance(x)),
            _MOST_LEARNED * jnp.sum(jnp.abs(parts), 0),
        )

    def near(self, label: MomentBatch) -> Callable[[Array], Array]:
        """Returns the moment map near a label (see `AbstractMomentNetwork`)."""
        if self.base is None or label.base is None:
            return self
        label.base.check_source(self.base, self.family)
        return jax.grad(lambda eta: self._corrected(label.base(eta)))

    def coordinates_near(
        self, label: MomentBatch
    ) -> Callable[[Array], tuple[Float[Array, ""], Float[Array, " m"]]]:
        """Returns the scale and inputs of the learned correction, near a label.

        Args:
            label: One label, from a batch without its leading axis.

        Returns:
            A function from eta, `(eta_dim,)`, to the scale in nats and the standardized inputs,
            `(m,)`, of the perceptron and the residual.
        """
        if self.base is None or self.correction is None:
            assert self.quadratic is not None
            scale = paramax.unwrap(self.quadratic.residual_scale)
            return lambda eta: (scale, self.standardization.inputs(eta))
        correction = self.correction
        base = self.base if label.base is None else label.base

        def coordinates(eta):
            terms = base(eta)
            return terms.scale, correction.standardized(terms.inputs)

        return coordinates

    def level_error(self, label: MomentBatch) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the error of A at a label (see `AbstractMomentNetwork`)."""
        if self.base is None or label.base is None:
            return super().level_error(label)
        gap = label.base.gap
        return self._added(label.base(label.eta)) - gap.value, gap.error

    def potential(self, eta: Float[Array, " eta_dim"]) -> Float[Array, ""]:
        """Returns A(eta) at the weights' means (see `AbstractLogPartitionNetwork`)."""
        if self.base is not None:
            return self._corrected(self.base(eta))
        assert self.quadratic is not None
        x = self.standardization.inputs(eta)
        rest = self.mlp(x)[0] + self._process(x)
        rest = paramax.unwrap(self.quadratic.residual_scale) * rest
        return self.quadratic(eta, x, self.family.convex_features(eta)) + rest

    def _corrected(self, terms: BaseTerms) -> Float[Array, ""]:
        return terms.value + self._added(terms)

    def _added(self, terms: BaseTerms) -> Float[Array, ""]:
        """Returns the correction of the base, in nats."""
        assert self.correction is not None
        x = self.correction.standardized(terms.inputs)
        return terms.scale * (self.correction(x) + self._rest(x))

    def _rest(self, x: Float[Array, " m"]) -> Float[Array, ""]:
        """Returns the terms of perceptron and residual, without the linear correction."""
        assert self.correction is not None
        rest = paramax.unwrap(self.correction.residual_scale) * self.mlp(x)[0]
        return rest + self._process(x)

    def _process(self, x: Float[Array, " m"]) -> Float[Array, ""]:
        return jnp.zeros((), x.dtype) if self.residual is None else self.residual(x)
