"""The base class of Bayesian models."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from . import _introspection as introspection
from ._parameter import AbstractParameter


class Module(eqx.Module):
    """An `equinox.Module` that knows its parameters; the base of models and layers.

    It has no fields and no `__call__` of its own. Fields that hold no arrays (sizes, names,
    functions) belong in `equinox.field(static=True)`; an array there is refused.

    Example:
        >>> import jax.numpy as jnp
        >>> from nnef_dists.bayes import AbstractParameter, Module, make_parameter
        >>> class Line(Module):
        ...     slope: AbstractParameter
        ...     def __init__(self):
        ...         self.slope = make_parameter(jnp.array(2.0))
        >>> list(Line().get_parameters())
        ['slope']
    """

    def __check_init__(self):
        for field in dataclasses.fields(self):
            if not field.metadata.get("static", False):
                continue
            leaves = jax.tree.leaves(getattr(self, field.name))
            if any(isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves):
                raise ValueError(
                    f"Expected no array in the static field {field.name!r} of "
                    f"{type(self).__name__}; got one. Hold a constant as a non-trainable array, "
                    "paramax.NonTrainable(array), in a field that is not static."
                )

    def get_parameters(self) -> dict[str, AbstractParameter]:
        """Returns the parameters by name, such as `layers[0].W`."""
        return introspection.get_parameters(self)

    def flatten_means(self) -> Float[Array, " n"]:
        """Returns all means as one vector."""
        return introspection.flatten_means(self)

    def flatten_stdvs(self) -> Float[Array, " n"]:
        """Returns all standard deviations as one vector; zeros for deterministic parameters."""
        return introspection.flatten_stdvs(self)

    def flatten_raw_stdvs(self) -> Float[Array, " n"]:
        """Returns all raw widths as one vector; zeros for deterministic parameters."""
        return introspection.flatten_raw_stdvs(self)

    def compute_prior(self) -> Float[Array, ""]:
        """Returns the negative log prior of the means up to a constant: their sum of squares.

        Override it for another prior. On the result of `sample_all_parameters` the means are the
        sampled weights, so that this is the prior's value at a draw.
        """
        squares = [(law.mean**2).sum() for law in self.get_parameters().values()]
        return jax.numpy.asarray(sum(squares, start=0.0))
