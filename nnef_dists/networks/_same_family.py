"""Check that networks, bases and data are of one family."""

from nnef_dists.families import ExponentialFamily


def check_same_family(what: str, found: ExponentialFamily, family: ExponentialFamily) -> None:
    """Checks the family of data or of a base.

    Args:
        what: What has the family, for the message.
        found: Its family.
        family: Expected family.

    Raises:
        ValueError: If the families differ.
    """
    if found != family:
        raise ValueError(f"Expected {what} of {family!r}; got {what} of {found!r}")
