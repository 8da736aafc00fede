"""All public names, each with the first line of its docstring.

    python -m tests.public_names    # rewrites docs/api/names.md

`tests/test_public_names.py` fails if a public name appears, disappears or changes its meaning
without this page.
"""

import importlib
import inspect
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "api" / "names.md"
ROOMS = (
    "families",
    "sampling",
    "moments",
    "generation",
    "bayes",
    "saving",
    "networks",
    "distributions",
    "inference",
    "flows",
    "posterior",
    "diagnostics",
    "plotting",
)


def meaning(value) -> str:
    """The first line of the docstring, for a constant its value and that of its class."""
    lines = (inspect.getdoc(value) or "").splitlines() or [""]
    is_constant = not callable(value)
    return f"`{value!r}`. {lines[0].strip()}" if is_constant else lines[0].strip()


def rows(module) -> list[str]:
    return [
        f"| `{name}` | {meaning(getattr(module, name)).replace('|', chr(92) + '|')} |"
        for name in sorted(module.__all__)
        if not inspect.ismodule(getattr(module, name))
    ]


def page() -> str:
    """The page as Markdown."""
    flat = importlib.import_module("nnef_dists")
    lines = [
        "# Public names",
        "",
        "Each public name with its meaning in one line. The names of `nnef_dists` itself stand",
        "first, then the names of each subpackage. All other names are private.",
        "`python -m tests.public_names` writes this page, and a test compares it with the package.",
    ]
    for title, module in [("nnef_dists", flat)] + [
        (f"nnef_dists.{room}", importlib.import_module(f"nnef_dists.{room}")) for room in ROOMS
    ]:
        lines += ["", f"## `{title}`", "", "| name | meaning |", "| --- | --- |", *rows(module)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
