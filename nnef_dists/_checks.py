"""Argument checks: errors for concrete values, NaN for traced values."""

import inspect
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray

_T = TypeVar("_T")


def guard(
    value: _T,
    valid: Bool[Array, ""],
    expected: str,
    got: object,
    remedy: str,
    *,
    strict: bool = False,
    error: type[Exception] = ValueError,
) -> _T:
    """Returns `value` if it is valid. Otherwise raises, or returns NaN under `jax.jit`.

    A concrete `valid` (in eager code, also under `jax.grad`) raises immediately. A traced `valid`
    (under `jax.jit` and `jax.vmap`) multiplies an invalid value by NaN. The value, its derivatives
    and all results computed from it are then NaN. There is no host callback unless `strict`.

    Args:
        value: A pytree. Only its floating arrays become NaN.
        valid: Whether the value is valid, a scalar.
        expected: Requirement in the message, "Expected <requirement>".
        got: Invalid value in the message.
        remedy: Sentence of the message that states the remedy.
        strict: Whether a traced invalid value raises by `equinox.error_if`, which is a host
            callback. Defaults to False.
        error: Class of the exception for concrete values. Defaults to `ValueError`.

    Returns:
        The same pytree.

    Raises:
        ValueError: If the concrete value is invalid (or another `error`).
    """
    if not isinstance(valid, Tracer):
        return check_concrete(value, valid, expected, got, remedy, error=error)
    if strict:
        return eqx.error_if(value, ~valid, f"{expected}. {remedy}")

    def spoil(leaf: Any) -> Any:
        if not eqx.is_inexact_array(leaf):
            return leaf
        # A factor, unlike a selection, makes derivatives NaN, too. Valid ones are unchanged.
        return leaf * jnp.where(valid, 1, jnp.nan).astype(leaf.dtype)

    return jax.tree.map(spoil, value)


def check_concrete(
    value: _T,
    valid: Bool[Array, ""],
    expected: str,
    got: object,
    remedy: str,
    *,
    error: type[Exception] = ValueError,
) -> _T:
    """Returns `value`, or raises if a concrete `valid` is false. A traced one is ignored.

    The arguments are described in `guard`. Invalid values must be NaN already.
    """
    if not isinstance(valid, Tracer) and not valid:
        if isinstance(got, Tracer):
            # Show the concrete value under jax.grad.
            got = jax.lax.stop_gradient(got)
        raise error(f"{expected}; got {got}. {remedy}")
    return value


def as_array(value: Any) -> Array:
    """Returns an array. Numbers and sequences of numbers get the default floating dtype."""
    if isinstance(value, jax.Array):
        return value
    is_array = isinstance(value, np.ndarray | np.generic)
    return jnp.asarray(value) if is_array else _of_sequence(value)


def at_least_float32(value: Any) -> Array:
    """Returns an array in which sums and counts do not overflow.

    Args:
        value: Array of any dtype, or numbers.

    Returns:
        The array. Below 32 bits, floating values are converted to float32. Integers and booleans
        are converted to the default floating dtype.
    """
    value = as_array(value)
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return value.astype(jnp.float32) if jnp.finfo(value.dtype).bits < 32 else value
    return value.astype(jnp.result_type(float))


def as_point(x: Any, shape: tuple[int, ...], owner: object) -> Array:
    """Returns x as one floating point.

    Args:
        x: Array of any dtype, or numbers.
        shape: Shape of one point.
        owner: Family, for messages.

    Returns:
        An array of this shape. Integers are converted to the default floating dtype.

    Raises:
        ValueError: If `x` has another shape, or is not an array of numbers.
    """
    try:
        x = as_array(x)
    except (TypeError, ValueError):
        raise ValueError(
            f"Expected x as an array of numbers for {owner!r}; got {x!r}. Use a jax.Array."
        ) from None
    if x.shape != shape:
        raise ValueError(
            f"Expected x of shape {shape} for {owner!r}; got {x.shape}. Methods take one point. "
            "Use jax.vmap for a batch."
        )
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.result_type(float))


def as_vector(value: Any, size: int, what: str, owner: object) -> Float[Array, " size"]:
    """Returns an argument such as eta as a floating vector.

    Sequences of numbers are converted to the default floating dtype. Arrays keep their dtype.

    Args:
        value: Array `(size,)`, or a list or tuple of numbers.
        size: Length of the vector.
        what: Name of the argument, such as "eta".
        owner: Family, for messages.

    Returns:
        The vector.

    Raises:
        ValueError: If `value` is a dict, a PRNG key, of another shape or not floating.
    """
    value = _as_floating(value, what, owner)
    if value.shape != (size,):
        remedy = "The entries are those of family.stat_names."
        if value.ndim > 1:
            remedy = "Methods take one vector. Use jax.vmap for a batch."
        raise ValueError(
            f"Expected {what} of shape {(size,)} for {owner!r}; got {value.shape}. {remedy}"
        )
    return value


def as_rows(value: Any, size: int, what: str, owner: object) -> Float[Array, "n size"]:
    """Returns an argument such as etas as a floating matrix with at least one row.

    Args:
        value: Array `(n, size)`, or nested lists of numbers.
        size: Length of a row.
        what: Name of the argument, such as "etas".
        owner: Family, for messages.

    Returns:
        The matrix.

    Raises:
        ValueError: If `value` is a dict, a PRNG key, of another shape, empty or not floating.
    """
    value = _as_floating(value, what, owner)
    if value.ndim != 2 or value.shape[1] != size or len(value) == 0:
        alone = f" Use {what}[None] for a single one." if value.shape == (size,) else ""
        raise ValueError(
            f"Expected {what} of shape (n, {size}), n >= 1, for {owner!r}; "
            f"got {value.shape}.{alone}"
        )
    return value


def _as_floating(value: Any, what: str, owner: object) -> Array:
    if isinstance(value, dict) or (isinstance(value, list) and value and _is_dict(value[0])):
        raise ValueError(
            f"Expected {what} as a flat array for {owner!r}; got a dict. "
            "Use family.flatten_stats_or_eta(parts), with jax.vmap for a batch."
        )
    if _is_typed_key(value) or _is_old_key(value):
        raise ValueError(
            f"Expected {what} as an array of numbers for {owner!r}; got a PRNG key. "
            "Check the order of the arguments."
        )
    try:
        array = as_array(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"Expected {what} as an array or a list of numbers for {owner!r}; got {value!r}. "
            "Use a jax.Array of a floating dtype."
        ) from None
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"Expected {what} of a floating-point dtype for {owner!r}; got dtype {array.dtype}. "
            "Convert it with .astype(float)."
        )
    return array


def _of_sequence(value: Any) -> Array:
    """Converts numbers, and nested sequences of numbers, to the default floating dtype."""
    default = jnp.result_type(float)
    leaves = jax.tree.leaves(value)
    if any(isinstance(leaf, Tracer | jax.Array) for leaf in leaves):
        return jnp.asarray(jax.tree.map(lambda leaf: jnp.asarray(leaf, default), value))
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError
    return jnp.asarray(array.astype(default))


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_typed_key(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)


def _is_old_key(value: Any) -> bool:
    """Returns whether a value is an array from `jax.random.PRNGKey`."""
    return isinstance(value, jax.Array) and value.dtype == jnp.uint32 and value.shape == (2,)


def as_key(key: Any) -> PRNGKeyArray:
    """Returns a PRNG key as one typed key.

    Args:
        key: A `jax.random.key`, or an array from the older `jax.random.PRNGKey`.

    Returns:
        A typed key of shape `()`.

    Raises:
        ValueError: If `key` is a seed, several keys, or not a key.
    """
    if _is_typed_key(key) and key.shape == ():
        return key
    if _is_old_key(key):
        return jax.random.wrap_key_data(key)
    shaped = isinstance(key, jax.Array | np.ndarray)
    plain = isinstance(key, str | float | int | None)
    found = f"{key.dtype} of shape {key.shape}" if shaped else repr(key)
    remedy = "Use jax.random.key(seed) with an integer seed."
    if _is_typed_key(key):
        remedy = "Use one of the keys."
    elif shaped or not plain:
        found = found if shaped else type(key).__name__
        remedy = f"Check the order of the arguments. {remedy}"
    raise ValueError(f"Expected one jax.random.key; got {found}. {remedy}")


def check_model(model: Any, call: str) -> None:
    """Checks that a model was not swapped with another argument: a PRNG key or a function.

    Args:
        model: Argument, any pytree with parameters.
        call: Call with its arguments in order, such as "entropy(model)".

    Raises:
        ValueError: If `model` is a PRNG key, a Python function or a class.
    """
    is_key = _is_typed_key(model) or _is_old_key(model)
    if is_key or isinstance(model, type) or inspect.isfunction(model):
        found = "a PRNG key" if is_key else getattr(model, "__name__", type(model).__name__)
        raise ValueError(
            f"Expected a model, a pytree with parameters; got {found}. Check the order of the "
            f"arguments: {call}."
        )


def check_instance(value: Any, kind: type, what: str) -> None:
    """Checks that an argument is an instance of a class, and not a class itself.

    Args:
        value: Argument.
        kind: Class, such as `ExponentialFamily`.
        what: Name of the argument.

    Raises:
        ValueError: If `value` is not an instance of `kind`.
    """
    if isinstance(value, kind):
        return
    if isinstance(value, type):
        name = value.__name__
        raise ValueError(
            f"Expected {what} to be an instance of {kind.__name__}; got the class {name}. "
            f"Call the class with its arguments: {name}(...)."
        )
    inner = getattr(value, what, None)
    remedy = "Check the type, and the order of the arguments."
    if isinstance(inner, kind):
        remedy = f"Use its attribute .{what}."
    raise ValueError(
        f"Expected {what} to be an instance of {kind.__name__}; got {type(value).__name__}. "
        f"{remedy}"
    )
