"""Every Python block of README.md and docs/ runs, the blocks of one page one after the other.

So do commands of nnef_dists in shell blocks, in the folder to which YAML blocks with a title are
written as files. A block that is not to run says `no-run` in its info string or in an HTML comment
on the next line that is not empty; a Python one has to compile all the same.
"""

import dataclasses
import re
import shlex
import sys
import textwrap
import types
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from nnef_dists.__main__ import main
from tests.jobs import JOB

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")
PYTHON = re.compile(r"\{?\s*\.?(python|py)\b", re.IGNORECASE)
SHELL = re.compile(r"(bash|sh|shell)\b", re.IGNORECASE)
FILE = re.compile(r'ya?ml\b.*\btitle="(?P<name>[^"]+)"', re.IGNORECASE)
COMMAND = ["python", "-m", "nnef_dists"]


@dataclasses.dataclass(frozen=True)
class Block:
    """Source of one block; the line of the page on which it begins; whether it is to run."""

    source: str
    line: int
    runs: bool
    info: str


def fenced_blocks(text: str) -> list[Block]:
    """The fenced blocks of a Markdown page, in order, indented ones dedented."""
    lines = text.splitlines()
    blocks, number = [], 0
    while number < len(lines):
        opening = FENCE.match(lines[number])
        number += 1
        if not opening:
            continue
        fence, start = opening["fence"], number
        closing = re.compile(rf"^[ \t]*{re.escape(fence[0])}{{{len(fence)},}}[ \t]*$")
        while number < len(lines) and not closing.match(lines[number]):
            number += 1
        assert number < len(lines), f"the block that opens on line {start} is never closed"
        source = textwrap.dedent("\n".join(lines[start:number])) + "\n"
        number += 1
        after = next((line.strip() for line in lines[number:] if line.strip()), "")
        comment = after if after.startswith("<!--") else ""
        runs = "no-run" not in opening["info"] + comment
        blocks.append(Block(source, start + 1, runs, opening["info"].strip()))
    return blocks


def python_blocks(text: str) -> list[Block]:
    """The Python blocks among them."""
    return [block for block in fenced_blocks(text) if PYTHON.match(block.info)]


def run_commands(source: str) -> None:
    """Runs the lines that call nnef_dists, in this process."""
    for line in source.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:3] == COMMAND:
            try:
                status = main(words[3:])
            except SystemExit as end:
                status = end.code
            assert status == 0, line


def run_page(text: str, name: str) -> dict:
    """Compiles all Python blocks and runs those that are to run, in one namespace."""
    module = types.ModuleType("documentation_page")
    # Classes look their module up by name.
    sys.modules[module.__name__] = module
    try:
        for block in fenced_blocks(text):
            if SHELL.match(block.info) and block.runs:
                run_commands(block.source)
            elif (file := FILE.match(block.info)) and block.runs:
                Path(file["name"]).write_text(block.source)
            if not PYTHON.match(block.info):
                continue
            # Leading line breaks make tracebacks point at the line of the page.
            code = compile("\n" * (block.line - 1) + block.source, name, "exec")
            if block.runs:
                exec(code, module.__dict__)
    finally:
        del sys.modules[module.__name__]
        plt.close("all")
    return module.__dict__


# These train, or start processes.
SLOW = {
    "README.md",
    "docs/api/plotting.md",
    "docs/command_line.md",
    "docs/diagnostics.md",
    "docs/distributions.md",
    "docs/getting_started.md",
    "docs/interoperate.md",
    "docs/labels.md",
    "docs/learning.md",
    "docs/sbi.md",
    "docs/scale.md",
}


def page_param(page: Path):
    name = page.relative_to(ROOT).as_posix()
    return pytest.param(page, marks=[pytest.mark.slow] if name in SLOW else [], id=name)


@pytest.mark.parametrize("page", [page_param(page) for page in PAGES])
def test_page(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page.read_text(), str(page))


def test_there_are_pages():
    assert ROOT / "docs" / "contributing.md" in PAGES


SAMPLE = """
```python
a = 1
```
text
```bash
exit 1
```
!!! note
    ```python title="indented"
    b = a + 1
    ```
``` {.python .no-run}
raise RuntimeError
```
```python
raise RuntimeError
```

<!-- no-run: needs a cluster -->
````python
text = '''
```python
'''
````
```pycon
>>> 1 +
```
"""


class TestReader:
    """So that a page without failures is one whose blocks did run."""

    def test_blocks_are_found(self):
        blocks = python_blocks(SAMPLE)
        assert [block.runs for block in blocks] == [True, True, False, False, True]
        assert blocks[0].source == "a = 1\n"
        assert blocks[1].source == "b = a + 1\n"
        assert "```python" in blocks[4].source
        assert SAMPLE.splitlines()[blocks[1].line - 1].strip() == "b = a + 1"

    def test_blocks_share_a_namespace(self):
        namespace = run_page(SAMPLE, "sample")
        assert namespace["b"] == 2

    def test_what_fails_is_reported(self):
        with pytest.raises(ZeroDivisionError) as caught:
            run_page("```python\n1 / 0\n```", "page.md")
        last = caught.traceback[-1]
        assert (str(last.path), last.lineno + 1) == ("page.md", 2)

    def test_blocks_that_do_not_run_must_compile(self):
        with pytest.raises(SyntaxError):
            run_page("```python no-run\n1 +\n```", "page.md")

    def test_commands_run_on_files_of_the_page(self, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        page = f'```yaml title="job.yaml"\n{JOB}```\n```bash\n%s\n```'
        command = "python -m nnef_dists generate --config job.yaml --print_config  # all of it"
        run_page(page % command, "page.md")
        assert "target_acceptance" in capsys.readouterr().out
        with pytest.raises(AssertionError, match=r"drws"):
            run_page(page % command.replace("--print_config", "\\\n --sampling.drws=3"), "page.md")

    def test_an_open_block_is_an_error(self):
        with pytest.raises(AssertionError, match="line 2"):
            python_blocks("\n```python\n1")
