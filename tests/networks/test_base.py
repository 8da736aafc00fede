"""Networks that correct a computed base: right values and derivatives, limits, refusals."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import nnef_dists as nd
from tests.networks.data import GAMMA, GAUSSIAN, gamma_data, gaussian_data, labeled
from tests.truth import box_moments


class CountField(nd.ExponentialFamily):
    """Log-rates u of counts at three places, smooth along them: a stranger's family."""

    x_shape = (3,)
    natural_domain = nd.domain(count=nd.positive, rate=nd.negative, rough=nd.negative)

    def compute_stats(self, x):
        return {"count": x, "rate": jnp.exp(x), "rough": jnp.sum(jnp.diff(x) ** 2)}


class Plateau(nd.ExponentialFamily):
    """A density that decreases where it is integrable, and has no mode."""

    x_shape = ()
    natural_domain = nd.domain(slope=nd.interval(0.0, 1.0))

    def compute_stats(self, x):
        return {"slope": x}


FIELD = CountField()
RANGES = {"count": (0.5, 4.0), "rate": (-3.0, -0.5), "rough": (-2.0, -0.1)}
MEAN_COUNT = np.array([0.7, 1.5, 3.0])


def field_statistics(u):
    rough = np.sum(np.diff(u, axis=1) ** 2, 1, keepdims=True)
    return np.concatenate([u, np.exp(u), rough], 1)


def field_truth(eta):
    eta = np.asarray(eta, np.float64)
    return box_moments(
        lambda u: field_statistics(u) @ eta, field_statistics, 3, points=45, reach=20.0
    )


@functools.cache
def field_data(n, seed):
    """Exact labels in the ranges, and their log-partitions."""
    etas = FIELD.sample_eta(jax.random.key(seed), n, RANGES)
    truths = [field_truth(eta) for eta in np.asarray(etas)]
    mean, covariance = (np.stack([getattr(t, k) for t in truths]) for k in ("mean", "covariance"))
    values = np.array([t.log_partition for t in truths])
    return labeled(FIELD, etas, mean, covariance, z_error=1e-4), values


@functools.cache
def untrained():
    return nd.LogPartitionNetwork(FIELD, field_data(256, 0)[0], width=16, key=jax.random.key(1))


@functools.cache
def trained():
    """By README's loop, briefly."""
    network, steps = untrained(), 400
    labels = network.batch(field_data(256, 0)[0])
    dynamic, static = nd.freeze_stdvs(network)
    optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, steps))

    def step(carry, key):
        dynamic, state = carry
        key_rows, key_loss = jax.random.split(key)
        batch = labels[jax.random.randint(key_rows, (128,), 0, len(labels))]
        gradient = jax.grad(lambda d: nd.sobolev_loss(nd.unfreeze_all(d, static), batch, key_loss))(
            dynamic
        )
        updates, state = optimizer.update(gradient, state, dynamic)
        return (optax.apply_updates(dynamic, updates), state), None

    carry = dynamic, optimizer.init(dynamic)
    keys = jax.random.split(jax.random.key(2), steps)
    (dynamic, _), _ = jax.jit(lambda c, keys: jax.lax.scan(step, c, keys))(carry, keys)
    return nd.unfreeze_all(dynamic, static)


def posterior_etas(ns):
    """Of n observations of counts, from a prior within the ranges."""
    prior = np.array([1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -0.5])
    direction = np.concatenate([MEAN_COUNT, -np.ones(3), [0.0]])
    return jnp.asarray(prior + np.asarray(ns)[:, None] * direction, float)


@eqx.filter_jit
def moments(network, etas):
    return jax.vmap(network)(etas)


def in_float64(network):
    def widen(leaf):
        return leaf.astype(float) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(widen, network)


def z_of(network, etas):
    truths = [field_truth(eta) for eta in np.asarray(etas)]
    found = np.asarray(moments(network, etas), np.float64)
    return (found - np.stack([t.mean for t in truths])) / np.stack([t.sd for t in truths])


def rms(z):
    return float(np.sqrt(np.mean(np.square(z))))


def test_the_stranger_gets_a_base_by_default():
    network = untrained()
    assert network.base == nd.networks.LaplaceBase(FIELD)
    assert network.is_absolute
    assert network.unused_features() == 0


def test_the_base_alone_is_validated_without_training():
    """The correction of an untrained network is the linear one; the report has its errors."""
    fresh, _ = field_data(32, 5)
    report = nd.validate(nd.AmortizedFamily(FIELD, untrained()), fresh).report.tree
    z = (moments(untrained(), jnp.asarray(fresh.eta)) - fresh.mean) / fresh.batch().sd
    np.testing.assert_allclose(report.z_rms, rms(z), rtol=1e-3)
    assert report.z_rms < 0.01
    assert report.passed


def test_training_makes_it_right_inside_and_far_out():
    fresh, _ = field_data(32, 5)
    z = (moments(trained(), jnp.asarray(fresh.eta)) - fresh.mean) / fresh.batch().sd
    assert rms(z) < 0.002
    far = posterior_etas([10.0, 30.0, 100.0, 1e3])
    assert rms(z_of(trained(), far)) < 0.001


def test_the_log_partition_needs_no_anchor():
    """A(posterior) - A(prior), the log-evidence, of two etas that share no training."""
    q = nd.AmortizedFamily(FIELD, trained())
    assert q.anchor is None
    etas = posterior_etas([0.0, 30.0])
    found = np.asarray(jax.vmap(q.log_partition)(etas), np.float64)
    exact = [field_truth(eta).log_partition for eta in np.asarray(etas)]
    assert abs(found[0] - exact[0]) < 0.01
    assert abs(np.diff(found) - np.diff(exact)) < 0.01


def test_the_correction_vanishes_with_concentration():
    """Of value, and of the gradient in z units, faster than the number of observations grows."""
    narrow = trained()
    with jax.enable_x64(True):
        network = in_float64(narrow)
        ns = np.array([1e2, 1e4, 1e6])
        etas = posterior_etas(ns)

        def correction(eta):
            return network.log_partition(eta) - network.base(eta).value

        value, gradient = jax.jit(jax.vmap(jax.value_and_grad(correction)))(etas)
        variances = jax.jit(jax.vmap(lambda e: jnp.diagonal(jax.hessian(network.potential)(e))))
        z = np.max(np.abs(gradient) / np.sqrt(variances(etas)), 1)
    value = np.abs(value)
    assert (value[1:] < value[:-1] / 30).all()
    assert (z[1:] < z[:-1] / 300).all()
    assert z[-1] < 1e-7


def test_float32_is_accurate_at_a_million_observations():
    """To the rounding of eta itself: sqrt(n) eps is 1e-4."""
    etas = posterior_etas([1e4, 1e6])
    z = (moments(untrained(), etas) - _moments_in_float64(etas)) / jnp.sqrt(_variances(etas))
    assert np.abs(z).max() < 1e-3


def _moments_in_float64(etas):
    base = nd.networks.LaplaceBase(FIELD)
    with jax.enable_x64(True):
        etas = jnp.asarray(np.asarray(etas), float)
        found = jax.jit(jax.vmap(jax.grad(lambda e: base(e).value)))(etas)
    return np.asarray(found)


def _variances(etas):
    return jnp.stack([jnp.asarray(field_variances(eta), float) for eta in np.asarray(etas)])


def field_variances(eta):
    """Of the Gaussian limit, by the curvature at the mode."""
    u = np.log(MEAN_COUNT)
    rate = -np.asarray(eta[3:6], np.float64)
    roughness = -2 * float(eta[6]) * np.array([[1, -1, 0], [-1, 2, -1], [0, -1, 1.0]])
    covariance = np.linalg.inv(np.diag(rate * np.exp(u)) + roughness)
    slopes = np.concatenate([np.eye(3), np.diag(np.exp(u)), np.zeros((1, 3))])
    du = np.diff(u)
    slopes[6] = 2 * np.array([-du[0], du[0] - du[1], du[1]])
    return np.einsum("ij,jk,ik->i", slopes, covariance, slopes)


def test_derivatives_agree_with_finite_differences():
    """Of all terms, to second order: those of the mode included."""
    with jax.enable_x64(True):
        base, eta = nd.networks.LaplaceBase(FIELD), posterior_etas([2.0])[0]

        def terms(eta):
            found = base(eta)
            return jnp.concatenate([found.value[None], found.scale[None], found.inputs])

        slopes = jax.jit(jax.jacfwd(terms))
        curvatures = jax.jit(jax.jacfwd(jax.jacrev(terms)))(eta)
        steps = 1e-5 * np.eye(len(eta))
        jitted = jax.jit(terms)
        first = [(jitted(eta + h) - jitted(eta - h)) / 2e-5 for h in steps]
        second = [(slopes(eta + h) - slopes(eta - h)) / 2e-5 for h in steps]
        np.testing.assert_allclose(slopes(eta), np.stack(first, -1), atol=1e-8, rtol=1e-6)
        np.testing.assert_allclose(curvatures, np.stack(second, -1), atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("loss", [nd.sobolev_loss, nd.moment_loss, nd.networks.entropy_loss])
def test_losses_are_the_same_on_precomputed_labels(loss):
    """Value and gradient, without levels of A; the Taylor model is exact at the labels."""
    network, data = untrained(), field_data(256, 0)[0]
    key = jax.random.key(3) if loss is nd.sobolev_loss else None
    dynamic, static = nd.freeze_stdvs(network)

    @eqx.filter_jit
    def both(dynamic, batch):
        def of(dynamic):
            return loss(nd.unfreeze_all(dynamic, static), batch, key)

        return jax.value_and_grad(of)(dynamic)

    labels = network.batch(data)
    labels = eqx.tree_at(lambda b: b.base.gap.error, labels, jnp.full(len(labels), jnp.inf))
    fast, slow = both(dynamic, labels[:16]), both(dynamic, data.batch()[:16])
    for one, other in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
        size = np.abs(np.asarray(other)).max()
        np.testing.assert_allclose(one, other, atol=2e-3 * size + 1e-12)


def test_bases_are_computed_once():
    network, data = untrained(), field_data(256, 0)[0]
    assert network.batch(data).base is network.batch(data).base
    assert data.batch().base is None
    without = nd.LogPartitionNetwork(FIELD, data, base=None, width=4, key=jax.random.key(0))
    assert without.batch(data) is data.batch()


def test_gaussians_are_exact_and_have_no_correction():
    base, data = nd.networks.LaplaceBase(GAUSSIAN), gaussian_data()
    terms = jax.jit(jax.vmap(base))(jnp.asarray(data.eta))
    np.testing.assert_allclose(
        terms.value, jax.vmap(GAUSSIAN.log_partition)(data.eta), rtol=1e-5, atol=1e-5
    )
    assert (terms.scale < 1e-10).all()
    # Errors of labels must not be learned as a correction of a scale that is rounding.
    noisy = gaussian_data(noisy=True)
    network = nd.LogPartitionNetwork(GAUSSIAN, noisy, width=4, key=jax.random.key(0))
    sd = np.sqrt(np.diagonal(data.covariance, axis1=1, axis2=2))
    z = (moments(network, jnp.asarray(data.eta)) - data.mean) / sd
    assert np.abs(z).max() < 1e-4


@pytest.mark.slow
def test_third_derivatives_of_a_closed_form():
    """The implicit function's derivatives nest; Laplace's gamma is Stirling's series."""
    with jax.enable_x64(True):
        base, eta = nd.networks.LaplaceBase(GAMMA), jnp.array([2e3, -1.0])

        def third(f):
            return jax.jacfwd(jax.jacfwd(jax.grad(f)))(eta)

        exact = third(GAMMA.log_partition)
        np.testing.assert_allclose(third(lambda e: base(e).value), exact, rtol=1e-5, atol=1e-10)


def test_no_mode_is_nan_and_refused_at_labels():
    base = nd.networks.LaplaceBase(Plateau())
    eta = jnp.array([0.5])
    assert jnp.isnan(base(eta).value)
    assert jnp.isnan(jax.grad(lambda eta: base(eta).value)(eta)).all()
    etas = jnp.linspace(0.2, 0.8, 32)[:, None]
    data = labeled(Plateau(), etas, etas, jnp.ones((32, 1, 1)))
    with pytest.raises(ValueError, match="Expected LaplaceBase to exist at every label"):
        nd.LogPartitionNetwork(Plateau(), data, base=base, key=jax.random.key(0))
    assert nd.networks.choose_base(Plateau(), data) is None


def test_kinks_are_refused():
    with pytest.raises(ValueError, match="Expected a family with a smooth log-density"):
        nd.networks.LaplaceBase(nd.LaplaceProduct(1))


def test_labels_with_another_base_are_refused():
    network = nd.LogPartitionNetwork(GAMMA, gamma_data(), width=4, key=jax.random.key(0))
    foreign = untrained().batch(field_data(256, 0)[0])[:4]
    with pytest.raises(ValueError, match="Expected labels with a LaplaceBase of Gamma"):
        nd.moment_loss(network, foreign)
    labels, unseen = network.batch(gamma_data()), foreign[jnp.arange(20) % 4]
    with pytest.raises(ValueError, match="Expected labels with a LaplaceBase of Gamma"):
        nd.networks.fit_residual(network, labels, unseen, jax.random.key(0))


@pytest.mark.usefixtures("without_type_checks")
def test_a_base_of_another_family_or_kind_is_refused():
    def make(base):
        return nd.LogPartitionNetwork(GAMMA, gamma_data(), base=base, key=jax.random.key(0))

    with pytest.raises(ValueError, match=r"a base of Gamma\(.*a base of GaussianNatural1D"):
        make(nd.networks.LaplaceBase(nd.GaussianNatural1D()))
    for other in ("laplace", nd.networks.LaplaceBase):
        with pytest.raises(ValueError, match="Expected base to be an instance of AbstractBase"):
            make(other)


def test_files_hold_the_base(tmp_path):
    nd.save(tmp_path / "field.safetensors", untrained())
    again = nd.load(tmp_path / "field.safetensors", family=CountField())
    etas = posterior_etas([0.0, 3.0])
    np.testing.assert_array_equal(moments(again, etas), moments(untrained(), etas))


@pytest.mark.slow
def test_predictive_sd_vanishes_with_concentration():
    """Uncertain weights matter where the correction does."""
    narrow = untrained()
    with jax.enable_x64(True):
        network, etas = in_float64(narrow), posterior_etas([1.0, 1e4])

        def predict(network):
            return jax.vmap(network)(etas)

        @eqx.filter_jit
        def both(network):
            _, sd = nd.bayes.predictive_moments(network, predict, jax.random.key(0), 8)
            return sd, jax.vmap(jax.jacfwd(network))(etas)

        sd, covariances = both(network)
        variances = jnp.diagonal(covariances, axis1=1, axis2=2)
        z = np.asarray(sd / jnp.sqrt(variances))
    assert (z[0] > 0).all()
    assert (z[1] < z[0].max() / 100).all()


@functools.cache
def validated():
    return nd.validate(nd.AmortizedFamily(FIELD, trained()), field_data(32, 5)[0])


@pytest.mark.slow
def test_accuracy_holds_inside_and_far_out():
    q = validated()
    limit = jax.jit(jax.vmap(q.accuracy))
    fresh, _ = field_data(32, 7)
    error = np.abs(moments(q.network, jnp.asarray(fresh.eta)) - fresh.mean) / fresh.batch().sd
    inside = np.asarray(limit(jnp.asarray(fresh.eta)))
    assert np.isfinite(inside).mean() > 0.9
    assert np.mean(error.max(1) <= inside) > 0.85
    far = posterior_etas([10.0, 30.0, 100.0, 1e3])
    beyond = np.asarray(limit(far))
    assert (np.abs(z_of(q.network, far)).max(1) <= beyond).all()
    # What is not known shrinks with the scale of the base, down to the rounding of the mean.
    assert limit(posterior_etas([1e4]))[0] < np.median(inside[np.isfinite(inside)])


@pytest.mark.slow
def test_accuracy_holds_beyond_the_ranges_in_every_direction():
    """Draws of the weights may agree where there are no labels."""
    q = validated()
    wider = {
        "count": (0.25, 8.0, "log"),
        "rate": (-6.0, -0.25, "log"),
        "rough": (-4.0, -0.1, "log"),
    }
    etas = FIELD.sample_eta(jax.random.key(9), 48, wider)
    limit, mean = jax.jit(jax.vmap(lambda eta: (q.accuracy(eta), q.mean(eta))))(etas)
    truths = [field_truth(eta) for eta in np.asarray(etas)]
    scale = np.sqrt([np.diagonal(truth.covariance) for truth in truths])
    error = np.max(np.abs(mean - np.stack([truth.mean for truth in truths])) / scale, 1)
    known = np.isfinite(limit)
    assert known.mean() > 0.9
    assert np.mean(error[known] <= limit[known]) > 0.9
    assert (error[known] <= 2 * limit[known]).all()


@pytest.mark.slow
def test_where_the_base_is_worse_than_at_all_labels_nothing_is_known():
    flat = jnp.asarray([[0.02, 0.02, 0.02, -0.05, -0.05, -0.05, -0.001]])
    assert np.isinf(jax.vmap(validated().accuracy)(flat)).all()
    with pytest.warns(nd.distributions.ExtrapolationWarning):
        validated().mean(flat[0])


@pytest.mark.slow
def test_the_inverse_finds_etas_far_from_all_labels():
    q, etas = validated(), posterior_etas([3.0, 300.0])
    mu = jax.vmap(q.mean)(etas)
    found = jax.jit(jax.vmap(lambda mu: q.natural_parameters(mu, throw=False)))(mu)
    z = (jax.vmap(q.mean)(found) - mu) / jnp.sqrt(_variances(etas))
    assert np.abs(z).max() < 2e-3


@pytest.mark.slow
def test_the_inverse_is_differentiable_in_moments_and_in_weights():
    """By the implicit function theorem, d eta = Cov^-1 (d mu - d mean)."""
    base = nd.networks.LaplaceBase(GAMMA)
    network = nd.LogPartitionNetwork(GAMMA, gamma_data(), base=base, width=4, key=jax.random.key(0))
    q, eta = nd.AmortizedFamily(GAMMA, network), jnp.asarray(gamma_data().eta[0])
    mu, inverse = q.mean(eta), jnp.linalg.inv(q.covariance(eta))
    np.testing.assert_allclose(jax.jacfwd(q.natural_parameters)(mu), inverse, rtol=1e-3)

    @eqx.filter_jit
    def gradients(q):
        def of(function):
            return [eqx.filter_grad(lambda q, i=i: function(q)[i])(q) for i in range(2)]

        inverses = of(lambda q: q.natural_parameters(mu, throw=False))
        return inverses, of(lambda q: q.mean(eta))

    found, of_mean = gradients(q)
    for *of_eta, first, second in zip(
        *(jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array)) for tree in found + of_mean),
        strict=True,
    ):
        for row, gradient in zip(inverse, of_eta, strict=True):
            expected = -(row[0] * first + row[1] * second)
            np.testing.assert_allclose(gradient, expected, rtol=1e-2, atol=1e-5)
