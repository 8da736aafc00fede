"""What a trained network leaves, as a Gaussian process: closed forms, coverage, files."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nnef_dists as nd
from nnef_dists.networks._fit_residual import _Posterior
from nnef_dists.networks._residual_process import draw_frequencies, features_and_gradients
from tests.networks.data import GAMMA, GAMMA_RANGES, exact_data

NOISE = 1e-4


def noisy_data(n, seed, noise=NOISE):
    etas = jax.jit(lambda key: GAMMA.sample_eta(key, n, GAMMA_RANGES))(jax.random.key(seed))
    return exact_data(GAMMA, etas, z_error=noise, seed=seed)


@functools.cache
def fitted(with_base=True):
    """A network that has not been trained, and the same with its residual."""
    data, unseen = noisy_data(256, 1), noisy_data(64, 2)
    base = nd.networks.LaplaceBase(GAMMA) if with_base else None
    network = nd.LogPartitionNetwork(
        GAMMA, data, base=base, width=8, depth=1, key=jax.random.key(3)
    )
    batches = network.batch(data), network.batch(unseen)
    return network, nd.networks.fit_residual(network, *batches, jax.random.key(4), features=128)


@pytest.mark.parametrize("amplitude", [0.3, 2.0])
def test_the_posterior_is_that_of_gaussian_process_regression(amplitude):
    rng = np.random.default_rng(0)
    rows, common, values = (rng.normal(size=shape) for shape in ((40, 6), (40, 2), 40))
    parts = (slice(25), slice(25, None))
    halves = [(rows[part], values[part], common[part], None) for part in parts]
    posterior = _Posterior(halves)
    mean, variances = posterior.at(amplitude)
    found = posterior.vectors @ mean, posterior.vectors * variances @ posterior.vectors.T
    noise = common @ common.T + np.eye(40)
    gain = amplitude**2 * rows.T @ np.linalg.inv(amplitude**2 * rows @ rows.T + noise)
    np.testing.assert_allclose(found[0], gain @ values, atol=1e-12)
    exact = amplitude**2 * (np.eye(6) - gain @ rows)
    np.testing.assert_allclose(found[1], exact, atol=1e-12)


def test_features_and_gradients_are_those_of_the_process():
    rng = np.random.default_rng(1)
    frequencies, matrix = draw_frequencies(rng, 5, 3), rng.normal(size=(3, 2))
    weights, etas = rng.normal(size=10), rng.normal(size=(4, 2))
    process = nd.networks.ResidualProcess.of_arrays(
        frequencies, weights, np.zeros((10, 10)), jnp.result_type(float)
    )

    def scale(eta):
        return jnp.exp(eta[0])

    def inputs(eta):
        return jnp.sin(jnp.asarray(matrix, eta.dtype) @ eta)

    etas = jnp.asarray(etas, float)
    parts = [
        (np.asarray(jax.vmap(f)(etas)), np.asarray(jax.vmap(jax.jacfwd(f))(etas)))
        for f in (scale, inputs)
    ]
    values, slopes = features_and_gradients(frequencies, *parts)
    both = jax.vmap(jax.value_and_grad(lambda eta: scale(eta) * process(inputs(eta))))
    for found, expected in zip((values, slopes.transpose(0, 2, 1)), both(etas), strict=True):
        np.testing.assert_allclose(found @ weights, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("with_base", [True, False])
def test_it_corrects_the_mean_and_its_intervals_hold_the_truth(with_base):
    network, with_residual = fitted(with_base)
    etas = noisy_data(256, 5).batch().eta
    exact, sd = (
        np.asarray(jax.vmap(f)(etas))
        for f in (GAMMA.mean, lambda eta: jnp.sqrt(jnp.diagonal(GAMMA.covariance(eta))))
    )

    @jax.jit
    def evaluate(network, key):
        def moments(network):
            return jax.vmap(network)(etas)

        return moments(network), nd.bayes.predictive_draws(network, moments, key, 256)

    error, better = (
        np.sqrt(np.mean(((np.asarray(evaluate(n, jax.random.key(6))[0]) - exact) / sd) ** 2))
        for n in (network, with_residual)
    )
    assert better < error / 5
    _, draws = evaluate(with_residual, jax.random.key(6))
    for level, least, most in ((0.5, 0.35, 0.7), (0.9, 0.75, 1.0)):
        low, high = nd.bayes.central_interval(draws, level)
        held = np.mean((np.asarray(low) <= exact) & (exact <= np.asarray(high)))
        assert least <= held <= most


def test_a_draw_is_the_gradient_of_one_function():
    _, network = fitted()
    eta = noisy_data(256, 1).batch().eta[3]
    drawn = nd.sample_all_parameters(network, jax.random.key(7))
    mu, hessian = jax.jit(lambda n, e: (n(e), jax.hessian(n.potential)(e)))(drawn, eta)
    np.testing.assert_array_equal(mu, jax.jit(lambda n, e: jax.grad(n.potential)(e))(drawn, eta))
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-4)
    assert not np.array_equal(mu, jax.jit(lambda n, e: n(e))(network, eta))


def test_the_variance_of_draws_is_the_posterior_variance():
    _, network = fitted()
    fixed = network.residual
    assert fixed is not None
    x = jnp.zeros(fixed.frequencies.tree.shape[1]) + 0.3

    def draw(key):
        drawn = nd.sample_all_parameters(network, key).residual
        assert drawn is not None
        return drawn(x)

    draws = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(8), 4000))
    angles = np.asarray(fixed.frequencies.tree @ x)
    phi = np.concatenate([np.cos(angles), np.sin(angles)])
    exact = np.linalg.norm(phi @ np.asarray(fixed.factor.tree))
    # The relative standard error of a standard deviation is 1 / sqrt(8,000), and this is four.
    assert np.std(np.asarray(draws, np.float64)) == pytest.approx(exact, rel=0.045)


def test_it_is_never_trained_and_may_be_fitted_again():
    _, with_residual = fitted()
    for split in (nd.freeze_stdvs, nd.freeze_means, nd.bayes.partition_trainable):
        assert not jax.tree.leaves(split(with_residual)[0].residual)
    batches = (with_residual.batch(noisy_data(256, 1)), with_residual.batch(noisy_data(64, 2)))
    again = nd.networks.fit_residual(with_residual, *batches, jax.random.key(4), features=128)
    assert eqx.tree_equal(again, with_residual, rtol=1e-3, atol=1e-5)


def test_files_hold_the_residual(tmp_path):
    _, network = fitted()
    nd.save(tmp_path / "network.safetensors", network)
    loaded = nd.load(tmp_path / "network.safetensors")
    assert eqx.tree_equal(loaded, network)
    eta, key = noisy_data(256, 1).batch().eta[0], jax.random.key(9)
    np.testing.assert_array_equal(loaded(eta, key=key), network(eta, key=key))


def test_refusals():
    network, _ = fitted()
    labels, unseen = network.batch(noisy_data(256, 1)), network.batch(noisy_data(64, 2))

    def fit(network, labels, unseen, features=64):
        key = jax.random.key(0)
        return nd.networks.fit_residual(network, labels, unseen, key, features=features)

    with pytest.raises(ValueError, match="even number of features"):
        fit(network, labels, unseen, features=7)
    with pytest.raises(ValueError, match="at least 20 unseen labels; got 19"):
        fit(network, labels, unseen[:19])
    with pytest.raises(ValueError, match="unseen labels with the base"):
        fit(network, labels, noisy_data(64, 2).batch())
