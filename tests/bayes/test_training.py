"""The guide's two training stages, as a user writes them, and exact posteriors as truth."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from nnef_dists.bayes import (
    AbstractParameter,
    GaussianParameter,
    LaplacianParameter,
    Module,
    flatten_means,
    flatten_stdvs,
    freeze_means,
    freeze_stdvs,
    gaussian_entropy,
    kl_divergence,
    laplacian_entropy,
    make_parameter,
    partition_trainable,
    sample_all_parameters,
    unfreeze_all,
)
from tests.bayes.laws import SeedMLP


def train_map(model, x, y, *, key, num_epochs, batch_size, learning_rate, prior_weight):
    dynamic, static = freeze_stdvs(model)
    optimizer = optax.adabelief(learning_rate)
    opt_state = optimizer.init(dynamic)

    @eqx.filter_jit
    def step(dynamic, static, opt_state, x_batch, y_batch):
        def loss_fn(dynamic):
            model = eqx.combine(dynamic, static)
            pred = model(x_batch, key=jax.random.key(0), sample=False)
            return jnp.mean((pred - y_batch) ** 2) + prior_weight * model.compute_prior()

        loss, grads = eqx.filter_value_and_grad(loss_fn)(dynamic)
        updates, opt_state = optimizer.update(grads, opt_state, dynamic)
        return eqx.apply_updates(dynamic, updates), opt_state, loss

    losses = []
    for _ in range(num_epochs):
        key, subkey = jax.random.split(key)
        perm = jax.random.permutation(subkey, x.shape[0])
        for i in range(x.shape[0] // batch_size):
            idx = perm[i * batch_size : (i + 1) * batch_size]
            dynamic, opt_state, loss = step(dynamic, static, opt_state, x[idx], y[idx])
            losses.append(float(loss))
    return eqx.combine(dynamic, static), losses


def train_vi(
    model, x, y, *, key, num_epochs, batch_size, learning_rate, prior_weight, num_samples=1
):
    dynamic, static = freeze_means(model)
    optimizer = optax.adabelief(learning_rate)
    opt_state = optimizer.init(dynamic)

    @eqx.filter_jit
    def step(dynamic, static, opt_state, x_batch, y_batch, key):
        def loss_fn(dynamic):
            model = eqx.combine(dynamic, static)
            k_lik, k_prior = jax.random.split(key)

            def lik_sample(k):
                sampled = sample_all_parameters(model, k)
                pred = sampled(x_batch, key=jax.random.key(0), sample=False)
                return jnp.mean((pred - y_batch) ** 2)

            def prior_sample(k):
                return sample_all_parameters(model, k).compute_prior()

            mse = jnp.mean(jax.vmap(lik_sample)(jax.random.split(k_lik, num_samples)))
            prior = jnp.mean(jax.vmap(prior_sample)(jax.random.split(k_prior, num_samples)))
            entropy = gaussian_entropy(model) + laplacian_entropy(model)
            return mse + prior_weight * (prior - entropy)

        loss, grads = eqx.filter_value_and_grad(loss_fn)(dynamic)
        updates, opt_state = optimizer.update(grads, opt_state, dynamic)
        return eqx.apply_updates(dynamic, updates), opt_state, loss

    losses = []
    for _ in range(num_epochs):
        key, subkey = jax.random.split(key)
        perm = jax.random.permutation(subkey, x.shape[0])
        for i in range(x.shape[0] // batch_size):
            idx = perm[i * batch_size : (i + 1) * batch_size]
            key, subkey = jax.random.split(key)
            dynamic, opt_state, loss = step(dynamic, static, opt_state, x[idx], y[idx], subkey)
            losses.append(float(loss))
    return eqx.combine(dynamic, static), losses


def test_the_guides_training_functions():
    x = jax.random.normal(jax.random.key(1), (64, 2))
    y = jnp.sin(x[:, :1]) + 0.1 * x[:, 1:]
    model = SeedMLP([2, 8, 1], key=jax.random.key(0))
    options = {"num_epochs": 40, "batch_size": 16, "prior_weight": 1e-4}
    fitted, map_losses = train_map(
        model, x, y, key=jax.random.key(2), learning_rate=1e-2, **options
    )
    assert np.mean(map_losses[-8:]) < 0.3 * np.mean(map_losses[:8])
    assert jnp.array_equal(flatten_stdvs(fitted), flatten_stdvs(model))

    whole, vi_losses = train_vi(
        fitted, x, y, key=jax.random.key(3), learning_rate=1e-2, num_samples=2, **options
    )
    assert np.mean(vi_losses[-8:]) < np.mean(vi_losses[:8])
    assert jnp.array_equal(flatten_means(whole), flatten_means(fitted))
    assert (flatten_stdvs(whole) > 10 * flatten_stdvs(fitted)).mean() > 0.9


def test_the_guides_jitted_step_on_the_whole_model():
    model = SeedMLP([2, 4, 1], key=jax.random.key(0))
    x, y = jnp.ones((3, 2)), jnp.zeros((3, 1))

    @jax.jit
    def step(model, key):
        def loss_fn(model, key):
            sampled = sample_all_parameters(model, key)
            return jnp.mean((sampled(x, key=None, sample=False) - y) ** 2)

        return jax.value_and_grad(loss_fn)(model, key)

    loss, grads = step(model, jax.random.key(1))
    drawn = sample_all_parameters(model, jax.random.key(1))
    assert jnp.allclose(loss, jnp.mean((drawn(x, key=None, sample=False) - y) ** 2), rtol=1e-5)
    for law in grads.get_parameters().values():
        assert law.mean.any()
        assert law.raw_stdv.any()


# Linear regression with known noise: the posterior is exact, and so is the best mean field.

NOISE = 0.3
PRIOR_STDV = 2.0


class Line(Module):
    w: AbstractParameter

    def __call__(self, x, *, key=None, sample=None):
        model = self if key is None else sample_all_parameters(self, key)
        return x @ model.w.mean


def regression():
    design = jax.random.normal(jax.random.key(0), (40, 4))
    x = design @ jnp.array(  # correlated features: the posterior is far from factorized
        [[1.0, 0.6, 0.0, 0.0], [0.0, 0.8, 0.3, 0.0], [0.0, 0.0, 1.0, -0.5], [0.0, 0.0, 0.0, 0.7]]
    )
    y = x @ jnp.array([1.0, -2.0, 0.5, 3.0])
    y = y + NOISE * jax.random.normal(jax.random.key(1), (40,))
    precision = np.asarray(x.T @ x, np.float64) / NOISE**2 + np.eye(4) / PRIOR_STDV**2
    mean = np.linalg.solve(precision, np.asarray(x.T @ y, np.float64) / NOISE**2)
    return x, y, mean, precision


def minimize(dynamic, loss, key, *, steps, rate):
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(carry, key):
        dynamic, state = carry
        grads = jax.grad(loss)(dynamic, key)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(dynamic, updates), state), None

    run = jax.jit(lambda d, s, keys: jax.lax.scan(step, (d, s), keys)[0][0])
    return run(dynamic, optimizer.init(dynamic), jax.random.split(key, steps))


def test_variational_inference_recovers_the_exact_posterior():
    x, y, exact_mean, precision = regression()
    prior = GaussianParameter.from_stdv(0.0, PRIOR_STDV)
    exact_stdv = np.sqrt(np.diag(np.linalg.inv(precision)))
    mean_field_stdv = 1 / np.sqrt(np.diag(precision))

    def loss_on(static, samples):
        def loss(dynamic, key):
            model = unfreeze_all(dynamic, static)
            draw = lambda k: jnp.sum((y - model(x, key=k)) ** 2)  # noqa: E731
            squares = jnp.mean(jax.vmap(draw)(jax.random.split(key, samples)))
            return squares / (2 * NOISE**2) + kl_divergence(model, prior)

        return loss

    def check(model, mean_sds, stdv_share):
        error = np.abs(np.asarray(model.w.mean, np.float64) - exact_mean) / exact_stdv
        assert error.max() < mean_sds
        ratio = np.asarray(model.w.stdv, np.float64) / mean_field_stdv
        assert np.abs(ratio - 1).max() < stdv_share

    model = Line(make_parameter(jnp.zeros(4)))
    dynamic, static = freeze_stdvs(model)
    # At their first width the weights are all but their means: this stage is MAP.
    dynamic = minimize(dynamic, loss_on(static, 1), jax.random.key(2), steps=1500, rate=0.1)
    model = unfreeze_all(dynamic, static)
    dynamic, static = freeze_means(model)
    dynamic = minimize(dynamic, loss_on(static, 8), jax.random.key(3), steps=1500, rate=0.02)
    model = unfreeze_all(dynamic, static)
    check(model, mean_sds=0.1, stdv_share=0.1)

    dynamic, static = partition_trainable(model)
    dynamic = minimize(dynamic, loss_on(static, 8), jax.random.key(4), steps=1500, rate=0.01)
    check(unfreeze_all(dynamic, static), mean_sds=0.1, stdv_share=0.1)


def test_a_laplace_law_recovers_a_laplace_posterior():
    # Without data the posterior is the prior: the divergence's minimum is zero, at the prior.
    prior = LaplacianParameter.from_scale(0.7, 0.4)
    model = make_parameter(jnp.zeros(3), param_type=LaplacianParameter, init_raw_stdv=1.0)
    fitted = minimize(
        model,
        lambda q, key: kl_divergence(q, prior),
        jax.random.key(0),
        steps=1500,
        rate=0.02,
    )
    np.testing.assert_allclose(fitted.mean, 0.7, atol=5e-3)
    np.testing.assert_allclose(fitted.scale, 0.4, rtol=0.02)
