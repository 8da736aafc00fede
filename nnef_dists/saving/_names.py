"""Names of classes and functions in files, and the names that loading resolves by itself."""

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

# Other libraries whose public classes with fields a file may name.
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
# Default final activation of an MLP in Equinox, a lambda.
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
    """Returns the classes of this package, and known classes and functions of other libraries.

    The keys are names in files. The classes of this package are all classes that its modules
    define. Their names contain the subpackage but not the module, so that a class may move within
    the subpackage.
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
    """Returns whether a name in a file belongs to this package."""
    return name.startswith(f"{_PACKAGE}.")


def as_code(name: str) -> str:
    """Returns a name in a file as Python code: `mine.Layer` for `mine:Layer`."""
    return name.replace(":", ".").removeprefix("__main__.")


def is_same_name(one: str, two: str) -> bool:
    """Returns whether two names differ at most in the module, since classes move."""
    return one.partition(":")[2] == two.partition(":")[2]


def is_importable(thing: Any) -> bool:
    """Returns whether a function can be found by its name, unlike a lambda."""
    name = name_of(thing)
    return _FUNCTIONS.get(name) is thing or _look_up(name, import_module=sys.modules.get) is thing


def match_names(names: Iterable[str], given: Iterable[Any]) -> dict[str, Any]:
    """Assigns classes or functions of the caller to the names in a file.

    Args:
        names: Names in the file.
        given: Classes and functions. Their modules may differ from the names, because classes move,
            unless their own name is also in the file.

    Returns:
        The classes and functions by name in the file.

    Raises:
        ValueError: If two classes or functions have the same name.
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

    This is only for descriptions from the running program, never for files.
    """

    def get(self, name: str) -> Any:
        """Returns the class or function of a name, or None if it cannot be imported."""
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
    # The first name takes precedence, since flowjax.distributions has some bijections, too.
    pairs = [*_library_classes().items(), *_FUNCTIONS.items()]
    return {id(thing): name for name, thing in reversed(pairs)}
