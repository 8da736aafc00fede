"""Abstract parameters (random arrays), and the interfaces of priors."""

import re
from abc import abstractmethod
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jax.tree_util import GetAttrKey
from jaxtyping import Array, ArrayLike, DTypeLike, Float, PRNGKeyArray

from nnef_dists._checks import as_key

from ._noise import draw_noise
from ._positivity import AbstractPositivity

_Law = TypeVar("_Law", bound="AbstractParameter")


class AbstractParameter(paramax.AbstractUnwrappable[Array]):
    """A random array: a distribution with a mean and, usually, scale parameters.

    A custom distribution subclasses this class with a field `mean` and the abstract members below.
    Freezing, sampling, entropy, KL, counting and saving then work. One rule must hold: **the
    field `mean` holds the mean, and every other inexact array leaf outside of
    `paramax.NonTrainable` is an unconstrained scale**. If `make_parameter` is to build it, its
    `__init__` must take `(mean, raw_scale)`.

    As a `paramax` unwrappable, a parameter can also replace an array in flowjax structures. There,
    `paramax.unwrap` replaces the parameter by its mean.
    """

    mean: eqx.AbstractVar[Array]

    @property
    @abstractmethod
    def stdv(self) -> Float[Array, "..."]:
        """The standard deviation of every entry, in the mean's shape."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """Draws one array of the mean's shape, differentiable in the mean and the scales."""

    @abstractmethod
    def entropy(self) -> Float[Array, ""]:
        """Returns the differential entropy of the whole array, in nats."""

    @classmethod
    def from_value(
        cls, value: Float[Array, "..."], init_raw_stdv: Any, **options: Any
    ) -> "AbstractParameter":
        """Builds a parameter with mean `value` and unconstrained scales `init_raw_stdv`."""
        raw = jnp.full(value.shape, init_raw_stdv, value.dtype)
        # The annotation avoids a type error, since this base class defines no `__init__`.
        build: Any = cls
        return build(value, raw, **options)

    @classmethod
    def law_name(cls) -> str:
        """Returns the group name in `get_parameter_groups`: `student_t` for `StudentTParameter`."""
        stem = cls.__name__.removesuffix("Parameter") or cls.__name__
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", stem).lower()

    @property
    def shape(self) -> tuple[int, ...]:
        """The mean's shape."""
        return self.mean.shape

    @property
    def dtype(self) -> DTypeLike:
        """The mean's dtype."""
        return self.mean.dtype

    def unwrap(self) -> Array:
        """Returns the mean, by which `paramax.unwrap` replaces the parameter."""
        return self.mean

    def with_mean(self: _Law, mean: Any) -> _Law:
        """Returns a copy with another mean and unchanged scales."""
        pairs, treedef = jax.tree_util.tree_flatten_with_path(self)
        leaves = [mean if is_mean_path(path) else leaf for path, leaf in pairs]
        return jax.tree.unflatten(treedef, leaves)

    def raw_scales(self) -> list[Float[Array, "..."]]:
        """Returns the unconstrained scales, in field order."""
        pairs, _ = jax.tree_util.tree_flatten_with_path(self, is_leaf=is_fixed)
        return [
            leaf for path, leaf in pairs if not is_mean_path(path) and eqx.is_inexact_array(leaf)
        ]


class AbstractElementwiseParameter(AbstractParameter):
    """A distribution of independent entries, each a transform of uniform noise.

    `sample_all_parameters` draws the noise of all such parameters of one class and dtype at once,
    for any shapes. This shortens tracing, compilation and each step.
    """

    @staticmethod
    @abstractmethod
    def standard_noise(
        u: Float[Array, "*shape"], v: Float[Array, "*shape"]
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """Turns two independent uniforms on (-1, 1) into two independent standard draws."""

    @abstractmethod
    def entropies(self) -> Float[Array, "..."]:
        """Returns the differential entropy of every entry, in nats and in the mean's shape."""

    @abstractmethod
    def reparameterize(self, noise: Float[Array, "..."]) -> Float[Array, "..."]:
        """Turns standard noise of the mean's shape into a draw."""

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """Draws one array of the mean's shape, differentiable in the mean and the scales."""
        noise = draw_noise(as_key(key), self.standard_noise, self.mean.size, self.dtype)
        return self.reparameterize(noise.reshape(self.shape))

    def entropy(self) -> Float[Array, ""]:
        """Returns the differential entropy of the whole array, in nats: the sum over entries."""
        return jnp.sum(self.entropies())


class AbstractPriorLaw(eqx.Module):
    """A distribution with a density and, for some parameters, a closed-form cross-entropy."""

    @abstractmethod
    def log_probs(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Returns the log-density of every entry of `value`, in nats."""

    @abstractmethod
    def cross_entropies(self, q: AbstractParameter) -> Float[Array, "..."]:
        """Returns `-E_q[log p(x)]` for every entry of `q`, in nats and in the shape of `q`.

        Raises:
            ValueError: If there is no closed form for the distribution of `q`.
        """


class AbstractAbsoluteMoment(eqx.Module):
    """A distribution with a closed-form mean distance to a point, as Laplace priors require."""

    @abstractmethod
    def mean_distance(self, center: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns `E|x - center|` for every entry."""


def is_parameter(node: Any) -> bool:
    """Returns whether a pytree node is a parameter. Traversals of models use it as `is_leaf`."""
    return isinstance(node, AbstractParameter)


def is_fixed(node: Any) -> bool:
    """Returns whether a pytree node is never trained: a buffer, or the initial value of a state."""
    return isinstance(node, paramax.NonTrainable | eqx.nn.StateIndex)


def is_mean_path(path: tuple[Any, ...]) -> bool:
    """Returns whether a leaf at this path inside a parameter is its mean."""
    return path == (GetAttrKey("mean"),)


def mean_and_raw(
    mean: ArrayLike, name: str, scale: ArrayLike, positivity: AbstractPositivity
) -> tuple[Array, Array]:
    """Returns a floating mean, and the unconstrained scale of its shape for a given scale.

    Args:
        mean: Mean. Integers are converted to the default floating dtype.
        name: Name of the scale in messages.
        scale: Its value, in a shape that broadcasts to the shape of the mean.
        positivity: Transform from unconstrained scale to scale.

    Raises:
        ValueError: If `scale` does not broadcast, or a concrete `scale` is negative or out of the
            range of `positivity`.
    """
    center = jnp.asarray(mean)
    if not jnp.issubdtype(center.dtype, jnp.inexact):
        center = center.astype(jnp.result_type(float))
    try:
        full = jnp.broadcast_to(jnp.asarray(scale, center.dtype), center.shape)
    except ValueError:
        raise ValueError(
            f"Expected {name} of a shape that broadcasts to {center.shape}, the shape of the mean; "
            f"got {jnp.shape(scale)}. Pass a mean of the full shape."
        ) from None
    try:
        return center, positivity.inverse(full)
    except ValueError as error:
        # The message of the transform contains its argument name, `scale`.
        message = str(error).replace("scale", name)
        raise ValueError(f"{message}. Use a larger {name}, or another positivity.") from None


def check_scale(law: AbstractParameter, name: str, raw: Any, positivity: Any) -> None:
    """Checks the shape and dtype of an unconstrained scale, and the type of its transform.

    Raises:
        ValueError: If the shape or dtype differs from the mean, or `positivity` is not an
            `AbstractPositivity`.
    """
    if raw.shape != law.shape or raw.dtype != law.dtype:
        raise ValueError(
            f"Expected {name} of shape {law.shape} and dtype {law.dtype}, as the mean; got "
            f"{raw.shape} and {raw.dtype}."
        )
    if not isinstance(positivity, AbstractPositivity):
        raise ValueError(f"Expected an AbstractPositivity; got {type(positivity).__name__}.")
