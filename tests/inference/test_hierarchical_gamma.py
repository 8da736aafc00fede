"""The hierarchical gamma example against integration by brute force."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import nnef_dists as nd

PATH = Path(__file__).parents[2] / "examples" / "hierarchical_gamma.py"


def load():
    spec = importlib.util.spec_from_file_location("hierarchical_gamma", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_posterior():
    """Groups within 0.05 sd; mean field of the shared shape and rate is slightly too narrow."""
    example = load()
    data = example.simulate(12, 20, 0)
    nodes = example.make_nodes(12)
    report = nd.inference.check_energy(
        example.energy, example.log_joint, nodes, jax.random.key(0), *data
    )
    assert report.coupled == ()
    run = jax.jit(lambda eta, data: example.infer(nodes, eta, data, 15))
    eta, bounds = run(example.start(12), data)
    assert np.all(np.diff(bounds) > -1e-5 * np.abs(bounds[-1]))
    found = example.posterior_moments(nodes, eta)
    exact, log_evidence = example.brute_force(*data, found, size=16, points=80)
    # A lower bound, and a tight one.
    assert -3 < bounds[-1] - log_evidence < 0
    for name, (mean, sd) in found.items():
        mean_error = np.max(np.abs(mean - exact[name][0]) / exact[name][1])
        ratio = sd / exact[name][1]
        assert mean_error < (0.05 if name == "alpha" else 0.1), name
        lowest = 0.95 if name == "alpha" else 0.85
        assert lowest < np.min(ratio) <= np.max(ratio) < 1.05, name


def test_the_shared_shape_of_many_groups_in_single_precision():
    """Natural parameters of 1,000 and 10,000 groups, at which the bound must not be rounding."""
    nodes = load().make_nodes(1)
    etas = jnp.array([[-205.3, 1001.0], [-134.6, 1001.0], [-1308.0, 10001.0]], jnp.float32)
    assert np.max(jax.jit(jax.vmap(nodes["a"].q.accuracy))(etas)) < 1e-3
