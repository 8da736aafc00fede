"""Families from their descriptions."""

from nnef_dists.families import ExponentialFamily
from nnef_dists.saving._decode import Decoder
from nnef_dists.saving._encode import describe_family
from nnef_dists.saving._family_probe import Description, family_differences
from nnef_dists.saving._names import ImportedNames, as_code, is_same_name, name_of, own_things
from nnef_dists.saving._needs import family_call, find_needs
from nnef_dists.storage import join_lines


def build_family(description: Description) -> ExponentialFamily:
    """Imports the classes that a description names, and makes the family from its fields.

    This is only for descriptions from the running program. For files, use `restore_family`.

    Raises:
        ValueError: If a name cannot be imported.
    """
    return Decoder({}, ImportedNames(), verify=False).decode(description)


def restore_family(description: Description, family: ExponentialFamily | None) -> ExponentialFamily:
    """Returns the family of a store.

    Names in a store are never imported. If the description names a class of this package, the
    family is built from it. For any other class, the caller must pass the family.

    Args:
        description: Description of the family in the store.
        family: Family of the caller. None builds a family of this package.

    Returns:
        The family.

    Raises:
        ValueError: If the family of the caller differs, or is needed and missing.
    """
    known, given = own_things(), () if family is None else (family,)
    needs = find_needs(description, given, known)
    if family is not None and (
        needs.unused or is_same_name(name_of(type(family)), description["class"])
    ):
        found = family_differences(description, describe_family(family))
        if found:
            raise ValueError(
                f"Expected the family of the store; got {family!r}:\n{join_lines(found)}"
            )
        return family
    if missing := needs.missing(known):
        name, call = as_code(description["class"]), family_call(description)
        raise ValueError(
            f"Expected family= for data of {name}, which needs {missing} beside nnef_dists; got "
            f"{family!r}. Import it and give family={call} (nothing is imported because a file "
            "says so)."
        )
    return Decoder({}, known, given).decode(description)


def check_importable(family: ExponentialFamily) -> None:
    """Checks that another process can build the family from its description.

    Raises:
        ValueError: If it cannot. The message has advice.
    """
    cls = type(family)
    name = as_code(name_of(cls))
    if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
        raise ValueError(
            f"Expected a family that workers can import; got {cls.__module__}.{cls.__qualname__}. "
            "Move the class to the top level of a module (a .py file that is installed, or in "
            "PYTHONPATH of the workers) and import it from there; or call without executor="
        )
    try:
        same = build_family(describe_family(family)) == family
    except ValueError as error:
        raise ValueError(
            f"Expected a family that workers can import; got {name}: {error}"
        ) from None
    if not same:
        raise ValueError(f"Expected {name} to be the same when built again from its fields")
