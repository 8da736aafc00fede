"""The gallery of the documentation, made by running all examples.

    python -m examples.gallery [--only NAME ...] [--list] [--page]

Each example runs as a script in a fresh process, with an empty cache of compiled programs. Its
seconds go to `docs/gallery.json`, a thumbnail of its figure to `docs/images/gallery/`, and a card
to `docs/gallery.md`. Results are written after each example. If an example fails, its earlier
result stays. `--page` runs nothing, and writes the page again.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import nnef_dists as nd

EXAMPLES = Path(__file__).resolve().parent
DOCS = EXAMPLES.parent / "docs"
RESULTS, PAGE, THUMBNAILS = DOCS / "gallery.json", DOCS / "gallery.md", DOCS / "images" / "gallery"
WIDTH = 480
COLORS = 128


class Example(NamedTuple):
    """A script, its figure, and the text of its card.

    Args:
        name: Path below `examples/`, without `.py`.
        shows: Text of the card.
        picture: Name of the figure, without `.png`. By default, the name of the script. The empty
            string if the script draws nothing.
        options: Options of the command line, without `--out`.
        part: Part of the figure on the thumbnail: left, top, right and bottom, from 0 to 1.
    """

    name: str
    shows: str
    picture: str | None = None
    options: str = ""
    part: Sequence[float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def stem(self):
        """Name of the script without its folder."""
        return Path(self.name).name

    @property
    def command(self):
        """Command of the example, in the root folder of the repository."""
        return f"python examples/{self.name}.py {self.options}".strip()

    @property
    def title(self):
        """First line of the docstring, without its full stop."""
        source = (EXAMPLES / f"{self.name}.py").read_text()
        return source.split('"""')[1].partition("\n")[0].removesuffix(".")


TABLE = tomllib.loads((EXAMPLES / "gallery.toml").read_text())
SECTIONS = {title: [Example(**entry) for entry in entries] for title, entries in TABLE.items()}
ALL = {example.stem: example for section in SECTIONS.values() for example in section}


def read_results():
    """Returns the results of earlier runs, by name."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def write(results):
    """Writes results and the page, in the order of the gallery."""
    ordered = {name: results[name] for name in ALL if name in results}
    RESULTS.write_text(json.dumps(ordered, indent=2, ensure_ascii=False) + "\n")
    PAGE.write_text(make_page(ordered))


def run(example, folder):
    """Runs a script in a fresh process, and returns its result.

    Args:
        example: The example.
        folder: Empty folder, for its figures and compiled programs.

    Returns:
        A dict with the command, wall-clock seconds, the date, the version of nnef_dists, the
        machine, and the last lines that the script printed.

    Raises:
        ValueError: If the script fails or does not draw `example.picture`.
    """
    out = folder / "out"
    command = [sys.executable, EXAMPLES / f"{example.name}.py", *example.options.split()]
    if example.picture != "":
        command += ["--out", out]
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(folder / "compiled")}
    environment = {**os.environ, **compiled, "MPLBACKEND": "Agg"}
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise ValueError(f"Expected {example.command!r} to succeed; got\n{done.stderr[-2000:]}")
    if example.picture != "":
        picture = out / f"{example.picture or example.stem}.png"
        if not picture.exists():
            found = ", ".join(sorted(path.name for path in out.glob("*.png"))) or "no figure"
            raise ValueError(f"Expected {example.command!r} to draw {picture.name}; got {found}.")
        make_thumbnail(picture, THUMBNAILS / f"{example.stem}.png", example.part)
    printed = [line for line in done.stdout.splitlines() if line and not line.startswith("wrote ")]
    return {
        "command": example.command,
        "seconds": round(seconds, 1),
        "date": datetime.date.today().isoformat(),
        "version": nd.__version__,
        "machine": f"{nd.storage.visible_cpus()} cores",
        "printed": printed[-3:],
    }


def make_thumbnail(picture, path, part=(0.0, 0.0, 1.0, 1.0)):
    """Writes a part of a figure, at most 480 pixels wide, in few colors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(picture) as figure:
        box = np.round(np.array(part) * np.tile(figure.size, 2)).astype(int)
        image = figure.convert("RGB").crop((box[0], box[1], box[2], box[3]))
    image.thumbnail((WIDTH, 2 * WIDTH), Image.Resampling.LANCZOS)
    image.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)


def card(example, result):
    """Returns the Markdown of one example, without seconds if there is no result."""
    source = f"../examples/{example.name}.py"
    lines = [f"**[{example.title}]({source})**", example.shows]
    if (THUMBNAILS / f"{example.stem}.png").exists():
        lines.insert(0, f"[![{example.title}](images/gallery/{example.stem}.png)]({source})")
    seconds = f"{max(result['seconds'], 1):,.0f} s: " if result else ""
    lines.append(f"{seconds}`{example.command}`")
    first, *rest = lines
    return "\n\n".join([f"-   {first}", *(f"    {line}" for line in rest)])


def make_page(results):
    """Returns the Markdown of the gallery.

    Args:
        results: Results by name, as `run` returns them.
    """
    parts = [
        "# Gallery",
        "Each example is a script with cells (`# %%`). Run it as a script, or open it as a "
        "notebook in an editor that supports such cells. For Jupyter, "
        "`jupytext --to notebook examples/quickstart.py` converts it. Keep the notebook in the "
        "folder of the script, because it imports modules from there.",
        "`python -m examples.gallery` runs all examples and writes this page. "
        "`python -m examples.gallery --only quickstart` runs one.",
    ]
    if results:
        machines = " and ".join(sorted({result["machine"] for result in results.values()}))
        minutes = sum(result["seconds"] for result in results.values()) / 60
        parts.append(
            f"Times are wall-clock seconds on {machines}, including compilation. The "
            f"{len(results)} timed examples take {minutes:.0f} minutes together."
        )
    for title, examples in SECTIONS.items():
        cards = [card(example, results.get(example.stem)) for example in examples]
        parts += [f"## {title}", '<div class="grid cards" markdown>', *cards, "</div>"]
    return "\n\n".join(parts) + "\n"


def main():
    """Runs the chosen examples."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=list(ALL), metavar="NAME", default=list(ALL))
    parser.add_argument("--list", action="store_true", help="print names, seconds and commands")
    parser.add_argument("--page", action="store_true", help="write the page from earlier results")
    options = parser.parse_args()
    results, failed = read_results(), []
    if options.list:
        for name, example in ALL.items():
            seconds = f"{results[name]['seconds']:.0f} s" if name in results else "not run"
            print(f"{name:<26}{seconds:>8}  {example.command}")
        return
    # Short ones first, as far as their seconds are known.
    order = sorted(options.only, key=lambda n: results[n]["seconds"] if n in results else 1e9)
    for name in [] if options.page else order:
        print(f"{ALL[name].command} ...", end=" ", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = run(ALL[name], Path(folder))
            except ValueError as error:
                failed.append(name)
                print(error)
                continue
        print(f"{result['seconds']} s", flush=True)
        write({**read_results(), name: result})
    if options.page:
        write(results)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}. Their earlier results stay.")


if __name__ == "__main__":
    main()
