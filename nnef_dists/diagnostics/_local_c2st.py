"""Local classifier two-sample test of a posterior at given observations."""

from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from nnef_dists._ranges import check_integer
from nnef_dists.diagnostics._sampler import (
    PosteriorSampler,
    as_parameters,
    check_draws,
    compiled_and_checked,
    draw_posterior,
    map_pairs,
)

# Penalties of the classifier weights to try, in units of the mean square of the features.
_PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@final
class LocalC2ST(eqx.Module):
    """Results of the local classifier test at k observations.

    Attributes:
        draws: Posterior draws at each observation, `(k, n, theta_dim)`.
        probability: Classifier probability at each draw, `(k, n)`, of a pair from the joint
            distribution of theta and x rather than from the posterior. Above 1/2, the posterior has
            too little mass there. Below 1/2, it has too much.
        statistic: Mean squared difference of this probability from 1/2, `(k,)`.
        null: Statistics of classifiers trained on shuffled labels, `(k, n_null)`.
    """

    draws: Float[Array, "k n theta_dim"]
    probability: Float[Array, "k n"]
    statistic: Float[Array, " k"]
    null: Float[Array, "k n_null"]

    @property
    def p_value(self) -> Float[Array, " k"]:
        """The p-value at each observation, `(k,)`, at least 1 / (n_null + 1)."""
        exceeding = jnp.sum(self.null >= self.statistic[:, None], 1)
        p = (exceeding + 1).astype(self.null.dtype) / (self.null.shape[1] + 1)
        return jnp.where(jnp.isnan(self.statistic), jnp.nan, p)


@compiled_and_checked
def local_c2st(
    posterior: PosteriorSampler,
    theta: Float[Array, "m theta_dim"],
    x: Float[Array, "m *x_shape"],
    observations: Float[Array, "k *x_shape"],
    key: PRNGKeyArray,
    n: int = 1000,
    *,
    n_null: int = 200,
    n_features: int = 512,
    batch_size: int = 64,
) -> LocalC2ST:
    """Tests a posterior at given observations by a classifier of pairs (theta, x).

    The classifier d(theta, x) separates m pairs of the joint distribution from m pairs whose theta
    is drawn from q(. | x). The Brier score has its minimum at d = 1/2 everywhere if and only if q
    is the true posterior for all x. The statistic

        t(x_o) = E (d(theta, x_o) - 1/2)^2,    theta ~ q(. | x_o),

    measures the deviation at x_o. Under the null hypothesis, the labels within a pair are
    exchangeable. The p-value compares t with classifiers trained on randomly swapped labels.

    If q is correct at x_o but not elsewhere, errors elsewhere may increase t a little. The largest
    statistics indicate the observations to inspect.

    The classifier is a ridge regression of the labels on random Fourier features of the
    standardized (theta, x), for a Matern kernel (nu = 3/2). Generalized cross-validation chooses
    the penalty. All null classifiers share its eigendecomposition, and together cost one matrix
    product. An x of many entries should be a summary, such as the embedding of a posterior head.

    Args:
        posterior: Posterior with `sample(key, x, n)`.
        theta: Parameters drawn from the prior, `(m, theta_dim)`.
        x: One simulation per parameter, not used in training, `(m, *x_shape)`.
        observations: Observations to test at, `(k, *x_shape)`.
        key: PRNG key.
        n: Number of draws per observation, at least 1. Defaults to 1000.
        n_null: Number of classifiers trained on shuffled labels, at least 1. The p-value is at
            least 1 / (n_null + 1). Defaults to 200.
        n_features: Number of random features of the classifier, at least 1. The memory is
            `2 m n_features` numbers. Defaults to 512.
        batch_size: Number of observations evaluated at a time. Defaults to 64.

    Returns:
        Statistics, p-values, and classifier probabilities of the draws.

    Raises:
        ValueError: If `theta` and `x` differ in length, a shape is wrong, also of the posterior's
            draws, or a count is not positive.
        RuntimeError: If a draw is NaN. Under `jax.jit`, the statistics are NaN instead.

    Reference:
        Linhart, Gramfort and Rodrigues, *L-C2ST: local diagnostics for posterior approximations in
        simulation-based inference*, NeurIPS (2023).
        Rahimi and Recht, *Random features for large-scale kernel machines*, NeurIPS (2007).
    """
    check_draws(n)
    n_null = check_integer("n_null", n_null, 1)
    n_features = check_integer("n_features", n_features, 1)
    theta = as_parameters(theta)
    if observations.shape[1:] != x.shape[1:]:
        raise ValueError(
            f"Expected observations of shape (k, *x_shape), x_shape = {x.shape[1:]} as in x; got "
            f"{observations.shape}. Use observation[None] for one."
        )
    key_pairs, key_draws, key_features, key_null = jax.random.split(key, 4)

    def draw(key: PRNGKeyArray, theta: Array, x: Array) -> Array:
        return draw_posterior(posterior, key, x, 1, len(theta))[0].astype(theta.dtype)

    drawn = map_pairs(draw, key_pairs, theta, x, batch_size=batch_size)
    features = _FourierFeatures(theta, x, n_features, key_features)
    true, false = features(theta, x), features(drawn, x)
    signs = jax.random.rademacher(key_null, (n_null, len(theta)), true.dtype)
    signs = jnp.concatenate([jnp.ones_like(signs[:1]), signs])
    weights = _ridge_weights(jnp.concatenate([true, false]), signs @ (true - false))

    def at_observation(key: PRNGKeyArray, x: Array) -> tuple[Array, Array, Array]:
        draws = draw_posterior(posterior, key, x, n, theta.shape[1]).astype(theta.dtype)
        scores = features(draws, jnp.broadcast_to(x, (n, *x.shape))) @ weights.T
        half = jnp.clip(scores, -1, 1) / 2
        return draws, half[:, 0] + 0.5, jnp.mean(half**2, 0)

    draws, probability, statistics = map_pairs(
        at_observation, key_draws, observations, batch_size=batch_size
    )
    return LocalC2ST(draws, probability, statistics[:, 0], statistics[:, 1:])


class _FourierFeatures:
    """Random Fourier features of standardized pairs (theta, x), for a Matern kernel, nu = 3/2."""

    def __init__(self, theta: Array, x: Array, n_features: int, key: PRNGKeyArray):
        pairs = self._flat(theta, x)
        sd = jnp.std(pairs, 0)
        self.location, self.scale = jnp.mean(pairs, 0), jnp.where(sd > 0, sd, 1)
        key_normal, key_width, key_phase = jax.random.split(key, 3)
        dim, dtype = pairs.shape[1], pairs.dtype
        # The spectral density is Student's t with 3 degrees of freedom. The length scale is the
        # typical distance between pairs, up to a constant factor.
        normal = jax.random.normal(key_normal, (dim, n_features), dtype)
        width = jax.random.chisquare(key_width, 3.0, (n_features,), dtype)
        self.frequencies = normal / jnp.sqrt(width / 3 * dim)
        self.phases = jax.random.uniform(key_phase, (n_features,), dtype, 0, 2 * jnp.pi)

    def __call__(self, theta: Float[Array, "m d"], x: Float[Array, "m *s"]) -> Array:
        standardized = (self._flat(theta, x) - self.location) / self.scale
        return jnp.cos(standardized @ self.frequencies + self.phases)

    @staticmethod
    def _flat(theta: Array, x: Array) -> Array:
        return jnp.concatenate([theta, x.reshape(x.shape[0], -1)], 1)


def _ridge_weights(rows: Float[Array, "m f"], products: Float[Array, "b f"]) -> Float[Array, "b f"]:
    """Solves one ridge regression per set of labels -1 and 1, given rows^T labels.

    The penalty has the least generalized cross-validation error for the first set. All sets share
    this penalty, since a separate one would shrink the weights for sets of random labels.
    """
    m = rows.shape[0]
    gram = rows.T @ rows / m
    variances, axes = jnp.linalg.eigh(gram)
    variances = jnp.maximum(variances, 0)
    projected = products @ axes / m

    def score(penalty: Array) -> Array:
        inverse = 1 / (variances + penalty)
        first = projected[0] * inverse
        residual = 1 - jnp.sum(first * (2 * projected[0] - variances * first))
        return residual / (1 - jnp.sum(variances * inverse) / m) ** 2

    penalties = jnp.asarray(_PENALTIES, rows.dtype) * jnp.mean(rows**2)
    best = penalties[jnp.argmin(jax.vmap(score)(penalties))]
    return (projected / (variances + best)) @ axes.T
