"""All benchmarks, and the page that shows their results.

    python -m tests.benchmarks [--quick] [--only NAME ...] [--list] [--page]

Each script runs in a fresh process and writes `docs/benchmarks/NAME.json`. Then
`docs/benchmarks.md` is rewritten from all JSON files. `NAME.PART` selects one part of a script. If
a script fails or reaches the time limit, its unfinished parts keep their earlier results.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks.results import FOLDER, NAMES, write_page

PAGE = FOLDER.with_suffix(".md")


def run(selected: str, is_quick: bool, limit: float) -> str | None:
    """Runs a script or one of its parts. Returns the reason of a failure."""
    name, _, part = selected.partition(".")
    script = Path(__file__).with_name(f"bench_{name}.py")
    command = [sys.executable, str(script), *([part] if part else [])]
    command += ["--json", str(FOLDER / f"{name}.json"), *(["--quick"] if is_quick else [])]
    # A program from the persistent cache would hide the seconds of compilation.
    settings = os.environ | {"JAX_COMPILATION_CACHE_DIR": ""}
    try:
        done = subprocess.run(command, env=settings, timeout=60 * limit, check=False)
    except subprocess.TimeoutExpired:
        return f"reached the limit of {limit:g} minutes"
    return f"exit code {done.returncode}" if done.returncode else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small settings: minutes in all")
    parser.add_argument(
        "--only", nargs="+", action="extend", metavar="NAME", help="scripts, or NAME.PART"
    )
    parser.add_argument("--list", action="store_true", help="print the names of scripts")
    parser.add_argument("--page", action="store_true", help="rewrite the page alone")
    parser.add_argument("--limit", type=float, help="minutes per script: 10 if quick, else 240")
    options = parser.parse_args()
    if options.list:
        print("\n".join(NAMES))
        return
    chosen = [] if options.page else options.only or list(NAMES)
    if unknown := {name.partition(".")[0] for name in chosen} - set(NAMES):
        parser.error(f"Expected names of {list(NAMES)}; got {sorted(unknown)}.")
    failures = {}
    for name in chosen:
        print(f"\n=== {name}", flush=True)
        start = time.perf_counter()
        limit = options.limit or (10 if options.quick else 240)
        if reason := run(name, options.quick, limit):
            failures[name] = reason
        elif name.partition(".")[0] == "growth":
            from tests.benchmarks.growth_plot import draw_growth

            draw_growth(FOLDER / "growth.json")
        PAGE.write_text(write_page())
        print(f"=== {name}: {time.perf_counter() - start:.0f} s", flush=True)
    PAGE.write_text(write_page())
    if failures:
        raise SystemExit("\n".join(f"{name} failed: {reason}" for name, reason in failures.items()))


if __name__ == "__main__":
    main()
