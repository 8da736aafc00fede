"""Checks of the declaration of a family."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from nnef_dists.families._discrete import AbstractDiscreteSupport
from nnef_dists.families._domain import AbstractDomain
from nnef_dists.families._support import Support


def check_declaration(family: Any) -> None:
    """Checks the types of the members that a subclass of `ExponentialFamily` declares.

    Args:
        family: The family.

    Raises:
        ValueError: If a field holds an array, a member has another type, or a discrete support has
            another shape than x.
    """
    name = type(family).__name__
    for field in dataclasses.fields(family):
        value = getattr(family, field.name)
        if any(
            eqx.is_array(leaf) or isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(value)
        ):
            raise ValueError(
                f"Expected only static fields (numbers, strings, tuples) in {name}; got an array "
                f"in {field.name!r}. Use a tuple of Python numbers, such as tuple(a.tolist()), "
                "or a.item(), and make the array of it in compute_stats."
            )
    x_shape, natural_domain, support = family.x_shape, family.natural_domain, family.support
    if not isinstance(x_shape, tuple):
        raise ValueError(
            f"Expected x_shape of {name} to be a tuple of integers; got {x_shape!r}. "
            "Use () for a number and (d,) for a vector."
        )
    if not isinstance(natural_domain, AbstractDomain):
        raise ValueError(
            f"Expected natural_domain of {name} to be a domain; got {natural_domain!r}. "
            "Use nnef_dists.domain with constraints by statistic, such as domain(x2=negative)."
        )
    if not isinstance(support, Support):
        raise ValueError(
            f"Expected support of {name} to be a flowjax bijection, an AbstractSupport or an "
            f"AbstractDiscreteSupport; got {support!r}. Use for example "
            "flowjax.bijections.Exp() for x > 0, and nd.Counts() for whole numbers."
        )
    if isinstance(support, AbstractDiscreteSupport) and support.shape != x_shape:
        raise ValueError(
            f"Expected a support of the shape of x, {x_shape}, in {name}; got {support!r}, whose "
            f"shape is {support.shape}."
        )


@functools.cache
def find_stat_shapes(family: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Returns the names and shapes of the statistics, in the order of `compute_stats`.

    Args:
        family: The family.

    Returns:
        Pairs of a name and a shape. (A dict that JAX returns would be sorted by name.)

    Raises:
        ValueError: If the statistics are not a dict of floating arrays, or JAX cannot trace them.
    """
    name = type(family).__name__
    found: list[tuple[str, tuple[int, ...]]] = []

    def trace(x):
        stats = family.compute_stats(x)
        if not isinstance(stats, dict) or not stats:
            raise ValueError(
                f"Expected compute_stats of {name} to return a non-empty dict of arrays; got "
                f"{'an array' if isinstance(stats, jax.Array) else type(stats).__name__}. Return "
                'for example {"x": x, "x2": x**2}.'
            )
        kind = "x.dtype" if jnp.issubdtype(x.dtype, jnp.floating) else "float"
        for stat, value in stats.items():
            value = jnp.asarray(value)
            if not jnp.issubdtype(value.dtype, jnp.floating):
                raise ValueError(
                    f"Expected statistic {stat!r} of {name} to be floating-point; got dtype "
                    f"{value.dtype}. Convert it with .astype({kind})."
                )
            found.append((stat, value.shape))

    dtype, support = jnp.result_type(float), family.support
    if isinstance(support, AbstractDiscreteSupport):
        dtype = support.dtype(dtype)
    try:
        jax.eval_shape(trace, jax.ShapeDtypeStruct(family.x_shape, dtype))
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise ValueError(
            f"Expected compute_stats of {name} to be traceable by JAX; got a use of the value of "
            "x, by NumPy, float(x) or a Python `if`. Use jax.numpy, such as jnp.sin and jnp.where."
        ) from error
    return tuple(found)
