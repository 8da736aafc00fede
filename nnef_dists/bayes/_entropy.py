"""Entropies of the parameters of a model, and KL divergences from a prior."""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from nnef_dists._checks import at_least_float32, check_model

from ._deterministic import DeterministicParameter
from ._gaussian import GaussianParameter
from ._introspection import get_parameters
from ._laplacian import LaplacianParameter
from ._parameter import AbstractElementwiseParameter, AbstractParameter, AbstractPriorLaw

_Law = TypeVar("_Law")


def gaussian_entropy(model: PyTree) -> Float[Array, ""]:
    """Returns `sum(log(stdv))` over the Gaussian parameters.

    This is their entropy in nats up to a constant, which `entropy` includes.
    """
    laws = map(_widened, get_parameters(model).values())
    terms = [jnp.sum(jnp.log(law.stdv)) for law in laws if isinstance(law, GaussianParameter)]
    return jnp.asarray(sum(terms, start=0.0))


def laplacian_entropy(model: PyTree) -> Float[Array, ""]:
    """Returns `sum(log(scale))` over the Laplace parameters: their entropy up to a constant."""
    laws = map(_widened, get_parameters(model).values())
    terms = [jnp.sum(jnp.log(law.scale)) for law in laws if isinstance(law, LaplacianParameter)]
    return jnp.asarray(sum(terms, start=0.0))


def entropy(model: PyTree) -> Float[Array, ""]:
    """Returns the entropy of the joint distribution of all parameters, in nats.

    The parameters are independent, so this is the sum over their `entropy()`. A deterministic
    parameter contributes zero. The sum is at least in float32, also that of narrower parameters.
    """
    laws = map(_widened, get_parameters(model).values())
    return jnp.asarray(sum((law.entropy() for law in laws), start=0.0))


def kl_divergence(model: PyTree, prior: PyTree) -> Float[Array, ""]:
    """Returns the closed-form `KL(q || p)` of a model from a prior, in nats.

    For a Gaussian prior, every distribution has a closed form, since the cross-entropy depends only
    on mean and standard deviation. For a Laplace prior, every `AbstractAbsoluteMoment` has one. A
    deterministic parameter contributes the penalty `-log p(mean)`, so that maximizing the ELBO is
    MAP estimation of this parameter. For every model

        kl_divergence(model, prior) = -entropy(model) - E[log_prior(sampled model, prior)]

    Args:
        model: Any pytree with parameters.
        prior: One parameter whose shape broadcasts to every parameter, such as
            `GaussianParameter.from_stdv(0.0, 1.0)`. Alternatively, a pytree with one prior per
            parameter of the model, by the same names. A `DeterministicParameter` as the prior of a
            deterministic parameter contributes zero.

    Returns:
        The divergence, a scalar that is differentiable in model and prior, at least in float32.

    Raises:
        ValueError: If names or shapes do not match, or a pair of distributions has no closed form.
    """
    return _sum_over_pairs(model, prior, _kl)


def log_prior(model: PyTree, prior: PyTree) -> Float[Array, ""]:
    """Returns the log-density of the means of a model under a prior, in nats.

    For the result of `sample_all_parameters`, this is the log-density of the prior at a draw. If
    there is no closed form, the negative average over draws estimates the second term of the
    divergence.

    Args:
        model: Any pytree with parameters.
        prior: As for `kl_divergence`.

    Returns:
        The log-density, a scalar.

    Raises:
        ValueError: If names or shapes do not match, or a prior has no density.
    """
    return _sum_over_pairs(model, prior, lambda q, p: jnp.sum(p.log_probs(q.mean)))


def _kl(q: AbstractParameter, p: AbstractPriorLaw) -> Float[Array, ""]:
    cross = jnp.broadcast_to(p.cross_entropies(q), q.shape)
    if isinstance(q, AbstractElementwiseParameter):
        # Subtract entry by entry, since the two large sums nearly cancel if q is close to p.
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
        q = _widened(q)
        terms.append(term(q, _checked(name, q, p)))
    return jnp.asarray(sum(terms, start=0.0))


def _widened(law: _Law) -> _Law:
    """Returns a parameter in float32 if it is in a narrower dtype, in which sums lose digits."""

    def widen(leaf: Any) -> Any:
        return at_least_float32(leaf) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(widen, law)


def _checked(name: str, q: AbstractParameter, p: AbstractParameter) -> PyTree:
    """Checks the prior of a parameter, and returns it in the dtype of the parameter."""
    if not isinstance(p, AbstractPriorLaw):
        raise ValueError(
            "Expected a distribution with a density (AbstractPriorLaw) as the prior of "
            f"{name!r}; got {type(p).__name__}."
        )
    leading = q.shape[len(q.shape) - len(p.shape) :]
    fits = len(p.shape) <= len(q.shape) and all(
        m in (1, n) for m, n in zip(p.shape, leading, strict=True)
    )
    if not fits:
        raise ValueError(f"Expected a prior of {name!r} for shape {q.shape}; got {p.shape}.")
    return jax.tree.map(lambda a: a.astype(q.dtype) if eqx.is_inexact_array(a) else a, p)
