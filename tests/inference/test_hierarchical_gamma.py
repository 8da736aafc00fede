"""The hierarchical gamma example against integration by brute force."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd

PATH = Path(__file__).parents[2] / "examples" / "hierarchical_gamma.py"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(PATH.parent)
    spec = importlib.util.spec_from_file_location("hierarchical_gamma", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_posterior(example):
    """Groups and their ratios exact; the shared shape and rate are slightly too narrow."""
    data = example.simulate(30, 20, 0)
    nodes = example.make_pair_nodes(30)
    report = nd.inference.check_energy(
        example.pair_energy, example.pair_log_joint, nodes, jax.random.key(0), *data
    )
    assert report.coupled == ()
    run = jax.jit(lambda eta, data: example.infer(nodes, eta, data, 15))
    eta, bounds = run(example.start_pairs(30), data)
    assert np.all(np.diff(bounds) > -1e-5 * np.abs(bounds[-1]))
    found = example.posterior_moments(nodes, eta)
    exact, log_evidence = example.brute_force(*data, found, size=16, points=80)
    # A lower bound, and a tight one.
    assert -0.3 < bounds[-1] - log_evidence < 0
    for name, (mean, sd) in found.items():
        mean_error = np.max(np.abs(mean - exact[name][0]) / exact[name][1])
        ratio = sd / exact[name][1]
        assert mean_error < (0.01 if name == "alpha" else 0.1), name
        lowest = 0.98 if name == "alpha" else 0.85
        assert lowest < np.min(ratio) <= np.max(ratio) < 1.02, name


@pytest.mark.parametrize(
    ("source", "eta"),
    [
        # Wider than the grid at either end, and narrower than its steps.
        ("SummedShape", [-1e-3, -0.5]),
        ("SummedShape", [-1.0, -0.95]),
        ("Collapsed", [-1e6 * 0.1, 1e6, 1.0, -1.0, 1.0, -1.0]),
    ],
)
def test_a_sum_that_does_not_hold_the_density_is_nan(example, source, eta):
    q = getattr(example, source)()
    eta = jnp.asarray(eta)
    assert q.family.is_valid_eta(eta)
    assert np.isnan(jax.jit(q.log_partition)(eta))
    assert np.isnan(jax.jit(q.mean)(eta)).all()


def test_the_shared_shape_of_many_groups_in_single_precision(example):
    """Natural parameters of 1,000 and 10,000 groups, at which the bound must not be rounding."""
    nodes = example.make_nodes(1)
    etas = jnp.array([[-205.3, 1001.0], [-134.6, 1001.0], [-1308.0, 10001.0]], jnp.float32)
    assert np.max(jax.jit(jax.vmap(nodes["a"].q.accuracy))(etas)) < 1e-3
