"""Turning any Equinox module into a Bayesian one."""

from collections.abc import Callable
from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import paramax
from jaxtyping import PRNGKeyArray, PyTree

from ._gaussian import GaussianParameter
from ._introspection import get_parameters
from ._make_parameter import make_parameter
from ._module import Module
from ._parameter import AbstractParameter, is_parameter
from ._positivity import AbstractPositivity
from ._protocol import draw_or_mean


@final
class Bayesianized(Module):
    """A module some of whose arrays are parameters; called as the module itself.

    Args:
        module: A pytree with parameters in place of arrays, as `bayesianize` makes it.
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

        Args:
            *args: Passed on to the module.
            key: Draws the weights; without a key the means are used. It is not passed on: a
                module that takes a key of its own is called through `realise`.
            sample: True insists on a draw, False on the means.
            **kwargs: Passed on to the module.

        Returns:
            What the module returns.

        Raises:
            ValueError: If `sample=True` comes without a key.
        """
        return self.realise(key=key, sample=sample)(*args, **kwargs)

    def realise(self, *, key: PRNGKeyArray | None = None, sample: bool | None = None) -> PyTree:
        """Returns the wrapped module with arrays in place: all its methods work.

        Args:
            key: Draws the weights; without a key the means are used.
            sample: True insists on a draw, False on the means.

        Returns:
            A module of the class that was wrapped.

        Raises:
            ValueError: If `sample=True` comes without a key.
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
    """Makes arrays of a trained module the means of parameters.

    Example:
        >>> import equinox as eqx, jax
        >>> from nnef_dists.bayes import bayesianize
        >>> net = bayesianize(eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0)))
        >>> last = bayesianize(net.realise(), where=lambda mlp: mlp.layers[-1])

    Args:
        module: Any callable Equinox module (or pytree).
        where: What becomes random, as in `equinox.tree_at`: a function from the module to an
            array, a part of it, or a sequence of those; of a part, every real floating array.
            None takes the whole module. Buffers (`paramax.NonTrainable`) and parameters that
            are there already stay as they are.
        param_type: The law; see `make_parameter`.
        init_raw_stdv: Raw width at the start.
        positivity: Transform from raw width to width.

    Returns:
        A `Bayesianized` module. Called without a key it computes what `module` does.

    Raises:
        ValueError: If `where` selects no real floating array.
    """

    def is_leaf(node: Any) -> bool:
        return is_parameter(node) or isinstance(node, paramax.NonTrainable)

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
        raise ValueError("Expected `where` to select a real floating array; got none.")
    return Bayesianized(bayesian)
