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

    Only for descriptions that come from the running program; files are `restore_family`'s.

    Raises:
        ValueError: If a name cannot be imported.
    """
    return Decoder({}, ImportedNames(), verify=False).decode(description)


def restore_family(description: Description, family: ExponentialFamily | None) -> ExponentialFamily:
    """Returns the family of a store.

    Nothing is imported because a file says so: a description is followed if it names a class of
    this package; the family of any other store is the caller's.

    Args:
        description: The record of the family in the store.
        family: The caller's; None to build one of this package's.

    Returns:
        The family.

    Raises:
        ValueError: If the caller's family is another, or is needed and missing.
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
        ValueError: If it cannot; with advice.
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
