"""Gibbs sampling of discrete x, by colors, and functions of the draws whose means are zero."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from nnef_dists.families import AbstractFiniteSupport, ExponentialFamily
from nnef_dists.sampling._chains import SamplerInfo
from nnef_dists.sampling._config import HMCConfig

# Random points at which T is examined.
_PROBES = 4
# Of the largest change of T: a smaller one is rounding.
_TOLERANCE = 1e-9
# Pairs of sites whose second differences are computed; of more sites each is its own color.
_MOST_PAIRS = 2**20
# Changes of T in one block.
_BLOCK = 2**16
# Temperatures of replica exchange, and the lowest factor of eta.
_LEVELS = 8
_HOTTEST = 0.05
# Steps of annealing.
_ANNEALING = 256
# With more statistics their products are no control variates.
_MOST_STATISTICS = 12


class GibbsPlan(NamedTuple):
    """Which sites of a family are updated together.

    Attributes:
        colors: Numbers of sites, `(colors, sites)`, rows padded with the number of sites. Given all
            others, the sites of one color are independent.
        is_affine: Whether T and log h are affine in each entry of x. Then one gradient has the
            conditional distributions of all sites.
    """

    colors: np.ndarray
    is_affine: bool


class GibbsDraws(NamedTuple):
    """What chains say at each draw.

    Attributes:
        stats: T, `(chains, draws, eta_dim)`.
        features: Numbers of mean zero, `(chains, draws, k)`.
        points: x, flat, `(chains, draws, sites)`.
        info: Summary of the run.
    """

    stats: Float[Array, "chains draws eta_dim"]
    features: Float[Array, "chains draws k"]
    points: Array
    info: SamplerInfo


@functools.cache
def gibbs_plan(family: ExponentialFamily) -> GibbsPlan:
    """Finds the colors of a family at random points, in double precision.

    Sites interact if the second derivative of T or log h in both is not zero, or the second
    difference where T is not affine in each entry.

    Args:
        family: A family with a finite support.

    Raises:
        ValueError: If the support is not finite, or T is not finite at random points of it.
    """
    support = finite_support(family)
    n, rng = support.sites, np.random.default_rng(0)
    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        values = jnp.asarray(support.values)

        def rows(x):
            x = x.reshape(family.x_shape)
            return jnp.append(family.sufficient_statistics(x), family.log_base_measure(x))

        ranks = jnp.asarray(rng.integers(0, len(values), (_PROBES, n)))
        points = values[ranks].astype(support.dtype(float))
        found = np.asarray(jax.vmap(rows)(points))
        if not np.isfinite(found[:, :-1]).all():
            name = family.stat_names[int(np.argmin(np.isfinite(found[:, :-1]).all(0)))]
            raise ValueError(
                f"Expected statistics of {family!r} that are finite on {support!r}; got {name!r} "
                "that is not. Write T so that it is finite on the support."
            )
        # Random combinations: one function, whose terms do not cancel.
        weights = jnp.asarray(rng.uniform(1, 2, found.shape[1]))

        def combined(x):
            return rows(x) @ weights

        is_affine, unit = _is_affine(combined, points, values)
        if is_affine:
            inside = jnp.asarray(rng.uniform(values[0], values[-1], (2, n)))
            coupled = _coupled_by_derivatives(combined, inside, unit)
        else:
            coupled = _coupled_by_differences(combined, points, values, unit)
    return GibbsPlan(_color(coupled), is_affine)


def finite_support(family: ExponentialFamily) -> AbstractFiniteSupport:
    """Returns the support of a family whose x has finitely many values at each of its sites.

    Raises:
        ValueError: If the support is another one.
    """
    support = family.support
    if not isinstance(support, AbstractFiniteSupport):
        remedy = getattr(support, "remedy", "Use Hamiltonian Monte Carlo.")
        raise ValueError(
            "Expected a support of finitely many values at each site for Gibbs sampling, such as "
            f"nd.Spins; {family!r} has {support!r}. {remedy}"
        )
    return support


def _is_affine(combined, points, values) -> tuple[bool, float]:
    """Returns whether a function is affine in each entry, and the size of its changes."""
    if not jnp.issubdtype(points.dtype, jnp.floating):
        return False, 1.0
    worst, unit = 0.0, 0.0
    for x in points:
        slopes = np.asarray(jax.grad(combined)(x))
        value = float(combined(x))
        for v in (values[0], values[-1]):
            moved = _moved(combined, x, v)
            expected = np.asarray((v - x) * slopes)
            unit = max(unit, float(np.max(np.abs(moved - value))))
            worst = max(worst, float(np.max(np.abs(moved - value - expected))))
    return worst <= _TOLERANCE * max(unit, 1e-300), unit


def _moved(combined, x, value) -> np.ndarray:
    """Returns the function where each entry in turn has a value."""

    def one(site):
        return combined(x.at[site].set(value))

    return np.asarray(lax.map(one, jnp.arange(len(x)), batch_size=_block(len(x))))


def _block(sites: int) -> int:
    return max(1, min(sites, _BLOCK // sites))


def _coupled_by_derivatives(combined, points, unit: float) -> np.ndarray:
    coupled = np.zeros((points.shape[1],) * 2, bool)
    for x in points:

        def row(site, x=x):
            tangent = jnp.zeros_like(x).at[site].set(1)
            return jax.jvp(jax.grad(combined), (x,), (tangent,))[1]

        hessian = lax.map(row, jnp.arange(len(x)), batch_size=_block(len(x)))
        coupled |= np.abs(np.asarray(hessian)) > _TOLERANCE * unit
    return coupled


def _coupled_by_differences(combined, points, values, unit: float) -> np.ndarray:
    n = points.shape[1]
    if n * n > _MOST_PAIRS:
        return np.ones((n, n), bool)
    coupled = np.zeros((n, n), bool)
    for x in points:
        # Each entry moves to another of its values.
        other = jnp.where(x == values[0], values[-1], values[0]).astype(x.dtype)
        unit = max(unit, float(np.max(np.abs(_moved_to(combined, x, other) - combined(x)))))

        def row(site, x=x, other=other):
            one = x.at[site].set(other[site])
            change = _changes(combined, one, other) - _changes(combined, x, other)
            return change

        second = np.array(lax.map(row, jnp.arange(n)))
        np.fill_diagonal(second, 0)
        coupled |= np.abs(second) > _TOLERANCE * unit
    return coupled | coupled.T


def _changes(combined, x, other) -> Array:
    return jax.vmap(lambda i: combined(x.at[i].set(other[i])))(jnp.arange(len(x))) - combined(x)


def _moved_to(combined, x, other) -> np.ndarray:
    return np.asarray(_changes(combined, x, other) + combined(x))


def _color(coupled: np.ndarray) -> np.ndarray:
    """Returns the colors of a greedy coloring, most coupled sites first."""
    n = len(coupled)
    neighbors = coupled & ~np.eye(n, dtype=bool)
    color = np.full(n, -1)
    for site in np.argsort(-neighbors.sum(1), kind="stable"):
        taken = np.unique(color[neighbors[site]])
        free = np.setdiff1d(np.arange(n), taken)
        color[site] = free[0]
    members = [np.flatnonzero(color == c) for c in range(color.max() + 1)]
    width = max(map(len, members))
    return np.stack([np.pad(m, (0, width - len(m)), constant_values=n) for m in members])


class _Target(NamedTuple):
    """One member of a family, as Gibbs sampling sees it: a function of a flat x."""

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
        """Proposes to reverse the values of all sites at once, and returns whether it did."""
        reversed_x = (self.values[0] + self.values[-1] - x).astype(x.dtype)
        change = self.height(reversed_x) - self.height(x)
        accepted = jnp.log(jax.random.uniform(key, (), self.eta.dtype)) < change
        return jnp.where(accepted, reversed_x, x), accepted.astype(self.eta.dtype)

    def features(self, x: Array, center: Float[Array, " eta_dim"]) -> Float[Array, " k"]:
        """Returns sums over sites of E[g | all other sites] - g(x), of mean zero.

        g are the statistics and, of few, their products.
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
    """Runs Gibbs sampling of one eta.

    Chains begin at points of the lowest values, of the highest, and at random ones. An iteration
    makes `config.leapfrog_steps` sweeps and proposes once to reverse all values.

    Args:
        family: A family with a finite support.
        config: Chains, warm-up, draws, and sweeps of an iteration as `leapfrog_steps`.
        eta: Valid natural parameters, `(eta_dim,)`.
        key: PRNG key.
        tempered: Whether each chain is one of eight that have eta times factors from 1 to 0.05 and
            exchange their points (Swendsen and Wang 1986; Geyer 1991).

    Returns:
        The draws.
    """
    plan, support = gibbs_plan(family), finite_support(family)
    target = _Target(family, plan, eta)
    dtype = support.dtype(eta.dtype)
    factors = jnp.geomspace(1, _HOTTEST, _LEVELS).astype(eta.dtype)
    if not tempered:
        factors = factors[:1]

    def iterate(x, key):
        """One iteration of all levels, `(levels, sites)`."""
        keys = jax.random.split(key, len(factors) + 1)

        def level(factor, x, key):
            key_sweeps, key_turn = jax.random.split(key)
            colder = target._replace(eta=factor * eta)
            for step in range(config.leapfrog_steps):
                x = colder.sweep(x, jax.random.fold_in(key_sweeps, step))
            return colder.turn(x, key_turn)

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
    target: _Target, factors: Float[Array, " levels"], x: Array, key: PRNGKeyArray
) -> Array:
    """Exchanges the points of neighboring levels, first even pairs, then odd ones."""
    uniform = jax.random.uniform(key, (len(factors) - 1,), factors.dtype)
    # log h is the same function at all levels, and cancels.
    energy = jax.vmap(lambda x: jnp.sum(target.eta * target.stats(x)))(x)
    order = jnp.arange(len(factors))
    for parity in (0, 1):
        for first in range(parity, len(factors) - 1, 2):
            gap = factors[first] - factors[first + 1]
            change = gap * (energy[order[first + 1]] - energy[order[first]])
            accepted = jnp.log(uniform[first]) < change
            pair = jnp.where(
                accepted, order[jnp.array([first + 1, first])], order[first : first + 2]
            )
            order = order.at[first : first + 2].set(pair)
    return x[order]


def annealed_log_sum(
    family: ExponentialFamily,
    config: HMCConfig,
    eta: Float[Array, " eta_dim"],
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Estimates A(eta) by annealed importance sampling, from all points equally likely.

    Args:
        family: A family with a finite support.
        config: `chains` independent groups, each of `draws` / 16 runs.
        eta: Valid natural parameters, `(eta_dim,)`.
        key: PRNG key.

    Returns:
        A, in nats, and its standard error from the groups.
    """
    return _annealed(family, config.chains, max(1, config.draws // 16), eta, key)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _annealed(family, groups, runs, eta, key):
    plan, support = gibbs_plan(family), finite_support(family)
    target = _Target(family, plan, eta)
    values = jnp.asarray(support.values)

    def run(key):
        key_start, key_steps = jax.random.split(key)
        ranks = jax.random.randint(key_start, (support.sites,), 0, len(values))
        x = values[ranks].astype(support.dtype(eta.dtype))

        def heat(carry, inputs):
            x, log_weight = carry
            step, key = inputs
            power = (step + 1) / _ANNEALING
            log_weight += target.height(x) / _ANNEALING
            # The sweeps leave the density of this power invariant.
            return (target.sweep(x, key, power), log_weight), None

        steps = jnp.arange(_ANNEALING).astype(eta.dtype), jax.random.split(key_steps, _ANNEALING)
        return jax.lax.scan(heat, (x, jnp.zeros((), eta.dtype)), steps)[0][1]

    keys = jax.random.split(key, (groups, runs))
    logs = jax.lax.map(jax.vmap(run), keys)
    total = support.sites * jnp.log(len(values)).astype(eta.dtype)
    by_group = jax.nn.logsumexp(logs, axis=1) - jnp.log(runs)
    highest = jnp.max(by_group)
    ratios = jnp.exp(by_group - highest)
    mean = jnp.mean(ratios)
    error = jnp.std(ratios, ddof=1) / (mean * groups**0.5)
    return total + highest + jnp.log(mean), error
