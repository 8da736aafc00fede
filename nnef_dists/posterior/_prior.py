"""Priors, and checks of priors and simulators."""

import inspect
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

# Largest share of draws with a non-finite density, such as draws rounded to the edge.
_BAD = 0.01


@runtime_checkable
class Prior(Protocol):
    """A distribution of vectors, for example a flowjax or NumPyro distribution.

    A NumPyro distribution of independent entries needs `.to_event(1)`, so that `log_prob` returns
    the density of the vector.
    """

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...], /) -> Array:
        """Draws thetas of shape `(*shape, theta_dim)`."""
        ...

    def log_prob(self, theta: Array, /) -> Array:
        """Returns the log-density of thetas, in nats."""
        ...


def check_prior(prior: Any, key: PRNGKeyArray) -> jax.ShapeDtypeStruct:
    """Checks the shapes and dtypes of a prior and its density.

    Args:
        prior: The prior. Its `log_prob` is optional here. Only sequential rounds and importance
            weights need it.
        key: PRNG key.

    Returns:
        Shape and dtype of one theta.

    Raises:
        ValueError: If points are not floating vectors, or the density of a point is not a scalar.
    """
    sample, log_prob = getattr(prior, "sample", None), getattr(prior, "log_prob", None)
    if not callable(sample):
        raise ValueError(
            f"Expected a prior with methods sample(key, shape) and log_prob(theta); got {prior!r}. "
            "The prior is the argument after the simulator."
        )
    theta = _traced("prior.sample", lambda key: sample(key, ()), key)
    if not isinstance(theta, jax.ShapeDtypeStruct) or len(theta.shape) != 1:
        shape = getattr(theta, "shape", type(theta).__name__)
        raise ValueError(
            f"Expected a prior of vectors (theta_dim,); got points of {shape}. Use "
            "prior.expand((1,)).to_event(1) of a scalar NumPyro distribution, and parameters of "
            "shape (1,) in flowjax"
        )
    if not jnp.issubdtype(theta.dtype, jnp.floating):
        raise ValueError(
            f"Expected theta of one floating dtype; got {theta.dtype}. Draw discrete entries as "
            "whole numbers of a floating dtype, and learn them by CategoricalPosterior or "
            "MixedPosterior of nnef_dists.posterior"
        )
    if not callable(log_prob):
        return theta
    value = _traced("prior.log_prob", log_prob, theta)
    if getattr(value, "shape", None) != ():
        raise ValueError(
            f"Expected prior.log_prob(theta) of shape () for theta of shape {theta.shape}; got "
            f"{getattr(value, 'shape', type(value).__name__)}. Use prior.to_event(1) of a NumPyro "
            "distribution, or sum the log-densities of independent entries"
        )
    return theta


def check_simulator(
    simulator: Callable[[PRNGKeyArray, Array], Any], theta: jax.ShapeDtypeStruct, key: PRNGKeyArray
) -> None:
    """Checks that a simulator returns one array of the dtype of theta.

    Raises:
        ValueError: If it does not take `(key, theta)` in this order, returns several arrays or
            another dtype, or cannot be traced.
    """
    _check_arity(simulator)
    try:
        x = _traced("simulator", simulator, key, theta)
    except Exception as error:
        if not _takes_theta_first(simulator, key, theta):
            raise
        raise ValueError(
            "Expected a simulator that takes (key, theta); got one that takes (theta, key). Swap "
            "its arguments, or pass lambda key, theta: simulator(theta, key)."
        ) from error
    if not isinstance(x, jax.ShapeDtypeStruct):
        raise ValueError(
            f"Expected one array x from simulator(key, theta); got {type(x).__name__}. Join parts "
            "with jnp.concatenate or jnp.stack"
        )
    if x.dtype != theta.dtype:
        raise ValueError(
            f"Expected x of one floating dtype; got {x.dtype} beside theta of {theta.dtype}. "
            "Return x.astype(theta.dtype)"
        )


def _check_arity(simulator: Any) -> None:
    try:
        signature = inspect.signature(simulator)
    except (TypeError, ValueError):
        return  # not callable, or without a signature: the call raises if needed
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise ValueError(
            f"Expected a simulator that takes (key, theta); got one that takes {signature}. Fix "
            "further arguments by functools.partial."
        ) from error


def _takes_theta_first(
    simulator: Callable[..., Any], key: PRNGKeyArray, theta: jax.ShapeDtypeStruct
) -> bool:
    """Returns whether a simulator that fails for (key, theta) works for (theta, key)."""
    try:
        x = eqx.filter_eval_shape(simulator, theta, key)
    except Exception:
        return False
    return isinstance(x, jax.ShapeDtypeStruct) and x.dtype == theta.dtype


def _traced(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the shapes and dtypes of the results of a function."""
    try:
        return eqx.filter_eval_shape(function, *arguments)
    except (
        jax.errors.TracerArrayConversionError,
        jax.errors.ConcretizationTypeError,
        jax.errors.TracerIntegerConversionError,
    ) as error:
        raise ValueError(
            f"Expected {name} to be traced by JAX; it needs concrete values. Write it with "
            "jax.numpy and jax.lax, or simulate with your own loop and pass the arrays to "
            "nnef_dists.Simulations(theta, x)"
        ) from error


def log_density(prior: Any, theta: Float[Array, " theta_dim"]) -> Float[Array, ""]:
    """Returns the log-density of one theta, in nats. Zero if the prior has no `log_prob`."""
    log_prob: Any = getattr(prior, "log_prob", None)
    value: Any = log_prob(theta) if callable(log_prob) else jnp.zeros((), theta.dtype)
    return value


def check_densities(theta: Float[np.ndarray, "n theta_dim"], logs: Float[np.ndarray, " n"]) -> None:
    """Checks the log-densities of draws from a prior.

    Raises:
        ValueError: If more than 1% of the finite draws have a NaN or infinite log-density.
    """
    finite = np.isfinite(theta).all(1)
    bad = ~np.isfinite(logs) & finite
    if bad.sum() > _BAD * finite.sum():
        first = int(np.argmax(bad))
        raise ValueError(
            f"Expected prior.log_prob to be finite at the prior's own draws; got {logs[first]} at "
            f"theta = {theta[first]}, and at {bad.sum()} of {len(bad)} draws. Its sample and "
            "log_prob are of different distributions"
        )
