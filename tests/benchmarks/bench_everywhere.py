"""A log-partition that is right everywhere: quadrature, networks on a base, their accuracy.

    python tests/benchmarks/bench_everywhere.py [line] [plane] [network] [accuracy]

Each part is a program of its own, with options and a description: `everywhere_line.py` and so on.
"""

import subprocess
import sys
from pathlib import Path

PARTS = ("line", "plane", "network", "accuracy")


def main():
    for part in sys.argv[1:] or PARTS:
        if part not in PARTS:
            raise SystemExit(f"error: Expected parts of {PARTS}; got {part!r}")
        print(f"\n== {part}", flush=True)
        subprocess.run(
            [sys.executable, Path(__file__).with_name(f"everywhere_{part}.py")], check=True
        )


if __name__ == "__main__":
    main()
