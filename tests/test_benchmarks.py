"""The page of benchmarks, which nobody edits by hand."""

import json

import pytest

from tests.benchmarks import results
from tests.benchmarks.__main__ import PAGE
from tests.benchmarks.bench_everywhere import PARTS, split
from tests.benchmarks.results import NAMES, Table, write_page


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """Runs the parts of a made-up script, with their tables in a folder."""

    def run(*arguments, parts):
        path = tmp_path / "benchmarks" / "labels.json"
        monkeypatch.setattr("sys.argv", ["bench_labels.py", *arguments, "--json", str(path)])
        results.main("A script.", parts, lambda parser: parser.add_argument("--n", type=int))
        return json.loads(path.read_text()), path.parent

    return run


def part(peer):
    def measure(options):
        table = Table("Errors  of\nlabels", ["method", "error", "fast", "s"], "A note.")
        table.add("nnef_dists | HMC", 0.012345678, True, 1234)
        table.add("peer", peer, False, float("nan"))

    return measure


def test_the_page_in_the_documentation_is_that_of_the_json_files():
    assert PAGE.read_text() == write_page()


def test_the_page_has_a_section_for_each_script():
    scripts = (results.Path(results.__file__).parent).glob("bench_*.py")
    assert sorted(path.stem.removeprefix("bench_") for path in scripts) == sorted(NAMES)
    sections = [line for line in write_page().splitlines() if line.startswith("## ")]
    assert sections == [f"## {name}" for name in NAMES]


def test_tables_reach_the_page(keep):
    kept, folder = keep("--quick", parts={"one": part(0.5), "two": part(None)})
    assert list(kept) == ["one", "two"]
    assert kept["one"]["quick"]
    assert kept["one"]["tables"][0]["rows"][0] == ["nnef_dists | HMC", 0.0123457, True, 1234]
    page = write_page(folder)
    assert "**Errors of labels**" in page
    assert "| nnef_dists \\| HMC | 0.0123 | yes | 1,234 |" in page
    assert "| peer | 0.5 | no | none |\n\nA note." in page
    assert "| peer | not measured | no | none |" in page
    assert f"{kept['one']['date']}, quick run" in page


def test_the_page_names_options_that_are_not_the_default(keep):
    _, folder = keep("--n", "3", parts={"one": part(0.5)})
    assert ", full run, n 3, 0 s" in write_page(folder)
    _, folder = keep(parts={"one": part(0.5)})
    assert ", full run, 0 s" in write_page(folder)


def test_a_part_that_is_run_again_leaves_the_others(keep):
    keep(parts={"one": part(0.5), "two": part(0.25)})
    kept, _ = keep("two", parts={"one": part(0.5), "two": part(0.125)})
    errors = [record["tables"][0]["rows"][1][1] for record in kept.values()]
    assert errors == [0.5, 0.125]


def test_a_part_that_fails_leaves_its_earlier_tables(keep):
    def fail(options):
        Table("Other", ["one"]).add(1)
        raise RuntimeError("as told")

    before, _ = keep(parts={"one": part(0.5), "two": part(0.25)})
    with pytest.raises(RuntimeError, match="as told"):
        keep(parts={"one": part(0.5), "two": fail})
    after, _ = keep("one", parts={"one": part(0.5), "two": part(0.25)})
    assert after["two"] == before["two"]


def test_a_row_has_a_cell_for_each_column():
    with pytest.raises(ValueError, match=r"Expected 2 cells .*; got 1\. Add one cell per column\."):
        Table("Errors", ["one", "two"]).add(1)


@pytest.mark.parametrize("names", [[], ["line"], ["line", "network"]])
def test_parts_of_everywhere_are_apart_from_options_and_their_values(names):
    options = ["--json", "everywhere.json", "--seeds", "0", "1", "--quick"]
    assert split([*names, *options]) == (names or list(PARTS), options)
