"""Standard tasks of simulation-based inference, with exact draws from their posteriors.

The definitions are those of Lueckmann, Boelts, Greenberg, Goncalves and Macke, *Benchmarking
simulation-based inference*, AISTATS (2021), appendix T. The mixture is the corrected task, in which
every simulation has a component of its own. Observations are simulated at draws of the prior, with
pinned keys.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flowjax.distributions import AbstractDistribution, Normal, Uniform
from jax.scipy.stats import norm

OBSERVATIONS = 10


class Task(NamedTuple):
    """A task of simulation-based inference.

    Attributes:
        name: Its name in the benchmark.
        prior: The distribution of theta.
        simulate: `simulate(key, theta)` gives one x.
        log_likelihood: `log_likelihood(theta, x)`, in nats.
        propose: `propose(key, x, n)` gives n candidates for draws from the posterior at x and
            whether to keep each: what is kept is exactly distributed.
        box: Lower and upper end of the prior's support in each coordinate; None is the real line.
        log_evidence: `log_evidence(x)`, in nats, where there is a closed form.
    """

    name: str
    prior: AbstractDistribution
    simulate: Callable
    log_likelihood: Callable
    propose: Callable
    box: tuple[float, float] | None
    log_evidence: Callable | None = None

    def observations(self):
        """Returns 10 parameters and what was simulated from each."""
        keys = jax.random.split(jax.random.key(2021), 2)
        theta = self.prior.sample(keys[0], (OBSERVATIONS,))
        return theta, jax.vmap(self.simulate)(jax.random.split(keys[1], OBSERVATIONS), theta)

    def reference(self, key, x, n, batch=100_000):
        """Draws n times from the exact posterior at x, on the host: `(n, theta_dim)`."""
        propose, kept, found = jax.jit(self.propose, static_argnums=2), [], 0
        while found < n:
            key, key_batch = jax.random.split(key)
            theta, keep = propose(key_batch, x, batch)
            kept.append(np.asarray(theta)[np.asarray(keep)])
            found += len(kept[-1])
        return np.concatenate(kept)[:n]


def gaussian_linear(dim=10, variance=0.1):
    """theta ~ N(0, 0.1 I), x ~ N(theta, 0.1 I): the posterior is N(x / 2, 0.05 I)."""
    sd = math.sqrt(variance)

    def simulate(key, theta):
        return theta + sd * jax.random.normal(key, (dim,))

    def log_likelihood(theta, x):
        return jnp.sum(norm.logpdf(x, theta, sd))

    def propose(key, x, n):
        draws = x / 2 + sd * math.sqrt(0.5) * jax.random.normal(key, (n, dim))
        return draws, jnp.ones(n, bool)

    def log_evidence(x):
        return jnp.sum(norm.logpdf(x, 0.0, math.sqrt(2) * sd))

    prior = Normal(jnp.zeros(dim), sd)
    return Task("gaussian_linear", prior, simulate, log_likelihood, propose, None, log_evidence)


def gaussian_mixture(dim=2, bound=10.0, scales=(1.0, 0.1)):
    """x is theta plus noise that is wide or narrow, with even odds: the posterior is its mirror."""

    def noise(key, shape):
        key_scale, key_noise = jax.random.split(key)
        wide = jax.random.bernoulli(key_scale, 0.5, (*shape, 1))
        return jnp.where(wide, *scales) * jax.random.normal(key_noise, (*shape, dim))

    def simulate(key, theta):
        return theta + noise(key, ())

    def log_likelihood(theta, x):
        each = [jnp.sum(norm.logpdf(x, theta, scale)) for scale in scales]
        return jax.nn.logsumexp(jnp.stack(each)) - math.log(len(scales))

    def propose(key, x, n):
        draws = x + noise(key, (n,))
        return draws, jnp.all(jnp.abs(draws) < bound, 1)

    prior = Uniform(-bound * jnp.ones(dim), bound * jnp.ones(dim))
    box = (-bound, bound)
    return Task("gaussian_mixture", prior, simulate, log_likelihood, propose, box)


def two_moons(radius=0.1, width=0.01, offset=0.25):
    """x = p + (-|theta_1 + theta_2|, theta_2 - theta_1) / sqrt(2), with p on a half circle.

    Given x, every p that the circle may have given leads back to two thetas, with the same volume.
    """

    def half_circle(key, shape):
        key_angle, key_radius = jax.random.split(key)
        angle = jax.random.uniform(key_angle, shape, minval=-jnp.pi / 2, maxval=jnp.pi / 2)
        r = radius + width * jax.random.normal(key_radius, shape)
        return jnp.stack([r * jnp.cos(angle) + offset, r * jnp.sin(angle)], -1)

    def shift(theta):
        rotated = jnp.stack([-jnp.abs(theta[0] + theta[1]), theta[1] - theta[0]])
        return rotated / math.sqrt(2)

    def simulate(key, theta):
        return half_circle(key, ()) + shift(theta)

    def log_likelihood(theta, x):
        p = x - shift(theta) - jnp.array([offset, 0.0])
        r = jnp.sqrt(jnp.sum(p**2))
        log_density = norm.logpdf(r, radius, width) - jnp.log(r) - math.log(math.pi)
        return jnp.where(p[0] > 0, log_density, -jnp.inf)

    def propose(key, x, n):
        key_circle, key_sign = jax.random.split(key)
        p = half_circle(key_circle, (n,))
        size, other = p[:, 0] - x[0], x[1] - p[:, 1]
        total = size * jnp.where(jax.random.bernoulli(key_sign, 0.5, (n,)), 1.0, -1.0)
        draws = jnp.stack([total - other, total + other], 1) / math.sqrt(2)
        return draws, (size > 0) & jnp.all(jnp.abs(draws) < 1, 1)

    prior = Uniform(-jnp.ones(2), jnp.ones(2))
    return Task("two_moons", prior, simulate, log_likelihood, propose, (-1.0, 1.0))


def slcp(rows=4, bound=3.0):
    """Four points of a Gaussian in the plane, with standard deviations theta_3^2 and theta_4^2.

    Its correlation is tanh(theta_5). Given the covariance S, the posterior of the mean is
    N(mean of the points, S / 4), cut by the prior. With A the points' scatter, S itself has a
    density proportional to |S|^(-3/2) exp(-tr(S^-1 A) / 2) / |dS / dtheta|, times the probability
    that the mean is inside: (1 - correlation^2)^(1/4) of an inverse Wishart density of 5/2 degrees
    of freedom, which is rejection from that law.
    """

    def shape(theta):
        return jnp.square(theta[2:4]), jnp.tanh(theta[4])

    def correlated(noise, correlation):
        first, second = noise[..., 0], noise[..., 1]
        remainder = jnp.sqrt(1 - correlation**2)
        return jnp.stack([first, correlation * first + remainder * second], -1)

    def simulate(key, theta):
        sd, correlation = shape(theta)
        return theta[:2] + sd * correlated(jax.random.normal(key, (rows, 2)), correlation)

    def log_likelihood(theta, x):
        sd, correlation = shape(theta)
        z, remainder = (x - theta[:2]) / sd, jnp.sqrt(1 - correlation**2)
        second = (z[:, 1] - correlation * z[:, 0]) / remainder
        logs = norm.logpdf(z[:, 0]) + norm.logpdf(second)
        return jnp.sum(logs) - rows * jnp.sum(jnp.log(jnp.append(sd, remainder)))

    def propose(key, x, n):
        keys = jax.random.split(key, 6)
        center, degrees = jnp.mean(x, 0), 2.5
        scatter = (x - center).T @ (x - center)
        # S = (F F^T)^-1, with F F^T a Wishart matrix by Bartlett's decomposition.
        (a, _), (b, c) = jnp.linalg.cholesky(jnp.linalg.inv(scatter))
        first = jnp.sqrt(jax.random.chisquare(keys[0], degrees, (n,)))
        corner = c * jnp.sqrt(jax.random.chisquare(keys[1], degrees - 1, (n,)))
        below = b * first + c * jax.random.normal(keys[2], (n,))
        length = jnp.sqrt(below**2 + corner**2)
        sd = jnp.stack([length / (a * first * corner), 1 / corner], 1)
        correlation = -below / length

        noise = correlated(jax.random.normal(keys[3], (n, 2)), correlation)
        signs = jax.random.rademacher(keys[4], (n, 2), sd.dtype)
        draws = jnp.concatenate(
            [
                center + sd * noise / math.sqrt(rows),
                signs * jnp.sqrt(sd),
                jnp.arctanh(correlation)[:, None],
            ],
            1,
        )
        keep = jax.random.uniform(keys[5], (n,)) < jnp.sqrt(corner / length)
        return draws, keep & jnp.all(jnp.abs(draws) < bound, 1)

    prior = Uniform(-bound * jnp.ones(5), bound * jnp.ones(5))
    return Task("slcp", prior, simulate, log_likelihood, propose, (-bound, bound))


TASKS = {task.name: task for task in (gaussian_linear(), two_moons(), slcp(), gaussian_mixture())}
