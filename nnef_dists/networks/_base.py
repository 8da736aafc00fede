"""The interface of moment networks, and their standardization."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import paramax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists import families
from nnef_dists._checks import check_instance
from nnef_dists._ranges import check_integer
from nnef_dists.bayes import Module, draw_or_mean
from nnef_dists.families import ExponentialFamily, unconstrain_etas
from nnef_dists.moments import MomentBatch, MomentDataset
from nnef_dists.networks._region import ErrorScales, TrainingRegion
from nnef_dists.networks._same_family import check_same_family


class AbstractMomentNetwork(Module):
    """A learned moment map, eta -> E[T | eta], with random weights.

    The call protocol is common to all Bayesian modules: a `key` draws one set of weights. Without a
    key, the weights are at their means.

    Attributes:
        family: The family whose moments are learned.
        standardization: Coordinates of eta and of the moments, and the training region.
    """

    family: eqx.AbstractVar[ExponentialFamily]
    standardization: eqx.AbstractVar["Standardization"]

    @abstractmethod
    def __call__(
        self,
        eta: Float[Array, " eta_dim"],
        *,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
    ) -> Float[Array, " eta_dim"]:
        """Returns the mean parameters mu = E[T | eta], flat.

        Args:
            eta: Raw natural parameters, valid, `(eta_dim,)`. Use `jax.vmap` for a batch.
            key: PRNG key that draws the weights. Without a key, they are at their means.
            sample: Whether to draw the weights. By default, they are drawn if there is a key.

        Returns:
            The mean parameters, `(eta_dim,)`.

        Raises:
            ValueError: If `sample` is True without a key.
        """

    def unused_features(self) -> int:
        """Returns the number of convex features of the natural domain that are not used."""
        return 0

    def batch(self, data: MomentDataset) -> MomentBatch:
        """Returns the valid labels for a training loop, with the base if the network has one.

        Args:
            data: Moment data of the network's family.

        Returns:
            The batch `data.batch()`, whose field `base` is set if the network has a base.

        Raises:
            ValueError: If the data is of another family, no label is valid, or the base does not
                exist at one of them.
        """
        check_same_family("data", data.family, self.family)
        return data.batch()

    def near(self, label: MomentBatch) -> Callable[[Array], Array]:
        """Returns the moment map near one label, for losses.

        Args:
            label: One label, from a batch without its leading axis.

        Returns:
            A function from eta to moments, both `(eta_dim,)`. At the label's eta, the function and
            its Jacobian agree with the network at the weights' means. Calls are cheaper if the
            label is from `batch`.
        """
        return self

    def level_error(self, label: MomentBatch) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the error of A at one label, in nats, at the weights' means.

        Args:
            label: One label, from a batch without its leading axis.

        Returns:
            A minus its estimate, and the standard error of the estimate. Without an estimate, as
            for a network without a base, the standard error is infinite.
        """
        return jnp.zeros((), label.eta.dtype), jnp.full((), jnp.inf, label.eta.dtype)

    def is_inside(self, eta: Float[Array, " eta_dim"]) -> Bool[Array, ""]:
        """Returns whether a valid eta, `(eta_dim,)`, is in the training region."""
        return self.standardization.is_inside(self.standardization.inputs(eta))

    def error_scales(self, eta: Float[Array, " eta_dim"]) -> ErrorScales:
        """Returns the size of errors at a valid eta, relative to training etas.

        Errors grow in proportion to `TrainingRegion.remoteness`.

        Args:
            eta: Natural parameters, `(eta_dim,)`.

        Returns:
            The growth of errors.
        """
        far = self.standardization.region.remoteness(self.standardization.inputs(eta))
        return ErrorScales(jnp.ones_like(far), far, jnp.zeros_like(far), jnp.zeros_like(eta))


class AbstractDirectNetwork(AbstractMomentNetwork):
    """A network whose outputs are standardized moments: mu(eta) = standardization(body(inputs)).

    A subclass sets the body. The Jacobian is symmetric only as far as training makes it so.

    Attributes:
        standardization: Coordinates of eta and of the moments, set from data.
        body: Map from standardized inputs, `(m,)`, to standardized outputs, `(eta_dim,)`.
    """

    standardization: eqx.AbstractVar["Standardization"]
    body: eqx.AbstractVar[Any]

    def unused_features(self) -> int:
        """Returns the number of convex features. A direct network uses none of them."""
        eta = jax.ShapeDtypeStruct((self.family.eta_dim,), jnp.result_type(float))
        return jax.eval_shape(self.family.convex_features, eta).shape[0]

    def __call__(
        self,
        eta: Float[Array, " eta_dim"],
        *,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
    ) -> Float[Array, " eta_dim"]:
        """Returns the mean parameters mu = E[T | eta] (see `AbstractMomentNetwork`)."""
        net = draw_or_mean(self, key=key, sample=sample)
        inputs = net.standardization.inputs(eta)
        return net.standardization.moments(inputs, net.body(inputs))


@final
class Standardization(eqx.Module):
    """Coordinates from data in which eta and E[T] are of order one. They are not trained.

    Inputs are the unconstrained coordinates u(eta) of the natural domain (logarithms of negative
    parameters, Cholesky factors of definite ones), shifted and scaled to mean 0 and variance 1. An
    output y gives

        mu_i = s_i(eta) (c_i + r_i y_i),    log s_i(eta) = a_i + b_i . inputs(eta)

    with s_i a log-linear least-squares fit to the labels' sd(T_i | eta). The mean and standard
    deviation of mu_i / s_i over the data are c_i and r_i. So a unit of y_i is about r_i z units at
    all eta, even if moments range over decades.

    The training region is the neighborhood of the inputs of training etas (see `TrainingRegion`).
    Some inputs are kept as examples.

    `Standardization.fit(data)` returns the standardization of moment data.

    Attributes:
        family: The data's family.
        input_shift: Means of the unconstrained coordinates, `(m,)`.
        input_scale: Standard deviations of the unconstrained coordinates, `(m,)`.
        log_sd: The coefficients a (first row) and b of log s, `(m + 1, eta_dim)`.
        output_shift: c, `(eta_dim,)`.
        output_scale: r, `(eta_dim,)`.
        low: The smallest value of each input in the data, `(m,)`.
        high: The largest value of each input in the data, `(m,)`.
        region: The training region, with the inputs of at most 512 labels as examples.
        center: The medoid of the examples' etas, `(eta_dim,)`, with the least summed distance to
            the others, in whitened inputs.
    """

    family: ExponentialFamily = eqx.field(static=True)
    input_shift: paramax.NonTrainable[Array]
    input_scale: paramax.NonTrainable[Array]
    log_sd: paramax.NonTrainable[Array]
    output_shift: paramax.NonTrainable[Array]
    output_scale: paramax.NonTrainable[Array]
    low: paramax.NonTrainable[Array]
    high: paramax.NonTrainable[Array]
    region: TrainingRegion
    center: paramax.NonTrainable[Array]

    @classmethod
    def fit(cls, data: MomentDataset) -> "Standardization":
        """Fits the coordinates to moment data.

        Args:
            data: Moment data. Only valid labels are used.

        Returns:
            The coordinates.

        Raises:
            ValueError: If `data` has fewer than `m + 2` valid labels, or a label on an edge of the
                natural domain.
        """
        labels = data.batch()
        inputs = np.asarray(unconstrain_etas(data.family, labels.eta), np.float64)
        n, m = inputs.shape
        if n < m + 2:
            raise ValueError(f"Expected at least {m + 2} good labels; got {n} of {len(data)}")
        shift, scale = inputs.mean(0), _nonzero(inputs.std(0))
        inputs = (inputs - shift) / scale
        design = np.column_stack([np.ones(n), inputs])
        sd = np.asarray(labels.sd, np.float64)
        log_sd = np.linalg.lstsq(design, np.log(sd), rcond=None)[0]
        ratio = np.asarray(labels.mean) / np.exp(design @ log_sd)

        def to_buffer(leaf: np.ndarray) -> paramax.NonTrainable[Array]:
            return paramax.NonTrainable(jnp.asarray(leaf, labels.eta.dtype))

        region = TrainingRegion.around(inputs, labels.eta.dtype)
        medoid = np.argmin(np.abs(inputs - np.asarray(region.medoid)).max(1))
        return cls(
            family=data.family,
            input_shift=to_buffer(shift),
            input_scale=to_buffer(scale),
            log_sd=to_buffer(log_sd),
            output_shift=to_buffer(ratio.mean(0)),
            output_scale=to_buffer(_nonzero(ratio.std(0))),
            low=to_buffer(inputs.min(0)),
            high=to_buffer(inputs.max(0)),
            region=region,
            center=to_buffer(np.asarray(labels.eta[medoid])),
        )

    @property
    def input_dim(self) -> int:
        """Number m of inputs."""
        return self.family.unconstrained_dim

    @property
    def examples(self) -> Float[Array, "k m"]:
        """Inputs of at most 512 labels, all different, `(k, m)`."""
        return paramax.unwrap(self.region.examples)

    def inputs(self, eta: Float[Array, " eta_dim"]) -> Float[Array, " m"]:
        """Returns the standardized unconstrained coordinates, `(m,)`, of eta, `(eta_dim,)`."""
        fixed = paramax.unwrap(self)
        return (self.family.unconstrain_eta(eta) - fixed.input_shift) / fixed.input_scale

    def eta_at(self, inputs: Float[Array, " m"]) -> Float[Array, " eta_dim"]:
        """Returns the valid eta with given inputs, `(m,)`: the inverse of `inputs`."""
        fixed = paramax.unwrap(self)
        return self.family.constrain_eta(fixed.input_shift + fixed.input_scale * inputs)

    def is_inside(self, inputs: Float[Array, " m"]) -> Bool[Array, ""]:
        """Returns whether inputs, `(m,)`, are in the training region: near some training eta."""
        return self.region.contains(inputs)

    def rough_sd(self, inputs: Float[Array, " m"]) -> Float[Array, " eta_dim"]:
        """Returns the log-linear fit s of sd(T | eta), `(eta_dim,)`, at inputs, `(m,)`."""
        log_sd = paramax.unwrap(self).log_sd
        return jnp.exp(log_sd[0] + inputs @ log_sd[1:])

    def moments(
        self, inputs: Float[Array, " m"], y: Float[Array, " eta_dim"]
    ) -> Float[Array, " eta_dim"]:
        """Returns the moments of standardized outputs y.

        Args:
            inputs: Standardized coordinates of eta, `(m,)`.
            y: Standardized outputs, `(eta_dim,)`.

        Returns:
            The moments mu, `(eta_dim,)`.
        """
        fixed = paramax.unwrap(self)
        return self.rough_sd(inputs) * (fixed.output_shift + fixed.output_scale * y)


def standardize(
    family: ExponentialFamily, data: MomentDataset, *, width: int, depth: int
) -> Standardization:
    """Checks the arguments of a network's constructor, and returns the standardization.

    Args:
        family: The exponential family.
        data: Moment data of that family.
        width: Number of units per hidden layer.
        depth: Number of hidden layers.

    Returns:
        The standardization of the data.

    Raises:
        ValueError: If `data` is of another family or has too few valid labels, or a size is below
            1.
    """
    check_instance(family, families.ExponentialFamily, "family")
    check_same_family("data", data.family, family)
    check_integer("width", width, 1)
    check_integer("depth", depth, 1)
    return Standardization.fit(data)


def _nonzero(scale: np.ndarray) -> np.ndarray:
    """Replaces zeros by ones, so that constant columns stay unscaled."""
    return np.where(scale > 0, scale, 1.0)


def moments_at(network: AbstractMomentNetwork, labels: MomentBatch) -> Float[Array, "n eta_dim"]:
    """Returns the network's moments at the weights' means for all labels, `(n, eta_dim)`."""
    return jax.vmap(lambda label: network.near(label)(label.eta))(labels)
