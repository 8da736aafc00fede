"""Tables of benchmarks: printed row by row, kept as JSON, and rewritten as a page.

A script hands its parts to `main`. Each part is a function of the parsed options that makes tables:

    table = Table("Labels of quartics", ["sampler", "RMS error [z units]", "ms per eta"])
    table.add("HMC", 0.0004, 1.2)

With `--json FILE`, the tables of each finished part replace those of this part in the file. All
other parts keep their tables, with the date at which they were measured.
"""

import argparse
import ast
import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
PACKAGES = "nnef_dists", "jax", "equinox", "numpyro", "blackjax", "flowjax", "bijx"
# Sections of the page, in this order.
NAMES = (
    "everywhere",
    "labels",
    "networks",
    "tractable",
    "honesty",
    "inference",
    "discrete",
    "graphs",
    "structured",
    "flows",
    "posterior",
    "bayes",
    "moments",
    "scale",
    "growth",
    "gpu",
    "import",
)
INTRODUCTION = """# Benchmarks

`python -m tests.benchmarks` runs the scripts in `tests/benchmarks/` and rewrites this page from
their results in `docs/benchmarks/`. Edit the scripts, not the page. `--quick` selects small
settings, and `--only NAME` selects one script. Peers run on the same machine, in the same script.

Unless a column states something else, errors of moments are in z units: an error divided by
sd(T | eta). A quick run uses fewer etas, seeds and training steps than a full run. Its figures show
that the code works. Do not compare them with the figures of a full run. If a load is stated, other
programs were running at the start, and seconds are too high.
"""

Cell = str | float | int | bool | None
# The tables of the running part, and the one that printed last.
_made: list["Table"] = []
_printed: list[int] = []


@dataclasses.dataclass
class Table:
    """A table of a benchmark. Each row is printed when it is added.

    Attributes:
        title: A noun phrase.
        columns: Names of the columns, with units.
        note: Sentences below the table.
        rows: Cells. None is printed as "not measured".
    """

    title: str
    columns: list[str]
    note: str = ""
    rows: list[list[Cell]] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.title = " ".join(self.title.split())
        if not self.rows:
            _made.append(self)

    def add(self, *cells) -> None:
        """Adds and prints a row. NumPy and JAX scalars become Python numbers."""
        row = [_plain(cell) for cell in cells]
        if len(row) != len(self.columns):
            raise ValueError(
                f"Expected {len(self.columns)} cells for {self.columns}; got {len(row)}. "
                "Add one cell per column."
            )
        if _printed[-1:] != [id(self)]:
            _printed[:] = [id(self)]
            print(f"\n{self.title}\n{_line(self.columns)}\n{'| --- ' * len(row)}|")
        self.rows.append(row)
        print(_line(row), flush=True)

    def markdown(self) -> str:
        """Returns the table in Markdown."""
        head = [f"**{self.title}**", "", _line(self.columns), "| --- " * len(self.columns) + "|"]
        return "\n".join([*head, *map(_line, self.rows), "", self.note]).rstrip()


def _plain(cell) -> Cell:
    if cell is None or isinstance(cell, str | bool):
        return cell
    if hasattr(cell, "item"):
        cell = cell.item()
    # Standard JSON has no NaN.
    if isinstance(cell, float) and not math.isfinite(cell):
        return "none" if math.isnan(cell) else "infinite"
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell


def _text(cell: Cell) -> str:
    if cell is None:
        return "not measured"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, str):
        return cell.replace("|", "\\|")
    if isinstance(cell, int) or abs(cell) >= 1000:
        return f"{cell:,.0f}"
    return f"{cell:.3g}"


def _line(cells) -> str:
    return "| " + " | ".join(_text(cell) for cell in cells) + " |"


def main(
    doc: str | None,
    parts: dict[str, Callable[[argparse.Namespace], None]],
    arguments: Callable[[argparse.ArgumentParser], object] | None = None,
    quick: dict | None = None,
) -> None:
    """Runs the parts that the command line names, by default all.

    Args:
        doc: The docstring of the script.
        parts: Functions of the options, by name.
        arguments: Adds arguments to a parser.
        quick: Defaults of arguments with `--quick`.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if len(parts) > 1:
        parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}")
    parser.add_argument("--quick", action="store_true", help="a small setting: about two minutes")
    parser.add_argument("--json", type=Path, help="file that keeps the tables")
    if arguments is not None:
        arguments(parser)
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**(quick or {}))
    options = parser.parse_args()
    # Paths belong to one machine.
    changed = {
        key: value
        for key, value in vars(options).items()
        if key not in ("parts", "quick")
        and not isinstance(value, Path)
        and value != parser.get_default(key)
    }
    chosen = getattr(options, "parts", []) or list(parts)
    if unknown := set(chosen) - set(parts):
        parser.error(f"Expected parts of {list(parts)}; got {sorted(unknown)}.")
    for name in chosen:
        print(f"== {name}", flush=True)
        _made.clear()
        load, start = os.getloadavg()[0], time.perf_counter()
        parts[name](options)
        seconds = time.perf_counter() - start
        if options.json is not None:
            _keep(options.json, list(parts), name, _record(options.quick, changed, seconds, load))


def _record(is_quick: bool, changed: dict, seconds: float, load: float) -> dict:
    import jax

    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "date": datetime.date.today().isoformat(),
        "quick": is_quick,
        "options": changed,
        "seconds": round(seconds),
        "load": round(load, 1),
        "versions": found,
        "machine": {
            "cpu": _cpu(),
            "cores": len(os.sched_getaffinity(0)) if platform.system() == "Linux" else None,
            "backend": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
        },
        "tables": [dataclasses.asdict(table) for table in _made],
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _keep(path: Path, order: list[str], name: str, record: dict) -> None:
    """Replaces one part of a file, or makes the file."""
    old = json.loads(path.read_text()) if path.exists() else {}
    # `bench_everywhere.py` has a program per part.
    if len(order) == 1:
        order = [*old, *(part for part in order if part not in old)]
    kept = {n: record if n == name else old.get(n) for n in order}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(kept, indent=1) + "\n")
    partial.replace(path)


def write_page(folder: Path = FOLDER) -> str:
    """Returns the page that the JSON files of a folder give."""
    return "\n\n".join([INTRODUCTION.rstrip(), *(_section(name, folder) for name in NAMES)]) + "\n"


def _section(name: str, folder: Path) -> str:
    script = Path(__file__).with_name(f"bench_{name}.py")
    summary = (ast.get_docstring(ast.parse(script.read_text())) or "").split("\n\n")[0]
    blocks = [f"## {name}", summary.replace("\n", " ")]
    path = folder / f"{name}.json"
    if not path.exists():
        return "\n\n".join([*blocks, "Not measured."])
    parts = json.loads(path.read_text())
    blocks += dict.fromkeys(_setting(record) for record in parts.values() if record)
    for part, record in parts.items():
        if len(parts) > 1:
            blocks.append(f"### {name}: {part}")
        if record is None:
            blocks.append("Not measured.")
            continue
        size = "quick run" if record["quick"] else "full run"
        busy = record["load"] > (record["machine"]["cores"] or math.inf)
        load = f", load {record['load']:g}" if busy else ""
        size += "".join(f", {key} {_option(value)}" for key, value in record["options"].items())
        blocks.append(f"{record['date']}, {size}, {record['seconds']:,} s{load}.")
        blocks += [Table(**table).markdown() for table in record["tables"]]
    if name == "growth" and (folder.parent / "images" / "benchmarks_growth.png").exists():
        blocks.append("![Growth of costs](images/benchmarks_growth.png)")
    return "\n\n".join(blocks)


def _option(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _setting(record: dict) -> str:
    versions = ", ".join(f"{package} {number}" for package, number in record["versions"].items())
    machine = record["machine"]
    device = "" if machine["backend"] == "cpu" else f", {machine['device']}"
    return f"{machine['cpu']}, {machine['cores']} cores{device}. {versions}."
