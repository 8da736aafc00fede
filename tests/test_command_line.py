"""`python -m nnef_dists`: jobs to data on disk, their inspection, and what is refused."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.__main__ import main
from tests.jobs import JOB, SAMPLING, USERS, chunk_files, save_data_of_a_user
from tests.moments.stores import COLUMNS, QUICK, flip_a_bit

ROOT = Path(__file__).parents[1]


@pytest.fixture
def job(tmp_path):
    """A small job in a file, in a folder where the command is run."""
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return main([str(argument) for argument in arguments])


def generate(job, *options):
    return run("generate", "--config", job, "--progress=false", *SAMPLING, *options)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """What the job makes, once."""
    folder = tmp_path_factory.mktemp("stores")
    (folder / "job.yaml").write_text(JOB)
    assert generate(folder / "job.yaml", "--out", folder / "out") == 0
    return folder / "out"


class TestGenerate:
    def test_writes_what_the_job_asks_for(self, stores):
        training = nd.MomentDataset.open(stores / "training.zarr")
        validation = nd.MomentDataset.open(stores / "validation.zarr")
        assert (len(training), len(validation)) == (20, 8)
        assert training.family == validation.family == nd.GaussianNatural1D()
        assert training.config == validation.config == QUICK
        for data in (training, validation):
            low, high = data.eta.min(0), data.eta.max(0)
            assert (low >= [-1, -2]).all()
            assert (high <= [1, -0.5]).all()
        assert not set(training.eta[:, 0]) & set(validation.eta[:, 0])

    def test_makes_the_same_as_the_python_interface(self, stores, job, tmp_path):
        asked = nd.generation.read_job(job, SAMPLING)
        request = asked.training
        data = nd.generate_moments(
            asked.family,
            request.etas,
            tmp_path / "again.zarr",
            request.key,
            request.config,
            chunk=asked.chunk,
            progress=False,
        )
        made = nd.MomentDataset.open(stores / "training.zarr")
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(data, name), getattr(made, name))

    def test_prints_summaries_and_reuses_what_is_finished(self, stores, job, capsys, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("sampled again")

        monkeypatch.setattr("nnef_dists.generation._generate.write_chunk", refuse)
        before = {path: path.stat().st_mtime_ns for path in stores.rglob("*") if path.is_file()}
        assert generate(job, "--out", stores) == 0
        printed = capsys.readouterr().out
        assert "MomentDataset of GaussianNatural1D(): 20 etas" in printed
        assert f"{stores / 'validation.zarr'}: 8 etas" in printed
        assert before == {p: p.stat().st_mtime_ns for p in stores.rglob("*") if p.is_file()}

    def test_refuses_the_data_of_another_job(self, stores, job, capsys):
        assert generate(job, "--out", stores, "--sampling.seed=4") == 1
        assert "they differ in" in capsys.readouterr().err

    def test_goes_to_a_folder_named_after_the_file(self, stores, here, job, monkeypatch):
        paths, made = [], nd.MomentDataset.open(stores / "validation.zarr")

        def note(family, etas, path, *args, **kwargs):
            paths.append(Path(path))
            return made

        monkeypatch.setattr("nnef_dists.__main__.generate_moments", note)
        assert generate(job.name) == 0
        assert paths == [Path("data/job/validation.zarr"), Path("data/job/training.zarr")]

    def test_says_how_to_go_on_when_interrupted(self, job, tmp_path, capsys, monkeypatch):
        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr("nnef_dists.generation._generate.write_chunk", interrupt)
        assert generate(job, "--out", tmp_path / "out") == 130
        assert "Run the same command to resume" in capsys.readouterr().err

    @pytest.mark.parametrize(("valid", "status"), [(0, 3), (3, 0), (4, 0)])
    def test_few_valid_labels_are_warned_of(
        self, valid, status, here, job, stores, capsys, monkeypatch
    ):
        made = nd.MomentDataset.open(stores / "validation.zarr")
        rejected = np.array([nd.Status.DIVERGENT, *[nd.Status.HEAVY_TAILS] * 7], np.int8)
        statuses = np.where(np.arange(8) < 8 - valid, rejected, np.int8(nd.Status.OK))
        label = made.label._replace(status=statuses)
        data = nd.MomentDataset(made.family, made.config, made.eta, label)
        monkeypatch.setattr("nnef_dists.__main__.generate_moments", lambda *args, **kwargs: data)
        assert generate(job, "--out", stores) == status
        error = capsys.readouterr().err
        assert error.count("warning: ") == (0 if valid == 4 else 2)
        if valid < 4:
            found = (
                f"got {valid} of 8. The most common reason ({7 - valid} labels): tails too heavy"
            )
            assert found in error
            assert "nd.check_family(" in error
        data.save(here / "few.zarr")
        assert run("inspect", here / "few.zarr") == 0
        assert capsys.readouterr().err.count("nd.check_family(") == (valid < 4)

    def test_cannot_write(self, job, tmp_path, capsys):
        (tmp_path / "file").touch()
        assert generate(job, "--out", tmp_path / "file") == 1
        assert capsys.readouterr().err.startswith("error: ")


class TestInspect:
    def test_sums_up_what_is_whole(self, stores, capsys):
        assert run("inspect", stores / "training.zarr", stores / "validation.zarr") == 0
        printed = capsys.readouterr().out
        assert printed.count("all checksums match") == 2
        assert "20 etas" in printed
        assert "8 etas" in printed

    def test_finds_damage(self, job, tmp_path, capsys):
        assert generate(job, "--out", tmp_path / "out") == 0
        store = tmp_path / "out" / "training.zarr"
        flip_a_bit(chunk_files(store, "mean")[0])
        assert run("inspect", store) == 1
        assert "damaged: chunk" in capsys.readouterr().out

    def test_unfinished_data_are_not_fine(self, job, tmp_path, capsys):
        assert generate(job, "--out", tmp_path / "out") == 0
        store = tmp_path / "out" / "training.zarr"
        chunk_files(store, "status")[0].unlink()
        assert run("inspect", store) == 1
        assert "1 of 2 chunks are missing" in capsys.readouterr().out

    def test_no_data(self, tmp_path, capsys):
        assert run("inspect", tmp_path / "nothing") == 1
        assert "got nothing there" in capsys.readouterr().err

    def test_data_of_ones_own_family_need_it_for_the_summary(self, tmp_path, capsys):
        path = save_data_of_a_user(tmp_path)
        assert run("inspect", path) == 0
        family = "tests.moments.user_families.GammaPair"
        printed = capsys.readouterr().out
        assert "no summary" in printed
        assert f"--family {family}" in printed
        assert run("inspect", path, "--family", family) == 0
        assert "MomentDataset of GammaPair()" in capsys.readouterr().out
        assert run("inspect", path, "--family", "GaussianNatural1D") == 1
        assert "Expected the family of the store" in capsys.readouterr().err


MISTAKES = {
    "misspelled option": (["--sampling.drws=3"], "Did you mean 'sampling.draws'?"),
    "misspelled section": (["--optimzation.epochs=3"], "Did you mean 'optimization'?"),
    "shortened option": (["--worker=3"], "Did you mean 'workers'?"),
    "misspelled family": (["--family=Gausian1D"], "Did you mean 'GaussianNatural1D'?"),
    "misspelled argument": (
        ["--family=Polynomial1D", "--family.power=[2]"],
        "Did you mean 'powers'?",
    ),
    "no such module": (["--family=no_such_module.Family"], "No module named 'no_such_module'"),
    "no such class": (
        ["--family=tests.moments.user_families.GamaPair"],
        "Did you mean 'GammaPair'?",
    ),
    "misspelled module": (
        ["--family=tests.moment.user_families.GammaPair"],
        "Did you mean 'tests.moments'?",
    ),
    "misspelled module of a package": (
        ["--family=tests.moments.user_familys.GammaPair"],
        "Did you mean 'tests.moments.user_families'?",
    ),
    "misspelled package": (["--family=nnef_dist.Gamma"], "Did you mean 'nnef_dists'?"),
    "module that is not in the path": (["--family=familys.Quartic"], "PYTHONPATH"),
    "lower case": (["--family=gamma"], "Did you mean 'Gamma'?"),
    "own family by its name": (["--family=Wobbly"], "by its import path"),
    "no family": (["--family=nnef_dists.HMCConfig"], "subclass of ExponentialFamily"),
    "argument missing": (["--family=MultivariateNormal"], "required: d"),
    "argument out of range": (["--family=MultivariateNormal", "--family.d=0"], "Expected d >= 1"),
    "no argument": (["--family=GaussianNatural1D", "--family.d=1"], "takes no arguments."),
    "no such argument": (["--family=Polynomial1D", "--family.d=[2]"], "Polynomial1D are powers."),
    "no such option": (["--sampling.zzz=3"], "The options of sampling are chains, warmup, draws,"),
    "another type": (["--sampling.draws=many"], "sampling.draws: Expected an integer; got many"),
    "type or null": (["--sampling.chunk=x"], "sampling.chunk: Expected an integer or null; got x"),
    "no number": (["--sampling.max_rhat=high"], "sampling.max_rhat: Expected a number; got high"),
    "no flag": (["--progress=perhaps"], "progress: Expected true or false; got perhaps"),
    "no tuple": (["--family=Polynomial1D", "--family.powers=3"], "powers: Expected a list; got 3"),
    "out of range": (["--sampling.draws=1"], "Expected draws"),
    "broken chunk": (["--sampling.chunk=12"], "multiple of the tile"),
    "validation draws": (["--sampling.validation_draws=1"], "Expected draws"),
    "no etas": (["--grid.training.n=0"], "Expected grid.training.n >= 1"),
    "other statistics": (["--grid.training.ranges={y: [0, 1]}"], "Expected ranges for"),
    "outside the domain": (
        ["--grid.validation.ranges.x2=[-2, 1]"],
        "grid.validation.ranges: Expected the range of 'x2' to be negative",
    ),
    "half a range": (["--grid.training.ranges.x=[1]"], "Expected the range of 'x' as (low, high)"),
    "no range": (
        ["--grid.training.ranges.x=1"],
        "grid.training.ranges: Expected a list; got 1",
    ),
    "no workers": (["--workers=-1"], "workers: Expected an integer >= 0; got -1"),
    "no count": (["--workers=two"], "workers: Expected an integer >= 0; got two"),
}


class TestMistakes:
    @pytest.mark.parametrize("name", MISTAKES)
    def test_in_options_are_refused_with_advice(self, name, job, capsys):
        options, message = MISTAKES[name]
        assert generate(job, *options) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert error.count("Did you mean") == message.count("Did you mean")
        assert "Traceback" not in error

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("seed: 3", "sed: 3", "Did you mean 'sampling.seed'?"),
            ("n: 20", "number: 20", "'grid.training.number'"),
            ("sampling:", "samplin:", "Did you mean 'sampling."),
            ("family: GaussianNatural1D", "", "required: family"),
            ("seed: 3", "seed: [", "Problems parsing config"),
            (JOB[JOB.index("sampling:") :], "sampling: 3", "Expected sampling to be a mapping"),
        ],
    )
    def test_in_the_file_are_refused_with_advice(self, old, new, message, job, capsys):
        job.write_text(JOB.replace(old, new))
        assert run("generate", "--config", job) == 2
        assert message in capsys.readouterr().err
        with pytest.raises(ValueError, match=r"\w"):
            nd.generation.read_job(job)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "expected"),
            (["generat"], "Did you mean 'generate'?"),
            (["inspct", "data.zarr"], "Did you mean 'inspect'?"),
            (["inspect", "data.zarr", "--family", "Gama"], "Did you mean 'Gamma'?"),
            (["inspect"], "required: path"),
            (["generate", "--config", "nowhere.yaml"], "does not exist"),
        ],
    )
    def test_in_the_command(self, arguments, message, capsys):
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err

    def test_neither_folder_nor_file(self, capsys):
        options = ["--family=GaussianNatural1D"]
        for part in ("training", "validation"):
            options += [f"--grid.{part}.n=8", f"--grid.{part}.ranges={{x: [0, 1], x2: [-2, -1]}}"]
        assert run("generate", *options) == 2
        assert "Expected --out or --config" in capsys.readouterr().err


def test_the_commands_of_readme_are_ones(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = (ROOT / "README.md").read_text()
    commands = re.findall(r"python -m nnef_dists (generate .*\.yaml)", text)
    assert commands
    for command in commands:
        with pytest.raises(SystemExit) as end:
            run(*command.split(), "--print_config")
        assert end.value.code == 0


class TestProcess:
    """As a program: exit status, workers of their own, a family from the current folder."""

    @staticmethod
    def start(folder, *arguments):
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0",
        }
        return subprocess.run(
            [sys.executable, "-m", "nnef_dists", *map(str, arguments)],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    @pytest.mark.slow
    def test_workers_label_the_family_of_a_user(self, tmp_path, job):
        (tmp_path / "families_of_a_user.py").write_text(USERS)
        arguments = [
            "generate", "--config", job.name, *SAMPLING, "--family=families_of_a_user.Even",
            "--family.order=2",
            "--grid.training.ranges={top: [-2, -0.5]}",
            "--grid.validation.ranges={top: [-1, -0.5]}",
            "--workers=1",
        ]  # fmt: skip
        done = self.start(tmp_path, *arguments)
        assert done.returncode == 0, done.stderr
        assert "MomentDataset of Even(order=2): 20 etas" in done.stdout
        assert "moments: 100%" in done.stderr
        assert nd.generation.verify_moments(tmp_path / "data" / "job" / "training.zarr").finished

    def test_mistakes_end_without_a_traceback(self, tmp_path, job):
        done = self.start(tmp_path, "generate", "--config", job.name, "--sampling.drws=3")
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr

    def test_interrupted_it_ends_whatever_runs(self, tmp_path, job):
        """While garbage is collected, and with threads that abort a shutdown."""
        code = """
import atexit
import gc
import os
import runpy
import signal
import time
import nnef_dists.generation

# A shell that starts programs in the background ignores this signal, and so do they.
signal.signal(signal.SIGINT, signal.default_int_handler)


def collect(*args, **kwargs):
    gc.callbacks.append(lambda *_: (os.kill(os.getpid(), signal.SIGINT), time.sleep(1)))
    gc.collect()
    raise RuntimeError("not interrupted")


nnef_dists.generation.generate_moments = collect
atexit.register(os.abort)
runpy.run_module("nnef_dists", run_name="__main__", alter_sys=True)
"""
        done = subprocess.run(
            [sys.executable, "-c", code, "generate", "--config", job.name],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 130, done.stderr
        assert done.stdout == "data/job/validation.zarr: 8 etas\n"
        assert "Run the same command to resume" in done.stderr

    @pytest.mark.slow
    def test_a_second_run_compiles_nothing(self, tmp_path, job):
        code = """
import sys
import jax
from nnef_dists.__main__ import main

assert jax.config.jax_compilation_cache_dir is None
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name.rpartition("/")[2]))
assert main(sys.argv[1:]) == 0
print(events.count("cache_hits"), events.count("cache_misses"))
"""
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JAX_COMPILATION_CACHE", "JAX_PERSISTENT_CACHE"))
        }
        environment |= {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
        counts = []
        for out in ("first", "second"):
            options = ["--config", job.name, "--progress=false", *SAMPLING, "--out", out]
            done = subprocess.run(
                [sys.executable, "-c", code, "generate", *options],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            counts.append(tuple(map(int, done.stdout.split()[-2:])))
        (_, first_misses), (second_hits, second_misses) = counts
        assert first_misses > 0
        assert second_misses == 0
        assert second_hits > 0
        assert len(list((tmp_path / "cache" / "nnef_dists").glob("compiled-*/*"))) > 0
        one, two = (
            nd.MomentDataset.open(tmp_path / o / "training.zarr") for o in ("first", "second")
        )
        assert np.array_equal(one.mean, two.mean, equal_nan=True)


def test_compiled_programs_are_kept_where_the_environment_says():
    """What is set stays, here all of it by the configuration of the tests."""
    before = {name: value for name, value in jax.config.values.items() if "cache" in name}
    nd.generation.keep_compiled()
    assert before == {name: value for name, value in jax.config.values.items() if "cache" in name}
    assert jax.config.jax_compilation_cache_dir == os.environ["JAX_COMPILATION_CACHE_DIR"]
