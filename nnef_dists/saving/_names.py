"""Names of classes and functions in files, and the ones that loading resolves by itself."""

import dataclasses
import enum
import functools
import importlib
import inspect
import sys
from collections.abc import Iterable
from typing import Any

import equinox as eqx
import flowjax.bijections
import flowjax.distributions
import jax
import jax.numpy as jnp
import paramax

_PACKAGE = "nnef_dists"

# Other libraries, whose public module classes a file may name.
_LIBRARIES = (eqx.nn, flowjax.bijections, flowjax.distributions, paramax)

_FUNCTIONS = {
    f"{namespace.__name__}:{name}": getattr(namespace, name)
    for namespace, names in (
        (
            jax.nn,
            "celu elu gelu hard_tanh identity leaky_relu log_sigmoid mish relu relu6 selu "
            "sigmoid silu soft_sign softmax softplus squareplus",
        ),
        (jnp, "abs arcsinh cos exp log1p sin sinh square tanh where"),
    )
    for name in names.split()
}
# The lambda that an MLP of Equinox ends with by default.
_FUNCTIONS["equinox.nn:MLP.final_activation"] = (
    inspect.signature(eqx.nn.MLP).parameters["final_activation"].default
)


def has_fields(cls: type) -> bool:
    """Returns whether a class has fields that describe its values."""
    return dataclasses.is_dataclass(cls) or is_named_tuple(cls)


def is_named_tuple(cls: type) -> bool:
    """Returns whether a class is a named tuple."""
    return issubclass(cls, tuple) and hasattr(cls, "_fields")


def own_things() -> dict[str, Any]:
    """Returns the classes of this package, and those of the table above, by their names in files.

    A class of this package is known because a module of the package defines it. Its name has the
    room, and not the module, so that it may move within the room.
    """
    found: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(f"{_PACKAGE}."):
            for thing in list(vars(module).values()):
                if isinstance(thing, type) and thing.__module__ == name and _is_value(thing):
                    found[name_of(thing)] = thing
    return found | _library_classes() | _FUNCTIONS


def name_of(thing: Any) -> str:
    """Returns the name of a class or function in files, such as `nnef_dists.bayes:BayesianMLP`."""
    if isinstance(thing, type) and thing.__module__.startswith(f"{_PACKAGE}."):
        return f"{_PACKAGE}.{thing.__module__.split('.')[1]}:{thing.__qualname__}"
    known = _library_names().get(id(thing))
    return known or f"{thing.__module__}:{thing.__qualname__}"


def is_own(name: str) -> bool:
    """Returns whether a name in a file is that of a class of this package."""
    return name.startswith(f"{_PACKAGE}.")


def as_code(name: str) -> str:
    """Returns a name in a file as Python spells it: `mine.Layer` for `mine:Layer`."""
    return name.replace(":", ".").removeprefix("__main__.")


def is_same_name(one: str, two: str) -> bool:
    """Returns whether names differ in the module alone, since classes move."""
    return one.partition(":")[2] == two.partition(":")[2]


def is_importable(thing: Any) -> bool:
    """Returns whether the name of a function leads back to it, unlike that of a lambda."""
    name = name_of(thing)
    return _FUNCTIONS.get(name) is thing or _look_up(name, import_module=sys.modules.get) is thing


def match_names(names: Iterable[str], given: Iterable[Any]) -> dict[str, Any]:
    """Assigns classes or functions of the caller to the names in a file.

    Args:
        names: Names in the file.
        given: Classes and functions. The module of one may differ from the name, because classes
            move, unless another name in the file is its own.

    Returns:
        The classes and functions by name in the file.

    Raises:
        ValueError: If two have one name.
    """
    by_name: dict[str, Any] = {}
    for thing in given:
        if by_name.setdefault(name_of(thing), thing) is not thing:
            raise ValueError(
                f"Expected one class or function called {as_code(name_of(thing))}; got two."
            )
    names = set(names)
    found = {name: by_name[name] for name in names if name in by_name}
    for name in names - set(found):
        moved = [n for n in by_name if n not in names and is_same_name(n, name)]
        if len(moved) == 1:
            found[name] = by_name[moved[0]]
    return found


class ImportedNames:
    """All names of this package and of importable modules.

    Only for descriptions that the running program made, never for those of files.
    """

    def get(self, name: str) -> Any:
        """Returns the class or function of a name; None if it cannot be imported."""
        own = own_things().get(name)
        return _look_up(name, importlib.import_module) if own is None else own


def _is_value(cls: type) -> bool:
    return has_fields(cls) or issubclass(cls, enum.Enum)


def _look_up(name: str, import_module: Any) -> Any:
    module, _, path = name.partition(":")
    try:
        return functools.reduce(getattr, path.split("."), import_module(module))
    except (ImportError, AttributeError):
        return None


@functools.cache
def _library_classes() -> dict[str, type]:
    return {
        f"{library.__name__}:{name}": thing
        for library in _LIBRARIES
        for name, thing in vars(library).items()
        if isinstance(thing, type) and has_fields(thing)
    }


@functools.cache
def _library_names() -> dict[int, str]:
    # The first name counts: flowjax.distributions holds some of the bijections too.
    pairs = [*_library_classes().items(), *_FUNCTIONS.items()]
    return {id(thing): name for name, thing in reversed(pairs)}
