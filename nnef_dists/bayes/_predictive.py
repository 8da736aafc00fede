"""Predictions averaged over weight samples, in bounded memory."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Inexact, Key, PRNGKeyArray, PyTree, Shaped

from nnef_dists._checks import as_key, at_least_float32, check_model
from nnef_dists._ranges import check_integer, check_range

from ._sample import sample_all_parameters


def predictive_draws(
    model: PyTree,
    predict: Callable[[Any], Shaped[Array, "..."]],
    key: PRNGKeyArray,
    samples: int,
    *,
    batch_size: int = 16,
) -> Shaped[Array, "samples ..."]:
    """Evaluates a prediction under many draws of the weights.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from nnef_dists.bayes import BayesianLinear, predictive_draws
        >>> layer = BayesianLinear(3, 2, key=jax.random.key(0))
        >>> predictive_draws(layer, lambda m: m(jnp.ones(3)), jax.random.key(1), 100).shape
        (100, 2)

    Args:
        model: Any pytree with parameters.
        predict: Function of the sampled model, which it should call without a key.
        key: PRNG key.
        samples: Number of weight draws, at least 1.
        batch_size: Number of draws evaluated at a time, which bounds the memory. Defaults to 16.

    Returns:
        Predictions `(samples, ...)`.

    Raises:
        ValueError: If a count is not positive, `key` is not one key, or `model` is a function.
    """
    check_model(model, "predictive_draws(model, predict, key, samples)")
    key = as_key(key)
    _check_counts(samples, batch_size, least=1)
    keys = jax.random.split(key, samples)
    return lax.map(
        lambda k: predict(sample_all_parameters(model, k)),
        keys,
        batch_size=min(batch_size, samples),
    )


def predictive_moments(
    model: PyTree,
    predict: Callable[[Any], Shaped[Array, "..."]],
    key: PRNGKeyArray,
    samples: int,
    *,
    batch_size: int = 16,
) -> tuple[Inexact[Array, "..."], Float[Array, "..."]]:
    """Returns the mean and standard deviation of a prediction over weight draws.

    The draws agree with `predictive_draws`, but are never held in memory at once. Batches are
    merged one by one [Chan, Golub and LeVeque, 1983], so memory grows only with `batch_size`.

    Args:
        model: Any pytree with parameters.
        predict: Function of the sampled model.
        key: PRNG key.
        samples: Number of weight draws, at least 2.
        batch_size: Number of draws evaluated at a time. Defaults to 16.

    Returns:
        `(mean, stdv)` in the shape of the prediction, at least in float32. The variance has the
        divisor `samples - 1`. For complex predictions, it is E|y - mean|^2.

    Raises:
        ValueError: If a count is too small, `key` is not one key, or `model` is a function.
    """
    check_model(model, "predictive_moments(model, predict, key, samples)")
    key = as_key(key)
    _check_counts(samples, batch_size, least=2)
    keys = jax.random.split(key, samples)
    size = min(batch_size, samples)
    whole = samples // size

    def summarize(batch: Key[Array, " batch"]) -> tuple[Array, Array]:
        draws = jax.vmap(lambda k: predict(sample_all_parameters(model, k)))(batch)
        # Counts and sums of many draws do not fit in narrow dtypes.
        draws = at_least_float32(draws)
        mean = jnp.mean(draws, axis=0)
        return mean, jnp.sum(_squared_size(draws - mean), axis=0)

    def merge(
        state: tuple[Array, Array, Array], batch: Key[Array, " batch"]
    ) -> tuple[tuple[Array, Array, Array], None]:
        count, mean, squares = state
        n = batch.shape[0]
        batch_mean, batch_squares = summarize(batch)
        shift = batch_mean - mean
        total = count + n
        new_mean = mean + shift * (n / total)
        new_squares = squares + batch_squares + _squared_size(shift) * (count * n / total)
        return (total, new_mean, new_squares), None

    mean, squares = jax.tree.map(
        lambda out: jnp.zeros(out.shape, out.dtype), jax.eval_shape(summarize, keys[:size])
    )
    state = (jnp.zeros((), squares.dtype), mean, squares)
    state, _ = lax.scan(merge, state, keys[: whole * size].reshape(whole, size))
    if samples % size:
        state, _ = merge(state, keys[whole * size :])
    _, mean, squares = state
    return mean, jnp.sqrt(squares / (samples - 1))


def predictive_quantiles(
    model: PyTree,
    predict: Callable[[Any], Shaped[Array, "..."]],
    key: PRNGKeyArray,
    samples: int,
    levels: Sequence[float] | Float[Array, " levels"],
    *,
    batch_size: int = 16,
) -> Float[Array, "levels ..."]:
    """Returns quantiles of a prediction over weight draws.

    Args:
        model: Any pytree with parameters.
        predict: Function of the sampled model.
        key: PRNG key.
        samples: Number of weight draws, at least 1.
        levels: Probabilities in [0, 1].
        batch_size: Number of draws evaluated at a time. All predictions are held in memory.
            Defaults to 16.

    Returns:
        Quantiles `(levels, ...)`, linear between order statistics.

    Raises:
        ValueError: If a count is not positive, or a level is not in [0, 1].
    """
    levels = check_range("levels", levels, 0.0, 1.0, closed="both")
    draws = predictive_draws(model, predict, key, samples, batch_size=batch_size)
    # Positions among draws are rounded in narrow dtypes.
    draws = at_least_float32(draws)
    return jnp.quantile(draws, jnp.asarray(levels, draws.dtype), axis=0)


def _squared_size(x: Array) -> Array:
    return jnp.real(x * jnp.conj(x))


def _check_counts(samples: int, batch_size: int, least: int) -> None:
    check_integer("samples", samples, least)
    check_integer("batch_size", batch_size, 1)
