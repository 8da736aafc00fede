"""Gibbs sampling of discrete x by graph coloring, and control variates of the draws."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nnef_dists.families import ExponentialFamily
from nnef_dists.sampling._chains import SamplerInfo
from nnef_dists.sampling._config import HMCConfig
from nnef_dists.sampling._gibbs_plan import GibbsPlan, finite_support, gibbs_plan

# Number of temperatures of replica exchange, and the lowest factor of eta.
_LEVELS = 8
_HOTTEST = 0.05
# Largest number of statistics whose products are control variates, too.
_MOST_STATISTICS = 12


class GibbsDraws(NamedTuple):
    """Draws of Gibbs chains.

    Attributes:
        stats: T at each draw, `(chains, draws, eta_dim)`.
        features: Control variates at each draw, of mean zero, `(chains, draws, k)`.
        points: Flat x of each draw, `(chains, draws, sites)`.
        info: Summary of the run.
    """

    stats: Float[Array, "chains draws eta_dim"]
    features: Float[Array, "chains draws k"]
    points: Array
    info: SamplerInfo


class GibbsTarget(NamedTuple):
    """The density of one member of a family, as a function of a flat x."""

    family: ExponentialFamily
    plan: GibbsPlan
    eta: Float[Array, " eta_dim"]

    @property
    def values(self) -> Array:
        return jnp.asarray(finite_support(self.family).values)

    def height(self, x: Array) -> Float[Array, ""]:
        x = x.reshape(self.family.x_shape)
        base = self.family.log_base_measure(x)
        return jnp.sum(self.eta * self.family.sufficient_statistics(x)) + base

    def stats(self, x: Array) -> Float[Array, " eta_dim"]:
        return self.family.sufficient_statistics(x.reshape(self.family.x_shape))

    def logits(self, x: Array, sites: Int[Array, " m"]) -> Float[Array, "m values"]:
        """Returns the log-probabilities of each value at sites, given the rest."""
        if self.plan.is_affine:
            slopes = jax.grad(self.height)(x)[jnp.minimum(sites, len(x) - 1)]
            return slopes[:, None] * self.values.astype(x.dtype)

        def one(site, value):
            return self.height(x.at[site].set(value.astype(x.dtype), mode="drop"))

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(sites, self.values)

    def sweep(self, x: Array, key: PRNGKeyArray, power: Array | float = 1.0) -> Array:
        """Updates all sites, color by color, for a power of the density."""
        colors = jnp.asarray(self.plan.colors)

        def update(x, inputs):
            sites, key = inputs
            drawn = jax.random.categorical(key, power * self.logits(x, sites))
            return x.at[sites].set(self.values[drawn].astype(x.dtype), mode="drop"), None

        return lax.scan(update, x, (colors, jax.random.split(key, len(colors))))[0]

    def turn(self, x: Array, key: PRNGKeyArray) -> tuple[Array, Float[Array, ""]]:
        """Proposes to reverse the values of all sites at once. Also returns the acceptance."""
        reversed_x = (self.values[0] + self.values[-1] - x).astype(x.dtype)
        change = self.height(reversed_x) - self.height(x)
        accepted = jnp.log(jax.random.uniform(key, (), self.eta.dtype)) < change
        return jnp.where(accepted, reversed_x, x), accepted.astype(self.eta.dtype)

    def features(self, x: Array, center: Float[Array, " eta_dim"]) -> Float[Array, " k"]:
        """Returns sums over sites of E[g | all other sites] - g(x), which have mean zero.

        The functions g are the statistics and, with at most 12 statistics, their products.
        """
        sites = jnp.arange(len(x))
        p = jax.nn.softmax(self.logits(x, sites), axis=1)
        values = self.values
        if self.plan.is_affine:
            steps = values.astype(x.dtype) - x[:, None]
            slopes = jax.jacrev(self.stats)(x)
            changes = slopes.T[:, None] * steps[:, :, None]
        else:
            stats = self.stats(x)

            def change(site, value):
                return self.stats(x.at[site].set(value.astype(x.dtype))) - stats

            changes = jax.vmap(jax.vmap(change, (None, 0)), (0, None))(sites, values)
        expected = jnp.einsum("sv,svi->i", p, changes)
        if self.family.eta_dim > _MOST_STATISTICS:
            return expected
        centered = self.stats(x) - center
        mixed = jnp.outer(centered, expected)
        products = mixed + mixed.T + jnp.einsum("sv,svi,svj->ij", p, changes, changes)
        return jnp.append(expected, products[np.triu_indices(len(center))])


def gibbs_chains(
    family: ExponentialFamily,
    config: HMCConfig,
    eta: Float[Array, " eta_dim"],
    key: PRNGKeyArray,
    *,
    tempered: bool = False,
) -> GibbsDraws:
    """Runs Gibbs chains at one eta.

    A quarter of the chains starts with the lowest value at all sites, a quarter with the highest,
    and the others at random points. Each iteration makes `config.leapfrog_steps` sweeps, and
    proposes once to reverse all values.

    Args:
        family: A family with a finite support.
        config: Sampler settings: `chains`, `warmup`, `draws`, and `leapfrog_steps`, the number of
            sweeps per iteration.
        eta: Valid natural parameters, `(eta_dim,)`.
        key: PRNG key.
        tempered: Whether each chain uses replica exchange between eight levels, with eta times
            factors from 1 to 0.05 (Swendsen and Wang 1986, Geyer 1991). Defaults to False.

    Returns:
        The draws.
    """
    plan, support = gibbs_plan(family), finite_support(family)
    target = GibbsTarget(family, plan, eta)
    dtype = support.dtype(eta.dtype)
    factors = jnp.geomspace(1, _HOTTEST, _LEVELS).astype(eta.dtype)
    if not tempered:
        factors = factors[:1]

    def iterate(x, key):
        """Runs one iteration at all levels, for x of shape `(levels, sites)`."""
        keys = jax.random.split(key, len(factors) + 1)

        def level(factor, x, key):
            key_sweeps, key_turn = jax.random.split(key)
            colder = target._replace(eta=factor * eta)

            def sweep(x, key):
                return colder.sweep(x, key), None

            keys = jax.random.split(key_sweeps, config.leapfrog_steps)
            return colder.turn(lax.scan(sweep, x, keys)[0], key_turn)

        x, turned = jax.vmap(level)(factors, x, keys[:-1])
        if tempered:
            x = _exchange(target, factors, x, keys[-1])
        return x, turned[0]

    def chain(number, key):
        key_start, key_warmup, key_draws = jax.random.split(key, 3)
        values = jnp.asarray(support.values)
        random = values[
            jax.random.randint(key_start, (len(factors), support.sites), 0, len(values))
        ]
        kind = number % 4
        start = jnp.where(kind == 0, values[0], jnp.where(kind == 1, values[-1], random))

        def warm(x, key):
            return iterate(x, key)[0], None

        def draw(carry, key):
            x, turned = iterate(carry, key)
            return x, (x[0], turned)

        x, _ = lax.scan(warm, start.astype(dtype), jax.random.split(key_warmup, config.warmup))
        return lax.scan(draw, x, jax.random.split(key_draws, config.draws))[1]

    keys = jax.random.split(key, config.chains)
    points, turned = jax.vmap(chain)(jnp.arange(config.chains), keys)
    stats = jax.vmap(jax.vmap(target.stats))(points)
    center = jnp.mean(stats, (0, 1))
    features = lax.map(jax.vmap(lambda x: target.features(x, center)), points)
    nan = jnp.full((), jnp.nan, eta.dtype)
    zero, one = jnp.zeros((), eta.dtype), jnp.ones((), eta.dtype)
    info = SamplerInfo(
        acceptance=nan,
        divergences=zero,
        step_size=nan,
        jumps=jnp.mean(turned),
        effective_fraction=one,
        weight_k=-jnp.inf * one,
        finite=jnp.all(jnp.isfinite(stats)),
    )
    return GibbsDraws(stats, features, points, info)


def _exchange(
    target: GibbsTarget, factors: Float[Array, " levels"], x: Array, key: PRNGKeyArray
) -> Array:
    """Exchanges the points of neighboring levels, first even pairs, then odd ones."""
    uniform = jax.random.uniform(key, (len(factors) - 1,), factors.dtype)
    # log h is the same function at all levels, and cancels.
    energy = jax.vmap(lambda x: jnp.sum(target.eta * target.stats(x)))(x)
    order = jnp.arange(len(factors))
    for parity in (0, 1):
        first = np.arange(parity, len(factors) - 1, 2)
        gap = factors[first] - factors[first + 1]
        hotter, colder = order[first + 1], order[first]
        accepted = jnp.log(uniform[first]) < gap * (energy[hotter] - energy[colder])
        order = order.at[first].set(jnp.where(accepted, hotter, colder))
        order = order.at[first + 1].set(jnp.where(accepted, colder, hotter))
    return x[order]
