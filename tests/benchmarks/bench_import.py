"""Seconds of `import nnef_dists`, beside the import of the libraries below it.

    python tests/benchmarks/bench_import.py [--runs 9] [--quick]

Each is imported in fresh processes, in turn; the figure is CPU time, the median of several.
The figure to meet is a ratio of at most 1.3.
"""

import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.results import Table, main

PEERS = "jax, equinox, flowjax.bijections, flowjax.distributions, blackjax, optimistix"
MEASURE = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def seconds(modules):
    """CPU seconds of one fresh process that imports the modules."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(modules)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def imports(args):
    times = {name: [] for name in (PEERS, "nnef_dists")}
    for _ in range(args.runs):
        for name, measured in times.items():
            measured.append(seconds(name))
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    table = Table("Imports", ["modules", "CPU time [s]", "ratio"])
    for name, median in medians.items():
        table.add(name, median, median / medians[PEERS])


def arguments(parser):
    parser.add_argument("--runs", type=int, default=9, help="processes for each")


if __name__ == "__main__":
    main(__doc__, {"import": imports}, arguments, {"runs": 3})
