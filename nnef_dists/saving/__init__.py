"""Models as files, families as plain data, and the classes that a file may name."""

from nnef_dists.saving._family_spec import Description as Description
from nnef_dists.saving._family_spec import build_family as build_family
from nnef_dists.saving._family_spec import check_importable as check_importable
from nnef_dists.saving._family_spec import describe_family as describe_family
from nnef_dists.saving._family_spec import family_differences as family_differences
from nnef_dists.saving._family_spec import restore_family as restore_family
from nnef_dists.saving._registry import register_saveable
from nnef_dists.saving._save import load, save

__all__ = ["load", "register_saveable", "save"]
