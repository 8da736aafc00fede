"""Posteriors that are known exactly, and faulty ones beside them."""

import equinox as eqx
import jax
import jax.numpy as jnp


class LinearGaussian(eqx.Module):
    """theta ~ N(0, I), x | theta ~ N(theta, I): the posterior is N(x / 2, I / 2).

    The faults: `width` scales the posterior's standard deviation and `shift` moves it, in units of
    that deviation; both where the first entry of x is larger than `beyond`. As arrays, so that all
    faults share one program.
    """

    width: jax.Array
    shift: jax.Array
    beyond: jax.Array

    def __init__(self, width=1.0, shift=0.0, beyond=-jnp.inf):
        self.width, self.shift, self.beyond = map(jnp.asarray, (width, shift, beyond))

    def simulate(self, key, m, dim=2):
        key_theta, key_x = jax.random.split(key)
        theta = jax.random.normal(key_theta, (m, dim))
        return theta, theta + jax.random.normal(key_x, (m, dim))

    def parameters(self, x):
        faulty = x[0] > self.beyond
        width = jnp.where(faulty, self.width, 1.0)
        shift = jnp.where(faulty, self.shift, 0.0)
        sd = jnp.asarray(jnp.sqrt(0.5), x.dtype)
        return x / 2 + shift * sd, width * sd

    def sample(self, key, x, n):
        mean, sd = self.parameters(x)
        return mean + sd * jax.random.normal(key, (n, *x.shape), x.dtype)

    def log_prob(self, theta, x):
        mean, sd = self.parameters(x)
        return jnp.sum(jax.scipy.stats.norm.logpdf(theta, mean, sd))


class Prior(eqx.Module):
    """What has learned nothing: the prior of `LinearGaussian` at every x."""

    def sample(self, key, x, n):
        return jax.random.normal(key, (n, *x.shape), x.dtype)

    def log_prob(self, theta, x):
        return jnp.sum(jax.scipy.stats.norm.logpdf(theta))


class Bimodal(eqx.Module):
    """theta ~ N(0, 1), x | theta ~ N(|theta|, 0.3^2): two modes of equal weight.

    Given x, |theta| is a Gaussian of mean x / 1.09 and variance 0.09 / 1.09, cut at 0, and the sign
    is a coin, with probability `right` of the positive one.
    """

    right: jax.Array

    def __init__(self, right=0.5):
        self.right = jnp.asarray(right)

    def simulate(self, key, m):
        key_theta, key_x = jax.random.split(key)
        theta = jax.random.normal(key_theta, (m, 1))
        return theta, jnp.abs(theta) + 0.3 * jax.random.normal(key_x, (m, 1))

    def sample(self, key, x, n):
        key_size, key_sign = jax.random.split(key)
        mean, sd = x / 1.09, jnp.asarray(0.3 / 1.09**0.5, x.dtype)
        z = jax.random.truncated_normal(key_size, -mean / sd, jnp.inf, (n, 1), x.dtype)
        sign = jnp.where(jax.random.bernoulli(key_sign, self.right, (n, 1)), 1, -1)
        return sign.astype(x.dtype) * (mean + sd * z)

    def log_prob(self, theta, x):
        """Up to a constant that depends on x."""
        weight = jnp.where(theta > 0, self.right, 1 - self.right)
        z = (jnp.abs(theta) - x / 1.09) / (0.3 / 1.09**0.5)
        return jnp.sum(jnp.log(weight) - z**2 / 2)
