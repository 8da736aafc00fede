"""The picture of `bench_growth.py`, from its tables."""

import json
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter, NullLocator

IMAGE = Path(__file__).parents[2] / "docs" / "images" / "benchmarks_growth.png"


def draw_growth(source: Path, image: Path = IMAGE) -> None:
    """Draws the last column of each part's table over its first, on logarithmic axes."""
    parts = {name: record for name, record in json.loads(source.read_text()).items() if record}
    figure, axes = plt.subplots(2, 3, figsize=(9, 5.4), layout="constrained")
    for axis in axes.flat[len(parts) :]:
        axis.set_visible(False)
    for axis, (name, record) in zip(axes.flat, parts.items(), strict=False):
        (table,) = record["tables"]
        sizes, costs = [row[0] for row in table["rows"]], [row[-1] for row in table["rows"]]
        axis.loglog(sizes, costs, "o-")
        # Devices divide the cost at best.
        power = -1 if name == "devices" else 1
        line = [costs[0] * (size / sizes[0]) ** power for size in sizes]
        kind = "inversely proportional" if power < 0 else "proportional"
        axis.loglog(sizes, line, ":", color="gray", label=kind)
        axis.legend(fontsize=8)
        axis.set_title(textwrap.fill(table["title"], 36), fontsize=9)
        axis.set_xlabel(table["columns"][0])
        axis.set_ylabel(table["columns"][-1])
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axis.xaxis.set_minor_locator(NullLocator())
        # Ranges below a decade have no major tick but one.
        if max(costs + line) / min(costs + line) > 10:
            axis.yaxis.set_minor_formatter(NullFormatter())
    figure.savefig(image, dpi=120)
    plt.close(figure)
