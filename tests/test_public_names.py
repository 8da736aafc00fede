"""The public names are frozen."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

import nnef_dists
from tests.public_names import PAGE, ROOMS, page


def test_the_page_lists_the_public_names():
    """After a change of names, `python -m tests.public_names` rewrites the page."""
    assert PAGE.read_text() == page()


def test_each_name_has_a_meaning():
    entries = re.findall(r"^\| `(\w+)` \| (.*) \|$", page(), re.M)
    assert len(entries) > 200
    assert [name for name, meaning in entries if len(meaning) < 10] == []


@pytest.mark.parametrize("room", ROOMS)
def test_flat_names_are_those_of_their_rooms(room):
    flat, module = (
        importlib.import_module("nnef_dists"),
        importlib.import_module(f"nnef_dists.{room}"),
    )
    for name in set(flat.__all__) & set(module.__all__):
        assert getattr(flat, name) is getattr(module, name)


def test_the_version_is_the_same_everywhere():
    root = Path(__file__).parents[1]
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    assert nnef_dists.__version__ == version
    assert f"\nversion: {version}\n" in (root / "CITATION.cff").read_text()
    assert f"## {version} (" in (root / "docs" / "changelog.md").read_text()
