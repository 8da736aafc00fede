"""Whatever goes wrong, data resume to what they would have been, or the fault is named."""

import json
import shutil

import numpy as np
import pytest

import nnef_dists as nd
from tests.moments.stores import (
    COLUMNS,
    assert_same,
    files,
    flip_a_bit,
    generate,
    run_job,
    truncate,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Compiled programs, which later processes read."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Undamaged data, not to be written."""
    path = tmp_path_factory.mktemp("whole") / "s"
    generate(path)
    return path


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


@pytest.mark.slow
def test_killed_at_20_instants(tmp_path, cache):
    said = run_job("drill", tmp_path / "s", 20, cache=cache)
    assert said.count("exit code -9") == 20, said
    # Some were killed amid the creation, some amid a chunk.
    assert "0 chunks done, 1 left over" in said
    assert files(tmp_path / "s") == files(tmp_path / "s_whole")
    assert nd.generation.verify_moments(tmp_path / "s").finished
    assert {path.name for path in tmp_path.iterdir()} == {"s", "s_whole"}


@pytest.mark.slow
def test_a_killed_dask_worker(tmp_path, cache):
    said = run_job("dask", tmp_path / "s", "kill", cache=cache)
    assert "killed {" in said
    # Without a cluster, the same.
    run_job("alone", tmp_path / "alone", cache=cache)
    assert files(tmp_path / "s") == files(tmp_path / "alone")


def remove(file):
    file.unlink()


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, remove])
@pytest.mark.parametrize("name", ["eta", "covariance", "status"])
def test_a_damaged_chunk_is_named_and_made_again(copy, whole, name, damage):
    folder = copy / name / "c"
    file = next(file for file in [folder / "1", *(folder / "1").rglob("*")] if file.is_file())
    damage(file)
    said = str(nd.generation.verify_moments(copy))
    if (name, damage) == ("status", remove):
        # That is how a chunk looks that is not done.
        assert "1 of 3 chunks are missing" in said
        with pytest.raises(ValueError, match="1 of 3 chunks missing"):
            nd.MomentDataset.open(copy)
    else:
        assert f"chunk 1 (etas 16 to 31): {file}" in said
        data = nd.MomentDataset.open(copy)
        with pytest.raises(ValueError, match=rf"chunk 1 .*{file}"):
            getattr(data, name)
        # The rest can be read.
        assert len(getattr(data[:16], name)) == 16
    assert_same(generate(copy), nd.MomentDataset.open(whole))
    assert files(copy) == files(whole)


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: metadata["attributes"]["spec"]["config"].update(draws=9),
        lambda metadata: metadata["attributes"].update(chunk=8),
        lambda metadata: metadata["attributes"].pop("format"),
        lambda metadata: metadata.pop("attributes"),
        lambda metadata: metadata.update(zarr_format=5),
        lambda metadata: metadata.update(node_type="array"),
    ],
    ids=["config", "chunk", "format", "all", "Zarr", "array"],
)
def test_damaged_attributes_are_named(copy, change):
    metadata = json.loads((copy / "zarr.json").read_text())
    change(metadata)
    (copy / "zarr.json").write_text(json.dumps(metadata))
    assert_named(copy, str(copy))


def test_damaged_metadata_of_an_array_are_named(copy):
    file = copy / "mean" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["codecs"] = metadata["codecs"][:1]
    file.write_text(json.dumps(metadata))
    assert_named(copy, str(copy))
    truncate(file)
    assert_named(copy, str(file))
    file.unlink()
    assert_named(copy, str(file))


@pytest.mark.parametrize("content", [b"", b'{"attributes": {', b"\xff\x00", b"[]", b"null"])
def test_metadata_that_are_no_json_object_are_named(copy, content):
    (copy / "zarr.json").write_bytes(content)
    assert_named(copy, str(copy / "zarr.json"))


def assert_named(path, name):
    report = nd.generation.verify_moments(path)
    assert not report.finished
    remedy = f"Delete the folder {path} and run the same command or generate_moments call again"
    assert name in str(report)
    assert remedy in str(report)
    for use in (nd.MomentDataset.open, generate):
        with pytest.raises(ValueError, match=rf"{name}.*{remedy}"):
            use(path)


def test_nothing_at_all():
    with pytest.raises(FileNotFoundError, match="nowhere"):
        nd.generation.verify_moments("nowhere")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        nd.MomentDataset.open("nowhere")


def test_only_what_is_touched_is_read(copy):
    for name in set(COLUMNS) - {"status", "mean"}:
        shutil.rmtree(copy / name / "c")
    truncate(copy / "mean" / "c" / "0" / "0")
    data = nd.MomentDataset.open(copy)[np.array([39, 17, 20])]
    order = nd.MomentDataset.open(copy)[16:].mean
    assert np.array_equal(data.mean, order[[23, 1, 4]], equal_nan=True)
    assert np.isfinite(data.mean[data.ok]).all()
    assert data.ok.any()
