"""Truncated sequential neural posterior estimation and importance weights."""

from typing import Any, NamedTuple, final

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from nnef_dists._checks import as_key, check_instance
from nnef_dists._ranges import check_integer, check_range
from nnef_dists.posterior._base import AbstractPosterior
from nnef_dists.posterior._prior import Prior
from nnef_dists.sampling import pareto_k

# Number of candidates per rejection step.
_BATCH = 64


@final
class TruncatedPrior(eqx.Module):
    """A prior, truncated to the highest-density region of a learned posterior.

        p~(theta) = p(theta) 1[log q(theta | x) >= threshold] / acceptance

    Pass it as the prior to `simulate`. Train on the new simulations and on all earlier ones inside
    the truncation, with an unchanged loss and without importance weights. Draws use rejection.

    Attributes:
        prior: The prior.
        head: The posterior learned so far.
        x: The observation of interest.
        threshold: Smallest log q(theta | x) inside, in nats, from `truncate_prior`.
        acceptance: Estimated fraction of the prior's mass inside.
        attempts: Largest number of candidates per draw. If none is inside, the draw is NaN.
            Defaults to 100,000.
    """

    prior: Prior
    head: AbstractPosterior
    x: Float[Array, "*x_shape"]
    threshold: Float[Array, ""]
    acceptance: Float[Array, ""]
    attempts: int = eqx.field(static=True, default=100_000)

    def contains(self, theta: Float[Array, " theta_dim"]) -> Array:
        """Returns whether one theta is inside the truncation."""
        return self.head.log_prob(theta, self.x) >= self.threshold

    def log_prob(self, theta: Float[Array, "*batch theta_dim"]) -> Float[Array, "*batch"]:
        """Returns the log-density of thetas, in nats, with the error of `acceptance`."""
        inside = jnp.vectorize(self.contains, signature="(d)->()")(theta)
        # One theta at a time, because `log_prob` may sum over a batch.
        value = jnp.vectorize(self.prior.log_prob, signature="(d)->()")(theta)
        return jnp.where(inside, value - jnp.log(self.acceptance), -jnp.inf)

    def sample(
        self, key: PRNGKeyArray, shape: tuple[int, ...] = ()
    ) -> Float[Array, "*shape theta_dim"]:
        """Draws thetas of shape `(*shape, theta_dim)`. NaN if all attempts are rejected."""
        keys = jax.random.split(key, shape)
        return jnp.vectorize(self._sample_one, signature="()->(d)")(keys)

    def _sample_one(self, key: PRNGKeyArray) -> Float[Array, " theta_dim"]:
        def candidates(number):
            theta = self.prior.sample(jax.random.fold_in(key, number), (_BATCH,))
            return theta, jax.vmap(self.contains)(theta)

        def go_on(carry):
            number, _, found = carry
            return ~found & (number * _BATCH < self.attempts)

        def attempt(carry):
            number, _, _ = carry
            theta, inside = candidates(number)
            return number + 1, theta[jnp.argmax(inside)], jnp.any(inside)

        shape = jax.eval_shape(candidates, 0)[0]
        start = jnp.zeros((), int), jnp.zeros(shape.shape[1:], shape.dtype), jnp.asarray(False)
        _, theta, found = jax.lax.while_loop(go_on, attempt, start)
        return jnp.where(found, theta, jnp.nan)


def truncate_prior(
    prior: Prior,
    head: AbstractPosterior,
    x: Float[Array, "*x_shape"],
    key: PRNGKeyArray,
    *,
    epsilon: float = 1e-3,
    n: int = 10_000,
) -> TruncatedPrior:
    """Restricts a prior to the highest-density region of a posterior.

    The region contains all but `epsilon` of the posterior's mass. Its threshold is the epsilon
    quantile of log q(theta | x) over draws of q.

    Args:
        prior: The prior before truncation.
        head: A trained head.
        x: The observation of interest.
        key: PRNG key.
        epsilon: Excluded posterior mass, in (0, 1). Defaults to 1e-3.
        n: Number of draws of the posterior, and of the prior for the acceptance, at least 1.
            Defaults to 10,000.

    Returns:
        The truncated prior. If none of n draws of the prior is inside, `acceptance` is 0 and
        rejection is impractical.

    Raises:
        ValueError: If `epsilon` is not in (0, 1), n < 1, `head` is not a posterior head, or `key`
            is not one key.

    Reference:
        Deistler, Goncalves and Macke, *Truncated proposals for scalable and hassle-free simulation-
        based inference*, NeurIPS (2022).
    """
    epsilon = check_range("epsilon", epsilon, 0.0, 1.0)
    check_instance(head, AbstractPosterior, "head")
    key = as_key(key)
    head.coordinates.inputs(x)  # Raises and warns here, because x is concrete.
    return _truncate(prior, head, x, key, epsilon, check_integer("n", n, 1))


@eqx.filter_jit
def _truncate(
    prior: Prior, head: AbstractPosterior, x: Array, key: PRNGKeyArray, epsilon: Any, n: int
) -> TruncatedPrior:
    key_q, key_prior = jax.random.split(key)

    def log_q(theta):
        return jax.vmap(head.log_prob, (0, None))(theta, x)

    threshold = jnp.quantile(log_q(head.sample(key_q, x, n)), epsilon)
    acceptance = jnp.mean(log_q(prior.sample(key_prior, (n,))) >= threshold, dtype=threshold.dtype)
    return TruncatedPrior(prior, head, x, threshold, acceptance)


class ImportanceWeights(NamedTuple):
    """Importance weights of draws of q for the posterior, with diagnostics.

    Attributes:
        log_weights: Normalized logarithms of the weights, `(n,)`. The weights sum to 1.
        ess: Effective sample size, 1 / sum of squared weights.
        pareto_k: Pareto shape of the tail of the weights. Do not use weights with a value above
            0.7. Minus infinity for equal weights, which may include zeros beside them.
    """

    log_weights: Float[Array, " n"]
    ess: Float[Array, ""]
    pareto_k: Float[Array, ""]


def importance_weights(
    theta: Float[Array, "n theta_dim"],
    log_q: Float[Array, " n"],
    log_target: Float[Array, " n"],
) -> ImportanceWeights:
    """Returns importance weights for draws of an approximate posterior, given the likelihood.

        w_i proportional to p(theta_i) p(x | theta_i) / q(theta_i | x)

    Args:
        theta: Draws of q, `(n, theta_dim)`. A draw with NaN has weight 0.
        log_q: Values of log q(theta_i | x), in nats, `(n,)`.
        log_target: Log-prior plus log-likelihood, up to a constant, in nats, `(n,)`.

    Returns:
        The weights, their effective sample size and Pareto k.

    Raises:
        ValueError: If there are fewer than 25 draws, too few for the tail.

    Reference:
        Vehtari, Simpson, Gelman, Yao and Gabry, *Pareto smoothed importance sampling*, JMLR 25
        (2024). Dax et al., *Neural importance sampling for rapid and reliable gravitational-wave
        inference*, Physical Review Letters 130 (2023).
    """
    if len(theta) < 25:
        raise ValueError(f"Expected at least 25 draws; got {len(theta)}")
    log_ratio = log_target - log_q
    usable = jnp.all(jnp.isfinite(theta), 1) & ~jnp.isnan(log_ratio)
    log_weights = jax.nn.log_softmax(jnp.where(usable, log_ratio, -jnp.inf))
    ess = jnp.exp(-jax.nn.logsumexp(2 * log_weights))
    flat = _is_flat(log_ratio, jnp.isfinite(log_weights))
    return ImportanceWeights(log_weights, ess, jnp.where(flat, -jnp.inf, pareto_k(log_weights)))


def _is_flat(log_ratio: Float[Array, " n"], positive: Bool[Array, " n"]) -> Bool[Array, ""]:
    """Returns whether positive weights are equal up to rounding, so that there is no tail."""
    least = jnp.min(log_ratio, where=positive, initial=jnp.inf)
    most = jnp.max(log_ratio, where=positive, initial=-jnp.inf)
    largest = jnp.maximum(jnp.abs(least), jnp.abs(most))
    rounding = 100 * jnp.finfo(log_ratio.dtype).eps * (1 + largest)
    # The tail has at most a fifth of all weights. With fewer positive ones, it includes zeros.
    return (jnp.sum(positive) > len(log_ratio) // 5) & (most - least <= rounding)
