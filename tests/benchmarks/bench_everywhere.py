"""Log-partitions by quadrature and by networks on a base, from 1 to 10^6 observations.

    python tests/benchmarks/bench_everywhere.py [line] [plane] [network] [accuracy] [--quick]

Each part is a program with its own options and description: `everywhere_line.py` and so on.
"""

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

PARTS = ("line", "plane", "network", "accuracy")


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Returns the names of parts, and the options, which all follow the names."""
    names = list(itertools.takewhile(lambda word: not word.startswith("-"), arguments))
    return names or list(PARTS), arguments[len(names) :]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}")
    names, options = split(sys.argv[1:])
    parser.parse_args(["--help"] if {"-h", "--help"} & set(options) else names)
    if unknown := set(names) - set(PARTS):
        parser.error(f"Expected parts of {list(PARTS)}; got {sorted(unknown)}.")
    for part in names:
        script = Path(__file__).with_name(f"everywhere_{part}.py")
        subprocess.run([sys.executable, script, *options], check=True)


if __name__ == "__main__":
    main()
