"""Equations of docstrings are typeset on the pages of the API: docs/equations.py reads them all."""

import ast
import html
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = re.compile(r"(Args|Attributes|Example|Examples|Raises|Reference|Returns):\s*$")
# Blocks that are code, and stay so.
CODE = {"draw_or_mean", "draw_dropout"}


def load_hook():
    spec = importlib.util.spec_from_file_location("equations", ROOT / "docs" / "equations.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


equations = load_hook()


def indented_blocks(docstring: str) -> list[str]:
    """Indented blocks of a docstring that belong to none of its sections."""
    blocks, block, in_section, previous = [], [], False, ""
    for line in [*docstring.splitlines(), "end"]:
        if line and not line.startswith(" "):
            if block:
                blocks.append("\n".join(block))
            block, in_section = [], bool(SECTION.match(line))
        elif line and not in_section and (block or not previous):
            block.append(line)
        previous = line
    return blocks


def docstring_blocks() -> list[tuple[str, str]]:
    found = []
    for path in sorted((ROOT / "nnef_dists").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                blocks = indented_blocks(ast.get_docstring(node) or "")
                found += [(getattr(node, "name", path.name), block) for block in blocks]
    return found


def test_all_equations_of_the_package_are_read():
    unread = set()
    for name, block in docstring_blocks():
        try:
            tex = equations.to_tex(block)
        except ValueError:
            unread.add(name)
            continue
        assert tex.count("{") == tex.count("}"), tex
    assert unread == CODE
    assert len(docstring_blocks()) > 100


@pytest.mark.parametrize(
    ("text", "tex"),
    [
        ("mu(eta) = E[T | eta]", r"\mu ( \eta ) = \mathbb{E} [ T \mid \eta ]"),
        ("log |dx / du|", r"\log \lvert dx / du \rvert"),
        ("eta1 . x + eta2_ij", r"\eta_{1} \cdot x + \eta_{2,ij}"),
        ("q(. | x) < s^((k-1)/2).", r"q ( \cdot \mid x ) < s ^{( k - 1 ) / 2} \text{.}"),
        ("sqrt(2 pi) u* ~ C^-1 x^T", r"\sqrt{2 \pi} u ^{\ast} \sim C ^{-1} x ^{\top}"),
        ("w_i proportional to sum_{i<n} x_i", r"w_{i} \propto \sum _{i < n} x_{i}"),
        (
            "log_base + mean over i of x_rep",
            r"\texttt{log\_base} + \text{mean}\ \text{over}\ i\ \text{of}\ x_{\text{rep}}",
        ),
        ("a = exp(b\n    + c)\nd = 1", r"\begin{aligned}&a = \exp (b \\&\qquad + c)..."),
    ],
)
def test_notation(text, tex):
    def plain(source):
        return re.sub(r"\s", "", source)

    assert plain(equations.to_tex(text)).startswith(plain(tex.removesuffix("...")))


@pytest.mark.parametrize(
    "code",
    ["f(x, key=key)", "jax.vmap(f)(x)", "f = lambda x: x.T", '"text"', "(a + b", "a + b)", "a[0}"],
)
def test_code_stays_code(code):
    with pytest.raises(ValueError, match="Expected the notation of equations"):
        equations.to_tex(code)


def test_blocks_of_a_page_are_replaced():
    block = '<div class="highlight"><pre><span></span><code>{}\n</code></pre></div>'
    page = block.format(html.escape("0 < x")) + block.format("f(key=key)")
    expected = r'<div class="arithmatex">\[0 &lt; x\]</div>' + block.format("f(key=key)")
    result = equations.set_blocks(page)
    assert re.sub(r"\s+", " ", result) == re.sub(r"\s+", " ", expected)
