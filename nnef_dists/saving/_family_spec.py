"""A family as plain data, and back: what a store records and a task carries."""

import importlib
import inspect
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from nnef_dists import families
from nnef_dists.families import ExponentialFamily
from nnef_dists.storage import differences, join_lines

Description = dict[str, Any]

_PACKAGE = "nnef_dists.families"


def describe_family(family: ExponentialFamily) -> Description:
    """Describes a family by what JSON can hold.

    Args:
        family: The family. The arguments of its `__init__` are fields of the same names, made of
            numbers, strings, tuples and None.

    Returns:
        Its class (`module`, `name`), its `arguments`, the shapes of its `statistics` by name, and a
        `probe`: T (of many entries the first) and log h at fixed points, which shows a change of
        the formulas.

    Raises:
        ValueError: If an argument is not a field, or holds anything else.
    """
    cls = type(family)
    return {
        "module": _PACKAGE if _is_shipped(cls) else cls.__module__,
        "name": cls.__qualname__,
        "arguments": {name: _encode(family, name) for name in _argument_names(cls)},
        "statistics": {name: list(shape) for name, shape in family.stat_shapes.items()},
        "probe": _probe(family),
    }


def build_family(description: Description) -> ExponentialFamily:
    """Imports the class that a description names, and calls it.

    Only for descriptions that come from the running program; files are `restore_family`'s.
    """
    thing: Any = importlib.import_module(description["module"])
    for name in description["name"].split("."):
        thing = getattr(thing, name)
    return thing(**{name: _decode(value) for name, value in description["arguments"].items()})


def restore_family(description: Description, family: ExponentialFamily | None) -> ExponentialFamily:
    """Returns the family of a store.

    Nothing is imported because a file says so: a description is followed if it names a class that
    this package exports; the family of any other store is the caller's.

    Args:
        description: What the store says of its family.
        family: The caller's; None to build one of this package's.

    Returns:
        The family.

    Raises:
        ValueError: If the caller's family is another, or is needed and missing.
    """
    name = description.get("name")
    if family is None:
        cls = getattr(families, str(name), None) if name in families.__all__ else None
        if description.get("module") != _PACKAGE or not _is_shipped(cls):
            raise ValueError(
                f"Expected family= for data of {description.get('module')}.{name}, which is not a "
                "family of nnef_dists; got None (nothing is imported because a file says so)"
            )
        family = build_family(description)
    found = family_differences(description, describe_family(family))
    if found:
        raise ValueError(f"Expected the family of the store; got {family!r}:\n{join_lines(found)}")
    return family


def family_differences(stored: Description, asked: Description) -> list[str]:
    """Compares descriptions of families; the module may differ, since classes move."""
    compared = ("name", "arguments", "statistics")
    found = differences(
        {"family": {name: stored.get(name) for name in compared}},
        {"family": {name: asked.get(name) for name in compared}},
    )
    if not found and not _same_probe(stored.get("probe"), asked.get("probe")):
        found.append("family: T(x) or log h(x) at fixed points; its formulas have changed")
    return found


def check_importable(family: ExponentialFamily) -> None:
    """Checks that another process can build the family from its description.

    Raises:
        ValueError: If it cannot; with advice.
    """
    cls = type(family)
    name = f"{cls.__module__}.{cls.__qualname__}"
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise ValueError(
            f"Expected a family that workers can import; got {name}. Move the class to the top "
            "level of a module (a .py file that is installed, or in PYTHONPATH of the workers) and "
            "import it from there; or call without executor="
        )
    description = describe_family(family)
    try:
        same = build_family(description) == family
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(
            f"Expected a family that workers can import; got {name}: {error}"
        ) from None
    if not same:
        raise ValueError(f"Expected {name} to be the same when built again from its arguments")


def _is_shipped(cls: Any) -> bool:
    return (
        isinstance(cls, type)
        and issubclass(cls, ExponentialFamily)
        and cls.__name__ in families.__all__
        and getattr(families, cls.__name__) is cls
        and not inspect.isabstract(cls)
    )


def _argument_names(cls: type) -> list[str]:
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ValueError(f"Expected named arguments of {cls.__name__}; got {parameter}")
    return [parameter.name for parameter in parameters]


def _encode(family: ExponentialFamily, name: str) -> Any:
    def encode(value: Any) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if type(value) is tuple:
            return [encode(item) for item in value]
        raise ValueError(
            f"Expected argument {name!r} of {type(family).__name__} to consist of numbers, strings "
            f"and tuples, so that it can be stored; got {value!r}"
        )

    if not hasattr(family, name):
        raise ValueError(
            f"Expected argument {name!r} of {type(family).__name__} to be a field too, so that "
            "the family can be built again from it"
        )
    return encode(getattr(family, name))


def _decode(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_decode(item) for item in value)
    return float(value["float"]) if isinstance(value, dict) else value


def _probe(family: ExponentialFamily) -> list[str]:
    shape = family.support.shape
    u = np.sin(1.0 + np.arange(3 * math.prod(shape))).reshape(3, *shape)
    values: list[float] = []
    for point in u:
        x = family.support.transform(jnp.asarray(point, jnp.float32))
        values += np.asarray(family.sufficient_statistics(x), np.float64)[:32].tolist()
        values.append(float(family.log_base_measure(x)))
    return [f"{value:.6e}" for value in values]


def _same_probe(stored: Any, asked: Any) -> bool:
    # Wide enough for other backends and reduced precision.
    one, two = np.asarray(stored, float), np.asarray(asked, float)
    return one.shape == two.shape and bool(np.allclose(one, two, 1e-2, 1e-3, equal_nan=True))
