"""The examples, at tiny size: they run, and leave what they promise."""

import importlib
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import nnef_dists as nd
from nnef_dists.__main__ import main
from tests import truth
from tests.jobs import SAMPLING
from tests.networks.data import gaussian_data

# At tiny size networks are not accurate, nor are all labels valid, as they are to say.
pytestmark = [
    pytest.mark.filterwarnings("ignore::nnef_dists.distributions.ValidationWarning"),
    pytest.mark.filterwarnings("ignore:.* labels are not valid and left out"),
]

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = ["--etas", "48", "--steps", "0.005"]
JOBS = {
    "quartic": {"learning_curves", "moments", "errors", "densities", "fisher_information"},
    "gaussian_1d": {"learning_curves", "moments", "errors", "component_errors", "densities"},
    "multivariate_normal_3d": {
        "learning_curves",
        "linear_terms",
        "quadratic_terms",
        "covariances",
        "component_errors",
        "errors",
    },
}


@pytest.fixture
def example(monkeypatch):
    """Runs an example as the command line does, but with short chains for all labels."""
    estimate = nd.estimate_moments
    limits = {"min_ess": 20.0, "max_rhat": 2.0, "ladder": False, "quadrature": False}
    short = nd.HMCConfig(chains=8, warmup=60, draws=40, tile=32, **limits)

    def estimate_shortly(family, etas, key, config=None, *, progress=False):
        return estimate(family, etas, key, short, progress=progress)

    monkeypatch.setattr(nd, "estimate_moments", estimate_shortly)

    def run(name, *options):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, options)])
        script = EXAMPLES / f"{name}.py"
        monkeypatch.syspath_prepend(script.parent)
        return runpy.run_path(str(script), run_name="__main__")

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_runs_and_leaves_its_results(name, example, tmp_path, capsys):
    out = tmp_path / "results"
    # This example inverts its moment map, which has to be learned for that.
    options = ["--steps", "0.05"] if name == "quartic" else ["--preset", "small"]
    example(name, "--out", out, "--seed", "3", *TINY, *options)

    printed = capsys.readouterr().out
    assert "rms" in printed
    assert "median" in printed
    assert "90 %" in printed
    assert "seconds" in printed
    pictures = {path.stem for path in out.glob("*.png")}
    assert pictures == JOBS[name]
    if name != "quartic":  # whose family is its own, and an argument of `load`
        network = nd.load(out / "network.safetensors")
    with np.load(out / "history.npz") as history:
        for stage in ("map_loss", "vi_loss"):
            assert np.isfinite(history[stage]).all()
            assert len(history[stage]) > 0
        assert history["predicted"].shape == history["exact"].shape == history["uncertainty"].shape
        z = (history["predicted"] - history["exact"]) / history["scale"]
        if name != "quartic":
            again = jax.vmap(network)(history["eta"])
            np.testing.assert_allclose(again, history["predicted"], rtol=1e-4, atol=1e-4)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["z_error"]["network"]["rms"] == pytest.approx(np.sqrt(np.mean(z**2)), rel=1e-5)
    assert set(summary["coverage"]) == {"50 %", "90 %"}

    if name == "quartic":
        return
    for path in out.glob("*.png"):
        path.unlink()
    example(name, "--plot-only", "--out", out)
    assert {path.stem for path in out.glob("*.png")} == pictures


@pytest.mark.slow
def test_quickstart(example, tmp_path, capsys):
    example("quickstart", "--out", tmp_path, "--etas", "128", "--steps", "300")
    printed = capsys.readouterr().out
    rms = {name: float(z) for name, z in re.findall(r"(\w+) +RMS error ([\d.]+)", printed)}
    assert rms["network"] < 0.02 < rms["Laplace"]
    assert len(re.findall(r"^\[ *[\d.]+ s\] ", printed, re.M)) == 8
    assert {path.name for path in tmp_path.iterdir()} == {"errors.png", "log_rates.safetensors"}


@pytest.mark.slow
def test_hierarchical_gamma(example, tmp_path, capsys):
    example("hierarchical_gamma", "--out", tmp_path, "--groups", "12", "--sweeps", "15")
    printed = capsys.readouterr().out
    assert "conjugate energy" in printed
    line = r"(.+), +(\w+): largest error of a mean ([\d.]+) sd, sd ratio ([\d.]+) to ([\d.]+)"
    found = {row[:2]: tuple(map(float, row[2:])) for row in re.findall(line, printed)}
    assert all(error < 0.2 for error, _, _ in found.values())
    assert found["pair", "alpha"][0] <= 0.05
    for row in ("pair", "alpha"), ("pair with linear response", "a"):
        assert 0.95 <= found[row][1] <= found[row][2] <= 1.05
    assert [path.name for path in tmp_path.iterdir()] == ["hierarchical_gamma.png"]


@pytest.mark.slow
def test_conjugate_priors(example, tmp_path, capsys):
    example("inference/conjugate_priors", "--out", tmp_path, "--quick")
    largest = re.search(r"largest: (.+)", capsys.readouterr().out)
    mean, sd, log_evidence = map(float, largest[1].split(", "))
    assert max(mean, sd) <= 0.003
    assert log_evidence <= 0.005
    assert [path.name for path in tmp_path.iterdir()] == ["conjugate_priors.png"]


@pytest.mark.slow
def test_poisson_sites(example, tmp_path, capsys):
    example("inference/poisson_sites", "--out", tmp_path, "--quick")
    printed = capsys.readouterr().out
    quartic = re.search(r"Poisson, +quartic: median KL\(q to p\) (\S+) nats, 0 of 300", printed)
    assert float(quartic[1]) <= 5e-4
    assert float(re.search(r"Gaussian's median is (\d+) times larger", printed)[1]) >= 40
    assert float(re.search(r"A within (\S+) nats", printed)[1]) <= 1e-4
    assert re.search(r"logistic, +quartic: median KL\(q to p\) none, 300 of 300", printed)
    assert [path.name for path in tmp_path.iterdir()] == ["poisson_sites.png"]


@pytest.mark.slow
def test_conflicting_sensors(example, tmp_path, capsys):
    example("inference/conflicting_sensors", "--out", tmp_path, "--quick")
    line = r"(\w+) by +(\w+): KL\(p to q\) ([\d.]+), KL\(q to p\) ([\d.]+) nats"
    found = {
        row[:2]: tuple(map(float, row[2:])) for row in re.findall(line, capsys.readouterr().out)
    }
    assert found["quartic", "project"][0] <= 0.1
    assert found["Gaussian", "project"][0] >= 1
    assert found["quartic", "cvi_message"][1] < found["quartic", "project"][1]
    assert found["Gaussian", "cvi_message"][1] > 20 * found["quartic", "cvi_message"][1]
    assert [path.name for path in tmp_path.iterdir()] == ["conflicting_sensors.png"]


@pytest.mark.slow
def test_double_well_chain(example, tmp_path, capsys):
    example("inference/double_well_chain", "--out", tmp_path, "--quick")
    printed = capsys.readouterr().out
    line = (
        r"(.+): means within (\S+) sd, variance ratios (\S+) to (\S+), evidence off by (\S+) nats"
    )
    found = {name: list(map(float, row)) for name, *row in re.findall(line, printed)}
    mean, least, largest, evidence = found["projection"]
    assert mean <= 0.02
    assert 0.99 < least <= largest < 1.01
    assert abs(evidence) <= 0.05
    assert found["mean field"][3] < -0.5
    assert float(re.search(r"by sweep: .*, (\S+)\n", printed)[1]) <= 1e-6
    assert [path.name for path in tmp_path.iterdir()] == ["double_well_chain.png"]


@pytest.mark.slow
def test_lattice(example, tmp_path, capsys):
    example("inference/lattice", "--out", tmp_path, "--quick", "--runs", "2", "--draws", "500")
    printed = capsys.readouterr().out
    line = r"^([a-zA-Z+ ]*[a-zA-Z]) +" + r"([\d.]+)(?: \(\S+\))? +" * 4 + r"([-+\d.]+)$"
    rows = re.findall(line, printed, re.MULTILINE)
    found = {name: np.array(row, float) for name, *row in rows}
    noise = found.pop("standard error of HMC")
    mean_field = found["mean field"]
    assert (noise[:4] < mean_field[:4] / 8).all()
    for name in ("loopy EP", "EP of rows", "EP of rows + response"):
        assert (found[name][:4] <= mean_field[:4] / 10 + 2 * noise[:4]).all()
        assert abs(found[name][4]) <= 0.03
    assert (found["EP of rows + response"][2:4] <= mean_field[2:4] / 60 + 2 * noise[2:4]).all()
    assert found["rows"][2] <= mean_field[2] / 8
    assert (found["rows + response"][2:4] <= mean_field[2:4] / 10).all()
    # Lower bounds of the evidence.
    assert mean_field[4] < found["rows"][4] < 0
    changes = re.search(r"in the last sweep: (\S+), rows (\S+)\n", printed).groups()
    assert max(map(float, changes)) <= 1e-3
    assert float(re.search(r"split R-hat: (\S+);", printed)[1]) <= 1.02
    assert [path.name for path in tmp_path.iterdir()] == ["lattice.png"]


@pytest.mark.slow
def test_rows_of_the_lattice(monkeypatch):
    """With equal parameters at all sites a row is LatticePhi4."""
    monkeypatch.syspath_prepend(EXAMPLES / "inference")
    rows = importlib.import_module("lattice_rows")
    n, (e1, e2, e4, bond) = 6, (0.3, 0.4, -0.7, 0.3)
    exact = truth.lattice_phi4(n, (e1, e2, e4, bond))
    with jax.enable_x64(True):
        q = rows.TransferMatrix(rows.Row(n))
        eta = jnp.repeat(jnp.array([e1, e2, e4, bond]), jnp.array([n, n, n, n - 1]))
        ends = [n, 2 * n, 3 * n]
        mean = [part.sum() for part in np.split(np.asarray(q.mean(eta)), ends)]
        np.testing.assert_allclose(mean, exact.mean, rtol=1e-12)
        np.testing.assert_allclose(q.log_partition(eta), exact.log_partition, rtol=1e-12)
        nodes, field = rows.make_nodes(4), jnp.array(np.random.default_rng(0).normal(size=(4, 4)))
        key = jax.random.key(0)
        report = nd.inference.check_energy(rows.energy, rows.log_joint, nodes, key, field)
        assert abs(report.constant) < 1e-9


@pytest.mark.slow
def test_florentine_marriages(example, tmp_path, capsys):
    example("florentine_marriages", "--out", tmp_path, "--quick")
    printed = capsys.readouterr().out
    assert "20 edges, 3 triangles" in printed
    step = r"Newton step 3: edges (\S+) \+/- (\S+) .*, triangles (\S+) \+/- (\S+) "
    edges, edges_error, triangles, triangles_error = map(float, re.search(step, printed).groups())
    # Published runs of statnet scatter from -1.651 to -1.690 and from 0.108 to 0.190.
    assert -1.72 < edges < -1.62
    assert 0.07 < triangles < 0.23
    assert edges_error == pytest.approx(0.35, abs=0.05)
    assert triangles_error == pytest.approx(0.57, abs=0.08)
    assert "1,000 graphs drawn: ok" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["florentine_marriages.png"]


@pytest.mark.slow
def test_florentine_posterior(example, tmp_path, capsys):
    example("florentine_posterior", "--labels", "128", "--steps", "3000", "--out", tmp_path)
    printed = capsys.readouterr().out
    assert int(re.search(r"128 etas, (\d+) ok", printed)[1]) > 125
    row = r"{} +maximum likelihood (\S+) \+/- (\S+), posterior (\S+) \+/- (\S+)"
    found = [
        [float(value) for value in re.search(row.format(name), printed).groups()]
        for name in ("edges", "triangles")
    ]
    # Estimates of Newton's method, and the posterior from 512 labels (bench_graphs.py).
    np.testing.assert_allclose(found[0], [-1.674, 0.350, -1.523, 0.306], atol=0.04)
    np.testing.assert_allclose(found[1], [0.154, 0.587, -0.329, 0.513], atol=0.08)


@pytest.mark.slow
def test_neurons(example, tmp_path, capsys):
    module = example("neurons", "--neurons", "8", "--words", "60000", "--out", tmp_path)
    printed = capsys.readouterr().out

    def number(pattern):
        return float(re.search(pattern, printed)[1])

    # Silence of all neurons is the probability of an orthant.
    world = module["CommonInput"](8, 0)
    shared = world.loadings @ world.loadings.T + np.diag(world.noise**2)
    silence = multivariate_normal(np.zeros(8), shared, seed=0, abseps=1e-7).cdf(world.threshold)
    p = world.probabilities()
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert p[0] == pytest.approx(silence, abs=2e-5)
    words = module["word_bits"](8)
    m = p @ words
    s1 = -np.sum(m * np.log2(m) + (1 - m) * np.log2(1 - m))
    assert number(r"S1 (\S+), S2") == pytest.approx(s1, abs=6e-5)
    sn = -np.sum(p * np.log2(p))
    assert number(r"SN (\S+) bits, exact") == pytest.approx(sn, abs=6e-5)
    # The largest entropy with these rates and pairs, by iterative scaling instead.
    pairs = words[:, :, None] * words[:, None, :]
    stats = pairs[:, *np.triu_indices(8)]
    wanted, found = p @ stats, np.full(256, 2.0**-8)
    for _ in range(400):
        for on, both in zip(stats.T, wanted, strict=True):
            now = found @ on
            found = found * np.where(on == 1, both / now, (1 - both) / (1 - now))
    s2 = -np.sum(found * np.log2(found))
    assert number(r", S2 (\S+), SN") == pytest.approx(s2, abs=6e-5)
    assert number(r"fraction (\S+), exact") == pytest.approx((s1 - s2) / (s1 - sn), abs=1e-3)
    assert number(r"exact ones within (\S+);") < 1e-12
    # 36 correlated parameters, whose standard errors are those of a world that is not pairwise.
    assert 0.6 < number(r"standard error: rms (\S+);") < 1.4
    line = r"([\w-]+(?: field)?): KL\(simulated to model\) (\S+) bits"
    lost = {name: float(value) for name, value in re.findall(line, printed)}
    assert lost["pairwise"] < lost["Sessak-Monasson"] < lost["TAP"] < lost["mean field"]
    assert lost["pairwise"] < 0.1 * lost["independent"]
    assert [path.name for path in tmp_path.iterdir()] == ["neurons.png"]


@pytest.mark.slow
def test_mixture(example, tmp_path, capsys):
    example("inference/mixture", "--out", tmp_path)
    printed = capsys.readouterr().out
    assert abs(float(re.search(r"less log joint: (\S+);", printed)[1])) < 1e-9
    evidence, bound = map(float, re.search(r"evidence (\S+), .* (\S+)\n", printed).groups())
    assert evidence - 0.5 < bound < evidence
    assert float(re.search(r"component off by at most (\S+)", printed)[1]) < 0.15
    assert [path.name for path in tmp_path.iterdir()] == ["mixture.png"]


@pytest.mark.slow
def test_ising_coupling(example, tmp_path, capsys):
    example("inference/ising_coupling", "--out", tmp_path)
    printed = capsys.readouterr().out
    line = r": J = .* off by (\S+) sd, sd ratio (\S+); E\[x\] .* most (\S+); .*, (\S+) from"
    exact, structured, mean_field = (
        [float(part) for part in found] for found in re.findall(line, printed)
    )
    assert exact == [0, 1, 0, 0]
    assert abs(structured[0]) < 0.1
    assert 0.85 < structured[1] < 1
    assert structured[2] < mean_field[2] / 2
    # Bounds of the evidence, and the structured one is the better of both.
    assert mean_field[3] < structured[3] < 0
    assert [path.name for path in tmp_path.iterdir()] == ["ising_coupling.png"]


@pytest.mark.slow
def test_dirichlet_concentration(example, tmp_path, capsys):
    example("inference/dirichlet_concentration", "--out", tmp_path, "--quick")
    printed = capsys.readouterr().out
    line = r"collapsed: means off by (.+) sd, sd ratios (.+), evidence off by (\S+) nats"
    means, ratios, evidence = re.search(line, printed).groups()
    assert max(map(float, means.split())) <= 0.01
    assert all(0.99 < float(ratio) < 1.01 for ratio in ratios.split())
    assert abs(float(evidence)) <= 0.01
    assert [path.name for path in tmp_path.iterdir()] == ["dirichlet_concentration.png"]


@pytest.mark.slow
def test_stream(example, tmp_path, capsys):
    example("inference/stream", "--out", tmp_path, "--observations", "4000", "--chunk", "400")
    printed = capsys.readouterr().out
    found = re.findall(r"n = +(\d+): .*, off by (\S+) sd, variance of a by (\S+)\n", printed)
    assert [int(n) for n, *_ in found] == [1, 10, 100, 1000]
    assert all(float(error) <= 1e-9 for _, *errors in found for error in errors)
    assert abs(float(re.search(r"rms (\S+) sd", printed)[1]) - 1) < 0.1
    assert [path.name for path in tmp_path.iterdir()] == ["stream.png"]


@pytest.mark.slow
def test_sharded_plates():
    """Four devices of the host, which JAX has to be told before it starts."""
    path = EXAMPLES / "inference" / "sharded_plates.py"
    command = [sys.executable, path, "--groups", "40", "--sites", "80", "--sweeps", "5"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    printed = subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert "groups: 40 elements on 4 devices, {10} on each" in printed
    assert "sites: 80 elements on 4 devices, {20} on each" in printed
    differences = re.findall(r"largest relative difference (\S+)", printed)
    assert len(differences) == 2
    assert all(float(difference) <= 1e-6 for difference in differences)
    # Sums over the plate travel, and no plate does.
    assert re.findall(r"by collective: (.+)", printed) == ["{'all-reduce': 1}", "none"]


@pytest.mark.slow
def test_stochastic_groups(example, tmp_path, capsys):
    sizes = ["--groups", "400", "--minibatch", "50", "--steps", "40", "--sweeps", "7"]
    example("inference/stochastic_groups", "--out", tmp_path, *sizes)
    printed = capsys.readouterr().out
    assert float(re.search(r"reference: (\S+) sd in its last sweep", printed)[1]) < 0.01
    assert float(re.search(r"stochastic steps: (\S+) sd", printed)[1]) < 4
    final = re.search(r"by final sweep: (.+) sd", printed)[1].split(", ")
    assert float(final[-1]) <= 0.1
    assert [path.name for path in tmp_path.iterdir()] == ["stochastic_groups.png"]


@pytest.mark.slow
def test_chunked_sums(tmp_path):
    options = ["--chunks", "16", "--rows", "5000", "--out", tmp_path]
    script = EXAMPLES / "inference" / "chunked_sums.py"
    found = subprocess.run(
        [sys.executable, script, *map(str, options)], capture_output=True, text=True, check=True
    )
    assert "the same bits: True" in found.stdout
    # Off by the rounding of the sum itself, at most.
    off = [float(number) for number in re.findall(r"off by (\S+)\n", found.stdout)]
    assert len(off) == 2
    assert np.max(np.abs(off)) <= 1e-10
    assert abs(float(re.search(r"(\S+) sd off", found.stdout)[1])) < 4
    assert [path.name for path in tmp_path.iterdir()] == ["chunked_sums.png"]


@pytest.mark.slow
def test_active_learning(example, tmp_path, capsys):
    example("active_learning", "--out", tmp_path, "--repeats", "1", "--etas", "64", *TINY[2:])
    assert "as good as 64 chosen labels" in capsys.readouterr().out
    assert {path.name for path in tmp_path.glob("*.png")} == {"active_learning.png"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["labels"] == [32, 64]
    assert len(summary["rms"]["chosen"]) == len(summary["rms"]["random"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["von_mises_harmonic", "lattice_phi4"])
def test_a_family_of_the_zoo(name, example, tmp_path, capsys):
    example("zoo", name, "--out", tmp_path, *TINY)
    assert "MomentDataset" in capsys.readouterr().out
    pictures = {path.stem.removeprefix(f"{name}_") for path in tmp_path.glob("*.png")}
    densities = {"densities"} if name == "von_mises_harmonic" else set()
    drawn = {"learning_curves", "moments", "fisher_information", "errors"}
    assert pictures == drawn | densities
    q = nd.load(tmp_path / f"{name}.safetensors")
    anchor = q.anchor.tree
    assert q.log_partition(anchor.eta) == pytest.approx(float(anchor.value), rel=1e-5)
    # A second run finds it there.
    example("zoo", name, "--out", tmp_path, *TINY)
    printed = capsys.readouterr().out
    assert "MomentDataset" not in printed
    assert repr(q.family) in printed
    # Those of other options are not taken for its own.
    with pytest.raises(SystemExit, match=f"got others in .*{name}.json"):
        example("zoo", name, "--out", tmp_path, "--etas", "32", "--steps", "0.01")


@pytest.mark.slow
def test_jobs_may_name_a_network_without_layers(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    training = importlib.import_module("training")
    sizes = [f"--optimization.{name}=2" for name in ("epochs", "variational_epochs")]
    network = "--optimization.network"
    options = [f"{network}=ConvexLogPartitionNetwork", f"{network}.width=6", *sizes]
    path = EXAMPLES / "configs" / "gaussian_1d_small.yaml"
    job = nd.generation.read_job(path, options, training.Optimization)
    data = gaussian_data(n=40)
    learned, *losses = training.fit_job(job, data, data[:16], jax.random.key(0), {})
    assert isinstance(learned, nd.ConvexLogPartitionNetwork)
    assert len(learned.logit.mean) == 6
    steps = round(2 * 40 / job.optimization.batch_size)
    assert [np.shape(loss) for loss in losses] == [(steps,)] * 2
    assert all(np.isfinite(loss).all() for loss in losses)


@pytest.mark.slow
def test_posteriors_from_scratch(example, tmp_path, capsys):
    sizes = ["--simulations", "200", "--members", "2", "--etas", "32", "--steps", "0.02"]
    example("npe_from_scratch", "--out", tmp_path, *sizes)
    assert "exact posterior" in capsys.readouterr().out
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    first = {"simulations", "regression", "inverse"}
    assert pictures == first | {"training", "posteriors", "overlay"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    # The log-partition of 32 labels and few steps is not one: that head has no density yet.
    normalized = {name: nll for name, nll in summary["nll"].items() if name != "exponential family"}
    assert len(normalized) == 3
    assert all(nll > summary["exact"] for nll in normalized.values())
    posterior = nd.load(tmp_path / "mixture.safetensors")
    assert posterior.sample(jax.random.key(0), jnp.full(1, 0.5), 3).shape == (3, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* simulations are not finite")
def test_posterior_of_lotka_volterra(example, tmp_path, capsys):
    sizes = ["--simulations", "100", "--draws", "100", "--steps", "0.03"]
    example("npe_lotka_volterra", "--out", tmp_path, *sizes)
    assert "Pareto k" in capsys.readouterr().out
    assert {path.stem for path in tmp_path.glob("*.png")} == {"marginals", "predictions"}
    nd.load(tmp_path / "posterior.safetensors")


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    """The folder of a job's data, made on the command line, and the options of the job."""
    folder = tmp_path_factory.mktemp("data") / "gaussian"
    config = EXAMPLES / "configs" / "gaussian_1d_small.yaml"
    sizes = ["--grid.training.n=24", "--grid.validation.n=16", "--sampling.validation_draws=null"]
    job = ["generate", "--config", str(config), "--out", str(folder), "--progress=false"]
    assert main([*job, *sizes, *SAMPLING]) == 0
    return folder, ["--config", config]


@pytest.mark.slow
def test_learns_from_generated_data(example, generated, tmp_path, monkeypatch, capsys):
    def refuse(*args, **kwargs):
        raise AssertionError("sampled again")

    monkeypatch.setattr(nd, "estimate_moments", refuse)
    folder, config = generated
    example("gaussian_1d", *config, "--data", folder, "--out", tmp_path, "--steps", "0.005")
    # A label of so short a run may disagree with quadrature.
    data = re.search(r"GaussianNatural1D\(\): 24 etas, (\d+) ok", capsys.readouterr().out)
    assert data is not None
    assert int(data[1]) >= 20
    with np.load(tmp_path / "history.npz") as history:
        assert len(history["label_z"]) == int(data[1])
    network = nd.load(tmp_path / "network.safetensors")
    assert len(network.mlp.layers) == 3  # the job asks for two hidden ones


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "got nothing there"),
        (["--config", "nowhere.yaml"], "does not exist"),
        (
            ["--config", EXAMPLES / "configs" / "quartic.yaml"],
            "Expected a job of GaussianNatural1D",
        ),
    ],
)
def test_says_what_is_wrong_with_a_job(options, message, example, tmp_path):
    with pytest.raises(SystemExit, match=message) as end:
        example("gaussian_1d", *options, "--out", tmp_path)
    assert end.value.code not in (None, 0)


@pytest.mark.parametrize("name", ["gaussian_1d", "multivariate_normal_3d"])
def test_says_when_there_is_no_history(name, example, tmp_path):
    with pytest.raises(SystemExit, match=r"^No history in .*history.npz.*--plot-only$") as end:
        example(name, "--plot-only", "--out", tmp_path)
    assert end.value.code not in (None, 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "pictures", "printed"),
    [
        ("analytic_bijections", {"comb", "spiral"}, "above the exact -log Z"),
        ("masked_autoregressive_flow", {"pinwheel"}, "uncertain affine"),
        ("amortized_sampler", {"draws", "consistency"}, "effective draws of 100"),
    ],
)
def test_flows(name, pictures, printed, example, tmp_path, capsys):
    example(name, "--out", tmp_path, *TINY)
    assert printed in capsys.readouterr().out
    assert {path.stem for path in tmp_path.glob("*.png")} == pictures
    assert json.loads((tmp_path / "summary.json").read_text())["seconds"]
