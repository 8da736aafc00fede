"""Methods of a pytree that `jax.jit` accepts as they are."""

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

import jax

_Self = TypeVar("_Self")
_P = ParamSpec("_P")
_R = TypeVar("_R")


class jittable(Generic[_Self, _P, _R]):  # noqa: N801
    """Makes a bound method a `jax.tree_util.Partial`, so that `jax.jit(q.mean)` works.

    The bound methods of an `equinox.Module` hash their arrays, which fails. This one hashes by
    identity, and remains a pytree. The arrays of the module are constants of the compiled program.
    Pass the module as an argument, `jax.jit(lambda q, eta: q.mean(eta))`, if it changes.

    Args:
        function: The method.
    """

    def __init__(self, function: Callable[Concatenate[_Self, _P], _R]):
        self.function = function
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
        return jax.tree_util.Partial(self.function, instance)
