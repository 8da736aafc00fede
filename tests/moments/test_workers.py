"""Moment data made by workers: the same bits, and what is done about those that fail."""

import collections
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

import pytest

import nnef_dists as nd
from nnef_dists.generation import _chunk_task, _pool
from nnef_dists.saving import build_family, describe_family
from tests.moments.stores import GAUSSIAN, assert_same, files, generate, random_etas, run_job


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of data: made by one process, by its pool of two, and by a pool that breaks."""
    folder = tmp_path_factory.mktemp("made")
    run_job("in_turn", folder, cache=folder / "compiled")
    return folder


@pytest.mark.slow
def test_bits_do_not_depend_on_how_many_processes_make_them(made):
    assert files(made / "processes") == files(made / "alone")


@pytest.mark.slow
def test_bits_do_not_depend_on_how_many_devices_make_them(made, tmp_path):
    run_job("make", tmp_path / "s", cache=made / "compiled", devices=4)
    assert files(tmp_path / "s") == files(made / "alone")


@pytest.mark.slow
def test_labels_of_sharded_etas_are_those_of_one_array(made):
    run_job("sharded", cache=made / "compiled", devices=3)


@pytest.mark.slow
def test_a_killed_process_breaks_the_pool_which_is_made_again(made):
    assert (made / "broken.killed").exists()
    assert nd.generation.verify_moments(made / "broken").finished


class Flaky(Executor):
    """Runs tasks at once, except those that it lets fail as it is told."""

    def __init__(self, failures):
        self.failures = failures
        self.broken = False

    def submit(self, fn, /, *args, **kwargs):
        if self.broken:
            raise BrokenExecutor("a worker died before")
        future = Future()
        error = self.failures.popleft() if fn is _pool.run_task and self.failures else None
        try:
            if error is not None:
                raise error
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            self.broken = isinstance(error, BrokenExecutor)
            future.set_exception(error)
        return future

    def shutdown(self, wait=True, *, cancel_futures=False):
        self.broken = True


def flaky(*failures):
    return Flaky(collections.deque(failures))


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Data made in this process."""
    return generate(tmp_path_factory.mktemp("here") / "s")


class TestFailures:
    def test_any_executor_will_do(self, here, tmp_path):
        with ThreadPoolExecutor(2) as executor:
            assert_same(generate(tmp_path / "s", executor=executor), here)

    def test_given_etas_are_sent(self, here, tmp_path):
        assert_same(generate(tmp_path / "s", here.eta, executor=flaky()), here)

    def test_a_chunk_that_fails_is_tried_again(self, here, tmp_path):
        died = [RuntimeError("worker died")] * 2
        assert_same(generate(tmp_path / "s", executor=flaky(*died)), here)

    @pytest.mark.parametrize(
        ("error", "raised", "message"),
        [
            (RuntimeError("out of memory"), RuntimeError, "Chunk 0.*3 times.*out of memory.*kept"),
            (OSError(28, "No space left on device"), OSError, "No space left"),
        ],
        ids=["error", "disk"],
    )
    def test_but_not_for_ever(self, here, tmp_path, error, raised, message):
        failures = [error, None, None, error, error]
        with pytest.raises(raised, match=message):
            generate(tmp_path / "s", executor=flaky(*failures))
        assert len(nd.MomentDataset.open(tmp_path / "s", partial=True)) == 24
        assert_same(generate(tmp_path / "s"), here)

    def test_an_executor_that_breaks_is_made_again(self, here, tmp_path):
        failures = collections.deque([BrokenExecutor()] * 2 + [None, BrokenExecutor()])
        made = []

        def make():
            made.append(Flaky(failures))
            return made[-1]

        assert_same(generate(tmp_path / "s", executor=make), here)
        assert len(made) == 4
        assert made[-1].broken, "it is shut down at the end"

    @pytest.mark.parametrize("again", [True, False], ids=["three times", "that was given"])
    def test_or_the_data_stay_unfinished(self, here, tmp_path, again):
        failures = collections.deque([None] + [BrokenExecutor()] * 5)
        executor = (lambda: Flaky(failures)) if again else Flaky(failures)
        with pytest.raises(RuntimeError, match=r"broke.*kept"):
            generate(tmp_path / "s", executor=executor)
        assert_same(generate(tmp_path / "s"), here)

    def test_workers_of_another_kind_are_refused(self, here, tmp_path, monkeypatch):
        known, cpus = _pool.describe_environment(), iter([1, 1, 2, 2])
        monkeypatch.setattr(_pool, "describe_environment", lambda: known | {"cpus": 1})
        monkeypatch.setattr(
            _chunk_task, "describe_environment", lambda: known | {"cpus": next(cpus)}
        )
        with pytest.raises(ValueError, match="cpus: 1 in the store, 2 asked"):
            generate(tmp_path / "s", executor=flaky())
        data = generate(tmp_path / "s", executor=flaky(), mix_environments=True)
        assert_same(data, here)
        assert "2 CPUs" in str(nd.generation.verify_moments(tmp_path / "s"))


class Odd(nd.ExponentialFamily):
    """A family whose constructor would change its field."""

    half: int
    x_shape = ()
    natural_domain = nd.domain(x2=nd.negative)

    def __init__(self, half):
        self.half = half // 2

    def compute_stats(self, x):
        return {"x2": self.half * x**2}


class Linked(nd.ExponentialFamily):
    """A family with a function as a field."""

    link: Callable
    x_shape = ()
    natural_domain = nd.domain(x2=nd.negative)

    def compute_stats(self, x):
        return {"x2": self.link(x)}


class TestFamilies:
    def test_a_local_class_is_refused_with_advice(self, tmp_path):
        class Local(nd.ExponentialFamily):
            x_shape = ()
            natural_domain = nd.domain(x2=nd.negative)

            def compute_stats(self, x):
                return {"x": x, "x2": x**2}

        with pytest.raises(ValueError, match=r"workers can import.*module"):
            generate(tmp_path / "s", family=Local(), executor=flaky())
        Local.__qualname__, Local.__module__ = "Local", "__main__"
        with pytest.raises(ValueError, match=r"__main__\.Local.*module"):
            generate(tmp_path / "s", family=Local(), executor=flaky())
        assert not list(tmp_path.iterdir())

    def test_one_with_a_field_that_has_no_name_is_refused(self, tmp_path):
        family = Linked(lambda x: x**2)
        with pytest.raises(ValueError, match=r"workers can import; got .*Linked.*at link"):
            generate(tmp_path / "s", random_etas(), family=family, executor=flaky())

    def test_the_same_class_is_rebuilt(self):
        for family in (GAUSSIAN, nd.Polynomial1D((2, 4)), nd.LatticePhi4(5), Odd(8)):
            assert build_family(describe_family(family)) == family
