"""Files of one process in another that did not train: the error shows the line that loads them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What is saved, and what the line that loads it has to hold; None where the path is enough.
CASES = {
    "amortized": (
        "strangers.amortized(strangers.Quartic(order=6))",
        r"family=tests\.saving\.strangers\.Quartic\(order=6\)",
    ),
    "of_the_package": ("strangers.amortized(nd.Polynomial1D((1, 2)))", None),
    "distribution": (
        "strangers.amortized(strangers.Quartic()).at([0.5, -1.0])",
        r"family=tests\.saving\.strangers\.Quartic\(order=4\)",
    ),
    "head": (
        "nd.ExponentialFamilyPosterior(strangers.amortized(strangers.Quartic()), "
        "strangers.simulations(), width=4, depth=1, key=KEY)",
        r"family=tests\.saving\.strangers\.Quartic\(order=4\)",
    ),
    "closed_form": ("nd.ClosedForm(nd.Gamma()).at([1.5, -1.0])", None),
    "quadrature": (
        "[nd.Quadrature(strangers.Quartic()), nd.Quadrature(strangers.WithBase())]",
        r"family=\(tests.*Quartic\(order=4\), tests.*WithBase\(\)\)",
    ),
    "nested_family": (
        "nd.Quadrature(nd.families.BaseMeasureAsStatistic(strangers.WithBase(), 0.5, 2.0))",
        r"family=tests\.saving\.strangers\.WithBase\(\)",
    ),
    "layer": (
        "strangers.Layer(KEY)",
        r"classes=\(tests.*Layer, .*Options, .*Mode\), functions=\(tests.*cube,\)",
    ),
    "optimizer": (
        "optax.adam(1e-3).init(jnp.arange(3.0))",
        r"classes=\(.*ScaleByAdamState, .*EmptyState\)",
    ),
    "coupling_flow": (
        "nd.FlowPosterior.coupling(strangers.simulations(2), layers=2, flow_width=4, width=4, "
        "depth=1, key=KEY)",
        None,
    ),
    "autoregressive_flow": (
        "nd.FlowPosterior.autoregressive(strangers.simulations(), layers=2, flow_width=4, "
        "width=4, depth=1, key=KEY)",
        None,
    ),
    "lambda": (
        "nd.BayesianMLP(3, 2, 4, 1, activation=lambda x: jnp.tanh(x), key=KEY)",
        r"like=model\)",
    ),
    "of_main": ("Own(jnp.arange(3.0))", r"classes=\(Own,\)"),
}

SHARED = """
import json, re, sys
import equinox as eqx, jax, jax.numpy as jnp, nnef_dists as nd, numpy as np, optax
from nnef_dists.saving import describe_family
import tests.saving.strangers

strangers, KEY = tests.saving.strangers, jax.random.key(0)

class Own(eqx.Module):
    x: jax.Array

def fingerprint(model):
    "Bits of all arrays, and what the model computes."
    arrays = jax.tree.leaves(eqx.filter(model, eqx.is_array))
    found = [np.asarray(array).tobytes().hex() for array in arrays]
    if isinstance(model, nd.distributions.AbstractTractableFamily):
        found.append(repr(model.mean(jnp.array([0.5, -1.0, 1.0])[: model.family.eta_dim])))
    if isinstance(model, nd.distributions.Distribution):
        found.append(repr((model.mean(), model.entropy())))
    if isinstance(model, nd.posterior.AbstractPosterior):
        theta = jnp.full(model.coordinates.shift.tree.shape, 0.3)
        found.append(repr(eqx.filter_jit(model.log_prob)(theta, jnp.array([0.1, 0.2, 0.3]))))
    if isinstance(model, (strangers.Layer, nd.BayesianMLP)):
        found.append(repr(model(jnp.arange(3.0))))
    if isinstance(model, strangers.Layer):
        found.append(repr((model.options, model.kind, model.dtype)))
    return found
"""

WRITE = """
cases, folder, prints = json.loads(sys.argv[1]), sys.argv[2], {}
for name, code in cases.items():
    model = eval(code)
    nd.save(f"{folder}/{name}", model)
    prints[name] = fingerprint(model)
print(json.dumps(prints))
"""

READ = """
cases, folder, found = json.loads(sys.argv[1]), sys.argv[2], {}
for name, code in cases.items():
    line = ""
    try:
        model = nd.load(f"{folder}/{name}")
    except ValueError as error:
        line = re.search(r"nd\\.load\\([^ ]*'.*\\)", str(error)).group()
        # As printed, with the modules of other libraries that the user imports.
        import optax._src.base, optax._src.transform
        model = eval(line, {**globals(), "model": eval(code) if "like=" in line else None})
    found[name] = line, fingerprint(model)
print(json.dumps(found))
"""


def run(code, folder):
    cases = {name: expression for name, (expression, _) in CASES.items()}
    done = subprocess.run(
        [sys.executable, "-c", SHARED + code, json.dumps(cases), str(folder)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """The models as they were written, and as another process reads them."""
    folder = tmp_path_factory.mktemp("files")
    return run(WRITE, folder), run(READ, folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_line_of_the_error_loads_the_file(name, processes):
    written, read = processes
    line, found = read[name]
    needed = CASES[name][1]
    if needed is None:
        assert line == "", "the path is enough"
    else:
        assert re.search(needed, line), line
    assert found == written[name]
