"""Validation on held-out labels, with networks whose errors are known."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.moment_data import data_of_arrays
from tests.networks.data import exact_data
from tests.networks.exact import CASES, STDV, etas_of, family_of, potential_of, uncertain

pytestmark = pytest.mark.usefixtures("strict_promotion")

GAUSSIAN = CASES["GaussianNatural1D"][0]
NOT_OK = nd.Status.NOT_CONVERGED


@functools.cache
def held_out(n=64, z_error=1e-3, seed=9):
    """Noisy labels at etas of the training ranges, whose errors are as large as they state."""
    return exact_data(GAUSSIAN, etas_of("GaussianNatural1D", n, seed=8), z_error=z_error, seed=seed)


def changed(data, **arrays):
    """A copy of a dataset with other arrays."""
    names = ("eta", *nd.moments.MomentLabel._fields)
    kept = {name: np.array(getattr(data, name)) for name in names}
    return data_of_arrays(data.family, data.config, **(kept | arrays))


def shifted(shift, stdv=STDV):
    """The exact family, with moments that are off by a shift of uncertain size."""
    net = potential_of("GaussianNatural1D")
    shift = jnp.asarray(shift, net.shift.mean.dtype)
    return nd.AmortizedFamily(GAUSSIAN, dataclasses.replace(net, shift=uncertain(shift, stdv)))


def sd_of(data):
    return np.sqrt(np.diagonal(data.covariance, axis1=1, axis2=2))


class TestFigures:
    def test_of_an_exact_network(self):
        q = nd.validate(family_of("GaussianNatural1D"), held_out())
        report = q.report.tree
        assert report.passed
        assert report.n_labels == 64
        assert report.n_rejected == report.n_trained_on == 0
        # Of 128 normal errors of 1e-3.
        assert abs(report.z_rms / 1e-3 - 1) < 5 / np.sqrt(2 * 128)
        assert abs(report.z_median / 0.6745e-3 - 1) < 0.5
        assert abs(report.label_z_rms - 1e-3) < 1e-8
        assert report.z_rms < report.z_rms_limit < 1.4 * report.z_rms
        assert abs(report.rms_ratio - report.z_rms_limit / 0.02) < 1e-6

    def test_of_a_shifted_one(self):
        shift = np.array([0.003, -0.002])
        data = held_out(z_error=0.0)
        report = nd.validate(shifted(shift), data).report.tree
        z = np.abs(shift / sd_of(data))
        np.testing.assert_allclose(report.z_rms, np.sqrt(np.mean(z**2)), rtol=1e-2)
        np.testing.assert_allclose(report.z_median, np.median(z), rtol=1e-2)
        np.testing.assert_allclose(report.z_largest, z.max(), rtol=1e-2)
        row, statistic = np.unravel_index(np.argmax(z), z.shape)
        assert np.array_equal(report.worst_eta, data.eta[row])
        assert int(report.worst_statistic) == statistic
        assert report.label_z_rms == 0

    def test_coverage_is_that_of_the_drawn_weights(self):
        """All labels share one shift, of 1.2 standard deviations: in 90 %, not in 50 %."""
        report = nd.validate(shifted([0.0012, 0.0012], 0.001), held_out(z_error=0.0)).report.tree
        assert report.coverage.tolist() == [0, 1]

    def test_labels_at_training_etas_are_counted(self):
        data = exact_data(GAUSSIAN, etas_of("GaussianNatural1D")[:40])
        report = nd.validate(family_of("GaussianNatural1D"), data).report.tree
        assert report.n_trained_on == 40

    def test_rejected_labels_and_etas_outside_are_counted(self):
        data = held_out()
        eta, mean, status = (np.array(getattr(data, name)) for name in ("eta", "mean", "status"))
        status[3:5], mean[3:5] = NOT_OK, np.nan
        far = exact_data(GAUSSIAN, jnp.asarray([[0.5, -40.0]], eta.dtype))
        eta[7], mean[7] = far.eta[0], far.mean[0]
        covariance = np.array(data.covariance)
        covariance[7] = far.covariance[0]
        spoilt = changed(data, eta=eta, mean=mean, status=status, covariance=covariance)
        q = nd.validate(family_of("GaussianNatural1D"), spoilt)
        report = q.report.tree
        assert (report.n_labels, report.n_rejected, report.n_outside) == (62, 2, 1)
        assert "2 rejected labels left out, 1 outside the training region" in repr(q)


class TestWarnings:
    def test_a_network_that_errs_everywhere(self):
        with pytest.warns(
            nd.distributions.ValidationWarning,
            match=r"rms error, up to .* exceeds 3 times.*at eta = \[",
        ):
            q = nd.validate(shifted([0.5, -0.5], 1.0), held_out())
        assert not q.report.tree.passed
        assert "failed validation on 64 labels" in repr(q)

    def test_a_network_that_errs_at_one_eta(self):
        data = held_out()
        mean = np.array(data.mean)
        mean[5, 1] += 0.3 * sd_of(data)[5, 1]
        with pytest.warns(nd.distributions.ValidationWarning, match=r"largest error.*'x2' at eta"):
            q = nd.validate(family_of("GaussianNatural1D"), changed(data, mean=mean))
        assert np.array_equal(q.report.tree.worst_eta, data.eta[5])
        assert q.report.tree.largest_ratio > 1

    def test_a_network_that_noisy_labels_rule_out(self):
        """Errors of 2.5 standard errors, which three times their rms alone would allow."""
        data = held_out(z_error=0.1)
        mean = (np.array(data.mean) + 0.25 * sd_of(data)).astype(data.eta.dtype)
        with pytest.warns(
            nd.distributions.ValidationWarning, match="Reasons: its 90 % intervals, widened"
        ):
            q = nd.validate(shifted([0.0, 0.0], 2e-4), changed(data, mean=mean))
        assert q.report.tree.rms_ratio < 1

    def test_intervals_that_are_too_narrow_are_mentioned(self):
        q = nd.validate(shifted([0.003, -0.003], 2e-4), held_out(z_error=1e-5))
        assert q.report.tree.passed
        assert q.report.tree.overconfident
        assert "too narrow: train the scales" in repr(q)

    def test_predictions_that_are_not_numbers(self):
        with pytest.warns(nd.distributions.ValidationWarning, match="largest inf"):
            nd.validate(shifted([np.nan, 0.0]), held_out())

    def test_noisy_labels_allow_more(self):
        """Three times their own error, which is all that they can show."""
        q = nd.validate(family_of("GaussianNatural1D"), held_out(z_error=0.1))
        assert q.report.tree.passed
        assert "labels 0.1" in repr(q)

    def test_a_smaller_tolerance(self):
        q = shifted([0.003, -0.003])
        assert nd.validate(q, held_out()).report.tree.passed
        with pytest.warns(nd.distributions.ValidationWarning, match=r"tolerance of 0\.001"):
            nd.validate(q, held_out(), tolerance=1e-3)

    def test_a_few_large_errors_make_the_rms_uncertain(self):
        """Two of 64 labels are off by 0.09: the rms is 0.011, and could well be above 0.02."""
        data = held_out(z_error=0.0)
        mean = np.array(data.mean)
        mean[[5, 9], 1] += 0.09 * sd_of(data)[[5, 9], 1]
        q = nd.validate(family_of("GaussianNatural1D"), changed(data, mean=mean))
        report = q.report.tree
        squares = np.zeros(64)
        squares[:2] = 0.09**2 / 2
        limit = np.sqrt(squares.mean() + 2 * squares.std(ddof=1) / 8)
        np.testing.assert_allclose(report.z_rms_limit, limit, rtol=1e-2)
        assert report.passed == (limit <= 0.02)


class TestRefusals:
    def refused(self, data, match, **options):
        with pytest.raises(ValueError, match=match):
            nd.validate(family_of("GaussianNatural1D"), data, **options)

    def test_labels_of_another_family(self):
        etas = etas_of("Gamma", 32)
        other = exact_data(nd.Gamma(), etas)
        self.refused(other, r"labels of GaussianNatural1D\(\); got labels of Gamma")

    def test_too_few_valid_labels(self):
        none = changed(held_out(), status=np.full(64, NOT_OK, np.int8))
        self.refused(none, "at least 20 valid held-out labels; got 0 of 64")
        self.refused(held_out()[:19], "got 19 of 19")

    @pytest.mark.parametrize("name", ["mean", "standard_error", "covariance"])
    def test_valid_labels_that_are_not_finite(self, name):
        array = np.array(getattr(held_out(), name))
        array[4] = np.nan
        self.refused(changed(held_out(), **{name: array}), "finite means and errors")

    def test_variances_that_are_not_positive(self):
        covariance = np.array(held_out().covariance)
        covariance[4, 1, 1] = 0
        self.refused(changed(held_out(), covariance=covariance), "positive variances")

    @pytest.mark.parametrize("tolerance", [0.0, -1.0, float("nan")])
    def test_a_tolerance_that_is_not_positive(self, tolerance):
        self.refused(held_out(), "tolerance > 0", tolerance=tolerance)


class TestTheReport:
    def test_without_one_a_family_is_not_validated(self):
        q = family_of("GaussianNatural1D")
        assert q.report is None
        assert repr(q).endswith("ExactPotential: not validated")

    def test_in_words(self):
        q = nd.validate(family_of("GaussianNatural1D"), held_out())
        assert repr(q).startswith("AmortizedFamily of GaussianNatural1D() by ExactPotential: vali")
        assert "validated on 64 labels: z rms 0.0" in repr(q)
        assert "(labels 0.001)" in repr(q)
        assert "90 % intervals" in repr(q)

    def test_weights_that_are_certain_have_no_intervals(self):
        net = potential_of("GaussianNatural1D")
        net = dataclasses.replace(net, shift=nd.DeterministicParameter(net.shift.mean))
        q = nd.validate(nd.AmortizedFamily(GAUSSIAN, net), held_out())
        assert np.isnan(q.report.tree.coverage).all()
        assert "intervals" not in repr(q)

    def test_it_is_data_in_a_pytree(self):
        """Compiled, differentiated, and never trained."""
        q, eta = nd.validate(family_of("GaussianNatural1D"), held_out()), jnp.array([0.5, -1.0])
        plain = family_of("GaussianNatural1D")
        assert np.array_equal(jax.jit(lambda q: q.mean(eta))(q), plain.mean(eta))
        gradient = jax.jit(jax.grad(lambda q: q.entropy(eta)))(q)
        assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient.report))
        dynamic, _ = nd.freeze_stdvs(q)
        assert not jax.tree.leaves(eqx.filter(dynamic.report, eqx.is_array))

    def test_it_prints_inside_a_compiled_program(self, capsys):
        q = nd.validate(family_of("GaussianNatural1D"), held_out())

        @jax.jit
        def rms(q):
            print(q)
            return q.report.tree.z_rms

        rms(q).block_until_ready()
        assert "ExactPotential: ..." in capsys.readouterr().out

    def test_another_network_is_not_validated(self):
        q = nd.validate(family_of("GaussianNatural1D"), held_out())
        assert dataclasses.replace(q, network=q.network).report is None

    def test_it_is_saved(self, tmp_path):
        data = held_out()
        net = nd.LogPartitionNetwork(GAUSSIAN, data, width=4, depth=1, key=jax.random.key(0))
        q = nd.validate(nd.AmortizedFamily(GAUSSIAN, net), data)
        nd.save(tmp_path / "q.safetensors", q)
        again = nd.load(tmp_path / "q.safetensors")
        assert repr(again) == repr(q)
        assert jax.tree.structure(again) == jax.tree.structure(q)
        assert again.report.tree.z_rms == q.report.tree.z_rms
        assert q.report.tree.n_trained_on == 64

    def test_keys_decide_the_draws_alone(self):
        q, data = shifted([0.001, 0.001], 1e-3), held_out()
        one, two = (nd.validate(q, data, key=jax.random.key(k)).report.tree for k in (1, 1))
        assert np.array_equal(one.coverage, two.coverage)
        other = nd.validate(q, data, key=jax.random.key(2)).report.tree
        assert other.z_rms == one.z_rms
