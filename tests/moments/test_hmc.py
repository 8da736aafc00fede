"""Labels by Hamiltonian Monte Carlo: honest, reproducible bit for bit, refused where not good."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

import nnef_dists as nd
from nnef_dists.moments._label import label_tile
from tests.moment_data import data_of_arrays
from tests.moments.conftest import QUARTIC, QUARTIC_KEY, QUARTIC_RANGES
from tests.moments.exact import polynomial_moments
from tests.moments.user_families import GammaPair
from tests.registry import FAMILIES

COLUMNS = ("eta", *nd.moments.MomentLabel._fields)
# Compiled once each; small where only the program's bookkeeping is looked at.
SMALL = nd.HMCConfig(chains=4, warmup=24, draws=8, tile=2)
# Averages of draws, without control variates.
PLAIN = nd.HMCConfig(control_variates=False, tile=24)
LOCAL = nd.HMCConfig(global_moves=False, ladder=False, tile=8)


def t_values(data, mean):
    """(mu_hat - mu) / standard error of the good labels, `(n_ok, eta_dim)`."""
    ok = data.ok
    return (data.mean[ok].astype(np.float64) - mean[ok]) / data.standard_error[ok]


def assert_covariances_agree(estimates, exact):
    """Over many etas, errors of covariances in units of sd_i sd_j average to zero.

    Their scatter over the etas is the standard error of that average.
    """
    sd = np.sqrt(np.diagonal(exact, axis1=1, axis2=2))
    error = (estimates - exact) / (sd[:, :, None] * sd[:, None, :])
    scatter = error.std(0, ddof=1) / np.sqrt(len(error))
    assert np.max(np.abs(error.mean(0)) / scatter) < 4.5
    assert np.sqrt(np.mean(error**2)) < 0.15


@pytest.fixture(scope="module")
def exact(quartic_etas):
    """Mean and covariance of T, in float64."""
    return polynomial_moments(quartic_etas)


class TestHonesty:
    """256 random quartics, labeled in float32 with the default configuration."""

    def test_nearly_all_labels_are_good(self, quartic_labels):
        assert len(quartic_labels) == 256
        assert quartic_labels.ok.mean() >= 0.95

    def test_errors_are_as_large_as_the_labels_say(self, quartic_labels, exact):
        t = t_values(quartic_labels, exact[0])
        assert abs(t.mean()) < 0.2
        assert 0.65 < t.std() < 1.3
        for statistic in range(3):
            assert abs(t[:, statistic].mean()) < 0.3
            assert 0.6 < t[:, statistic].std() < 1.3
        assert np.abs(t).max() < 5

    def test_labels_are_precise(self, quartic_labels, exact):
        """4,000 plain draws would have z errors of 0.016."""
        sd = np.sqrt(np.diagonal(exact[1], axis1=1, axis2=2))[quartic_labels.ok]
        z = (quartic_labels.mean - exact[0])[quartic_labels.ok] / sd
        assert np.sqrt(np.mean(z**2)) < 0.005
        assert np.median(np.abs(z)) < 2e-4
        assert np.median(quartic_labels.batch().z_error) < 4e-4

    def test_covariances(self, quartic_labels, exact):
        ok = quartic_labels.ok
        assert_covariances_agree(quartic_labels.covariance[ok], exact[1][ok])

    def test_what_has_not_converged_is_never_good(self, quartic_labels, wells_apart):
        for data in (quartic_labels, wells_apart):
            assert not (data.ok & (data.rhat > 1.05).any(1)).any()
            assert np.isfinite(data.mean[data.ok]).all()
            assert np.isnan(data.mean[~data.ok]).all()
        # Not in vain: there are some.
        assert (wells_apart.rhat > 1.05).any(1).sum() >= 3


@functools.cache
def registered_labels(case):
    """24 etas of a registered family, and the plain averages of their draws."""
    family = case.make()
    etas = jax.jit(lambda key: family.sample_eta(key, 24, case.ranges))(jax.random.key(30))
    return nd.estimate_moments(family, etas, jax.random.key(31), PLAIN)


# Whose corrected labels are tested beside the plain ones of others.
SLOW = {
    "Beta",
    "Dirichlet",
    "Gamma",
    "GeneralizedInverseGaussian",
    "InverseWishart",
    "MinimalMultivariateNormal",
    "MultivariateNormal",
    "RectifiedGaussian",
    "VonMisesFisher",
    "Wishart",
}


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=[pytest.mark.slow] if c.name in SLOW else [], id=c.name)
        for c in FAMILIES
        if c.has_closed_form
    ],
)
def test_closed_forms(case):
    family, data = case.make(), registered_labels(case)
    assert data.ok.mean() >= 0.95
    exact = jax.jit(jax.vmap(lambda eta: (family.mean(eta), family.covariance(eta))))(data.eta)
    mean, covariance = (np.asarray(leaf, np.float64) for leaf in exact)
    t = t_values(data, mean)
    # The statistics of one eta are correlated: count etas, not numbers.
    assert np.max(np.abs(t.mean(0))) < 4.5 / np.sqrt(len(t))
    assert 0.7 < t.std() < 1.3
    assert np.abs(t).max() < 6
    ok = data.ok
    assert_covariances_agree(data.covariance[ok], covariance[ok])
    sd = np.sqrt(np.diagonal(covariance[ok], axis1=1, axis2=2))
    z = (data.mean[ok] - mean[ok]) / sd
    assert np.sqrt(np.mean(z**2)) < 1.3 * np.sqrt(np.mean(data.batch().z_error ** 2))
    assert np.sqrt(np.mean(z**2)) < 0.05


def test_a_support_with_a_boundary_and_vector_points():
    """Pairs of Gamma variables, sampled in the logarithm of x."""
    family = GammaPair()
    ranges = {"logx": (-0.5, 4.0), "x": (-3.0, -0.5)}
    etas = jax.jit(lambda key: family.sample_eta(key, 24, ranges))(jax.random.key(32))
    data = nd.estimate_moments(family, etas, jax.random.key(33), PLAIN)
    assert data.ok.mean() >= 0.9
    shape, rate = 1 + data.eta[:, :2].astype(np.float64), -data.eta[:, 2:].astype(np.float64)
    mean = np.concatenate([scipy.special.digamma(shape) - np.log(rate), shape / rate], axis=1)
    t = t_values(data, mean)
    assert np.max(np.abs(t.mean(0))) < 4.5 / np.sqrt(len(t))
    assert 0.7 < t.std() < 1.3
    assert np.abs(t).max() < 6


class TestReproducibility:
    @pytest.mark.parametrize("n", [1, 63, 65, 100])
    def test_labels_do_not_depend_on_how_many_there_are(self, quartic_etas, quartic_labels, n):
        fewer = nd.estimate_moments(QUARTIC, quartic_etas[:n], jax.random.key(QUARTIC_KEY))
        assert_identical(fewer, quartic_labels[:n])

    def test_labels_do_not_depend_on_the_order(self, quartic_etas, quartic_labels):
        """The same etas with the same keys, shuffled over two tiles."""
        order = np.random.default_rng(0).permutation(256)[:128]
        base = jax.random.key(QUARTIC_KEY)
        keys = jax.vmap(lambda i: jax.random.fold_in(base, i))(jnp.arange(256))
        config = quartic_labels.config
        # On its device as by `estimate_moments`, whose program it is then.
        device = jax.local_devices()[0]
        for rows in (order[:64], order[64:]):
            etas, row_keys = jax.device_put((quartic_etas[rows], keys[rows]), device)
            tile = label_tile(QUARTIC, config, etas, row_keys)
            # Others come from the ladder, or are refused by quadrature.
            own = quartic_labels.ok[rows] & (quartic_labels.rung[rows] == nd.moments.Rung.HMC)
            assert own.mean() > 0.95
            for name, values in tile._asdict().items():
                expected = getattr(quartic_labels, name)[rows]
                assert np.array_equal(np.asarray(values)[own], expected[own]), name

    def test_a_label_depends_on_its_key(self, quartic_etas, quartic_labels):
        other = nd.estimate_moments(QUARTIC, quartic_etas[:8], jax.random.key(QUARTIC_KEY + 1))
        assert (other.mean != quartic_labels.mean[:8]).all()

    def test_equal_etas_have_keys_of_their_own(self, quartic_etas):
        same = jnp.tile(quartic_etas[:1], (8, 1))
        data = nd.estimate_moments(QUARTIC, same, jax.random.key(QUARTIC_KEY))
        assert len(np.unique(data.mean[:, 0])) == 8


def assert_identical(one, two):
    assert (one.family, one.config) == (two.family, two.config)
    for name in COLUMNS:
        ours, theirs = getattr(one, name), getattr(two, name)
        assert ours.dtype == theirs.dtype
        assert ours.tobytes() == theirs.tobytes(), name


@pytest.fixture(scope="session")
def wells_apart():
    """Wells that no chain leaves without global moves, and others that are easy."""
    etas = [[0.0, 20.0, -1.0], [1.0, 20.0, -1.0], [0.0, -1.0, -0.5], [0.0, 30.0, -1.0]]
    etas = jnp.asarray([*etas, [0.5, -2.0, -1.0]], jnp.result_type(float))
    return nd.estimate_moments(QUARTIC, etas, jax.random.key(40), LOCAL)


class TestStatus:
    def test_chains_that_disagree_are_not_converged(self, wells_apart):
        converged = [False, False, True, False, True]
        assert (wells_apart.ok == converged).all()
        assert (wells_apart.status[[0, 1, 3]] == nd.Status.NOT_CONVERGED).all()

    def test_without_global_moves_none_is_reported(self, wells_apart):
        assert np.all(wells_apart.jumps == 0)

    def test_global_moves_mix_separated_wells(self, quartic_labels):
        """Wells at +-2 with 16 nats between them, of unequal weight."""
        etas = jnp.asarray([[0.1, 8.0, -1.0], [0.3, 8.0, -1.0]], jnp.float32)
        data = nd.estimate_moments(QUARTIC, etas, jax.random.key(41))
        assert data.ok.all()
        assert np.max(np.abs(t_values(data, polynomial_moments(etas)[0]))) < 5
        assert np.all(quartic_labels.jumps > 0)


class TestDataset:
    def test_labels_are_numpy_arrays_of_the_dtype_of_eta(self, quartic_labels):
        assert quartic_labels.family == QUARTIC
        assert quartic_labels.config == nd.HMCConfig()
        for name in COLUMNS:
            values = getattr(quartic_labels, name)
            assert isinstance(values, np.ndarray)
            assert len(values) == 256
            assert values.dtype == (np.int8 if name in ("status", "rung") else np.float32)

    @pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
    @pytest.mark.parametrize("family", [QUARTIC, GammaPair(), nd.MultivariateNormal(2)], ids=repr)
    def test_dtype_is_carried(self, family, dtype):
        with jax.enable_x64(True):
            etas = jax.ShapeDtypeStruct((SMALL.tile, family.eta_dim), dtype)
            keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), SMALL.tile))
            label = label_tile.eval_shape(family, SMALL, etas, keys)
        dtypes = {leaf.dtype for leaf in label._replace(status=label.mean, rung=label.mean)}
        assert dtypes == {jnp.dtype(dtype)}

    def test_only_good_labels_reach_a_loss(self, wells_apart):
        with pytest.warns(UserWarning, match=r"3 of 5 .*3 not_converged.*only_ok"):
            batch = wells_apart[:].batch()
        assert len(batch) == len(wells_apart.only_ok()) == 2
        assert np.array_equal(batch.eta, wells_apart.eta[[2, 4]])
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(batch))

    def test_rows(self, quartic_labels):
        assert_identical(quartic_labels[:3], quartic_labels[np.arange(3)])
        assert_identical(quartic_labels[5], quartic_labels[5:6])
        mask = np.zeros(256, bool)
        mask[[1, 9]] = True
        assert_identical(quartic_labels[mask], quartic_labels[[1, 9]])
        assert quartic_labels[mask].mean.shape == (2, 3)
        assert_identical(quartic_labels[-1], quartic_labels[255])

    def test_z_errors_are_standard_errors_over_standard_deviations(self, quartic_labels):
        z = quartic_labels[:1].batch().z_error
        sd = np.sqrt(np.diag(quartic_labels.covariance[0]))
        assert np.allclose(z, quartic_labels.standard_error[0] / sd)

    def test_the_summary_counts_and_explains(self, quartic_labels, wells_apart):
        summary = repr(wells_apart)
        assert "Polynomial1D" in summary
        assert "5 etas, 2 ok (40.0 %)" in summary
        assert "3 not_converged" in summary
        assert nd.Status.NOT_CONVERGED.reason in summary
        assert "not_finite" not in summary
        assert f"{quartic_labels.rhat[quartic_labels.ok].max():.4f}" in repr(quartic_labels)
        assert "0 ok" in repr(wells_apart[[0, 1]])

    def test_arrays_of_other_shapes_are_refused_by_name(self, wells_apart):
        arrays = {name: getattr(wells_apart, name) for name in COLUMNS}
        arrays["standard_error"] = np.zeros((5, 2), np.float32)
        with pytest.raises(ValueError, match=r"standard_error of shape \(5, 3\); got \(5, 2\)"):
            data_of_arrays(QUARTIC, LOCAL, **arrays)


class TestRefusals:
    @pytest.mark.parametrize("value", [0.5, 0.0, np.nan])
    def test_an_eta_outside_the_domain_by_index_name_and_value(self, quartic_etas, value):
        etas = quartic_etas.at[3, 2].set(value)
        with pytest.raises(ValueError, match=rf"etas\[3\].*'x4' of .* negative; got {value}"):
            nd.estimate_moments(QUARTIC, etas, jax.random.key(0))

    @pytest.mark.parametrize(("transform", "shape"), [(jax.jit, (4, 3)), (jax.vmap, (2, 4, 3))])
    def test_traced_etas_are_refused_by_name(self, transform, shape):
        def mean(etas):
            return nd.estimate_moments(QUARTIC, etas, jax.random.key(0)).mean

        with pytest.raises(ValueError, match="concrete etas; got traced ones of shape"):
            transform(mean)(jnp.zeros(shape))

    @pytest.mark.parametrize("shape", [(3,), (4, 2), (0, 3), (2, 2, 3)])
    def test_etas_of_another_shape(self, shape, without_type_checks):
        with pytest.raises(ValueError, match=r"Expected etas of shape \(n, 3\)"):
            nd.estimate_moments(QUARTIC, jnp.zeros(shape), jax.random.key(0))

    def test_integers(self, without_type_checks):
        with pytest.raises(ValueError, match="floating-point"):
            nd.estimate_moments(QUARTIC, jnp.asarray([[0, 0, -1]]), jax.random.key(0))


SAMPLED_ETA = (1.0, 2.0, -0.5)
N_SAMPLED = 2_001


@functools.cache
def sampled(seed):
    """Draws, as many as are no multiple of the number of chains, and their label."""
    eta = jnp.asarray(SAMPLED_ETA, jnp.result_type(float))
    config = nd.HMCConfig(chains=8, warmup=120, control_variates=False)
    return nd.moments.sample_hmc(jax.random.key(seed), QUARTIC, eta, N_SAMPLED, config)


class TestSampleHMC:
    def test_draws(self):
        draws, label = sampled(50)
        assert draws.shape == (N_SAMPLED,)
        assert draws.dtype == label.mean.dtype == jnp.result_type(float)
        assert label.status == nd.Status.OK
        mean, covariance = polynomial_moments([SAMPLED_ETA])
        t = (np.asarray(label.mean, np.float64) - mean[0]) / label.standard_error
        assert np.max(np.abs(t)) < 5
        stats = np.stack([draws, draws**2, draws**4], axis=-1)
        # The label corrects the plain averages, whose standard errors are these at least.
        plain_error = np.sqrt(np.diagonal(covariance[0]) / len(draws))
        assert np.max(np.abs(stats.mean(0) - label.mean) / plain_error) < 5
        assert np.all(stats.var(0) / np.diagonal(covariance[0]) < 1.5)

    def test_their_law(self):
        """The empirical distribution function, against that of the density."""
        draws = np.sort(np.asarray(sampled(50)[0], np.float64))
        x = np.linspace(-6, 6, 20_001)
        density = np.exp(np.stack([x, x**2, x**4], -1) @ np.asarray(SAMPLED_ETA))
        cdf = np.interp(draws, x, np.cumsum(density) / density.sum())
        distance = np.max(np.abs(cdf - np.arange(1, N_SAMPLED + 1) / N_SAMPLED))
        # Kolmogorov's limit: 1.95 / sqrt(n) is exceeded once in 1,000 times.
        assert distance < 1.95 / np.sqrt(float(sampled(50)[1].ess.min()))

    def test_keys_decide(self):
        again, _ = sampled.__wrapped__(50)
        other, _ = sampled(51)
        assert np.array_equal(again, sampled(50)[0])
        # Of thousands of floats a few may coincide.
        assert np.intersect1d(other, again).size < 0.01 * other.size

    def test_refusals(self):
        good, bad = jnp.asarray([SAMPLED_ETA, (0.0, 0.0, 0.5)], jnp.result_type(float))
        with pytest.raises(ValueError, match=r"'x4' of .* negative; got 0.5"):
            nd.moments.sample_hmc(jax.random.key(0), QUARTIC, bad, 10)
        with pytest.raises(ValueError, match="n >= 1; got 0"):
            nd.moments.sample_hmc(jax.random.key(0), QUARTIC, good, 0)


def test_the_ranges_are_those_of_the_registry():
    """The honesty above is that of the registered quartic."""
    (case,) = (c for c in FAMILIES if c.make() == QUARTIC)
    assert dict(case.ranges) == QUARTIC_RANGES
