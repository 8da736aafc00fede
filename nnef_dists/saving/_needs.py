"""Classes, functions and families that a file needs from the caller of `load`."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nnef_dists.families import ExponentialFamily
from nnef_dists.saving._family_probe import Description
from nnef_dists.saving._names import as_code, is_same_name, name_of
from nnef_dists.saving._numbers import Node

_SCALARS = (bool, int, float, str, type(None))


@dataclasses.dataclass
class Needs:
    """Names in a description, in the order of their first use.

    Attributes:
        classes: Names of classes.
        functions: Names of functions.
        families: Descriptions of families that the caller did not pass.
        opaque: Names of functions and markers that only `like=` can supply.
        unused: Families of the caller that are not in the description.
    """

    classes: list[str]
    functions: list[str]
    families: list[Description]
    opaque: list[str]
    unused: list[ExponentialFamily]

    def missing(self, known: Mapping[str, Any]) -> "Needs":
        """Returns the needs whose names in files are not in `known`."""
        return Needs(
            [name for name in self.classes if name not in known],
            [name for name in self.functions if name not in known],
            [node for node in self.families if node["class"] not in known],
            self.opaque,
            self.unused,
        )

    def __bool__(self) -> bool:
        return bool(self.classes or self.functions or self.families or self.opaque)

    def __str__(self) -> str:
        families = [node["class"] for node in self.families]
        return ", ".join(map(as_code, [*families, *self.classes, *self.functions, *self.opaque]))

    def arguments(self) -> str:
        """Returns the arguments of `load` that meet the needs, as code."""
        if self.opaque:
            return "like=model"
        parts = []
        calls = [family_call(node) for node in self.families]
        if calls:
            parts.append(f"family={calls[0] if len(calls) == 1 else _tuple(calls)}")
        for argument, names in (("classes", self.classes), ("functions", self.functions)):
            if names:
                parts.append(f"{argument}={_tuple(list(map(as_code, names)))}")
        return ", ".join(parts)


def find_needs(
    node: Node, families: Sequence[ExponentialFamily], known: Mapping[str, Any]
) -> Needs:
    """Lists the names in a description.

    Args:
        node: Description from a file, possibly malformed.
        families: Families of the caller.
        known: Classes and functions that loading resolves by itself, by their names in files.
    """
    classes: dict[str, None] = {}
    functions: dict[str, None] = {}
    opaque: dict[str, None] = {}
    found: dict[str, Description] = {}
    used: set[int] = set()
    stack = [node]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += reversed(item)
        if not isinstance(item, dict):
            continue
        kind, name = item.get("kind"), str(item.get("class"))
        if kind in ("list", "dict"):
            stack += _children(item.get("items"))
        elif kind in ("partial", "closure"):
            stack.append(item.get("items"))
        elif kind == "module":
            classes[name] = None
            stack += _children(item.get("fields"))
        elif kind in ("class", "member"):
            classes[name] = None
        elif kind == "function":
            functions[name] = None
        elif kind == "opaque":
            opaque[str(item.get("name"))] = None
        elif kind == "family":
            given = [f for f in families if is_same_name(name_of(type(f)), name)]
            used |= {id(family) for family in given}
            if not given and name in known:
                stack += _children(item.get("fields"))
            elif not given and isinstance(item.get("class"), str):
                found.setdefault(family_call(item), item)
    unused = [family for family in families if id(family) not in used]
    return Needs(list(classes), list(functions), list(found.values()), list(opaque), unused)


def family_call(node: Description) -> str:
    """Returns the expression that makes a family, such as `mine.Even(order=4)`."""
    fields = node.get("fields")
    pairs = fields.items() if isinstance(fields, dict) else ()
    arguments = ", ".join(f"{name}={_as_code(value)}" for name, value in pairs)
    return f"{as_code(str(node.get('class')))}({arguments})"


def _as_code(node: Node) -> str:
    if isinstance(node, list):
        return _tuple([_as_code(item) for item in node])
    if isinstance(node, _SCALARS):
        return repr(node)
    if node.get("kind") == "family":
        return family_call(node)
    if node.get("kind") in ("class", "function"):
        return as_code(str(node.get("class")))
    return "..."


def _tuple(parts: list[str]) -> str:
    return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"


def _children(items: Any) -> list[Node]:
    children = items if isinstance(items, list) else []
    return list(reversed(list(items.values()) if isinstance(items, dict) else children))
