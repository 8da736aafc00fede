"""The losses, on networks that are known in closed form."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from tests.moment_data import data_of_arrays
from tests.networks.data import GAUSSIAN, exact_data, gaussian_data, labeled
from tests.numerics import assert_close

pytestmark = pytest.mark.usefixtures("strict_promotion")

BATCH = gaussian_data(n=32, seed=3).batch()
SD = np.asarray(BATCH.sd)


class ShiftedTruth(nd.networks.AbstractMomentNetwork):
    """The exact moments, off by an uncertain shift in z units."""

    standardization = nd.networks.Standardization.fit(gaussian_data())
    family: nd.ExponentialFamily = eqx.field(static=True)
    shift: nd.AbstractParameter

    def __call__(self, eta, *, key=None, sample=None):
        net = nd.bayes.draw_or_mean(self, key=key, sample=sample)
        sd = jnp.sqrt(jnp.diagonal(self.family.covariance(eta)))
        return self.family.mean(eta) + sd * net.shift.mean


def shifted(mean, stdv=0.01):
    mean = jnp.asarray(mean, float)
    return ShiftedTruth(GAUSSIAN, nd.GaussianParameter.from_stdv(mean, stdv))


compiled_loss = jax.jit(nd.moment_loss)
compiled_elbo = jax.jit(nd.negative_elbo, static_argnames=("total", "samples"))


def elbo(net, seed=0, *, total=32, samples=4, misfit=0.0, temperature=1.0):
    return compiled_elbo(
        net,
        BATCH,
        jax.random.key(seed),
        total=total,
        samples=samples,
        misfit=jnp.asarray(misfit, float),
        temperature=jnp.asarray(temperature, float),
    )


@pytest.mark.usefixtures("without_type_checks")
@pytest.mark.parametrize("loss", [nd.negative_elbo, nd.negative_log_predictive])
def test_sizes_of_bounds_are_checked(loss):
    net, key = shifted([0.0, 0.0]), jax.random.key(0)
    for total in (0, -64):
        with pytest.raises(ValueError, match=f"Expected 1 <= total < inf; got {total}"):
            loss(net, BATCH, key, total=total)
    with pytest.raises(ValueError, match="Expected samples >= 1; got 0"):
        loss(net, BATCH, key, total=64, samples=0)
    with pytest.raises(ValueError, match="at least one label"):
        loss(net, BATCH[:0], key, total=64)
    with pytest.raises(ValueError, match=r"jax\.random\.key; got 0"):
        loss(net, BATCH, 0, total=64)


class TestMomentLoss:
    def test_the_truth_has_none(self):
        # Two roundings of a moment of a few standard deviations, squared.
        assert compiled_loss(shifted([0.0, 0.0]), BATCH) < 1e-10

    def test_it_is_the_log_of_squared_errors_in_z_units(self):
        loss = compiled_loss(shifted([0.1, -0.3]), BATCH)
        assert_close(loss, (np.log1p(0.1**2) + np.log1p(0.3**2)) / 2, ulps=1_000)

    def test_small_errors_count_as_their_squares(self):
        loss = compiled_loss(shifted([0.01, -0.03]), BATCH)
        assert abs(loss / ((0.01**2 + 0.03**2) / 2) - 1) < 0.03**2

    def test_with_a_key_one_set_of_weights_is_drawn(self):
        net, key = shifted([0.1, -0.3], 0.2), jax.random.key(4)
        drawn = nd.sample_all_parameters(net, key).shift.mean
        loss = compiled_loss(net, BATCH, key)
        assert_close(loss, np.mean(np.log1p(np.asarray(drawn) ** 2)), ulps=1_000)

    def test_noise_of_the_labels_is_what_remains(self):
        noisy = gaussian_data(n=400, seed=8, noisy=True).batch()
        loss = compiled_loss(shifted([0.0, 0.0]), noisy)
        # The mean of 800 squared normals of sd 1e-3.
        assert abs(loss / 1e-6 - 1) < 5 * np.sqrt(2 / 800)


class TestEntropyLoss:
    def test_the_truth_has_none(self):
        assert jax.jit(nd.networks.entropy_loss)(shifted([0.0, 0.0]), BATCH) < 1e-9

    def test_it_is_the_log_of_squared_errors_of_eta_times_mu_in_z_units(self):
        shift = np.array([0.1, -0.3])
        error = np.sum(BATCH.eta * SD * shift, axis=1)
        variance = np.einsum("ni,nij,nj->n", BATCH.eta, BATCH.covariance, BATCH.eta)
        loss = jax.jit(nd.networks.entropy_loss)(shifted(shift), BATCH)
        assert_close(loss, np.mean(np.log1p(error**2 / variance)), ulps=10_000)

    def test_with_a_key_one_set_of_weights_is_drawn(self):
        net, key = shifted([0.1, -0.3], 0.2), jax.random.key(4)
        drawn = nd.sample_all_parameters(net, key)
        loss = jax.jit(nd.networks.entropy_loss)
        assert_close(loss(net, BATCH, key), loss(drawn, BATCH))

    def test_an_eta_of_zero_adds_none(self):
        family, etas = nd.VonMisesHarmonic(1), np.eye(4, 2, dtype=BATCH.eta.dtype)
        data = labeled(family, etas, 0 * etas, np.broadcast_to(np.eye(2), (4, 2, 2)))
        net = nd.MLPMomentNetwork(family, data, width=4, key=jax.random.key(0))
        loss = jax.jit(jax.value_and_grad(nd.networks.entropy_loss))
        all_four, two = (loss(net, data[rows].batch()) for rows in (slice(4), slice(2)))
        jax.tree.map(lambda a, b: assert_close(2 * a, b, ulps=256, scale=1.0), all_four, two)


class TestNoLabelDecides:
    """One label of 32 that is wrong by a factor of a million, in mean and covariance."""

    @staticmethod
    @functools.cache
    def gradients():
        """The gradient of each loss in the network's shift, without and with the wrong label."""
        scale = np.ones(len(BATCH.eta), BATCH.eta.dtype)
        scale[5] = 1e6
        wrong = dataclasses.replace(
            BATCH,
            mean=BATCH.mean + (scale[:, None] - 1) * SD,
            covariance=np.where(scale > 1, 1e-6, 1)[:, None, None].astype(scale.dtype)
            * BATCH.covariance,
        )
        net, key = shifted([0.1, -0.3]), jax.random.key(0)
        losses = {
            "moment": lambda net, batch: nd.moment_loss(net, batch),
            "sobolev": lambda net, batch: nd.sobolev_loss(net, batch, key),
            "entropy": lambda net, batch: nd.networks.entropy_loss(net, batch),
        }
        return {
            name: [np.asarray(jax.jit(jax.grad(loss))(net, b).shift.mean) for b in (BATCH, wrong)]
            for name, loss in losses.items()
        }

    @pytest.mark.parametrize("name", ["moment", "sobolev", "entropy"])
    def test_it_leaves_the_gradient_of_all_others(self, name):
        """The others' 31 / 32, and at most 2 |d z / d shift| / |z| of the wrong one."""
        good, wrong = self.gradients()[name]
        assert np.all(np.isfinite(wrong))
        assert np.linalg.norm(wrong - good) < 0.2 * np.linalg.norm(good)


class TestCovarianceErrors:
    def test_inaccurate_labels_count_less(self):
        """An error of 0.1 in z units in each row of (C v): half."""
        net, key = shifted([0.1, -0.3]), jax.random.key(0)
        off = dataclasses.replace(BATCH, covariance=(1.5 * BATCH.covariance).astype(SD.dtype))
        loss = jax.jit(lambda batch, weight: nd.sobolev_loss(net, batch, key, weight=weight))
        zero, one = jnp.asarray(0.0, SD.dtype), jnp.asarray(1.0, SD.dtype)

        def second_term(z_error):
            sd = np.sqrt(1.5) * SD
            # Over two entries of a row.
            error = (z_error / np.sqrt(2) * sd[:, :, None] * sd[:, None]).astype(SD.dtype)
            batch = dataclasses.replace(off, covariance_error=jnp.asarray(error))
            return float(loss(batch, one) - loss(batch, zero))

        exact = second_term(0.0)
        assert exact > 0.01
        for z_error, part in ((0.1, 1 / 2), (0.3, 1 / 10), (3.0, 1 / 901)):
            assert abs(second_term(z_error) / (part * exact) - 1) < 2e-2


class TestNegativeElbo:
    def test_its_value_for_certain_weights(self):
        """-log of the likelihood, prior and entropy, written out."""
        net = shifted([0.002, -0.001], stdv=2e-4)
        expected_sq = np.mean((np.array([0.002, -0.001]) / 1e-3) ** 2 + (2e-4 / 1e-3) ** 2)
        fit = 2 * expected_sq / 2 + np.mean(np.sum(np.log(BATCH.standard_error), axis=1))
        prior = 0.002**2 + 0.001**2
        entropy = 2 * (np.log(2e-4) + np.log(2 * np.pi * np.e) / 2)
        found = elbo(net, samples=2_000)
        # Draws of the quadratic term: sd of r^2 / 2 is about 2 * 0.2, for 2,000 of them.
        assert abs(found - (fit + (prior - entropy) / 32)) < 5 * 0.5 / np.sqrt(2_000)

    def test_it_is_linear_in_temperature(self):
        net = shifted([0.002, -0.001], stdv=1e-3)
        cold, warm, hot = (elbo(net, temperature=t, samples=4) for t in (0.0, 1.0, 3.0))
        assert_close(hot - cold, 3 * float(warm - cold), ulps=256, scale=float(jnp.abs(hot)) + 10)
        drawn = 4e-6
        slope = (drawn - float(nd.bayes.entropy(net))) / 32
        assert abs(float(warm - cold) - slope) < 1e-4

    def test_prior_and_entropy_are_shared_by_all_labels(self):
        net = shifted([0.0, 0.0], stdv=1e-3)
        rest = elbo(net, temperature=0.0)
        few, many = (elbo(net, total=n) - rest for n in (32, 3_200))
        assert_close(few, 100 * float(many), ulps=1e5, scale=1.0)

    def test_misfit_is_added_in_quadrature(self):
        net = shifted([0.0, 0.0], stdv=1.001e-4)
        scale = np.sqrt(BATCH.standard_error**2 + (0.02 * SD) ** 2)
        found = elbo(net, misfit=0.02, temperature=0.0)
        assert abs(found - np.mean(np.sum(np.log(scale), axis=1))) < 1e-3

    def test_it_prefers_the_truth(self):
        """At a fixed spread, the minimum over the mean is at the truth."""
        values = [elbo(shifted([m, 0.0], 1e-3), samples=2_000) for m in (-0.004, 0.0, 0.004)]
        assert values[1] < min(values[0], values[2]) - 1

    def test_its_best_spread_is_that_of_the_posterior(self):
        """n labels of standard error s know a shift to s / sqrt(n)."""
        best = 1e-3 / np.sqrt(32)
        spreads = [best * factor for factor in (0.6, 1.0, 1.6)]
        values = [elbo(shifted([0.0, 0.0], s), samples=2_000) for s in spreads]
        assert values[1] < min(values[0], values[2])

    def test_gradients_reach_means_and_widths(self):
        loss = functools.partial(nd.negative_elbo, total=32, samples=2)
        gradient = jax.jit(jax.grad(loss))(shifted([0.001, 0.001], 1e-3), BATCH, jax.random.key(0))
        for leaf in (gradient.shift.mean, gradient.shift.raw_stdv):
            assert np.isfinite(leaf).all()
            assert np.all(leaf != 0)

    def test_keys_decide(self):
        net = shifted([0.0, 0.0], 1e-3)
        assert elbo(net, seed=1) == elbo(net, seed=1)
        assert elbo(net, seed=1) != elbo(net, seed=2)


class TestNegativeLogPredictive:
    """Labels are exact, so that what a shifted network errs is its shift."""

    loss = staticmethod(jax.jit(nd.negative_log_predictive, static_argnames=("total", "samples")))

    def value(self, net, *, seed=0, total=32, samples=2_000, temperature=0.0):
        return self.loss(
            net,
            BATCH,
            jax.random.key(seed),
            total=total,
            samples=samples,
            temperature=jnp.asarray(temperature, float),
        )

    def test_its_value(self):
        """-log of a normal density of the labels' and the weights' variance, written out."""
        shift, stdv = np.array([0.02, -0.01]), 0.015
        relative = (BATCH.standard_error / SD) ** 2 + stdv**2
        logs = np.log(relative * SD**2)
        expected = np.mean(np.sum(logs + shift**2 / relative, 1)) / 2
        # The mean of 2,000 squared normals is off by sqrt(2 / 2,000), in two statistics.
        assert abs(self.value(shifted(shift, stdv)) - expected) < 5 * 2 * np.sqrt(2 / 2_000)

    def test_its_best_spread_is_the_error(self):
        """Unlike that of the evidence bound, which is the posterior's."""
        spreads = [0.02 * factor for factor in (0.6, 1.0, 1.6)]
        values = [self.value(shifted([0.02, -0.02], s)) for s in spreads]
        assert values[1] < min(values[0], values[2]) - 0.1
        bounds = [elbo(shifted([0.02, -0.02], s), samples=2_000) for s in spreads]
        assert bounds[0] < bounds[1] < bounds[2]

    def test_prior_and_entropy_regularize(self):
        net = shifted([0.002, -0.001], 1e-3)
        difference = self.value(net, temperature=3.0, samples=8) - self.value(net, samples=8)
        # The prior's part, squares of weights of about 1e-3, is below the tolerance.
        assert abs(difference + 3 * float(nd.bayes.entropy(net)) / 32) < 1e-3

    def test_it_is_finite_for_exact_labels_of_a_certain_network(self):
        exact = dataclasses.replace(BATCH, standard_error=jnp.zeros_like(BATCH.standard_error))
        gradient = jax.jit(jax.grad(functools.partial(nd.negative_log_predictive, total=32)))(
            shifted([0.0, 0.0], 1e-4), exact, jax.random.key(0)
        )
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


class TestCalibrationRatio:
    def ratio(self, net, samples=2_000, key=9):
        return nd.networks.calibration_ratio(net, BATCH, jax.random.key(key), samples=samples)

    @pytest.mark.parametrize(("error", "stdv"), [(0.1, 0.1), (0.2, 0.1), (0.1, 0.3)])
    def test_it_is_the_squared_error_over_the_variance(self, error, stdv):
        """All labels share one shift: the ratio is (error / stdv)^2."""
        found = self.ratio(shifted([error, -error], stdv))
        # Labels have a standard error of 1e-3; the variance is that of 2,000 draws.
        assert abs(found / (error / stdv) ** 2 - 1) < 5 * np.sqrt(2 / 2_000)

    def test_fewer_than_two_draws_are_refused(self):
        with pytest.raises(ValueError, match="1"):
            self.ratio(shifted([0.1, 0.1], 0.1), samples=1)


class TestStandardization:
    def test_it_is_set_from_the_good_labels_alone(self):
        data = gaussian_data(n=40, seed=4)
        spoilt = {
            name: np.concatenate([getattr(data, name), value * getattr(data, name)[:5]])
            for name, value in {
                "eta": 1,
                "mean": np.nan,
                "covariance": np.nan,
                "standard_error": np.nan,
                "covariance_error": np.nan,
                "ess": 1,
                "rhat": 1,
                "acceptance": 1,
                "divergences": 1,
                "jumps": 1,
                "effective_fraction": 1,
                "influence": 1,
                "pareto_k": 1,
            }.items()
        }
        status = np.concatenate([data.status, np.full(5, nd.Status.NOT_CONVERGED, np.int8)])
        spoilt |= {"status": status, "rung": np.zeros(len(status), np.int8)}
        spoilt = data_of_arrays(GAUSSIAN, None, **spoilt)
        one = nd.networks.Standardization.fit(data)
        with pytest.warns(UserWarning, match="5 of 45 labels"):
            two = nd.networks.Standardization.fit(spoilt)
        assert all(
            np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (one, two)), strict=True)
        )

    def test_inputs_have_mean_zero_and_variance_one(self):
        data = gaussian_data(n=200, seed=5)
        inputs = jax.jit(jax.vmap(nd.networks.Standardization.fit(data).inputs))(data.eta)
        assert np.max(np.abs(inputs.mean(0))) < 1e-5
        assert np.max(np.abs(inputs.std(0) - 1)) < 1e-5

    def test_outputs_are_of_order_one(self):
        """The y that stand for the true moments have mean 0 and standard deviation about 1."""
        data = gaussian_data(n=200, seed=5)
        standardization = nd.networks.Standardization.fit(data)

        def outputs(eta, mean):
            inputs = standardization.inputs(eta)
            zero = jnp.zeros(2, eta.dtype)
            origin = standardization.moments(inputs, zero)
            unit = standardization.moments(inputs, zero + 1) - origin
            return (mean - origin) / unit

        y = jax.jit(jax.vmap(outputs))(jnp.asarray(data.eta), jnp.asarray(data.mean))
        assert np.max(np.abs(y.mean(0))) < 1e-4
        assert np.max(np.abs(y.std(0) - 1)) < 1e-4

    def test_too_few_labels_are_refused(self):
        with pytest.raises(ValueError, match=r"at least 4 good labels; got 3 of 3"):
            nd.networks.Standardization.fit(gaussian_data(n=40, seed=4)[:3])

    def test_what_does_not_vary_does_no_harm(self):
        etas = GAUSSIAN.sample_eta(jax.random.key(0), 8, {"x": (0.5, 0.5), "x2": (-2.0, -1.0)})
        data = exact_data(GAUSSIAN, etas)
        inputs = jax.vmap(nd.networks.Standardization.fit(data).inputs)(etas)
        assert np.isfinite(inputs).all()


@pytest.mark.parametrize(("option", "value"), [("width", 0), ("depth", 0)])
def test_sizes_below_one_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} >= 1"):
        nd.MLPMomentNetwork(GAUSSIAN, gaussian_data(), key=jax.random.key(0), **{option: value})


def test_every_law_of_weights_can_be_chosen():
    eta = jnp.asarray(gaussian_data().eta[0])
    for law in (nd.LaplacianParameter, nd.DeterministicParameter):
        net = nd.MLPMomentNetwork(
            GAUSSIAN, gaussian_data(), width=4, depth=1, param_type=law, key=jax.random.key(0)
        )
        assert {type(p) for p in net.get_parameters().values()} == {law}
        drawn = net(eta, key=jax.random.key(1))
        assert np.array_equal(drawn, net(eta)) == (law is nd.DeterministicParameter)


def test_width_and_depth_are_those_of_the_hidden_layers():
    net = nd.MLPMomentNetwork(
        GAUSSIAN, gaussian_data(), width=5, depth=2, activation=jnp.tanh, key=jax.random.key(0)
    )
    sizes = [(layer.in_features, layer.out_features) for layer in net.body.layers]
    assert sizes == [(2, 5), (5, 5), (5, 2)]
    assert nd.get_parameter_count(net)["total"] == 2 * 5 + 5 + 5 * 5 + 5 + 5 * 2 + 2
