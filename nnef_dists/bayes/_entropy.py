"""Entropies of a model's laws."""

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._gaussian import GaussianParameter
from ._introspection import get_parameters
from ._laplacian import LaplacianParameter


def gaussian_entropy(model: PyTree) -> Float[Array, ""]:
    """Returns `sum(log(stdv))` over the Gaussian parameters.

    It is their entropy in nats up to a constant, which no gradient sees; `entropy` has it.
    """
    laws = get_parameters(model).values()
    terms = [jnp.sum(jnp.log(law.stdv)) for law in laws if isinstance(law, GaussianParameter)]
    return jnp.asarray(sum(terms, start=0.0))


def laplacian_entropy(model: PyTree) -> Float[Array, ""]:
    """Returns `sum(log(scale))` over the Laplace parameters: their entropy up to a constant."""
    laws = get_parameters(model).values()
    terms = [jnp.sum(jnp.log(law.scale)) for law in laws if isinstance(law, LaplacianParameter)]
    return jnp.asarray(sum(terms, start=0.0))


def entropy(model: PyTree) -> Float[Array, ""]:
    """Returns the entropy of the joint law of all parameters, normalised, in nats.

    The parameters are independent, so that it is the sum of their own `entropy()`; a
    deterministic parameter contributes zero.
    """
    return jnp.asarray(sum((law.entropy() for law in get_parameters(model).values()), start=0.0))
