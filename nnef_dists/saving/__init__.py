"""Saving of models as files and of families as plain data, and the names in files."""

from nnef_dists.saving._encode import describe_family as describe_family
from nnef_dists.saving._family_probe import Description as Description
from nnef_dists.saving._family_probe import family_differences as family_differences
from nnef_dists.saving._family_spec import build_family as build_family
from nnef_dists.saving._family_spec import check_importable as check_importable
from nnef_dists.saving._family_spec import restore_family as restore_family
from nnef_dists.saving._names import as_code as as_code
from nnef_dists.saving._needs import family_call as family_call
from nnef_dists.saving._save import load, save

__all__ = ["load", "save"]
