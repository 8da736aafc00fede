"""Moment data on disk: equal to `estimate_moments`, reused, resumed, refused."""

import errno
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.generation import _chunk_task, _generate
from nnef_dists.storage._creation import exclusively
from tests.moments.stores import (
    GAUSSIAN,
    QUICK,
    RANGES,
    assert_same,
    files,
    generate,
    random_etas,
)


def posteriors(high=10.0, change=0.0, statistics=None):
    rows = jnp.array([[0.5, -1.0], [1.0, -2.0], [0.0 + change, -0.5]])
    return nd.posterior_etas([0.0, -1.0], rows if statistics is None else statistics, (1, high))


def a_function(key):
    return jnp.array([0.5, -1.0]) * jax.random.uniform(key, minval=1.0, maxval=2.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A finished store, not to be written."""
    path = tmp_path_factory.mktemp("stores") / "finished"
    generate(path)
    return path


@pytest.fixture
def no_sampling(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("labels were sampled")

    monkeypatch.setattr(_chunk_task, "label_etas", refuse)


@pytest.fixture
def stop_after(monkeypatch):
    """Makes labeling stop with an exception after some chunks."""
    label_etas = _chunk_task.label_etas

    def arrange(chunks, error):
        left = iter([None] * chunks)

        def label_or_stop(*args, **kwargs):
            if next(left, "stop") == "stop":
                raise error
            return label_etas(*args, **kwargs)

        monkeypatch.setattr(_chunk_task, "label_etas", label_or_stop)
        return monkeypatch.undo

    return arrange


class TestContent:
    def test_labels_are_those_of_estimate_moments(self, store):
        data = nd.MomentDataset.open(store)
        assert type(data) is nd.MomentDataset
        assert (data.family, data.config) == (GAUSSIAN, QUICK)
        same = nd.estimate_moments(GAUSSIAN, jnp.asarray(data.eta), jax.random.key(2), QUICK)
        assert_same(data, same)
        assert repr(data) == repr(same)

    def test_etas_are_those_of_sample_eta(self, store):
        etas = GAUSSIAN.sample_eta(jax.random.key(1), 40, RANGES)
        found = nd.MomentDataset.open(store).eta
        assert found.dtype == etas.dtype
        assert np.allclose(found, etas, rtol=1e-6)

    @pytest.mark.parametrize("chunk", [8, 40, None])
    def test_the_chunk_changes_nothing(self, store, chunk, tmp_path):
        data = generate(tmp_path / "other", chunk=chunk)
        assert_same(data, nd.MomentDataset.open(store))

    def test_the_chunk_may_be_an_integer_of_numpy(self, store, tmp_path, without_type_checks):
        data = generate(tmp_path / "other", chunk=np.int64(8))
        assert_same(data, nd.MomentDataset.open(store))

    def test_given_etas_are_stored_too(self, store, tmp_path):
        data = nd.MomentDataset.open(store)
        given = generate(tmp_path / "given", data.eta)
        assert_same(data, given)

    def test_single_precision_is_kept_in_double(self, tmp_path):
        etas = nd.generation.RandomEtas(jax.random.key(1), 8, RANGES, jnp.float32)
        assert generate(tmp_path / "single", etas).mean.dtype == np.float32

    def test_chunks_of_nothing_but_nan_are_written(self, tmp_path, monkeypatch):
        label_etas = _chunk_task.label_etas

        def hopeless(*args, **kwargs):
            labels = label_etas(*args, **kwargs)
            failed = np.full_like(labels.status, nd.Status.NOT_CONVERGED)
            return labels._replace(mean=np.full_like(labels.mean, np.nan), status=failed)

        monkeypatch.setattr(_chunk_task, "label_etas", hopeless)
        data = generate(tmp_path / "hopeless")
        assert np.isnan(data.mean).all()
        assert nd.generation.verify_moments(tmp_path / "hopeless").finished

    def test_it_is_a_plain_zarr_group(self, store):
        import zarr

        group = zarr.open_group(store, mode="r")
        assert group.attrs["spec"]["family"]["class"] == "nnef_dists.families:GaussianNatural1D"
        assert set(group.attrs["environments"][0]) >= {"versions", "backend", "cpus"}
        assert group["status"].chunks == (16,)


class TestReuse:
    def test_finished_data_are_not_sampled_again(self, store, no_sampling):
        before = files(store)
        for chunk in (16, None):
            assert_same(generate(store, chunk=chunk), nd.MomentDataset.open(store))
        assert files(store) == before

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"config": nd.HMCConfig(tile=8, draws=500)},
                "config.draws: 8 in the store, 500 asked",
            ),
            ({"seed": 3}, r"key.data: \[0, 2\] in the store, \[0, 3\] asked"),
            ({"chunk": 24}, "chunk: 16 in the store, 24 asked"),
            ({"etas": random_etas(41)}, "etas.n: 40 in the store, 41 asked"),
            ({"etas": random_etas(seed=7)}, r"etas.key.data: \[0, 1\] in the store, \[0, 7\]"),
            ({"etas": random_etas(x=(-1, 3))}, r"etas.ranges.x: \[-1.0, 1.0\] in .*\[-1.0, 3.0\]"),
            ({"etas": np.array([[0.0, -1.0]])}, "etas.kind: 'random' in the store, 'given' asked"),
            (
                {"family": nd.Gamma(), "etas": np.array([[1.0, -1.0]])},
                "family.class: 'GaussianNatural1D' in the store, 'Gamma' asked",
            ),
            (
                {"etas": nd.generation.RandomEtas(jax.random.key(1), 40, RANGES, jnp.float16)},
                "dtype: .* in the store, 'float16' asked",
            ),
        ],
        ids=["config", "key", "chunk", "n", "eta key", "ranges", "given", "family", "dtype"],
    )
    def test_other_data_are_refused_with_the_difference(self, store, changes, message):
        before = files(store)
        with pytest.raises(ValueError, match=message):
            generate(store, **changes)
        assert files(store) == before

    def test_other_distributions_of_etas_are_compared(self, tmp_path):
        def etas(*arguments):
            return nd.generation.RandomEtas(jax.random.key(1), 20, posteriors(*arguments))

        data = generate(tmp_path / "s", etas())
        assert np.allclose(data.eta, GAUSSIAN.sample_eta(jax.random.key(1), 20, posteriors()))
        assert_same(generate(tmp_path / "s", etas()), data)
        # A row that the first draws may not use counts, and so does what a function returns.
        for changed in (etas(100), etas(10, 1e-5), etas(10, 0, a_function)):
            with pytest.raises(ValueError, match=r"etas.law.sha256"):
                generate(tmp_path / "s", changed)
        one, other = ((lambda key, s=s: s * a_function(key)) for s in (1.0, 1.1))
        generate(tmp_path / "f", nd.generation.RandomEtas(jax.random.key(1), 4, one))
        with pytest.raises(ValueError, match="the distribution of etas has changed"):
            generate(tmp_path / "f", nd.generation.RandomEtas(jax.random.key(1), 4, other))

    def test_invalid_draws_are_refused_before_anything_is_sampled(self, tmp_path, no_sampling):
        etas = nd.generation.RandomEtas(
            jax.random.key(1), 200, lambda key: jnp.array([1.0, 1.0]) * jax.random.normal(key)
        )
        with pytest.raises(ValueError, match=r"invalid of 200: the first, number \d+"):
            generate(tmp_path / "s", etas)
        assert not (tmp_path / "s").exists()

    def test_functions_that_workers_cannot_import_are_refused(self, tmp_path):
        etas = nd.generation.RandomEtas(jax.random.key(1), 4, lambda key: a_function(key))
        with pytest.raises(ValueError, match=r"functions of etas that workers can import.*lambda"):
            generate(tmp_path / "s", etas, executor=lambda: None)

    def test_given_etas_are_compared(self, tmp_path):
        etas = np.array([[0.0, -1.0], [0.5, -1.0]])
        generate(tmp_path / "s", etas)
        with pytest.raises(ValueError, match=r"etas\.sha256: "):
            generate(tmp_path / "s", etas + 0.5)


class TestInterrupted:
    def test_after_ctrl_c_it_resumes(self, store, tmp_path, stop_after):
        path = tmp_path / "interrupted"
        undo = stop_after(2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            generate(path)
        undo()
        with pytest.raises(ValueError, match=r"1 of 3 chunks missing.*status/c/2"):
            nd.MomentDataset.open(path)
        assert len(nd.MomentDataset.open(path, partial=True)) == 32
        assert "unfinished: 1 of 3" in str(nd.generation.verify_moments(path))
        (path / "mean" / "c" / "2").mkdir(exist_ok=True)
        (path / "mean" / "c" / "2" / "0.abc.partial").write_bytes(b"left over")
        generate(path)
        assert files(path) == files(store)

    def test_any_order_will_do(self, store, tmp_path):
        path = tmp_path / "order"
        generate(path)
        for number in (0, 2):
            (path / "status" / "c" / str(number)).unlink()
        generate(path)
        assert files(path) == files(store)

    def test_a_full_disk_is_an_error_that_can_be_resumed(self, store, tmp_path):
        path, limits = tmp_path / "full", resource.getrlimit(resource.RLIMIT_FSIZE)
        generate(path)
        (path / "status" / "c" / "1").unlink()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(OSError, match=r"writing chunk 1 of 3.*kept") as caught:
                generate(path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert caught.value.errno == errno.EFBIG
        generate(path)
        assert files(path) == files(store)

    def test_creation_leaves_all_or_nothing(self, tmp_path):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(OSError, match="while creating moment data"):
                generate(tmp_path / "s")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list(tmp_path.iterdir())
        left = tmp_path / ".s.0123.creating"
        left.mkdir()
        generate(tmp_path / "s")
        assert not left.exists()

    def test_another_environment_is_refused_unless_mixed(
        self, store, tmp_path, stop_after, monkeypatch
    ):
        path, here = tmp_path / "moved", _generate.describe_environment()
        undo = stop_after(1, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            generate(path)
        undo()
        there = here | {"cpus": 96}
        monkeypatch.setattr(_generate, "describe_environment", lambda: there)
        with pytest.raises(ValueError, match=r"cpus: \d+ in the store, 96 asked"):
            generate(path)
        data = generate(path, mix_environments=True)
        assert_same(data, nd.MomentDataset.open(store))
        assert "96 CPUs" in str(nd.generation.verify_moments(path))
        assert_same(generate(path), data)


class TestRefused:
    def test_a_file(self, tmp_path):
        (tmp_path / "file").write_text("text")
        for path, error in ((tmp_path / "file", ValueError), (tmp_path / "file" / "s", OSError)):
            with pytest.raises(error, match="file"):
                generate(path)

    def test_a_folder_of_something_else(self, tmp_path):
        (tmp_path / "notes.txt").write_text("text")
        with pytest.raises(ValueError, match=r"zarr\.json is missing\. .*another path"):
            generate(tmp_path)
        assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]

    @pytest.mark.parametrize(
        ("attributes", "message"),
        [
            ({}, "got None. Choose another path"),
            ({"format": {"name": "other", "version": 1}}, "'other'.* with the function of its"),
            ({"format": {"name": "nnef_dists.moments", "version": 9}}, "Upgrade nnef_dists, or"),
            ({"format": {"name": "nnef_dists.moments", "version": 1}}, "the nnef_dists that wrote"),
            (None, "zarr.json is missing. Choose another path"),
        ],
        ids=["Zarr", "other", "newer", "older", "no Zarr"],
    )
    def test_intact_data_of_others_are_not_to_be_deleted(self, attributes, message, tmp_path):
        import zarr

        group = zarr.open_group(tmp_path, mode="w", attributes=attributes)
        group.create_array("y", data=np.arange(5.0))
        if attributes is None:
            (tmp_path / "zarr.json").unlink()
        before = files(tmp_path)
        for use in (nd.MomentDataset.open, generate):
            with pytest.raises(ValueError, match=message) as caught:
                use(tmp_path)
            assert "elete" not in str(caught.value)
        assert files(tmp_path) == before

    def test_a_folder_that_another_process_writes(self, store, monkeypatch):
        with exclusively(store), pytest.raises(ValueError, match="another process"):
            generate(store)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"chunk": 12}, "multiple of the tile, 8; got 12"),
            ({"chunk": 0}, "Expected chunk >= 1; got 0"),
            ({"etas": np.array([[0.0, -1.0], [0.0, 1.0]])}, r"etas\[1\].*x2"),
            ({"etas": random_etas(0)}, "n >= 1"),
            ({"etas": random_etas(x2=(-1.0, 2.0))}, "x2"),
        ],
        ids=["chunk", "no chunk", "eta", "n", "ranges"],
    )
    def test_wrong_arguments_before_anything_is_written(self, arguments, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            generate(tmp_path / "s", **arguments)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize("chunk", [16.0, True, "16"])
    def test_chunks_that_are_no_integers(self, chunk, tmp_path, without_type_checks):
        with pytest.raises(ValueError, match="Expected an integer chunk >= 1; got "):
            generate(tmp_path / "s", chunk=chunk)

    @pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
    def test_etas_of_half_precision(self, dtype, tmp_path):
        etas = jnp.array([[0.0, -1.0]], dtype)
        random = nd.generation.RandomEtas(jax.random.key(1), 8, RANGES, dtype)
        message = rf"etas of dtype float32 or float64; got {jnp.dtype(dtype).name}\. Convert"
        with pytest.raises(ValueError, match=message):
            nd.estimate_moments(GAUSSIAN, etas, jax.random.key(0), QUICK)
        for given in (etas, random):
            with pytest.raises(ValueError, match=message):
                generate(tmp_path / "s", given)
        assert not (tmp_path / "s").exists()

    def test_a_seed_for_a_key(self, tmp_path, without_type_checks):
        with pytest.raises(ValueError, match=r"jax\.random\.key"):
            nd.generate_moments(GAUSSIAN, random_etas(), tmp_path / "s", jnp.zeros((), jnp.uint32))
