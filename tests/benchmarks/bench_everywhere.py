"""Log-partitions by quadrature and by networks on a base, from 1 to 10^6 observations.

    python tests/benchmarks/bench_everywhere.py [line] [plane] [network] [accuracy] [--quick]

Each part is a program of its own, with options and a description: `everywhere_line.py` and so on.
"""

import argparse
import subprocess
import sys
from pathlib import Path

PARTS = ("line", "plane", "network", "accuracy")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    options, others = parser.parse_known_args()
    for part in options.parts or PARTS:
        script = Path(__file__).with_name(f"everywhere_{part}.py")
        subprocess.run([sys.executable, script, *others], check=True)


if __name__ == "__main__":
    main()
