"""The gallery: complete, in step with its results, and every example a notebook."""

import ast
import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
NAMES = sorted(
    str(path.relative_to(ROOT / "examples").with_suffix(""))
    for path in (ROOT / "examples").rglob("*.py")
    if 'if __name__ == "__main__"' in path.read_text() and path.stem != "gallery"
)


@pytest.fixture
def gallery():
    return importlib.import_module("examples.gallery")


@pytest.fixture
def pages():
    return importlib.import_module("examples.pages")


def test_every_example_has_a_card(gallery):
    assert sorted(example.name for example in gallery.ALL.values()) == NAMES
    page = gallery.PAGE.read_text()
    for example in gallery.ALL.values():
        assert f"[{example.title}](../examples/{example.name}.py)" in page, example.name
        assert example.title


def test_the_page_is_made_of_the_results(gallery):
    results = json.loads(gallery.RESULTS.read_text())
    assert set(results) <= set(gallery.ALL)
    for name, result in results.items():
        assert result["command"] == gallery.ALL[name].command
        assert result["seconds"] > 0
    message = "run `python -m examples.gallery --page`"
    assert gallery.PAGE.read_text() == gallery.make_page(results), message


def test_thumbnails_are_small(gallery):
    results = gallery.read_results()
    drawn = {name for name in results if gallery.ALL[name].picture != ""}
    paths = {path.stem: path for path in gallery.THUMBNAILS.iterdir()}
    assert drawn <= set(paths) <= set(gallery.ALL)
    for path in paths.values():
        with Image.open(path) as image:
            assert 200 <= image.width <= gallery.WIDTH, path
        assert path.stat().st_size < 100_000, path
    assert sum(path.stat().st_size for path in paths.values()) < 1_500_000


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_notebook(name, pages):
    source = (ROOT / "examples" / f"{name}.py").read_text()
    (kind, text), *rest = pages.split(source)
    assert kind == "markdown"
    assert text == ast.get_docstring(ast.parse(source), clean=False).strip()
    for number, (kind, text) in enumerate(rest):
        if kind == "code":
            compile(text, f"cell {number} of {name}", "exec")
        else:
            assert text.startswith("## ")
            assert len(text) < 200
    kinds = [kind for kind, _ in rest]
    assert kinds.count("code") >= 3
    assert kinds[-1] == "code"
    assert rest[-1][1].startswith('if __name__ == "__main__":\n')
    # All code is in a cell, and nothing is left out.
    assert source.startswith("# %% [markdown]\n")
    code = "\n".join(text for kind, text in rest if kind == "code")
    assert ast.dump(ast.parse(code)) == ast.dump(ast.Module(ast.parse(source).body[1:], []))


def test_pages_of_examples(pages):
    page = pages.make_page(ROOT / "examples" / "inference" / "mixture.py")
    assert "\n# A mixture of two normal distributions, whose" in page
    assert "\n## Energy\n" in page
    assert "````python\ndef energy(t, y):" in page
    # Links of the repository lead to these pages on the site. Shared modules have none.
    text = "[a](../examples/inference/mixture.py) [b](../examples/training.py)"
    linked = "[a](gallery/mixture.md) [b](../examples/training.py)"
    home = SimpleNamespace(file=SimpleNamespace(src_uri="gallery.md"))
    assert pages.on_page_markdown(text, home) == linked


def test_a_failure_leaves_earlier_results(gallery, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gallery, "RESULTS", tmp_path / "gallery.json")
    monkeypatch.setattr(gallery, "PAGE", tmp_path / "gallery.md")
    result = {"command": "", "seconds": 2.0, "machine": "2 cores"}
    gallery.write({"zoo": result, "mixture": result})

    def run(example, folder):
        if example.name == "zoo":
            raise ValueError("Expected 'zoo' to succeed; got an error")
        return {**result, "seconds": 3.0}

    monkeypatch.setattr(gallery, "run", run)
    monkeypatch.setattr("sys.argv", ["gallery.py", "--only", "zoo", "mixture", "--only", "stream"])
    with pytest.raises(SystemExit, match=r"^failed: zoo\."):
        gallery.main()
    assert "got an error" in capsys.readouterr().out
    seconds = {name: one["seconds"] for name, one in gallery.read_results().items()}
    assert seconds == {"zoo": 2.0, "mixture": 3.0, "stream": 3.0}
    assert gallery.PAGE.read_text() == gallery.make_page(gallery.read_results())


def test_a_script_runs_with_its_options(gallery, tmp_path, monkeypatch):
    script = """import sys
from pathlib import Path
from PIL import Image
out = Path(sys.argv[sys.argv.index("--out") + 1])
out.mkdir()
Image.new("RGB", (1200, 600)).save(out / "drawn.png")
print(sys.argv[1])
print("wrote it")
"""
    (tmp_path / "one.py").write_text(script)
    monkeypatch.setattr(gallery, "EXAMPLES", tmp_path)
    monkeypatch.setattr(gallery, "THUMBNAILS", tmp_path / "thumbnails")
    folder = tmp_path / "work"
    folder.mkdir()
    example = gallery.Example("one", "", picture="drawn", options="--fast")
    result = gallery.run(example, folder)
    assert result["command"] == "python examples/one.py --fast"
    assert result["printed"] == ["--fast"]
    with Image.open(tmp_path / "thumbnails" / "one.png") as image:
        assert image.size == (480, 240)
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(ValueError, match=r"to draw other\.png; got drawn\.png"):
        gallery.run(example._replace(picture="other"), again)
