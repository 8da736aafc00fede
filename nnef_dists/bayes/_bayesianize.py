"""Conversion of Equinox modules to Bayesian modules."""

import inspect
from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from ._gaussian import GaussianParameter
from ._introspection import get_parameters
from ._make_parameter import make_parameter
from ._module import Module
from ._parameter import AbstractParameter, is_fixed, is_parameter
from ._positivity import AbstractPositivity
from ._sample import draw_or_mean, drawing_key

# Class of functions that `equinox.filter_vmap` returns. They reject keyword arguments.
_VMAPPED: Any = type(eqx.filter_vmap(lambda x: x))


@final
class Bayesianized(Module):
    """A module with parameters in place of some arrays, called like the module itself.

    The call draws the weights and passes its arguments to the module. If the module takes a key,
    as `equinox.nn.Dropout` does, the call splits its key between weights and module.
    A stateful module takes and returns its `equinox.nn.State` as it does without parameters.

    Args:
        module: Pytree with parameters in place of some arrays.
    """

    module: PyTree

    def __init__(self, module: PyTree):
        self.module = module

    def __call__(
        self,
        *args: Any,
        key: PRNGKeyArray | None = None,
        sample: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Calls the wrapped module with drawn weights, or with their means.

        If the module takes a key, it receives the second half of `jax.random.split(key)`, and the
        first half draws the weights. Otherwise, the whole key draws the weights. For one draw of
        the weights and one dropout mask per example, map the result of `realize`.

        Args:
            *args: Passed to the module.
            key: PRNG key for the weights and for random layers. Without a key, the weights are at
                their means.
            sample: Whether to draw the weights. By default, they are drawn if there is a key. If
                False, only random layers use the key.
            **kwargs: Passed to the module.

        Returns:
            The result of the module.

        Raises:
            ValueError: If `sample` is True without a key.
        """
        drawing_key(key, sample)  # raises before the key is split
        if key is not None and _takes_key(self.module, args, kwargs):
            key, kwargs["key"] = jax.random.split(key)
        return self.realize(key=key, sample=sample)(*args, **kwargs)

    def realize(self, *, key: PRNGKeyArray | None = None, sample: bool | None = None) -> PyTree:
        """Returns the wrapped module with arrays in place of parameters, so that its methods work.

        Args:
            key: PRNG key for the weights. Without a key, the means are used.
            sample: Whether to draw the weights. By default, they are drawn if there is a key.

        Returns:
            A module of the wrapped class.

        Raises:
            ValueError: If `sample` is True without a key.
        """
        module = draw_or_mean(self.module, key=key, sample=sample)
        return jax.tree.map(
            lambda node: node.unwrap() if is_parameter(node) else node,
            module,
            is_leaf=is_parameter,
        )


def bayesianize(
    module: PyTree,
    where: Callable[[Any], Any] | None = None,
    *,
    param_type: type[AbstractParameter] = GaussianParameter,
    init_raw_stdv: Any = 0.01,
    positivity: AbstractPositivity | None = None,
) -> Bayesianized:
    """Replaces arrays of a trained module by parameters with these arrays as means.

    Example:
        >>> import equinox as eqx, jax
        >>> from nnef_dists.bayes import bayesianize
        >>> net = bayesianize(eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0)))
        >>> last = bayesianize(net.realize(), where=lambda mlp: mlp.layers[-1])

    Args:
        module: Any callable Equinox module (or pytree). It may hold keyed layers such as
            `equinox.nn.Dropout` and stateful ones such as `equinox.nn.BatchNorm`.
        where: Arrays to replace, as in `equinox.tree_at`: a function from the module to an array,
            a part of the module, or a sequence of these. In a part, every real floating array is
            replaced. By default, the whole module. Buffers (`paramax.NonTrainable`), the initial
            values of `equinox.nn.StateIndex` and existing parameters are unchanged.
        param_type: Class of the parameters, see `make_parameter`. Defaults to `GaussianParameter`.
        init_raw_stdv: Initial unconstrained scale. Defaults to 0.01.
        positivity: Transform from unconstrained scale to scale. By default, `param_type` chooses
            it.

    Returns:
        A `Bayesianized` module. Without a key, it computes the output of `module`.

    Raises:
        ValueError: If `where` is not a function, or if there is no real floating array to convert
            that is not a parameter already.
    """
    if where is not None and not callable(where):
        raise ValueError(
            f"Expected where as a function of the module; got {where!r}. Use for example "
            "where=lambda module: module.layers[-1]."
        )

    def is_leaf(node: Any) -> bool:
        return is_parameter(node) or is_fixed(node)

    def convert_leaf(node: Any) -> Any:
        if is_leaf(node) or not eqx.is_array(node) or not jnp.issubdtype(node.dtype, jnp.floating):
            return node
        return make_parameter(
            node, param_type=param_type, init_raw_stdv=init_raw_stdv, positivity=positivity
        )

    def convert(part: PyTree) -> PyTree:
        return jax.tree.map(convert_leaf, part, is_leaf=is_leaf)

    bayesian = convert(module) if where is None else eqx.tree_at(where, module, replace_fn=convert)
    if len(get_parameters(bayesian)) == len(get_parameters(module)):
        raise ValueError(_nothing_to_convert(module, where))
    return Bayesianized(bayesian)


def _nothing_to_convert(module: PyTree, where: Callable[[Any], Any] | None) -> str:
    """Returns the message for a module, or a selection from it, without an array to convert."""
    selected = module if where is None else where(module)
    if get_parameters(selected):
        found = type(module).__name__ if where is None else "parameters from `where`"
        other = ", or pass module.realize()" if isinstance(module, Bayesianized) else ""
        return (
            f"Expected arrays that are not Bayesian yet; got {found}, Bayesian already. Use it as "
            f"it is{other}."
        )
    if where is None:
        return (
            f"Expected a module with a real floating array; got {type(module).__name__} without "
            "one. Buffers (paramax.NonTrainable), integers and Python numbers stay as they are."
        )
    return (
        "Expected `where` to select a real floating array; got none. Select an array of the "
        "module, or a part of it that has one."
    )


def _takes_key(module: PyTree, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Returns whether a call of the module has an argument `key` that is still free.

    A `key` that a positional argument fills, such as the keys of an attention layer, is not free.
    A module with only `**kwargs` does not count, since it may not expect a key.
    """
    if isinstance(module, _VMAPPED):
        return False
    if isinstance(module, eqx.Partial):
        return _takes_key(module.func, (*module.args, *args), {**module.keywords, **kwargs})
    try:
        signature = inspect.signature(module)
        filled = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return False  # not callable, or the call itself raises the error
    parameter = signature.parameters.get("key")
    by_name = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return parameter is not None and parameter.kind in by_name and "key" not in filled
