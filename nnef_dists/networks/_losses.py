"""Losses of moment networks: pure functions of a network, a batch of labels and a key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nnef_dists._checks import as_key
from nnef_dists._ranges import check_integer, check_range
from nnef_dists.bayes import draw_or_mean, entropy, sample_all_parameters
from nnef_dists.moments import MomentBatch
from nnef_dists.networks._base import AbstractMomentNetwork, moments_at
from nnef_dists.networks._correction import LEVEL_ERROR

# Standard error of a covariance label, in z units, at which the label has half the weight.
_COVARIANCE_ERROR = 0.1


def moment_loss(
    network: AbstractMomentNetwork,
    batch: MomentBatch,
    key: PRNGKeyArray | None = None,
) -> Float[Array, ""]:
    """Returns a robust squared error of the moments, in z units.

        mean over labels n and statistics i of log(1 + z_ni^2),
        z_ni = (mu_i(eta_n) - label_ni) / sd(T_i | eta_n)

    For networks with a base that estimates A, it adds the error l_n of A, in nats,

        mean over labels n of c_n log(1 + l_n^2),    c_n = 1 / (1 + error_n^2 / 0.01^2),

    since moments alone hardly determine the level of A.

    If all errors are far below 1, this is the mean squared error. The weight of a larger error in
    the gradient falls as 1 / (1 + z^2), as in least squares for Student's t with one degree of
    freedom. So a few labels with large errors do not dominate a step. Such labels are common in
    families whose moments range over decades.

    Args:
        network: The moment network.
        batch: Valid labels.
        key: PRNG key that draws one set of weights for the batch. Defaults to None, for the means.

    Returns:
        A scalar. Label noise bounds it from below, by the mean squared standard error of the labels
        in z units.

    Reference:
        Lange, Little and Taylor, *Robust statistical modeling using the t distribution*, JASA 84
        (1989).
    """
    network = draw_or_mean(network, key=key)
    z = (moments_at(network, batch) - batch.mean) / batch.sd
    return jnp.mean(jnp.log1p(z**2)) + _level_loss(network, batch)


def sobolev_loss(
    network: AbstractMomentNetwork,
    batch: MomentBatch,
    key: PRNGKeyArray,
    *,
    weight: float | Float[Array, ""] = 0.1,
) -> Float[Array, ""]:
    """Returns `moment_loss` plus the error of the Jacobian along random directions.

        mean log(1 + z_i^2) + weight mean c_i log(1 + j_i^2),    j_i = (J v - C v)_i / sd_i,
        v_k = e_k / sd_k,    c_i = 1 / (1 + sum_k (error_ik / (sd_i sd_k))^2 / 0.1^2)

    The Jacobian J = d mu / d eta is the covariance of T, and C is its label, with standard errors
    `covariance_error`. The signs e are random, with a new direction for each label. J v costs one
    forward-mode derivative. The weight c of a label falls with its standard error. It is one half
    if the standard error of (C v)_i is 0.1 in z units, and 1 for exact labels.

    No label has an unbounded weight in the gradient, as in `moment_loss`. Curvatures of an
    untrained network may be wrong by orders of magnitude at a few etas. These would dominate a sum
    of squares.

    Args:
        network: The moment network.
        batch: Valid labels.
        key: PRNG key for the directions.
        weight: Weight of the second term. Both terms are in z units. Defaults to 0.1.

    Returns:
        A scalar, at the weights' means.
    """
    scale = batch.sd
    directions = jax.random.rademacher(as_key(key), batch.eta.shape, batch.eta.dtype) / scale

    def along(label, direction):
        return jax.jvp(network.near(label), (label.eta,), (direction,))

    mu, slopes = jax.vmap(along)(batch, directions)
    expected = jnp.einsum("nij,nj->ni", batch.covariance, directions)
    moments = jnp.mean(jnp.log1p(((mu - batch.mean) / scale) ** 2))
    # The variance of (C v)_i / sd_i, for entries with independent errors.
    error = batch.covariance_error / (scale[:, :, None] * scale[:, None])
    confidence = 1 / (1 + jnp.sum(error**2, 2) / _COVARIANCE_ERROR**2)
    jacobian = jnp.log1p(((slopes - expected) / scale) ** 2)
    return moments + weight * jnp.mean(confidence * jacobian) + _level_loss(network, batch)


def _level_loss(network: AbstractMomentNetwork, batch: MomentBatch) -> Float[Array, ""]:
    """Returns a robust squared error of A, in nats."""
    error, standard_error = jax.vmap(network.level_error)(batch)
    confidence = 1 / (1 + (standard_error / LEVEL_ERROR) ** 2)
    return jnp.mean(confidence * jnp.log1p(error**2))


def entropy_loss(
    network: AbstractMomentNetwork,
    batch: MomentBatch,
    key: PRNGKeyArray | None = None,
) -> Float[Array, ""]:
    """Returns a robust squared error of eta . mu, in z units of the statistic eta . T.

        mean over labels n of log(1 + z_n^2),
        z_n = eta_n . (mu(eta_n) - label_n) / sd(eta_n . T | eta_n)

    The entropy A - eta . mu inherits this error, but A is an integral over mu and more accurate. If
    statistics nearly determine each other, terms of eta . T cancel. The variance of eta . T is then
    far below the variances of its terms. Errors that are small in z units of the terms are large in
    z units of eta . T. This loss then dominates the sum of losses, and may cost moments some of
    their accuracy. The logarithm bounds the weight of each label, as in `moment_loss`.

    Args:
        network: The moment network.
        batch: Valid labels.
        key: PRNG key that draws one set of weights for the batch. Defaults to None, for the means.

    Returns:
        A scalar, to be added to `moment_loss` or `sobolev_loss`. A label at eta = 0 adds 0.
    """
    network = draw_or_mean(network, key=key)
    error = jnp.sum(batch.eta * (moments_at(network, batch) - batch.mean), axis=1)
    variance = jnp.einsum("ni,nij,nj->n", batch.eta, batch.covariance, batch.eta)
    # The variance is at least the rounding error of its terms.
    rounding = jnp.finfo(variance.dtype).eps * jnp.sum(jnp.abs(batch.eta) * batch.sd, axis=1) ** 2
    variance = jnp.maximum(variance, rounding)
    return jnp.mean(jnp.log1p(error**2 / jnp.where(variance > 0, variance, 1)))


def negative_elbo(
    network: AbstractMomentNetwork,
    batch: MomentBatch,
    key: PRNGKeyArray,
    *,
    total: int | Int[Array, ""],
    samples: int = 1,
    misfit: float | Float[Array, ""] = 0.0,
    temperature: float | Float[Array, ""] = 1.0,
) -> Float[Array, ""]:
    """Returns the negative (tempered) ELBO, in nats per label.

        E_q[-log p(labels | weights)] + temperature (E_q[g(weights)] - H(q)) / total

    Labels are normal around the network's moments, with their standard errors as scale. The
    negative log-prior g, up to a constant, is `network.compute_prior()`, and H(q) is the entropy.
    Both expectations are Monte Carlo averages over draws of the weights.

    Args:
        network: The moment network.
        batch: Valid labels, a batch of the training set.
        key: PRNG key for the weights.
        total: Number of labels in the training set. It divides prior and entropy.
        samples: Number of draws of the weights. Defaults to 1.
        misfit: Standard deviation of the network's approximation error, in z units. It is added in
            quadrature to the standard errors. Defaults to 0.
        temperature: Weight of prior and entropy. Defaults to 1, for the ELBO. A higher temperature
            widens the posterior.

    Returns:
        A scalar, up to a constant that does not depend on the distribution of the weights.

    Raises:
        ValueError: If the batch is empty, a concrete `total` is below 1, or `samples` is below 1.
    """
    samples = _check_sizes(batch, total, samples)
    scale = jnp.sqrt(batch.standard_error**2 + (misfit * batch.sd) ** 2)

    def one(key):
        drawn = sample_all_parameters(network, key)
        residuals = (moments_at(drawn, batch) - batch.mean) / scale
        misfit_nats = jnp.sum(residuals**2 / 2 + jnp.log(scale), axis=1)
        return jnp.mean(misfit_nats), drawn.compute_prior()

    nll, prior = jax.vmap(one)(jax.random.split(as_key(key), samples))
    divergence = jnp.mean(prior) - entropy(network)
    return jnp.mean(nll) + temperature * divergence / total


def negative_log_predictive(
    network: AbstractMomentNetwork,
    batch: MomentBatch,
    key: PRNGKeyArray,
    *,
    total: int | Int[Array, ""],
    samples: int = 16,
    temperature: float | Float[Array, ""] = 0.01,
) -> Float[Array, ""]:
    """Returns the negative predictive log-density of the labels, in nats per label.

        mean over labels of sum_i (log t_i^2 + (label_i - mu_i)^2 / t_i^2) / 2,    t^2 = s^2 + v
        + temperature (E_q[g(weights)] - H(q)) / total

    with mu the moments at the weights' means and s the labels' standard errors. The mean squared
    deviation of the moments of drawn weights from mu is v. With fixed means, the ELBO fits the
    posterior of the weights given the labels, which does not reflect the approximation error of the
    network. This loss fits standard deviations of the weights that reflect this error.
    `negative_elbo` explains the second term, which only regularizes here.

    Args:
        network: The moment network.
        batch: Valid labels, a batch of the training set.
        key: PRNG key for the weights.
        total: Number of labels in the training set. It divides prior and entropy.
        samples: Number of draws of the weights for v. Defaults to 16.
        temperature: Weight of the regularization. Defaults to 0.01.

    Returns:
        A scalar, up to a constant.

    Raises:
        ValueError: If the batch is empty, a concrete `total` is below 1, or `samples` is below 1.

    Reference:
        Jankowiak, Pleiss and Gardner, *Parametric Gaussian process regressors*, ICML 2020, for the
        objective in Gaussian processes.
    """
    samples = _check_sizes(batch, total, samples)
    mu = moments_at(network, batch)

    def one(key):
        drawn = sample_all_parameters(network, key)
        return (moments_at(drawn, batch) - mu) ** 2, drawn.compute_prior()

    deviations, prior = jax.vmap(one)(jax.random.split(as_key(key), samples))
    # Otherwise an exact label without predictive variance would have an infinite density.
    rounding = jnp.finfo(mu.dtype).eps * batch.sd**2
    variances = jnp.mean(deviations, 0) + batch.standard_error**2 + rounding
    nll = jnp.sum(jnp.log(variances) + (batch.mean - mu) ** 2 / variances, axis=1) / 2
    divergence = jnp.mean(prior) - entropy(network)
    return jnp.mean(nll) + temperature * divergence / total


def _check_sizes(batch: MomentBatch, total: int | Int[Array, ""], samples: int) -> int:
    """Checks the sizes of a Monte Carlo average over a batch, and returns `samples`."""
    if not len(batch):
        raise ValueError("Expected a batch of at least one label; got none")
    # A batch of rows with replacement may have more than there are labels.
    check_range("total", total, 1, closed="low")
    return check_integer("samples", samples, 1)
