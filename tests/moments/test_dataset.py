"""Moment data to learn from: rows, splits, batches, families, exports. Nothing is sampled here."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.moment_data import data_of_arrays
from tests.moments.stores import COLUMNS, GAUSSIAN, QUICK, assert_same, made_up_data
from tests.moments.user_families import GammaPair
from tests.saving.strangers import WithBase

DATA = made_up_data()
GOOD = DATA.only_ok()


@pytest.fixture(params=["memory", "disk"])
def data(request, tmp_path):
    """The same data, in memory and on disk."""
    if request.param == "memory":
        return DATA
    DATA.save(tmp_path / "s")
    return nd.MomentDataset.open(tmp_path / "s")


class TestRows:
    def test_disk_holds_what_memory_held(self, data):
        assert_same(data, DATA)
        assert repr(data) == repr(DATA)
        assert (data.family, data.config) == (DATA.family, DATA.config)

    @pytest.mark.parametrize(
        "rows",
        [
            *(3, np.int64(-1), np.array(2), jnp.argmin(DATA.eta[:, 0]), jnp.uint8(4)),
            *(slice(5, 40, 3), np.array([7, 2, 7]), DATA.eta[:, 0] > 0.7, []),
        ],
    )
    def test_rows(self, data, rows):
        chosen = data[rows]
        index = [rows] if np.ndim(rows) == 0 and not isinstance(rows, slice) else rows
        index = np.asarray(index, int) if isinstance(index, list) else index
        for name in COLUMNS:
            assert np.array_equal(getattr(chosen, name), getattr(DATA, name)[index])
        assert len(chosen) == len(DATA.eta[index])

    def test_good_labels(self, data):
        assert len(data.only_ok()) == len(data) - 3
        assert_same(data.only_ok(), GOOD)
        assert GOOD.only_ok() is GOOD

    def test_other_attributes_are_unknown(self, data):
        with pytest.raises(AttributeError, match="weights"):
            data.weights  # noqa: B018

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"mean": np.ones((50, 3))}, r"mean of shape \(50, 2\); got \(50, 3\)"),
            ({"status": np.ones(49)}, r"status of shape \(50,\); got \(49,\)"),
        ],
        ids=["shape", "length"],
    )
    def test_wrong_arrays_are_refused(self, change, message):
        arrays = {name: getattr(DATA, name) for name in COLUMNS} | change
        with pytest.raises(ValueError, match=message):
            data_of_arrays(GAUSSIAN, None, **arrays)


class TestConcatenate:
    def test_parts_follow_each_other(self, data):
        whole = nd.MomentDataset.concatenate([data[:7], DATA[7:30], data[30:]])
        assert_same(whole, DATA)
        assert (whole.family, whole.config) == (DATA.family, DATA.config)

    def test_different_configs_leave_none(self):
        arrays = {name: getattr(DATA, name) for name in COLUMNS}
        other = data_of_arrays(GAUSSIAN, nd.HMCConfig(draws=77), **arrays)
        assert nd.MomentDataset.concatenate([DATA, other]).config is None

    def test_what_cannot_be_joined_is_refused(self):
        arrays = {name: getattr(DATA, name) for name in COLUMNS}
        other = data_of_arrays(nd.Gamma(), DATA.config, **arrays)
        with pytest.raises(ValueError, match=r"Expected data of GaussianNatural1D.*Gamma\(\)"):
            nd.MomentDataset.concatenate([DATA, other])
        halves = data_of_arrays(
            GAUSSIAN, DATA.config, **(arrays | {"eta": DATA.eta.astype(np.float16)})
        )
        with pytest.raises(ValueError, match="float16"):
            nd.MomentDataset.concatenate([DATA, halves])
        with pytest.raises(ValueError, match="at least one"):
            nd.MomentDataset.concatenate([])


class TestSplit:
    def test_parts_are_disjoint_and_all(self, data):
        parts = data.split([0.5, 0.3, 0.2], jax.random.key(0))
        assert [len(part) for part in parts] == [25, 15, 10]
        etas = np.concatenate([part.eta for part in parts])
        assert np.array_equal(np.sort(etas[:, 0]), np.sort(data.eta[:, 0]))
        for one, two in zip(parts, DATA.split([0.5, 0.3, 0.2], jax.random.key(0)), strict=True):
            assert_same(one, two)

    def test_the_key_decides(self):
        one, two = (DATA.split([0.5, 0.5], jax.random.key(seed))[0] for seed in (0, 1))
        assert not np.array_equal(one.eta, two.eta)

    @pytest.mark.parametrize("fractions", [[0.5, 0.4], [1.5, -0.5], [], [1.0, 0.0]])
    def test_fractions_are_checked(self, fractions):
        with pytest.raises(ValueError, match="sum 1"):
            DATA.split(fractions, jax.random.key(0))


# Of a batch; the base is a network's.
ARRAYS = [f.name for f in dataclasses.fields(nd.MomentBatch) if f.name != "base"]


class TestBatch:
    def test_it_has_the_valid_labels(self, data):
        with pytest.warns(UserWarning, match=r"3 of 50 .* left out: 3 low_ess.*only_ok"):
            batch = data[:].batch()
        for name in ARRAYS:
            assert np.array_equal(getattr(batch, name), getattr(GOOD, name))
        assert batch.base is None
        assert len(batch) == len(GOOD)

    def test_it_is_made_once_and_warns_once(self):
        data = DATA[:]
        with pytest.warns(UserWarning, match="left out"):
            first = data.batch()
        assert data.batch() is first

    def test_it_is_no_tracer_if_it_is_made_in_a_trace(self):
        data = GOOD[:5]
        total = jax.jit(lambda: jnp.sum(data.batch().mean))()
        assert np.allclose(total, np.sum(data.mean))
        assert np.array_equal(np.asarray(data.batch().mean), data.mean)

    def test_no_valid_label_is_an_error(self):
        with pytest.raises(ValueError, match=r"label; got 3: 3 low_ess\. Check.*check_family"):
            DATA[-3:].batch()

    def test_an_empty_selection_is_named_as_such(self, data):
        with pytest.raises(ValueError, match=r"got an empty dataset\. Check the rows"):
            data[np.zeros(50, bool)].batch()

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("mean", np.nan, r"finite mean of all .* OK; got \[.*nan\] of label 7 \(1 such"),
            ("eta", np.inf, "finite eta of all .*inf"),
            ("covariance", np.nan, "finite covariance of all .*nan"),
            ("covariance", 0.0, r"positive variances of all .* got \[.*0\.0\] of label 7"),
            ("covariance", -1.0, "positive variances"),
        ],
    )
    def test_values_that_nothing_can_be_learned_from_are_named(self, name, value, message):
        arrays = {name: getattr(DATA, name) for name in COLUMNS}
        changed = arrays[name].copy()
        changed[7, ..., -1] = value
        changed[-1] = np.nan  # This label is not valid.
        data = data_of_arrays(GAUSSIAN, QUICK, **(arrays | {name: changed}))
        assert "47 ok" in repr(data)
        with pytest.raises(ValueError, match=message), pytest.warns(UserWarning, match="left out"):
            data.batch()

    def test_standard_deviations_and_errors_in_their_units(self):
        batch = GOOD.batch()
        sd = np.sqrt(np.stack([GOOD.covariance[:, i, i] for i in range(2)], 1))
        assert np.allclose(batch.sd, sd, rtol=1e-6)
        assert np.allclose(batch.z_error, GOOD.standard_error / sd, rtol=1e-6)
        assert np.allclose(jax.vmap(lambda one: one.sd)(batch), sd, rtol=1e-6)

    def test_an_epoch_shows_each_label_at_most_once(self):
        batches = list(GOOD.batch().batches(jax.random.key(0), 10))
        assert len(batches) == 4
        assert batches[0].covariance.shape == (10, 2, 2)
        seen = np.concatenate([batch.eta[:, 0] for batch in batches])
        assert len(np.unique(seen)) == 40
        assert set(seen) <= set(GOOD.eta[:, 0])

    def test_rows_of_a_batch_belong_together(self):
        labels = GOOD.batch()
        rows = labels.batch_indices(jax.random.key(3), 8)
        for index, batch in zip(rows, labels.batches(jax.random.key(3), 8), strict=True):
            expected = GOOD[np.asarray(index)]
            for name in ARRAYS:
                assert np.array_equal(getattr(batch, name), getattr(expected, name))

    def test_a_compiled_loop_over_epochs(self):
        labels = GOOD.batch()

        @jax.jit
        def total(key):
            def step(carry, rows):
                return carry + jnp.sum(labels[rows].mean), None

            return jax.lax.scan(step, jnp.float32(0), labels.batch_indices(key, len(labels)))[0]

        assert np.allclose(total(jax.random.key(0)), GOOD.mean.sum(), rtol=1e-5)

    @pytest.mark.parametrize("size", [0, 48])
    def test_sizes_are_checked(self, size):
        with pytest.raises(ValueError, match="batch_size"):
            GOOD.batch().batches(jax.random.key(0), size)


class TestFamily:
    def save(self, path, family):
        arrays = {name: getattr(DATA, name) for name in COLUMNS}
        d = family.eta_dim
        names = ("eta", "mean", "standard_error", "ess", "rhat")
        arrays |= dict.fromkeys(names, np.ones((50, d), np.float32))
        ones = np.ones((50, d, d), np.float32)
        arrays |= dict.fromkeys(("covariance", "covariance_error"), ones)
        data_of_arrays(family, None, **arrays).save(path)

    def test_it_is_restored_with_its_arguments(self, tmp_path):
        self.save(tmp_path / "s", nd.Polynomial1D((2, 4)))
        data = nd.MomentDataset.open(tmp_path / "s")
        assert data.family == nd.Polynomial1D((2, 4))
        assert data.config is None
        with pytest.raises(ValueError, match=r"powers: \[2, 4\] in the store, \[1, 2\] asked"):
            nd.MomentDataset.open(tmp_path / "s", family=nd.Polynomial1D((1, 2)))

    def test_an_inner_family_is_enough(self, tmp_path):
        family = nd.families.BaseMeasureAsStatistic(WithBase(), 0.5, 2.0)
        self.save(tmp_path / "s", family)
        with pytest.raises(ValueError, match=r"needs tests.*WithBase beside .*give family=nnef"):
            nd.MomentDataset.open(tmp_path / "s")
        for given in (family, WithBase()):
            assert nd.MomentDataset.open(tmp_path / "s", family=given).family == family
        with pytest.raises(
            ValueError, match=r"family\.class: 'BaseMeasureAsStatistic' in the store"
        ):
            nd.MomentDataset.open(tmp_path / "s", family=GammaPair())

    def test_a_users_family_is_never_imported(self, tmp_path, monkeypatch):
        self.save(tmp_path / "s", GammaPair())
        monkeypatch.delitem(sys.modules, GammaPair.__module__)
        with pytest.raises(ValueError, match=r"family= for data of tests\..*GammaPair"):
            nd.MomentDataset.open(tmp_path / "s")
        assert GammaPair.__module__ not in sys.modules
        assert nd.generation.verify_moments(tmp_path / "s").finished
        assert len(nd.MomentDataset.open(tmp_path / "s", family=GammaPair())) == 50

    def test_changed_formulas_are_noticed(self, tmp_path):
        def make(factor):
            class Mine(nd.ExponentialFamily):
                x_shape = ()
                natural_domain = nd.domain(x2=nd.negative)

                def compute_stats(self, x):
                    return {"x": x, "x2": factor * x**2}

            return Mine()

        self.save(tmp_path / "s", make(1.0))
        assert len(nd.MomentDataset.open(tmp_path / "s", family=make(1.0))) == 50
        with pytest.raises(ValueError, match="formulas have changed"):
            nd.MomentDataset.open(tmp_path / "s", family=make(0.5))

    def test_saving_replaces_nothing(self, tmp_path):
        DATA.save(tmp_path / "s")
        with pytest.raises(FileExistsError, match="does not exist"):
            DATA.save(tmp_path / "s")


class TestXarray:
    def test_axes_have_names(self, data):
        pytest.importorskip("xarray")
        found = nd.moments.to_xarray(data)
        assert found.covariance.dims == ("label", "statistic", "statistic_")
        assert list(found.statistic.values) == ["x", "x2"]
        column = found["mean"].sel(statistic="x2").values
        assert np.array_equal(column, DATA.mean[:, 1])
        assert found.status.dims == ("label",)

    def test_it_is_optional(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "xarray", None)
        with pytest.raises(ImportError, match=r"nnef_dists\[arviz\]"):
            nd.moments.to_xarray(DATA)
