"""Pages of the documentation for the examples, cell by cell.

MkDocs calls this module (`hooks` in `mkdocs.yml`). Each script with cells becomes a page. Links of
other pages to `../examples/NAME.py`, which work in the repository, then lead to the page.
"""

import ast
import re
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
THUMBNAILS = EXAMPLES.parent / "docs" / "images" / "gallery"
LINK = re.compile(r"\]\(\.\./examples/(?:\w+/)*(\w+)\.py\)")


def scripts():
    """Returns the paths of all examples that are programs, by name."""
    paths = sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.glob("inference/*.py")])
    return {path.stem: path for path in paths if "\n# %%\n" in path.read_text()}


def split(source):
    """Splits a script in the percent format.

    Args:
        source: Text of the script.

    Returns:
        A list of `(kind, text)`. The kind is `code` or `markdown`.
    """
    cells = []
    for part in re.split(r"^# %%", source, flags=re.MULTILINE)[1:]:
        mark, _, text = part.partition("\n")
        kind = "markdown" if mark.strip() == "[markdown]" else "code"
        text = text.strip("\n")
        if kind == "markdown" and text.startswith("#"):
            text = re.sub("^# ?", "", text, flags=re.MULTILINE)
        elif kind == "markdown":
            text = ast.literal_eval(text).strip("\n")
        cells.append((kind, text))
    return cells


def make_page(path):
    """Returns the Markdown of one example."""
    (_, docstring), *rest = split(path.read_text())
    title, _, text = docstring.partition("\n")
    parts = ["---\nsearch: { exclude: true }\n---", f"# {title.removesuffix('.')}"]
    if (THUMBNAILS / f"{path.stem}.png").exists():
        parts.append(f"![Figure of this example](../images/gallery/{path.stem}.png)")
    parts.append(text.strip("\n"))
    # A fence longer than any in the code.
    parts += [text if kind == "markdown" else f"````python\n{text}\n````" for kind, text in rest]
    return "\n\n".join(parts) + "\n"


def on_files(files, config):
    """Adds a page for each example, outside the navigation."""
    from mkdocs.structure.files import File, InclusionLevel

    for name, path in scripts().items():
        page = File.generated(
            config,
            f"gallery/{name}.md",
            content=make_page(path),
            inclusion=InclusionLevel.NOT_IN_NAV,
        )
        files.append(page)
    return files


def on_page_markdown(markdown, page, **_):
    """Turns links to scripts into links to their pages."""
    names = scripts()
    root = "../" * page.file.src_uri.count("/")

    def target(found):
        return f"]({root}gallery/{found[1]}.md)" if found[1] in names else found[0]

    return LINK.sub(target, markdown)
