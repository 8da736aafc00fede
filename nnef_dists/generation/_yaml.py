"""Loading of YAML, in which a repeated key is an error."""

from typing import Any

# Name of this loader among those of jsonargparse.
YAML_MODE = "nnef_dists_yaml"


def register_yaml_loader() -> None:
    """Registers the loader of `YAML_MODE` in jsonargparse. Its other modes are unchanged."""
    import jsonargparse
    import yaml

    jsonargparse.set_loader(YAML_MODE, _load, (yaml.YAMLError,))


def _load(text: str) -> Any:
    """Returns the value of a YAML text.

    Raises:
        YAMLError: If the text is no YAML.
        ValueError: If a mapping has the same key twice.
    """
    import jsonargparse
    import yaml

    # YAML itself keeps the last of several equal keys.
    repeated = _repeated_key(yaml.compose(text, Loader=yaml.SafeLoader))
    if repeated is not None:
        name, first, second = repeated
        raise ValueError(
            f"Expected each key of a mapping once; got {name!r} on line {first} and again on line "
            f"{second}. Join the two, or remove one."
        )
    return jsonargparse.get_loader("yaml")(text)


def _repeated_key(root: Any) -> tuple[str, int, int] | None:
    """Returns a repeated key of a mapping, with the numbers of its lines, or None."""
    import yaml

    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        # Anchors make a node appear several times, possibly within itself.
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if not isinstance(node, yaml.MappingNode):
            stack += reversed(node.value)
            continue
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            stack += (key, value)
            # A key of a merge `<<` may be given again, to change it.
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                return key.value, lines[name], line
            lines[name] = line
    return None
