"""The base class of Bayesian models."""

import dataclasses

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from nnef_dists._checks import at_least_float32

from . import _introspection as introspection
from ._parameter import AbstractParameter


class Module(eqx.Module):
    """An `equinox.Module` with access to its parameters, as a base of models and layers.

    It defines no fields and no `__call__`. Fields without arrays (sizes, names, functions) should
    be declared as `equinox.field(static=True)`. An array in a static field raises `ValueError`.

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
        """Returns all standard deviations as one vector, zero if deterministic."""
        return introspection.flatten_stdvs(self)

    def flatten_raw_stdvs(self) -> Float[Array, " n"]:
        """Returns all unconstrained scales as one vector, zero if deterministic."""
        return introspection.flatten_raw_stdvs(self)

    def compute_prior(self) -> Float[Array, ""]:
        """Returns the negative log prior of the means up to a constant: their sum of squares.

        Override this method for another prior. In the result of `sample_all_parameters`, the means
        are the sampled weights, so this is the negative log prior at a draw.
        """
        squares = [
            jax.numpy.sum(at_least_float32(law.mean) ** 2) for law in self.get_parameters().values()
        ]
        return jax.numpy.asarray(sum(squares, start=0.0))
