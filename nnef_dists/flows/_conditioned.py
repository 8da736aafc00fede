"""Bijections whose parameters depend on a condition."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from flowjax.bijections import AbstractBijection
from flowjax.utils import get_ravelled_pytree_constructor
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from nnef_dists._ranges import check_integer

Constructor = Callable[[Float[Array, " k"]], AbstractBijection]
Conditioner = Callable[[Float[Array, " inputs"]], Float[Array, " k"]]


@final
class ConditionedBijection(AbstractBijection):
    """A bijection whose parameters are shifted by a function of a condition.

        y = f(x; parameters + conditioner(condition))

    Args:
        bijection: Unconditional bijection. For a deep one, use `flowjax.bijections.Scan` of a
            stack.
        conditioner: Function from the condition, `(cond_dim,)`, to offsets of the parameters,
            `(conditioner_size(bijection),)`.
        cond_dim: Size of the condition, at least 1.

    Attributes:
        parameters: Flat parameters of `bijection`, trainable.
        conditioner: The function of the condition.

    Raises:
        ValueError: If the bijection is conditional, `cond_dim` is below 1, or the conditioner's
            output has another size.
    """

    parameters: Float[Array, " k"]
    conditioner: Conditioner
    constructor: Constructor = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    cond_shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, bijection: AbstractBijection, conditioner: Conditioner, cond_dim: int):
        cond_dim = check_integer("cond_dim", cond_dim, 1)
        self.parameters, self.constructor = split_parameters(bijection)
        self.conditioner = conditioner
        self.shape, self.cond_shape = bijection.shape, (cond_dim,)
        check_conditioner(conditioner, cond_dim, self.parameters)

    def transform_and_log_det(self, x: Any, condition: Any = None):
        """Returns y and the log-determinant."""
        bijection = self.constructor(self.parameters + self.conditioner(condition))
        return bijection.transform_and_log_det(x)

    def inverse_and_log_det(self, y: Any, condition: Any = None):
        """Returns x and the log-determinant of the inverse."""
        bijection = self.constructor(self.parameters + self.conditioner(condition))
        return bijection.inverse_and_log_det(y)


def conditioner_size(bijection: AbstractBijection) -> int:
    """Returns the number of outputs of a conditioner: the number of parameters of the bijection.

    The parameters are the entries of floating arrays, as flowjax counts them. Arrays in
    `paramax.NonTrainable` are excluded.
    """
    return split_parameters(bijection)[0].size


def split_parameters(bijection: AbstractBijection) -> tuple[Float[Array, " k"], Constructor]:
    """Returns the flat parameters of a bijection, and a function that rebuilds it from parameters.

    Raises:
        ValueError: If the bijection is conditional.
    """
    if bijection.cond_shape is not None:
        raise ValueError(
            f"Expected an unconditional bijection; got one with cond_shape {bijection.cond_shape}"
        )
    trainable, fixed = eqx.partition(bijection, eqx.is_inexact_array, is_leaf=_is_buffer)
    parameters, _ = ravel_pytree(trainable)
    # The constructor of flowjax adds its argument to the parameters of a bijection. Here these are
    # zeros, so that the actual parameters are a trainable field.
    zeros = eqx.combine(jax.tree.map(jnp.zeros_like, trainable), fixed, is_leaf=_is_buffer)
    constructor, _ = get_ravelled_pytree_constructor(
        zeros, filter_spec=eqx.is_inexact_array, is_leaf=_is_buffer
    )
    return parameters, constructor


def check_conditioner(conditioner: Conditioner, size: int, parameters: Float[Array, " k"]) -> None:
    """Raises if the output of a conditioner has another size than the parameters."""
    inputs = jax.ShapeDtypeStruct((size,), parameters.dtype)
    # Dropout without a key raises in training mode, and does not change the shape.
    tested = eqx.nn.inference_mode(paramax.unwrap(conditioner))
    try:
        found = eqx.filter_eval_shape(tested, inputs).shape
    except TypeError as error:
        raise ValueError(
            f"Expected a conditioner of inputs of shape {(size,)}, as cond_dim is {size}; got an "
            f"error: {error}"
        ) from error
    if found != parameters.shape:
        raise ValueError(
            f"Expected a conditioner with outputs of shape {parameters.shape}; got {found}"
        )


def _is_buffer(node) -> bool:
    return isinstance(node, paramax.NonTrainable)
