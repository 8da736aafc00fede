"""Entropies of a model's laws, and how far these are from a prior."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from nnef_dists._checks import check_model

from ._deterministic import DeterministicParameter
from ._gaussian import GaussianParameter
from ._introspection import get_parameters
from ._laplacian import LaplacianParameter
from ._parameter import AbstractElementwiseParameter, AbstractParameter, AbstractPriorLaw


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
    """Returns the entropy of the joint law of all parameters, normalized, in nats.

    The parameters are independent, so that it is the sum of their own `entropy()`; a
    deterministic parameter contributes zero.
    """
    return jnp.asarray(sum((law.entropy() for law in get_parameters(model).values()), start=0.0))


def kl_divergence(model: PyTree, prior: PyTree) -> Float[Array, ""]:
    """Returns `KL(q || p)` of a model's laws from a prior in closed form, in nats.

    Against a Gaussian prior there is a closed form for every law, since the cross-entropy needs
    the mean and the standard deviation only; against a Laplace prior for Gaussian and Laplace
    laws. A deterministic parameter contributes its penalty `-log p(mean)`, so that minimizing
    an evidence bound is MAP estimation for it, and for every model

        kl_divergence(model, prior) = -entropy(model) - E[log_prior(sampled model, prior)]

    Args:
        model: Any pytree with parameters.
        prior: One law whose shape broadcasts to every parameter, such as
            `GaussianParameter.from_stdv(0.0, 1.0)`, or a pytree with one law for each of the
            model's parameters, by the same names. There, a `DeterministicParameter` over a
            deterministic parameter states no preference and contributes zero.

    Returns:
        The divergence, a scalar; differentiable in model and prior.

    Raises:
        ValueError: If names or shapes do not match, or a pair of laws has no closed form.
    """
    return _sum_over_pairs(model, prior, _kl)


def log_prior(model: PyTree, prior: PyTree) -> Float[Array, ""]:
    """Returns the log density, in nats, of a model's means under a prior.

    On the result of `sample_all_parameters` it is the prior's log density at a draw: one term of
    a Monte Carlo estimate of the divergence where there is no closed form.

    Args:
        model: Any pytree with parameters.
        prior: As for `kl_divergence`.

    Returns:
        The log density, a scalar.

    Raises:
        ValueError: If names or shapes do not match, or a prior law has no density.
    """
    return _sum_over_pairs(model, prior, lambda q, p: jnp.sum(p.log_probs(q.mean)))


def _kl(q: AbstractParameter, p: AbstractPriorLaw) -> Float[Array, ""]:
    cross = jnp.broadcast_to(p.cross_entropies(q), q.shape)
    if isinstance(q, AbstractElementwiseParameter):
        # Entry by entry: the sums alone are large, and nearly cancel where q is near p.
        return jnp.sum(cross - q.entropies())
    return jnp.sum(cross) - q.entropy()


def _sum_over_pairs(
    model: PyTree, prior: PyTree, term: Callable[[Any, Any], Array]
) -> Float[Array, ""]:
    check_model(model, "(model, prior)")
    laws = get_parameters(model)
    if isinstance(prior, AbstractParameter):
        priors = dict.fromkeys(laws, prior)
    else:
        priors = get_parameters(prior)
        if laws and not priors:
            found = prior.__name__ if isinstance(prior, type) else type(prior).__name__
            raise ValueError(
                f"Expected a prior parameter or a model of prior parameters; got {found}, without "
                "any. Use for example GaussianParameter.from_stdv(0.0, 1.0)."
            )
    if laws.keys() != priors.keys():
        odd = sorted(laws.keys() ^ priors.keys())
        raise ValueError(
            f"Expected a prior with the model's parameters; got differences in {odd}. Use one "
            "prior parameter for all, or one of each name. The model is the first argument."
        )
    terms = []
    for name, q in laws.items():
        p = priors[name]
        if isinstance(p, DeterministicParameter) and isinstance(q, DeterministicParameter):
            continue
        terms.append(term(q, _checked(name, q, p)))
    return jnp.asarray(sum(terms, start=0.0))


def _checked(name: str, q: AbstractParameter, p: AbstractParameter) -> PyTree:
    """Returns the prior law in the parameter's dtype, once it is known to fit."""
    if not isinstance(p, AbstractPriorLaw):
        raise ValueError(
            f"Expected a law with a density (AbstractPriorLaw) as the prior of {name!r}; got "
            f"{type(p).__name__}."
        )
    leading = q.shape[len(q.shape) - len(p.shape) :]
    fits = len(p.shape) <= len(q.shape) and all(
        m in (1, n) for m, n in zip(p.shape, leading, strict=True)
    )
    if not fits:
        raise ValueError(f"Expected a prior of {name!r} for shape {q.shape}; got {p.shape}.")
    return jax.tree.map(lambda a: a.astype(q.dtype) if eqx.is_inexact_array(a) else a, p)
