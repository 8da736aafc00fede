"""Models with structured observations or discrete parameters, their exact posteriors, and training.

Each has `draw(key)`, which returns one pair (theta, x), and exact posteriors. Heads are trained on
fresh simulations in every step, so that what is left is the network and the optimizer.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.stats import norm

import nnef_dists as nd


class Trials:
    """theta ~ N(0, 1), 1 to `rows` trials of N(theta, noise^2): the posterior is normal."""

    def __init__(self, rows=50, noise=1.0):
        self.rows, self.noise = rows, noise

    def draw(self, key):
        return self.draw_of_size(
            key, jax.random.randint(jax.random.fold_in(key, 1), (), 1, self.rows + 1)
        )

    def draw_of_size(self, key, n):
        key_theta, key_x = jax.random.split(key)
        theta = jax.random.normal(key_theta, (1,))
        values = theta + self.noise * jax.random.normal(key_x, (self.rows, 1))
        return theta, nd.posterior.masked_observation(values, jnp.arange(self.rows) < n)

    def exact(self, x):
        """Mean and standard deviation."""
        observed = x[..., 1] == 1
        precision = 1 + jnp.sum(observed) / self.noise**2
        total = jnp.sum(jnp.where(observed, x[..., 0], 0))
        return total / self.noise**2 / precision, 1 / jnp.sqrt(precision)


class Sensors:
    """theta ~ N(0, I_2), four noisy linear sensors, each of which is missing with probability 0.3.

    Simulations without any sensor show the first one.
    """

    matrix = np.array([[1.0, 0.0], [0.0, 1.0], [0.7, 0.7], [1.0, -1.0]])
    noise = 0.5

    def draw(self, key):
        key_theta, key_x, key_mask = jax.random.split(key, 3)
        theta = jax.random.normal(key_theta, (2,))
        x = jnp.asarray(self.matrix, float) @ theta + self.noise * jax.random.normal(key_x, (4,))
        observed = jax.random.bernoulli(key_mask, 0.7, (4,))
        observed = observed.at[0].set(observed[0] | ~jnp.any(observed))
        return theta, nd.posterior.masked_observation(x, observed)

    def exact(self, x):
        """Mean and covariance."""
        return _linear_posterior(self.matrix, self.noise, x)


class Lines:
    """theta = (level, slope) ~ N(0, I_2): 2 to 40 noisy times of a line, a tenth of them lost."""

    rows, noise = 40, 0.5
    matrix = np.stack([np.ones(40), np.arange(40) / 20 - 1], 1)

    def draw(self, key):
        key_theta, key_x, key_n, key_mask = jax.random.split(key, 4)
        theta = jax.random.normal(key_theta, (2,))
        noise = self.noise * jax.random.normal(key_x, (self.rows,))
        observed = jnp.arange(self.rows) < jax.random.randint(key_n, (), 2, self.rows + 1)
        observed &= jax.random.bernoulli(key_mask, 0.9, (self.rows,)).at[0].set(True)
        values = jnp.asarray(self.matrix, float) @ theta + noise
        return theta, nd.posterior.masked_observation(values[:, None], observed)

    def exact(self, x):
        """Mean and covariance."""
        return _linear_posterior(self.matrix, self.noise, x[:, 0])


class Digits:
    """Three uniform digits in 0, 1, 2, of which noisy sums and products are seen: 27 points."""

    values, noise = 3, 0.7
    points = np.indices((3, 3, 3)).reshape(3, -1).T

    def means(self, theta):
        a, b, c = theta
        return jnp.stack([a + b, b * c, a - c])

    def draw(self, key):
        key_theta, key_x = jax.random.split(key)
        theta = jax.random.randint(key_theta, (3,), 0, self.values).astype(float)
        return theta, self.means(theta) + self.noise * jax.random.normal(key_x, (3,))

    def exact(self, x):
        """Probabilities of all points, `(3, 3, 3)`."""
        means = jax.vmap(self.means)(jnp.asarray(self.points, float))
        return jax.nn.softmax(jnp.sum(norm.logpdf(x, means, self.noise), 1)).reshape(3, 3, 3)


class Models:
    """One of three models k with probabilities 0.5, 0.3 and 0.2, and its parameter phi ~ N(0, 1).

    Two numbers are seen, x = offset_k + slope_k phi + noise: k and phi are dependent given x.
    """

    offsets = np.array([[0.0, 0.0], [0.5, -0.5], [-1.0, 0.5]])
    slopes = np.array([[1.0, 0.5], [-0.5, 1.0], [0.3, 1.2]])
    prior, noise = np.array([0.5, 0.3, 0.2]), 0.5

    def draw(self, key):
        key_k, key_phi, key_x = jax.random.split(key, 3)
        k = jax.random.categorical(key_k, jnp.log(jnp.asarray(self.prior, float)))
        phi = jax.random.normal(key_phi)
        offset, slope = (jnp.asarray(a, float)[k] for a in (self.offsets, self.slopes))
        x = offset + slope * phi + self.noise * jax.random.normal(key_x, (2,))
        return jnp.stack([k.astype(float), phi]), x

    def exact(self, x):
        """Probabilities of the models; means and standard deviations of phi, given each."""
        offsets, slopes = (jnp.asarray(a, float) for a in (self.offsets, self.slopes))
        precision = 1 + jnp.sum(slopes**2, 1) / self.noise**2
        rest = x - offsets
        mean = jnp.sum(slopes * rest, 1) / self.noise**2 / precision
        logs = mean**2 * precision / 2 - jnp.log(precision) / 2
        logs = logs - jnp.sum(rest**2, 1) / (2 * self.noise**2)
        weights = jax.nn.softmax(logs + jnp.log(jnp.asarray(self.prior, float)))
        return weights, mean, 1 / jnp.sqrt(precision)


def _linear_posterior(matrix, noise, x):
    """Mean and covariance of theta ~ N(0, I), of masked x = matrix theta + noise."""
    matrix, weight = jnp.asarray(matrix, float), x[:, 1] / noise**2
    precision = jnp.eye(matrix.shape[1]) + matrix.T @ (weight[:, None] * matrix)
    covariance = jnp.linalg.inv(precision)
    return covariance @ matrix.T @ (weight * x[:, 0]), covariance


def draw_many(model, key, n):
    return eqx.filter_jit(jax.vmap(model.draw))(jax.random.split(key, n))


def data_of(model, n=4096, seed=0):
    return nd.Simulations(*map(np.asarray, draw_many(model, jax.random.key(seed), n)))


def head_of(model, data, width=32):
    """A head for the model, not trained."""
    one, two = jax.random.split(jax.random.key(1))
    options = {"width": width, "depth": 2}
    if isinstance(model, Trials):
        set_options = {"width": width, "features": width, "masked": True}
        embedding = nd.posterior.SetEmbedding(data.x_shape, key=one, **set_options)
        return nd.GaussianPosterior(data, embedding=embedding, key=two, **options)
    if isinstance(model, Lines):
        embedding = nd.posterior.SeriesEmbedding(data.x_shape, masked=True, key=one)
        return nd.GaussianPosterior(data, embedding=embedding, key=two, **options)
    if isinstance(model, Sensors):
        embedding = nd.posterior.MaskedVectorEmbedding(data.x_shape)
        return nd.GaussianPosterior(data, embedding=embedding, key=two, **options)
    if isinstance(model, Digits):
        return nd.posterior.CategoricalPosterior(data, 3, key=one, **options)
    data_k, data_phi = (
        nd.Simulations(data.theta[:, rows], data.x) for rows in (slice(1), slice(1, None))
    )
    return nd.posterior.MixedPosterior(
        nd.posterior.CategoricalPosterior(data_k, 3, key=one, **options),
        nd.GaussianPosterior(data_phi, context=3, key=two, **options),
    )


def fit(head, model, key, steps, batch_size=256, rate=5e-3):
    """Adam along a cosine to zero, on fresh simulations in every step."""
    dynamic, static = nd.freeze_stdvs(head)
    optimizer = optax.chain(
        optax.clip_by_global_norm(5.0), optax.adam(optax.cosine_decay_schedule(rate, steps))
    )

    def loss(dynamic, batch):
        return nd.nll_loss(nd.unfreeze_all(dynamic, static), batch)

    @eqx.filter_jit
    def run(dynamic, keys):
        def step(carry, key):
            dynamic, state = carry
            pairs = jax.vmap(model.draw)(jax.random.split(key, batch_size))
            gradient = jax.grad(loss)(dynamic, nd.posterior.SimulationBatch(*pairs))
            updates, state = optimizer.update(gradient, state, dynamic)
            return (optax.apply_updates(dynamic, updates), state), None

        return jax.lax.scan(step, (dynamic, optimizer.init(dynamic)), keys)[0][0]

    return nd.unfreeze_all(run(dynamic, jax.random.split(key, steps)), static)


@eqx.filter_jit
def errors_of_trials(head, model, key, n, repeats):
    """Errors of the mean in standard deviations, and log ratios of the latter, at one size n."""
    _, x = jax.vmap(model.draw_of_size, (0, None))(jax.random.split(key, repeats), n)
    found = jax.vmap(head.parameters)(x)
    mean, sd = jax.vmap(model.exact)(x)
    return (found.mean[:, 0] - mean) / sd, found.log_variance[:, 0] / 2 - jnp.log(sd)


@eqx.filter_jit
def errors_of_gaussians(head, model, key, repeats):
    """Kullback-Leibler divergences of the exact posterior from the head, in nats."""

    def one(x):
        mean, covariance = model.exact(x)
        found = head.parameters(x)
        ratio = jnp.linalg.solve(found.covariance, covariance)
        off = found.mean - mean
        distance = off @ jnp.linalg.solve(found.covariance, off)
        return (jnp.trace(ratio) + distance - 2 - jnp.linalg.slogdet(ratio)[1]) / 2

    return jax.vmap(one)(jax.vmap(model.draw)(jax.random.split(key, repeats))[1])


@eqx.filter_jit
def errors_of_digits(head, model, key, repeats):
    """Total variation distances."""
    x = jax.vmap(model.draw)(jax.random.split(key, repeats))[1]
    off = jax.vmap(head.parameters)(x) - jax.vmap(model.exact)(x)
    return jnp.sum(jnp.abs(off), (1, 2, 3)) / 2


@eqx.filter_jit
def errors_of_models(head, model, key, repeats):
    """Total variation of k; root mean square over k of the errors of phi: means, log sds."""
    x = jax.vmap(model.draw)(jax.random.split(key, repeats))[1]
    weights, mean, sd = jax.vmap(model.exact)(x)
    found = jax.vmap(head.parameters)(x)
    distance = jnp.sum(jnp.abs(found.probabilities - weights), 1) / 2
    off = (found.continuous.mean[..., 0] - mean) / sd
    log_ratio = found.continuous.log_variance[..., 0] / 2 - jnp.log(sd)
    rms = (jnp.sqrt(jnp.sum(weights * e**2, 1)) for e in (off, log_ratio))
    return distance, *rms
