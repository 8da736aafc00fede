"""Parameters of a model: names, counts, groups and flat vectors."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._deterministic import DeterministicParameter
from ._gaussian import GaussianParameter
from ._laplacian import LaplacianParameter
from ._parameter import AbstractParameter, is_parameter


def path_name(path: tuple[Any, ...]) -> str:
    """Returns a pytree path as Python code, such as `layers[0].W`."""
    return jax.tree_util.keystr(path).removeprefix(".")


def get_parameters(model: PyTree) -> dict[str, AbstractParameter]:
    """Returns all parameters of a pytree by name.

    Args:
        model: Any pytree, such as a `Module`, an Equinox module, a flowjax bijection or a dict.

    Returns:
        The parameters by their path, such as `layers[0].W`, in the order of the tree.
    """
    pairs, _ = jax.tree_util.tree_flatten_with_path(model, is_leaf=is_parameter)
    return {path_name(path): node for path, node in pairs if is_parameter(node)}


def _flat(parts: Iterable[Array]) -> Float[Array, " n"]:
    ravelled = [jnp.ravel(part) for part in parts]
    return jnp.concatenate(ravelled) if ravelled else jnp.zeros((0,))


def _flatten(
    model: PyTree, read: Callable[[AbstractParameter], Iterable[Array]]
) -> Float[Array, " n"]:
    return _flat(part for law in get_parameters(model).values() for part in read(law))


def flatten_means(model: PyTree) -> Float[Array, " n"]:
    """Returns all means as one vector, in the order of `get_parameters`."""
    return _flatten(model, lambda law: [law.mean])


def flatten_stdvs(model: PyTree) -> Float[Array, " n"]:
    """Returns all standard deviations as one vector aligned with `flatten_means`.

    Deterministic parameters contribute zeros, and Laplace parameters `sqrt(2) scale`.
    """
    return _flatten(model, lambda law: [jnp.broadcast_to(law.stdv, law.shape)])


def flatten_raw_stdvs(model: PyTree) -> Float[Array, " n"]:
    """Returns all unconstrained scales as one vector.

    Deterministic parameters contribute zeros. For the parameter classes of this package, the
    vector is aligned with `flatten_means`.
    """
    return _flatten(model, lambda law: law.raw_scales() or [jnp.zeros_like(law.mean)])


def get_parameter_count(model: PyTree) -> dict[str, int]:
    """Counts the entries of the means of all parameters.

    Returns:
        A dict of counts with the keys `total`, `bayesian` and `deterministic`. The first count is
        the sum of the others.
    """
    parameters = get_parameters(model).values()
    total = sum(law.mean.size for law in parameters)
    deterministic = sum(
        law.mean.size for law in parameters if isinstance(law, DeterministicParameter)
    )
    return {"total": total, "bayesian": total - deterministic, "deterministic": deterministic}


def get_parameter_groups(model: PyTree) -> dict[str, list[str]]:
    """Groups parameter names by distribution.

    Returns:
        A dict of lists of names, with the keys `gaussian`, `laplacian` and `deterministic`. Each
        further distribution in the model has one more key, its `law_name()`.
    """
    laws = (GaussianParameter, LaplacianParameter, DeterministicParameter)
    groups: dict[str, list[str]] = {law.law_name(): [] for law in laws}
    for name, law in get_parameters(model).items():
        groups.setdefault(law.law_name(), []).append(name)
    return groups
