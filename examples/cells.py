"""Options and figures of an example, both as a script and as a notebook.

Each example is a script in the percent format, whose cells start with `# %%`. Editors run it cell
by cell, and `jupytext --to notebook` converts it.
"""

import sys

import matplotlib.pyplot as plt


def in_notebook():
    """Returns whether a Jupyter kernel runs the example."""
    return "ipykernel" in sys.modules


def parse(parser, arguments=None):
    """Parses the command line of a script. A notebook has no command line and uses the defaults."""
    if arguments is None and in_notebook():
        arguments = []
    return parser.parse_args(arguments)


def save(figure, path):
    """Writes a figure as a PNG file. A notebook also shows the figure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    # An open pyplot figure would be shown twice in a notebook.
    plt.close(figure)
    if in_notebook():
        from IPython.display import Image, display  # pyright: ignore[reportMissingImports]

        display(Image(filename=path))
    else:
        print(f"wrote {path}")
