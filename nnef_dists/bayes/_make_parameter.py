"""Conversion of an array to a parameter."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import ArrayLike

from nnef_dists._ranges import check_range

from ._deterministic import DeterministicParameter
from ._gaussian import GaussianParameter
from ._parameter import AbstractParameter
from ._positivity import AbstractPositivity


def make_parameter(
    value: ArrayLike,
    *,
    bayesian: bool = True,
    param_type: type[AbstractParameter] = GaussianParameter,
    init_raw_stdv: Any = 0.01,
    positivity: AbstractPositivity | None = None,
) -> AbstractParameter:
    """Returns a parameter whose mean is a given array.

    Args:
        value: Floating array of any shape, or a Python float.
        bayesian: Whether the parameter is random. If False, a `DeterministicParameter` is made.
            Defaults to True.
        param_type: Class of the parameter. A custom class is built as
            `param_type(mean, raw_scale)`. Defaults to `GaussianParameter`.
        init_raw_stdv: Initial unconstrained scale, a scalar, before the positivity transform. For
            a scale w, pass `positivity.inverse(w)`. Defaults to 0.01.
        positivity: Transform from unconstrained scale to scale, for classes that take one. By
            default, the class chooses it.

    Returns:
        A parameter with the shape and dtype of `value`.

    Raises:
        ValueError: If `value` is not real floating, or `init_raw_stdv` is not finite.
    """
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"Expected value of a real floating dtype; got {array.dtype}.")
    init_raw_stdv = check_range("init_raw_stdv", init_raw_stdv)
    law = param_type if bayesian else DeterministicParameter
    options = {} if positivity is None else {"positivity": positivity}
    return law.from_value(array, init_raw_stdv, **options)
