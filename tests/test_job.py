"""Jobs read from YAML files: what they say, by which names, and with which options."""

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.__main__ import main
from tests.jobs import JOB, NETWORKS, SAMPLING, USERS
from tests.moments.stores import QUICK
from tests.networks.data import GAUSSIAN, gaussian_data

EXAMPLES = Path(__file__).parents[1] / "examples"
CONFIGS = sorted((EXAMPLES / "configs").rglob("*.yaml"))


@pytest.fixture
def job(tmp_path):
    """A small job in a file."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


@pytest.fixture
def optimization(monkeypatch):
    """What the examples' training script reads."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("training").Optimization


def made_network(asked):
    """The network of a job, with data of a Gaussian in one dimension."""
    return asked.optimization.network(GAUSSIAN, gaussian_data(), key=jax.random.key(0))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_shipped_one_can_be_read(path, optimization):
    asked = nd.generation.read_job(path, optimization=optimization)
    assert isinstance(asked.optimization, optimization)
    etas = asked.training.etas
    drawn = jax.jit(lambda key: asked.family.sample_eta(key, 3, etas.ranges))(etas.key)
    assert jax.jit(jax.vmap(asked.family.is_valid_eta))(drawn).all()
    assert asked.validation.etas.n < etas.n


def test_the_promised_ones_are_there():
    names = {path.stem for path in CONFIGS if path.parent.name == "configs"}
    promised = {f"{job}_{size}" for job in ("gaussian_1d", "multivariate_3d")
                for size in ("small", "large")}  # fmt: skip
    assert names == promised | {"quartic"}


@pytest.mark.parametrize(
    "family",
    [
        "MultivariateNormal",
        "nnef_dists.MultivariateNormal",
        "nnef_dists.families.MultivariateNormal",
    ],
)
def test_families_of_the_package_go_by_any_name(job, family):
    job.write_text(
        JOB.replace("family: GaussianNatural1D", "family:\n"
                    f"  class_path: {family}\n  init_args: {{d: 2}}")
        .replace("x2: [-2, -0.5, log]", "xxT: [-2, -0.5, log]")
        .replace("x2: [-2, -0.5]", "xxT: [[-2, -3], [-0.5, -1]]")
    )  # fmt: skip
    asked = nd.generation.read_job(job)
    assert asked.family == nd.MultivariateNormal(2)
    assert asked.validation.etas.ranges["xxT"] == ([-2, -3], [-0.5, -1])


def test_families_of_ones_own_go_by_import_path(job, tmp_path, monkeypatch):
    (tmp_path / "families_of_a_user.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--family=families_of_a_user.Even", "--family.order=6"]
    ranges = "{top: [-2, -0.5]}"
    for part in ("training", "validation"):
        options.append(f"--grid.{part}.ranges={ranges}")
    assert repr(nd.generation.read_job(job, options).family) == "Even(order=6)"


@pytest.mark.parametrize("name", ["GLUMomentNetwork", "nnef_dists.ConvexLogPartitionNetwork"])
def test_networks_of_the_package_go_by_any_name(job, name, optimization):
    """Those with layers and those without."""
    job.write_text(JOB + "optimization:\n"
                   f"  network: {{class_path: {name}, init_args: {{width: 7}}}}\n")  # fmt: skip
    expected = getattr(nd.networks, name.removeprefix("nnef_dists."))(
        GAUSSIAN, gaussian_data(), width=7, key=jax.random.key(0)
    )
    assert eqx.tree_equal(made_network(nd.generation.read_job(job, (), optimization)), expected)


def test_networks_of_ones_own_go_by_import_path(job, tmp_path, monkeypatch, optimization):
    (tmp_path / "networks_of_a_user.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    options = ["--optimization.network=networks_of_a_user.Affine", "--optimization.network.gain=3"]
    network = made_network(nd.generation.read_job(job, options, optimization))
    assert type(network).__name__ == "Affine"
    assert network.body.W.mean.shape == (2, 2)
    assert network.gain == 3


def test_every_option_of_the_sampler_is_there(job):
    for field in dataclasses.fields(nd.HMCConfig):
        value = getattr(QUICK, field.name)
        asked = nd.generation.read_job(job, [f"--sampling.{field.name}={str(value).lower()}"])
        assert getattr(asked.training.config, field.name) == value


def test_the_printed_configuration_is_the_job(job, tmp_path, capsys, optimization):
    network = "{class_path: LogPartitionNetwork, init_args: {width: 5}}"
    changed = [f"--optimization.network={network}", "--grid.training.ranges.x=[-1e-1, 1e-1]"]
    options = [*SAMPLING, *changed]
    with pytest.raises(SystemExit) as end:
        main(["generate", "--config", str(job), *options, "--print_config"])
    assert end.value.code == 0
    again = tmp_path / "again.yaml"
    again.write_text(capsys.readouterr().out)
    one, two = (nd.generation.read_job(*how, optimization) for how in ((job, options), (again, ())))
    made = [made_network(asked) for asked in (one, two)]
    expected = nd.LogPartitionNetwork(GAUSSIAN, gaussian_data(), width=5, key=jax.random.key(0))
    assert all(eqx.tree_equal(network, expected) for network in made)
    rest = [dataclasses.replace(a.optimization, network=nd.LogPartitionNetwork) for a in (one, two)]
    assert rest == 2 * [optimization()]
    assert two.training.etas.ranges["x"] == (-0.1, 0.1)
    for part in ("training", "validation"):
        a, b = getattr(one, part), getattr(two, part)
        assert a.config == b.config
        assert a.etas._replace(key=None) == b.etas._replace(key=None)
        assert (a.key, a.etas.key) == (b.key, b.etas.key)


def test_labels_to_judge_by_may_have_more_draws(job):
    asked = nd.generation.read_job(job, ["--sampling.validation_draws=700"])
    assert asked.validation.config == dataclasses.replace(asked.training.config, draws=700)


def test_keys_are_used_once(job):
    asked = nd.generation.read_job(job)
    parts = (asked.training, asked.validation)
    keys = [np.asarray(jax.random.key_data(k)) for p in parts for k in (p.key, p.etas.key)]
    assert len({key.tobytes() for key in keys}) == 4


MISTAKES = {
    "misspelled option": (["--optimization.epoch=3"], "Did you mean 'optimization.epochs'?"),
    "misspelled section": (["--optimzation.epochs=3"], "Did you mean 'optimization.epochs'?"),
    "misspelled network": (
        ["--optimization.network=MLPNetwork"],
        "Did you mean 'MLPMomentNetwork'?",
    ),
    "another network": (["--optimization.network=HMCConfig"], "Expected a dot import path string"),
    "no network": (
        ["--optimization.network=nnef_dists.HMCConfig"],
        "to be a subclass of <class 'AbstractMomentNetwork'>",
    ),
    "not the network's": (
        ["--optimization.network=ConvexLogPartitionNetwork", "--optimization.network.depth=2"],
        "Option 'depth' is not accepted",
    ),
    "network in no module": (["--optimization.network=networks_of_user.Affine"], "PYTHONPATH"),
    "no epochs": (["--optimization.epochs=0"], "Expected optimization.epochs >= 1"),
    "no rate": (["--optimization.learning_rate=0"], "Expected optimization.learning_rate > 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_what_a_script_reads(job, name, optimization):
    options, message = MISTAKES[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        nd.generation.read_job(job, options, optimization)


@dataclasses.dataclass(frozen=True)
class Choices:
    """Options of a script, none of them a network."""

    widht: int = 64
    schedule: Literal["cosine", "flat"] = "flat"
    rates: list[float] | None = None


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (" {width: 3}", "Did you mean 'optimization.widht'? The options of optimization are widht, "
                        "schedule, rates."),
        (" {zzz: 3}", "option 'zzz'\nThe options of optimization are widht, schedule, rates."),
        (" {schedule: cosin}", "optimization.schedule: Expected one of 'cosine', 'flat'; got cosin"
                               "\nDid you mean 'cosine'?"),
        (" {widht: many}", "optimization.widht: Expected an integer; got many"),
        (" {rates: [a]}", "optimization.rates: Expected a list or null; got ['a']"),
        (" 3", "Expected optimization to be a mapping of options; got 3. Write its options below"),
        ("", "Expected optimization to be a mapping of options; got None"),
    ],
)  # fmt: skip
def test_mistakes_in_the_fields_of_a_script(job, section, message):
    job.write_text(f"{JOB}optimization:{section}\n")
    with pytest.raises(ValueError, match=re.escape(message)):
        nd.generation.read_job(job, optimization=Choices)


REPEATED = {
    "section": ("sampling:\n  draws: 500\n", "'sampling' on line 6 and again on line 10"),
    "option": ("optimization: {epochs: 3,\n  epochs: 4}\n", "'epochs' on line 10 and again on l"),
}


@pytest.mark.parametrize("name", REPEATED)
def test_repeated_keys_are_refused_with_their_lines(job, name, capsys, monkeypatch):
    monkeypatch.chdir(job.parent)
    more, message = REPEATED[name]
    job.write_text(JOB + more)
    with pytest.raises(ValueError, match=f"Expected each key of a mapping once; got {message}"):
        nd.generation.read_job(job)
    assert main(["generate", "--config", str(job)]) == 2
    assert message in capsys.readouterr().err


def test_repeated_statistics_in_options_are_refused(job):
    with pytest.raises(ValueError, match="got 'x' on line 1 and again on line 1"):
        nd.generation.read_job(
            job, ["--grid.training.ranges={x: [-1, 1], x2: [-2, -1], x: [5, 6]}"]
        )


def test_merged_keys_may_be_changed(job):
    job.write_text(JOB + "optimization:\n  first: &one {epochs: 3, batch: 5}\n"
                   "  second: {<<: *one, epochs: 4}\n")  # fmt: skip
    read = nd.generation.read_job(job).optimization
    assert read["second"] == {"epochs": 4, "batch": 5}


def test_what_a_script_reads_is_a_dict_if_it_says_no_more(job):
    assert nd.generation.read_job(job).optimization == {}
    read = nd.generation.read_job(
        job, ["--optimization.epochs=3", "--optimization.schedule=cosine"]
    )
    assert read.optimization == {"epochs": 3, "schedule": "cosine"}
    # What names an object is not made: that is the script's.
    network = {"class_path": "LogPartitionNetwork", "init_args": {"width": 5}}
    job.write_text(JOB + "optimization:\n  network: {class_path: LogPartitionNetwork, "
                   "init_args: {width: 5}}\n")  # fmt: skip
    assert nd.generation.read_job(job).optimization == {"network": network}
