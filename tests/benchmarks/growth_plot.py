"""The picture of `bench_growth.py`, from its tables."""

import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

IMAGE = Path(__file__).parents[2] / "docs" / "images" / "benchmarks_growth.png"


def draw_growth(source: Path, image: Path = IMAGE) -> None:
    """Draws the last column of each part's table over its first, on logarithmic axes."""
    parts = {name: record for name, record in json.loads(source.read_text()).items() if record}
    figure, axes = plt.subplots(2, 3, figsize=(9, 5.4), layout="constrained")
    for axis in axes.flat[len(parts) :]:
        axis.set_visible(False)
    for axis, record in zip(axes.flat, parts.values(), strict=False):
        (table,) = record["tables"]
        sizes, costs = [row[0] for row in table["rows"]], [row[-1] for row in table["rows"]]
        axis.loglog(sizes, costs, "o-")
        # A slope of one, for comparison.
        line = [costs[0] * size / sizes[0] for size in sizes]
        axis.loglog(sizes, line, ":", color="gray", label="proportional")
        axis.set_title(table["title"], fontsize=9, wrap=True)
        axis.set_xlabel(table["columns"][0])
        axis.set_ylabel(table["columns"][-1])
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axis.xaxis.set_minor_locator(NullLocator())
    axes.flat[0].legend(fontsize=8)
    figure.savefig(image, dpi=120)
    plt.close(figure)
