"""A decorator of methods that run as one compiled program with checked arguments."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from nnef_dists._checks import as_key, as_point, as_vector
from nnef_dists.distributions._extrapolation import check_extrapolation

_Self = TypeVar("_Self")
_P = ParamSpec("_P")
_R = TypeVar("_R")

Within = Literal["region", "domain", "space"]


class compiled(Generic[_Self, _P, _R]):  # noqa: N801
    """Makes a method of an `AbstractTractableFamily` a compiled program with checked arguments.

    Arguments are converted by their names: `eta`, `eta_p`, `eta_q` and `mu` to vectors, `x` to a
    point, `key` to a key. Arrays are traced, other arguments are static. The body sees an invalid
    eta as NaN. The program also returns whether all checks pass, as one bit. If this bit is
    concrete and false, the checks run again on concrete values, and raise or warn.

    The bound method is a `jax.tree_util.Partial`, so that `jax.jit(q.mean)` works. The bound
    methods of an `equinox.Module` hash their arrays, which fails. This one hashes by identity. The
    arrays of the module are constants of the compiled program. Pass the module as an argument,
    `jax.jit(lambda q, eta: q.mean(eta))`, if it changes.

    Args:
        function: The method. It calls no other compiled method.
        within: Set that must contain each eta: the training "region", outside which the method
            raises or warns, the natural "domain", or the whole "space". Defaults to "region".
    """

    def __init__(
        self, function: Callable[Concatenate[_Self, _P], _R], *, within: Within = "region"
    ):
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(q: Any, *args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(q, *args, **kwargs)
            bound.apply_defaults()
            arguments = {
                name: _CONVERT[name](q, name, value) if name in _CONVERT else value
                for name, value in list(bound.arguments.items())[1:]
            }
            return _run(function, within, q, arguments)

        self.function = function
        self.call = call
        self.__doc__ = function.__doc__

    @overload
    def __get__(
        self, instance: None, owner: type | None = None
    ) -> Callable[Concatenate[_Self, _P], _R]: ...

    @overload
    def __get__(self, instance: _Self, owner: type | None = None) -> Callable[_P, _R]: ...

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.function
        return jax.tree_util.Partial(self.call, instance)


def _vector(q: Any, name: str, value: Any) -> Array:
    what = "mu" if name == "mu" else "eta"
    return as_vector(value, q.family.eta_dim, what, q.family)


def _static(value: Any) -> Any:
    """Returns a concrete array as numbers, which are static."""
    is_array = isinstance(value, jax.Array | np.ndarray) and not isinstance(value, Tracer)
    return value.tolist() if is_array else value


_CONVERT: dict[str, Callable[[Any, str, Any], Any]] = {
    **dict.fromkeys(("eta", "eta_p", "eta_q", "mu"), _vector),
    "x": lambda q, name, value: as_point(value, q.family.x_shape, q.family),
    "key": lambda q, name, value: as_key(value),
    "n": lambda q, name, value: _static(value),
}
_ETAS = ("eta", "eta_p", "eta_q")


def _run(function: Callable, within: Within, q: Any, arguments: dict[str, Any]) -> Any:
    etas = [name for name in _ETAS if name in arguments]
    if q.strict and within != "space":
        checked = {name: q.family.check_eta(arguments[name], strict=True) for name in etas}
        arguments = {**arguments, **checked}
    result, is_fine, is_inside, is_finite = _program(function, within, q, arguments)
    if not isinstance(is_fine, Tracer) and is_fine:
        return result
    for name in etas:
        eta = arguments[name]
        if not isinstance(is_fine, Tracer) and within != "space":
            q.family.check_eta(eta)
        result = check_extrapolation(result, eta, is_inside[name], strict=q.strict)
    if not isinstance(is_fine, Tracer) and not is_finite:
        # The body runs again on concrete values: it raises, or succeeds in double precision.
        result = function(q, **arguments)
    return result


def _program(
    function: Callable, within: Within, q: Any, arguments: dict[str, Any]
) -> tuple[Any, Bool[Array, ""], dict[str, Bool[Array, ""]], Bool[Array, ""]]:
    """Returns the result, and whether all checks pass, each eta is inside, and there is no NaN."""
    # This is less work per call than `equinox.filter_jit`, whose results need not be arrays.
    leaves, structure = jax.tree.flatten((q, arguments))
    is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
    arrays = [leaf for leaf, traced in zip(leaves, is_array, strict=True) if traced]
    # None marks the place of an array.
    rest = tuple(None if traced else leaf for leaf, traced in zip(leaves, is_array, strict=True))
    # The probe is traced inside a program, whose dtypes are fixed, also if all arrays are concrete.
    if q._in_double and not any(isinstance(leaf, Tracer) for leaf in (*arrays, jnp.zeros(()))):
        given = [leaf.dtype for leaf in jax.tree.leaves(arguments) if eqx.is_inexact_array(leaf)]
        dtype = max(given, key=lambda dtype: dtype.itemsize)
        return _in_double(function, within, structure, rest, arrays, dtype)
    return _compiled_program(function, within, structure, rest, arrays)


def _in_double(
    function: Callable,
    within: Within,
    structure: Any,
    rest: tuple,
    arrays: list[Array],
    dtype: np.dtype,
) -> Any:
    """Runs the program in double precision. Floating results have a given dtype."""

    def widened(leaf: Any) -> Any:
        return jnp.asarray(leaf, jnp.float64) if eqx.is_inexact_array_like(leaf) else leaf

    def narrowed(leaf: Any) -> Any:
        if eqx.is_inexact_array(leaf):
            return jnp.asarray(leaf, dtype)
        is_integer = eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.integer)
        return jnp.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype)) if is_integer else leaf

    with jax.enable_x64(True):
        found = _compiled_program(function, within, structure, rest, list(map(widened, arrays)))
    return jax.tree.map(narrowed, found)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _compiled_program(function, within, structure, rest, arrays):
    left = iter(arrays)
    leaves = [next(left) if leaf is None else leaf for leaf in rest]
    q, arguments = jax.tree.unflatten(structure, leaves)
    yes = jnp.asarray(True)
    is_valid, is_inside = yes, {}
    for name in (name for name in _ETAS if name in arguments):
        eta = arguments[name]
        is_inside[name] = yes
        if within != "space":
            is_valid &= q.family.is_valid_eta(eta)
            arguments = {**arguments, name: q.family.check_eta(eta)}
        if within == "region":
            is_inside[name] = q._is_inside(eta)
    result = function(q, **arguments)
    leaves = [leaf for leaf in jax.tree.leaves(result) if eqx.is_inexact_array(leaf)]
    is_finite = functools.reduce(jnp.logical_and, [~jnp.any(jnp.isnan(x)) for x in leaves], yes)
    is_fine = functools.reduce(jnp.logical_and, is_inside.values(), is_valid & is_finite)
    return result, is_fine, is_inside, is_finite
