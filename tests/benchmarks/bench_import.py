"""What `import nnef_dists` costs, beside importing the libraries that it builds on.

Each is imported in fresh processes, in turn; the figure is CPU time, the median of several.
The figure to meet is a ratio of at most 1.3.
"""

import argparse
import statistics
import subprocess
import sys

PEERS = "jax, equinox, flowjax.bijections, flowjax.distributions, blackjax, optimistix"
MEASURE = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"


def seconds(modules):
    """CPU seconds of one fresh process that imports the modules."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE.format(modules)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=9, help="processes for each")
    args = parser.parse_args()
    times = {name: [] for name in (PEERS, "nnef_dists")}
    for _ in range(args.runs):
        for name, measured in times.items():
            measured.append(seconds(name))
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    for name, median in medians.items():
        print(f"{median:6.2f} s  import {name}")
    print(f"{medians['nnef_dists'] / medians[PEERS]:6.2f} times")


if __name__ == "__main__":
    main()
