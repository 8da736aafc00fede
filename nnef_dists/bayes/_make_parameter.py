"""One call that makes an array a parameter."""

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
    """Wraps an array as a parameter whose mean it is.

    Args:
        value: A floating array of any shape, or a Python float.
        bayesian: False makes it a `DeterministicParameter`.
        param_type: The law; a law of one's own is built as `param_type(mean, raw_width)`.
        init_raw_stdv: The raw width at the start, a scalar. It is what the field holds, before
            the positivity transform: for a width w pass `positivity.inverse(w)`.
        positivity: The transform from raw width to width, for laws that take one; None leaves
            the law's default.

    Returns:
        A parameter with the value's shape and dtype.

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
