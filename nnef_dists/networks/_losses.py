"""Losses of moment networks: pure functions of a network, a batch of labels and a key."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nnef_dists.bayes import draw_or_mean, entropy, sample_all_parameters
from nnef_dists.moments import MomentBatch
from nnef_dists.networks._base import AbstractMomentNetwork, moments_at
from nnef_dists.networks._correction import LEVEL_ERROR

# Standard error of a covariance label, in z units, at which the label counts half.
_COVARIANCE_ERROR = 0.1


def moment_loss(
    network: AbstractMomentNetwork,
    batch: MomentBatch,
    key: PRNGKeyArray | None = None,
) -> Float[Array, ""]:
    """Returns the error of moments in z units, squared where it is small.

        mean over labels n and statistics i of log(1 + z_ni^2),
        z_ni = (mu_i(eta_n) - label_ni) / sd(T_i | eta_n)

    For networks with a base it adds the error of A in nats, l_n, where the base has estimated it,

        mean over labels n of c_n log(1 + l_n^2),    c_n = 1 / (1 + error_n^2 / 0.01^2),

    since moments alone hardly determine the level of A.

    Errors far below 1 count as their squares, which makes it the mean squared error. The weight of
    a larger error in the gradient falls as 1 / (1 + z^2), that of least squares for Student's t
    with one degree of freedom. A few labels at which a network is far off, as in families whose
    moments range over decades, then do not decide the step for all others.

    Args:
        network: The moment network.
        batch: Valid labels.
        key: Draws one set of weights for the batch; without a key the means are used.

    Returns:
        A scalar. The labels' own noise bounds it from below by the mean of their squared standard
        errors in z units.

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

    The Jacobian J = d mu / d eta is the covariance of T, and C its label, with standard errors
    `covariance_error`. Signs e are random, a new direction for each label; J v costs one
    forward-mode derivative. A label counts less the less accurate it is: half, if the standard
    error of (C v)_i is 0.1 in z units. Exact labels have an error of zero and c = 1.

    No label has an unbounded weight in the gradient, as `moment_loss` explains. Curvatures of an
    untrained network may be off by orders of magnitude at a few etas, whose squares would be nearly
    all of a sum of squares.

    Args:
        network: The moment network.
        batch: Valid labels.
        key: PRNG key for the directions.
        weight: Of the second term; both are in z units.

    Returns:
        A scalar, at the weights' means.
    """
    scale = batch.sd
    directions = jax.random.rademacher(key, batch.eta.shape, batch.eta.dtype) / scale

    def along(label, direction):
        return jax.jvp(network.near(label), (label.eta,), (direction,))

    mu, slopes = jax.vmap(along)(batch, directions)
    expected = jnp.einsum("nij,nj->ni", batch.covariance, directions)
    moments = jnp.mean(jnp.log1p(((mu - batch.mean) / scale) ** 2))
    # The variance of (C v)_i / sd_i, of entries whose errors are independent.
    error = batch.covariance_error / (scale[:, :, None] * scale[:, None])
    confidence = 1 / (1 + jnp.sum(error**2, 2) / _COVARIANCE_ERROR**2)
    jacobian = jnp.log1p(((slopes - expected) / scale) ** 2)
    return moments + weight * jnp.mean(confidence * jacobian) + _level_loss(network, batch)


def _level_loss(network: AbstractMomentNetwork, batch: MomentBatch) -> Float[Array, ""]:
    """Returns the error of A, in nats, squared where it is small."""
    error, standard_error = jax.vmap(network.level_error)(batch)
    confidence = 1 / (1 + (standard_error / LEVEL_ERROR) ** 2)
    return jnp.mean(confidence * jnp.log1p(error**2))


def entropy_loss(
    network: AbstractMomentNetwork,
    batch: MomentBatch,
    key: PRNGKeyArray | None = None,
) -> Float[Array, ""]:
    """Returns the error of eta . mu in z units, of one more statistic: eta . T.

        mean over labels n of log(1 + z_n^2),
        z_n = eta_n . (mu(eta_n) - label_n) / sd(eta_n . T | eta_n)

    The entropy A - eta . mu inherits this error; A is an integral over mu, and more accurate. If
    statistics nearly determine each other, terms of eta . T cancel. Its variance is then far below
    theirs, and errors that are small in their units are large in its own. There it also dominates
    the sum, and may cost moments some of their accuracy. The logarithm bounds the weight of each
    label, as in `moment_loss`.

    Args:
        network: The moment network.
        batch: Valid labels.
        key: Draws one set of weights for the batch; without a key the means are used.

    Returns:
        A scalar, to be added to `moment_loss` or `sobolev_loss`. An eta of zero adds none.
    """
    network = draw_or_mean(network, key=key)
    error = jnp.sum(batch.eta * (moments_at(network, batch) - batch.mean), axis=1)
    variance = jnp.einsum("ni,nij,nj->n", batch.eta, batch.covariance, batch.eta)
    # No less than the rounding of its terms.
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
    """Returns minus the (tempered) evidence lower bound, in nats for each label.

        E_q[-log p(labels | weights)] + temperature (E_q[g(weights)] - H(q)) / total

    Labels are normal around the network's moments, with their own standard errors as scale; g is
    `network.compute_prior()`, minus the log-prior up to a constant; H(q) is the entropy. Both
    expectations are Monte Carlo averages over draws of the weights.

    Args:
        network: The moment network.
        batch: Good labels, of `total` in all.
        key: PRNG key for the weights.
        total: How many labels the training set has: the weight of prior and entropy.
        samples: How many sets of weights are drawn.
        misfit: Standard deviation, in z units, of what the network cannot represent; added in
            quadrature to the standard errors.
        temperature: 1 is the evidence bound; more widens the posterior, less narrows it.

    Returns:
        A scalar, up to a constant that does not depend on the weights' law.
    """
    scale = jnp.sqrt(batch.standard_error**2 + (misfit * batch.sd) ** 2)

    def one(key):
        drawn = sample_all_parameters(network, key)
        residuals = (moments_at(drawn, batch) - batch.mean) / scale
        misfit_nats = jnp.sum(residuals**2 / 2 + jnp.log(scale), axis=1)
        return jnp.mean(misfit_nats), drawn.compute_prior()

    nll, prior = jax.vmap(one)(jax.random.split(key, samples))
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
    """Returns minus the log-density of labels under the predictive law, in nats for each label.

        mean over labels of sum_i (log t_i^2 + (label_i - mu_i)^2 / t_i^2) / 2,    t^2 = s^2 + v
        + temperature (E_q[g(weights)] - H(q)) / total

    with mu the moments at the weights' means, v the mean square by which those of drawn weights
    deviate from them, and s the labels' standard errors. The evidence bound averages the error of
    each draw: at fixed means, widths that it trains know how well labels determine the weights,
    and nothing of where the network errs. This loss trains them to say that. `negative_elbo`
    explains the second term, which here only regularizes.

    Args:
        network: The moment network.
        batch: Good labels, of `total` in all.
        key: PRNG key for the weights.
        total: How many labels the training set has.
        samples: How many sets of weights v is averaged over.
        temperature: Of the regularization.

    Returns:
        A scalar, up to a constant.

    Reference:
        Jankowiak, Pleiss and Gardner, *Parametric Gaussian process regressors*, ICML 2020, for the
        objective in Gaussian processes.
    """
    mu = moments_at(network, batch)

    def one(key):
        drawn = sample_all_parameters(network, key)
        return (moments_at(drawn, batch) - mu) ** 2, drawn.compute_prior()

    deviations, prior = jax.vmap(one)(jax.random.split(key, samples))
    # An exact label of a network that is certain would have an infinite density.
    rounding = jnp.finfo(mu.dtype).eps * batch.sd**2
    variances = jnp.mean(deviations, 0) + batch.standard_error**2 + rounding
    nll = jnp.sum(jnp.log(variances) + (batch.mean - mu) ** 2 / variances, axis=1) / 2
    divergence = jnp.mean(prior) - entropy(network)
    return jnp.mean(nll) + temperature * divergence / total
