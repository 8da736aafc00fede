"""What a parameter law is, and what it needs to serve as a prior."""

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
    """An array that is a random variable: a law with a mean and, mostly, widths.

    A law of one's own subclasses this with a field `mean` and the abstract members below, and
    then works everywhere: freezing, sampling, entropy, KL, counting, saving. One rule ties it to
    the rest: **the field `mean` holds the mean, and every other inexact array leaf is a width.**
    Its `__init__` takes `(mean, raw_width)` if `make_parameter` is to build it.

    As a `paramax` unwrappable it stands in for an array in flowjax structures, too: there
    `paramax.unwrap` puts the mean in its place.
    """

    mean: eqx.AbstractVar[Array]

    @property
    @abstractmethod
    def stdv(self) -> Float[Array, "..."]:
        """The standard deviation of every entry, in the mean's shape."""

    @abstractmethod
    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """Draws one array of the mean's shape, differentiable in the mean and the widths."""

    @abstractmethod
    def entropy(self) -> Float[Array, ""]:
        """The differential entropy of the whole array, in nats."""

    @classmethod
    def from_value(
        cls, value: Float[Array, "..."], init_raw_stdv: Any, **options: Any
    ) -> "AbstractParameter":
        """Builds the law with mean `value` and all raw widths equal to `init_raw_stdv`."""
        raw = jnp.full(value.shape, init_raw_stdv, value.dtype)
        # Only the type checker minds that this base has no `__init__` of its own.
        build: Any = cls
        return build(value, raw, **options)

    @classmethod
    def law_name(cls) -> str:
        """The group's name in `get_parameter_groups`: `StudentTParameter` is `student_t`."""
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
        """Returns the mean: what `paramax.unwrap` puts in the parameter's place."""
        return self.mean

    def with_mean(self: _Law, mean: Any) -> _Law:
        """Returns the same law, its widths untouched, with another mean."""
        pairs, treedef = jax.tree_util.tree_flatten_with_path(self)
        leaves = [mean if is_mean_path(path) else leaf for path, leaf in pairs]
        return jax.tree.unflatten(treedef, leaves)

    def raw_widths(self) -> list[Float[Array, "..."]]:
        """Returns the unconstrained arrays behind the law's widths, in field order."""
        pairs, _ = jax.tree_util.tree_flatten_with_path(self)
        return [
            leaf for path, leaf in pairs if not is_mean_path(path) and eqx.is_inexact_array(leaf)
        ]


class AbstractElementwiseParameter(AbstractParameter):
    """A law whose entries are independent and are transforms of uniform noise.

    `sample_all_parameters` draws the noise of all such parameters of a model at once, whatever
    their shapes, which is what keeps its tracing, compilation and steps short.
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
        """Turns standard noise of the mean's shape into a draw of the law."""

    def sample(self, key: PRNGKeyArray) -> Float[Array, "..."]:
        """Draws one array of the mean's shape, differentiable in the mean and the widths."""
        noise = draw_noise(as_key(key), self.standard_noise, self.mean.size, self.dtype)
        return self.reparameterize(noise.reshape(self.shape))

    def entropy(self) -> Float[Array, ""]:
        """The differential entropy of the whole array, in nats: the sum over its entries."""
        return jnp.sum(self.entropies())


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
    def mean_distance(self, center: Float[Array, "..."]) -> Float[Array, "..."]:
        """Returns `E|x - center|` for every entry."""


def is_parameter(node: Any) -> bool:
    """Whether a pytree node is a parameter; the `is_leaf` of every traversal here."""
    return isinstance(node, AbstractParameter)


def is_fixed(node: Any) -> bool:
    """Whether a pytree node is never trained: a buffer, or the initial value of a state."""
    return isinstance(node, paramax.NonTrainable | eqx.nn.StateIndex)


def is_mean_path(path: tuple[Any, ...]) -> bool:
    """Whether a leaf at this path inside a parameter is its mean."""
    return path == (GetAttrKey("mean"),)


def mean_and_raw(
    mean: ArrayLike, name: str, width: ArrayLike, positivity: AbstractPositivity
) -> tuple[Array, Array]:
    """Returns a floating mean and the raw width of its shape, from the width itself.

    Args:
        mean: The mean. Integers take the default floating dtype.
        name: The name of the width, for messages.
        width: The width, whose shape broadcasts to that of the mean.
        positivity: The transform from raw width to width.

    Raises:
        ValueError: If a concrete width is negative, not a width of `positivity` or of a shape that
            does not broadcast.
    """
    center = jnp.asarray(mean)
    if not jnp.issubdtype(center.dtype, jnp.inexact):
        center = center.astype(jnp.result_type(float))
    try:
        full = jnp.broadcast_to(jnp.asarray(width, center.dtype), center.shape)
    except ValueError:
        raise ValueError(
            f"Expected {name} of a shape that broadcasts to {center.shape}, the shape of the mean; "
            f"got {jnp.shape(width)}. Pass a mean of the full shape."
        ) from None
    try:
        return center, positivity.inverse(full)
    except ValueError as error:
        # The transform calls it a width.
        message = str(error).replace("width", name)
        raise ValueError(f"{message}. Use a larger {name}, or another positivity.") from None


def check_width(law: AbstractParameter, name: str, raw: Any, positivity: Any) -> None:
    """Refuses a raw width that is not aligned with the mean, and a transform that is none.

    Raises:
        ValueError: If shapes or dtypes differ, or `positivity` is of another kind.
    """
    if raw.shape != law.shape or raw.dtype != law.dtype:
        raise ValueError(
            f"Expected {name} of shape {law.shape} and dtype {law.dtype}, as the mean; got "
            f"{raw.shape} and {raw.dtype}."
        )
    if not isinstance(positivity, AbstractPositivity):
        raise ValueError(f"Expected an AbstractPositivity; got {type(positivity).__name__}.")
