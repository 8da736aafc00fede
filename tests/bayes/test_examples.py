"""The examples on weights, at a size at which they run in seconds and learn nothing."""

import importlib
import json
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, out, monkeypatch):
    """Runs an example by its `main`; returns its figures and a way to redraw."""
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module(name)
    arguments = ["--out", str(out), "--steps", "0.001"]
    with pytest.raises(SystemExit, match="run without --plot-only first"):
        example.main([*arguments, "--plot-only"])
    figures = example.main(arguments)
    assert json.loads((out / "figures.json").read_text()) == figures
    return figures, lambda: example.main([*arguments, "--plot-only"])


def files(out):
    return {path.name for path in out.iterdir()}


def test_two_stage_regression(tmp_path, monkeypatch):
    figures, redraw = run("two_stage_regression", tmp_path / "out", monkeypatch)
    expected = {"model.safetensors", "history.npz", "figures.json"}
    assert files(tmp_path / "out") == expected | {"posterior.png", "learning_curves.png"}
    # From the saved model and history alone: the same figures.
    assert redraw() == figures


@pytest.mark.slow
def test_bayesian_ode(tmp_path, monkeypatch):
    figures, _ = run("bayesian_ode", tmp_path / "out", monkeypatch)
    expected = {"field.safetensors", "history.npz", "figures.json"}
    assert files(tmp_path / "out") == expected | {"trajectories.png", "learning_curves.png"}
    # The coverage of all times is that of both spans of time, by their lengths; so is the widening.
    example = sys.modules["bayesian_ode"]
    seen = example.OBSERVED / example.END
    parts = figures["coverage while there are data"], figures["coverage after the data"]
    whole = figures["coverage of the 90 % band, all times"]
    assert whole == pytest.approx(seen * parts[0] + (1 - seen) * parts[1], abs=1e-5)
    widths = figures["mean width of the band, after"], figures["mean width of the band, data"]
    assert figures["widening after the data end"] == pytest.approx(widths[0] / widths[1], rel=1e-5)
